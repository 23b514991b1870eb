"""The kinds of files that are read: each with its test and its parser. To add one, write its module and a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nativeleak.engines.pmap.listing import Listing, parse_listings
from nativeleak.errors import NativeleakError
from nativeleak.inputs import alloc, hs_err, java_heap, maps, nmt, oom, strace
from nativeleak.inputs.identify import Other, identify
from nativeleak.inputs.reading import Reading
from nativeleak.inputs.source import InputFile


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of text.

    Attributes:
        is_one: Whether a text is of the kind.
        parse: Reads it.
    """

    is_one: Callable[[str], bool]
    parse: Callable[[str], Reading]


KINDS: Final = (
    Kind(hs_err.is_hs_err, hs_err.parse_hs_err),
    Kind(nmt.is_nmt, nmt.parse_nmt),
    Kind(java_heap.is_jmap, java_heap.parse_jmap),
    Kind(alloc.is_malloc_info, alloc.parse_malloc_info),
    Kind(alloc.is_jemalloc_stats, alloc.parse_jemalloc_stats),
    Kind(alloc.is_jemalloc_heap, alloc.parse_jemalloc_heap),
    Kind(alloc.is_gperftools_heap, alloc.parse_gperftools_heap),
    Kind(alloc.is_tcmalloc_stats, alloc.parse_tcmalloc_stats),
    Kind(alloc.is_malloc_stats, alloc.parse_malloc_stats),
    Kind(oom.is_oom_log, oom.parse_oom),
    Kind(maps.is_listing, maps.parse_maps),
    Kind(java_heap.is_heap_info, java_heap.parse_heap_info),
)
"""In the order in which they are tried: what may hold another kind comes before that kind."""


@dataclass(slots=True)
class Input:
    """One file of the command line; ``reading`` or ``other``, never both.

    Attributes:
        paths: The file; several for strace's ``-ff``, and for two listings of one process.
    """

    paths: list[Path]
    reading: Reading | None = None
    other: Other | None = None


def read_inputs(paths: Sequence[Path]) -> list[Input]:
    """Read each file; files that belong together as one, in the place of the first.

    Raises:
        NativeleakError: A file cannot be read.
    """
    files = [InputFile(path) for path in paths]
    inputs: list[Input] = []
    traces: list[InputFile] = []
    trace_at = 0
    listings: list[tuple[Input, list[Listing]]] = []
    for file in files:
        if _is_binary(file):
            inputs.append(Input([file.path], other=identify(file.magic, "")))
        elif strace.is_strace(file):
            if not traces:
                trace_at = len(inputs)
                inputs.append(Input([]))
            traces.append(file)
        else:
            found = read_text(file)
            inputs.append(found)
            if found.reading is not None and found.reading.kind == "maps":
                listings.append((found, parse_listings(file.lines()).listings))
    if traces:
        inputs[trace_at : trace_at + 1] = list(_read_traces(traces))
    _compare(listings)
    return inputs


def read_text(file: InputFile) -> Input:
    """Read one file that is not strace's output."""
    text = file.text()
    for kind in KINDS:
        if kind.is_one(text):
            reading = kind.parse(text)
            reading.notes += file.notes
            return Input([file.path], reading)
    return Input([file.path], other=identify(file.magic, text))


def _is_binary(file: InputFile) -> bool:
    return (
        file.packing is None
        and file.magic[:4] not in (b"", b"\xff\xfe")
        and identify(file.magic, "x").use != (identify(b"", "x").use)
    )


def _read_traces(files: Sequence[InputFile]) -> list[Input]:
    """Files of ``-ff`` as one trace, others each for itself."""
    parts = [file for file in files if strace.thread_of_file(file)]
    stems = {str(file.path).rpartition(".")[0] for file in parts}
    if len(files) > 1 and len(parts) == len(files) and len(stems) == 1:
        return [_read_trace(files)]
    return [_read_trace([file]) for file in files]


def _read_trace(files: Sequence[InputFile]) -> Input:
    try:
        return Input([file.path for file in files], strace.parse_strace(files))
    except NativeleakError as error:
        return Input([file.path for file in files], other=Other(f"output of strace that cannot be read: {error}", ""))


def _compare(listings: Sequence[tuple[Input, list[Listing]]]) -> None:
    """Several listings of one process: the first file gets the growth up to the last."""
    if len(listings) < 2 or len({each.pid for _, some in listings for each in some}) != 1:
        return
    first, _ = listings[0]
    old = first.reading
    merged = maps.reading_of([each for _, some in listings for each in some])
    if old is not None:
        merged.n_unread, merged.first_unread = old.n_unread, old.first_unread
        merged.notes = list(dict.fromkeys(merged.notes + old.notes))
    first.reading = merged


def as_json(inputs: Sequence[Input]) -> dict[str, Any]:
    """The document ``nativeleak.input/1``."""
    return {"schema": "nativeleak.input/1", "inputs": [_as_json(each) for each in inputs]}


def _as_json(each: Input) -> dict[str, Any]:
    head: dict[str, Any] = {"file": str(each.paths[0])}
    if len(each.paths) > 1:
        head["files"] = [str(path) for path in each.paths]
    if each.reading is None:
        other = each.other or Other("unknown", "")
        return head | {"kind": None, "is": other.what, "use": other.use}
    reading = each.reading
    return head | {
        "kind": reading.kind,
        "is": reading.title,
        "values": reading.values,
        "notes": reading.notes,
        "unread_lines": reading.n_unread,
        "first_unread": reading.first_unread or None,
    }
