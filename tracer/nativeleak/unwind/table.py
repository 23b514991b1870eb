"""The unwind table of one object: made from its file, and as bytes that can be kept and passed on.

Scope: an object without a possible table is no error: its table is empty, and ``reason`` says why.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nativeleak import arch
from nativeleak.digest import blake2b
from nativeleak.symbols.elf import PF_X, ElfFile
from nativeleak.symbols.source import ElfError, Source
from nativeleak.unwind import pack
from nativeleak.unwind.bare import bare_pieces, entry_pieces
from nativeleak.unwind.calls import MIN_MARK_BYTES, CallFinder, call_site_rows
from nativeleak.unwind.eh_frame import find_debug_frame, find_eh_frame, read_fdes
from nativeleak.unwind.go import go_pieces
from nativeleak.unwind.rows import Piece, Range, arrange, fill_gaps, full_rows

NO_CFI: Final = "it has no unwind information"

_MAGIC: Final = b"NLUNWIND"
_DIGEST_BYTES: Final = 16
# magic, pack.FORMAT_VERSION, 1 for a full table, rows, rules, end of the text, lengths of build id, reason and words;
# a digest of all else and those three follow.
_HEADER: Final = struct.Struct("<8sIIIIQIII")
_MAX_TEXTS: Final = 256
_MAX_REASON_BYTES: Final = 500


@dataclass(frozen=True, slots=True)
class UnwindTable:
    """Unwind rules of one object.

    Attributes:
        build_id: Build id in hex, empty if the object has none.
        words: The packed table (``pack.py``), empty without one.
        n_rows: Rows in it.
        n_rules: Distinct rules in it.
        full: It covers every address, not only call sites.
        reason: Why there is no table, as it follows "libx.so:"; empty with a table.
        text_end: First address after the code, as the file counts them.
    """

    build_id: str
    words: bytes
    n_rows: int
    n_rules: int
    full: bool
    reason: str
    text_end: int


def build_table(source: Source, *, full: bool = False) -> UnwindTable:
    """Make the table of an object.

    Args:
        source: Its file, or an image of the vdso; closed with the call.
        full: Cover every address; else only call sites.
    """
    try:
        elf = ElfFile(source)
    except ElfError as error:
        return no_table(error.what, full=full)
    with elf:
        try:
            return _build(elf, full)
        except ElfError as error:
            return no_table(error.what, build_id=elf.build_id, full=full)
        except MemoryError:
            return no_table("reading its unwind information takes too much memory", build_id=elf.build_id, full=full)


def no_table(reason: str, *, build_id: str = "", full: bool = False) -> UnwindTable:
    """An empty table with its reason."""
    return UnwindTable(build_id, b"", 0, 0, full, reason, 0)


def encode(table: UnwindTable) -> bytes:
    """The table as bytes, with a digest."""
    build_id = table.build_id.encode()
    reason = table.reason.encode("utf-8", "replace")[:_MAX_REASON_BYTES]
    header = _HEADER.pack(
        _MAGIC,
        pack.FORMAT_VERSION,
        table.full,
        table.n_rows,
        table.n_rules,
        table.text_end,
        len(build_id),
        len(reason),
        len(table.words),
    )
    body = b"".join((build_id, reason, table.words))
    return header + _digest(header, body) + body


def decode(data: bytes) -> UnwindTable | None:
    """Inverse of ``encode``; None if the bytes are damaged or of another version."""
    if len(data) < _HEADER.size + _DIGEST_BYTES:
        return None
    header, digest, body = data[: _HEADER.size], data[_HEADER.size :][:_DIGEST_BYTES], data[_HEADER.size :]
    body = body[_DIGEST_BYTES:]
    magic, version, full, n_rows, n_rules, text_end, *lengths = _HEADER.unpack(header)
    if magic != _MAGIC or version != pack.FORMAT_VERSION or sum(lengths) != len(body):
        return None
    if digest != _digest(header, body):
        return None
    n_id, n_reason, _ = lengths
    build_id, reason = body[:n_id], body[n_id : n_id + n_reason]
    return UnwindTable(
        build_id.decode("ascii", "replace"),
        body[n_id + n_reason :],
        n_rows,
        n_rules,
        bool(full),
        reason.decode("utf-8", "replace"),
        text_end,
    )


def _build(elf: ElfFile, full: bool) -> UnwindTable:
    machine = arch.by_elf(elf.machine)
    if machine is None or not machine.has_tables:
        raise ElfError("tables are made for x86-64 only")
    text = text_ranges(elf)
    pieces = read_pieces(elf, text, 1 if full else MIN_MARK_BYTES)
    pieces = fill_gaps(pieces, bare_pieces(elf, text, pieces))
    pieces = fill_gaps(go_pieces(elf, text), pieces)
    if pieces:
        pieces = fill_gaps(pieces, entry_pieces(elf, text))
    if not pieces:
        raise ElfError(NO_CFI)
    rows = full_rows(pieces, text) if full else call_site_rows(pieces, text, CallFinder(elf, text))
    if not rows:
        raise ElfError("its code has no calls")
    text_end = text[-1][1]
    packed = pack.pack(rows, text_end)
    return UnwindTable(elf.build_id, packed.words, packed.n_rows, packed.n_rules, full, "", text_end)


def text_ranges(elf: ElfFile) -> list[Range]:
    """Executable segments of the file, ascending and disjoint.

    Raises:
        ElfError: The file has more than a linker writes.
    """
    segments = sorted((each.vaddr, each.vaddr + each.file_bytes) for each in elf.loads if each.flags & PF_X)
    if len(segments) > _MAX_TEXTS:
        raise ElfError(f"it has {len(segments)} executable segments")
    made: list[Range] = []
    reached = 0
    for start, end in segments:
        if max(start, reached) < end < 1 << 63:
            made.append((max(start, reached), end))
            reached = end
    return made


def read_pieces(elf: ElfFile, text: Sequence[Range], min_row_bytes: int = 1) -> list[Piece]:
    """The object's CFI in ascending order: ``.eh_frame``, and ``.debug_frame`` in gaps of the first.

    Args:
        elf: The object.
        text: Where its code is.
        min_row_bytes: Shorter rows are left out, but for signal frames and roots.

    Raises:
        ElfError: ``.eh_frame`` cannot be read, or only ``.debug_frame`` exists and cannot be read.
    """
    section = find_eh_frame(elf)
    pieces = arrange([] if section is None else read_fdes(section, min_row_bytes), text)
    try:
        debug = find_debug_frame(elf)
        if debug is None:
            return pieces
        return fill_gaps(pieces, arrange(read_fdes(debug, min_row_bytes), text))
    except ElfError:
        if pieces:
            return pieces  # what is mapped is enough for the program's own exceptions, and for most of the code
        raise


def _digest(header: bytes, body: bytes) -> bytes:
    state = blake2b(header, digest_size=_DIGEST_BYTES)
    state.update(body)
    return state.digest()
