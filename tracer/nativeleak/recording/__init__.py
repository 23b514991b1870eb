"""The recording file: schema, writer, reader.

The reader is imported on first use, because the recorder only writes and must stay small.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nativeleak.recording.writer import RecordingWriter

if TYPE_CHECKING:
    from nativeleak.recording.reader import Event, Recording, SnapshotInfo, open_recording
    from nativeleak.recording.schema import Sample, Samples

__all__ = ["Event", "Recording", "RecordingWriter", "Sample", "Samples", "SnapshotInfo", "open_recording"]

_OF_SCHEMA = ("Sample", "Samples")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'schema' if name in _OF_SCHEMA else 'reader'}"), name)
