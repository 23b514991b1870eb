"""Reports as text, for tests of what they say."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

from nativeleak.analysis.select import Selection
from nativeleak.recording import Recording
from nativeleak.reports.formats import WriteOptions, find_format
from nativeleak.reports.render import write_report
from nativeleak.reports.report import Report


def render(
    recording: Recording, format_name: str, options: WriteOptions | None = None, selection: Selection | None = None
) -> str:
    """The report in one format; without ``options`` and ``selection`` as a user without options gets it."""
    stream = io.BytesIO()
    options, selection = options or WriteOptions(), selection or Selection()
    write_report(recording, stream, find_format(format_name), selection, options)
    return stream.getvalue().decode("utf-8", "surrogateescape")


def render_selected(recording: Recording, format_name: str, **selection: Any) -> str:
    """The report of a selection, in one format."""
    return render(recording, format_name, selection=Selection(**selection))


def write_marker(report: Report, stream: BinaryIO, options: WriteOptions) -> None:
    """Writer of a made-up binary format: bytes that are no text, and the PID."""
    del options
    stream.write(b"\x00\xff\n" + str(report.trace.targets[0].pid).encode())
