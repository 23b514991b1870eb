"""The recording file: schema, writer, reader."""

from nativeleak.recording.reader import Event, Recording, SnapshotInfo, open_recording
from nativeleak.recording.schema import Sample, Samples
from nativeleak.recording.writer import RecordingWriter

__all__ = ["Event", "Recording", "RecordingWriter", "Sample", "Samples", "SnapshotInfo", "open_recording"]
