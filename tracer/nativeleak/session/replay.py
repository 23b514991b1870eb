"""Output that other programs have recorded: strace's, or that of ``pmap -x``, as a recording of ours."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from nativeleak import __version__, arch
from nativeleak.engines.options import TraceOptions
from nativeleak.engines.pmap.listing import Listing, ListingReader
from nativeleak.engines.pmap.recorded import RecordedPmap
from nativeleak.engines.registry import coverage_of
from nativeleak.engines.strace.recorded import RecordedStrace
from nativeleak.errors import NativeleakError, UsageError
from nativeleak.inputs.registry import read_text
from nativeleak.inputs.source import InputFile
from nativeleak.inputs.strace import is_strace, open_strace, thread_of_file
from nativeleak.model import Snapshot, Stack, TraceInfo
from nativeleak.process import procfs
from nativeleak.recording.writer import RecordingWriter
from nativeleak.session.reporter import Reporter
from nativeleak.session.session import Recorded

_MAX_PMAP_BYTES: Final = 1 << 30
_RECORD_SO: Final = "record it so: strace -f -k -Y -ttt -o FILE -e trace=%memory,%process -p PID, or pmap -x PID > FILE"


class RecordedSource(Protocol):
    """Output of another program, read to its end.

    Attributes:
        backend: ``tool.backend`` of the report.
        probes: What it saw.
        started: When it began, seconds since 1970.
        duration_s: From the first to the last of it.
    """

    backend: str
    probes: tuple[str, ...]
    started: float
    duration_s: float

    def take_notes(self) -> list[tuple[str, str]]:
        """(word, sentence) of what was found, each once."""

    def take_stacks(self) -> list[Stack]:
        """Stacks seen for the first time since the last call."""

    def snapshots(self, interval_s: float) -> Iterable[Snapshot]:
        """Everything as it was, again and again; at least once."""


class Replay:
    """Makes a recording of output that another program has recorded.

    Args:
        options: ``output``, ``interval_s`` and ``overwrite`` are used.
        source: The output.
        reporter: Shows what is found.
    """

    def __init__(self, options: TraceOptions, source: RecordedSource, reporter: Reporter) -> None:
        self._options, self._source, self._reporter = options, source, reporter

    def run(self) -> Recorded:
        """Read it all.

        Raises:
            NativeleakError: It is not what it was taken for.
        """
        output = self._options.output
        with RecordingWriter(output, self._trace_info(), overwrite=self._options.overwrite) as writer:
            last: Snapshot | None = None
            try:
                for last in self._source.snapshots(self._options.interval_s):
                    writer.add_stacks(self._source.take_stacks())
                    for what, text in self._source.take_notes():
                        writer.add_event(last.elapsed_s, what, text)
                        self._reporter.say(text)
                    writer.write_snapshot(last)
            except BaseException:
                with contextlib.suppress(OSError):
                    output.unlink()
                raise
            if last is None:
                raise NativeleakError("reading the recorded output failed: there is nothing in it")
            writer.finish("end of input", last.elapsed_s, last.targets)
            return Recorded(output, writer.serialize() if writer.failed else None)

    def _trace_info(self) -> TraceInfo:
        return TraceInfo(
            version=__version__,
            started=self._source.started,
            backend=self._source.backend,
            kernel=platform.release(),
            machine=arch.here().name,
            boot_id=procfs.read_boot_id(),
            probes=self._source.probes,
            options=self._options.given,
            coverage=coverage_of(self._source.backend),
        )


def open_inputs(options: TraceOptions, reporter: Reporter) -> Replay:
    """Read what other programs have recorded, strace's output or that of pmap, identified by its beginning.

    Raises:
        NativeleakError: A file cannot be read, or is neither.
    """
    return Replay(options, _source(options), reporter)


def _source(options: TraceOptions) -> RecordedSource:
    if len(options.pids) > 1:
        raise UsageError("--input with several PIDs", "give one, or none: -p says which process of the output is meant")
    pid = options.pids[0] if options.pids else 0
    files = [InputFile(path) for path in options.inputs]
    if is_strace(files[0]):
        return _traces(files, pid)
    reader = ListingReader()
    listings: list[tuple[float | None, Listing]] = []
    for file in files:
        found = _listings_of(file, reader)
        listings += found
    return RecordedPmap(
        [listing for _, listing in listings], pid, written=[moment for moment, _ in listings], reader=reader
    )


def _traces(files: Sequence[InputFile], pid: int) -> RecordedStrace:
    others = [file.path for file in files[1:] if not is_strace(file)]
    if others:
        raise UsageError(f"--input {others[0]} is no output of strace, as {files[0].path} is", "give files of one kind")
    if len(files) > 1 and not all(map(thread_of_file, files)):
        raise UsageError(
            "--input with several files of strace's output that are not of one strace -ff -o OUT",
            "give one file, or all files OUT.TID",
        )
    return open_strace(files, pid)


def _listings_of(file: InputFile, reader: ListingReader) -> list[tuple[float | None, Listing]]:
    """The listings of a file, each with the moment at which it was written as far as that is known.

    Raises:
        NativeleakError: There is none in it; the error names what the file is.
    """
    known = len(reader.listings)
    room = _MAX_PMAP_BYTES
    for line in file.lines():
        room -= len(line) + 1
        if room < 0:
            raise NativeleakError(f"reading {file.path} failed: it is larger than 1 GiB", "give fewer listings")
        reader.feed(line)
    reader.finish()
    found = [listing for listing in reader.listings[known:] if listing.source != "smaps_rollup"]
    if not found:
        raise _refusal(file)
    # A file is written when its last listing is.
    return [(file.mtime if listing is found[-1] else None, listing) for listing in found]


def _refusal(file: InputFile) -> NativeleakError:
    """What a file is that has neither calls nor mappings."""
    found = read_text(file)
    if found.reading is not None:
        verb = "oom --log" if found.reading.kind == "oom" else "triage --input"
        return NativeleakError(
            f"reading {file.path} failed: it is {found.reading.title}, no output of strace or pmap",
            f"nativeleak {verb} {file.path} reads it",
        )
    what = found.other.what if found.other is not None else "of an unknown kind"
    use = found.other.use if found.other is not None else ""
    return NativeleakError(
        f"reading {file.path} failed: it is neither output of strace nor of pmap: {what}",
        "\n".join(filter(None, (use, _RECORD_SO))),
    )
