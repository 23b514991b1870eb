"""One call from an open recording to a written report, for every format."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from nativeleak.analysis.select import By, Metric, Selection
from nativeleak.recording import Recording
from nativeleak.reports.build import build
from nativeleak.reports.formats import Format, WriteOptions
from nativeleak.reports.merged.gather import gather
from nativeleak.reports.merged.merge import Failure
from nativeleak.reports.merged.sites import MergedTable
from nativeleak.reports.stages import begin


def write_report(
    recording: Recording, stream: BinaryIO, format_: Format, selection: Selection, options: WriteOptions
) -> None:
    """Build the report and write it in a format.

    Args:
        recording: Where the figures come from.
        stream: Gets the report; the caller opens and closes it.
        format_: One of ``formats.FORMATS``.
        selection: The sites to show; without ``top`` the format's own default holds.
        options: How the report is laid out.

    Raises:
        RecordingError: The recording is damaged.
        UsageError: A filter makes no sense.
        OSError: The stream cannot be written.
    """
    selection = _with_defaults(selection, format_, format_.default_by)
    with _no_collections():
        with_freed = format_.has_freed and selection.top is None and not selection.min_bytes
        report = build(recording, replace(selection, metric=Metric.ALLOCATED) if with_freed else selection)
        if with_freed:
            report = replace(report, selection=selection)
        if format_.answers:
            report.answer.find()
        begin("writing", 0.76)
        format_.load_writer()(report, stream, options)


def write_merged(
    files: Sequence[Path],
    stream: BinaryIO,
    format_: Format,
    selection: Selection,
    options: WriteOptions,
    at: str | None = None,
) -> Sequence[Failure]:
    """Build the report of many recordings and write it in a format.

    Args:
        files: The recordings.
        stream: Gets the report; the caller opens and closes it.
        format_: One of ``formats.FORMATS`` that takes many recordings.
        selection: As of ``write_report``.
        options: Likewise.
        at: Moment of each trace; None for its end.

    Returns:
        The recordings that could not be read; the report names them where its format can.

    Raises:
        RecordingError: No recording can be read.
        UsageError: A filter makes no sense.
        OSError: The stream cannot be written.
    """
    selection = _with_defaults(selection, format_, format_.merged_by)
    with _no_collections():
        merged = gather(files, selection, at)
        with_freed = format_.has_freed and selection.top is None and not selection.min_bytes
        table = MergedTable(merged, selection, with_freed=with_freed)
        begin("writing", 0.8)
        format_.load_merged_writer()(table, stream, options)
    return merged.failures


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Keep Python from looking for cycles: there are next to none, and it takes a seventh of a large report's time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _with_defaults(selection: Selection, format_: Format, by: str) -> Selection:
    """A selection with a format's own values for what was not given."""
    top = format_.default_top if selection.top is None else selection.top
    return replace(selection, top=top, by=By(by) if selection.by is None else selection.by)
