"""Layout of the recording, shared by writer and reader: tables, numbers and packed columns.

``sites`` has the latest totals of each site. ``snapshots.samples`` has their history: one compressed blob per snapshot,
only of the sites whose totals changed since their last sample. SQLite integers are signed, so stack keys and addresses
are stored as the signed number with the same 64 bits.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple

APPLICATION_ID: Final = 0x4E4C4B31
"""``PRAGMA application_id``: "NLK1", by which ``file(1)`` and the reader recognise a recording."""

FORMAT_VERSION: Final = 1
"""``PRAGMA user_version``; raised whenever an older reader would misread the file."""

SQLITE_MAGIC: Final = b"SQLite format 3\0"
"""First 16 bytes of every SQLite file. Source: sqlite.org/fileformat2.html, section 1.3."""

LOOK_TABLES: Final = """
CREATE TABLE IF NOT EXISTS looks (slot INTEGER PRIMARY KEY, after_s REAL, certainty TEXT, why_not TEXT,
    n_unlisted INTEGER);
CREATE TABLE IF NOT EXISTS fates (slot INTEGER, thread_uid INTEGER, stack_key INTEGER, n_recorded INTEGER,
    n_in_use INTEGER, n_lost INTEGER, lost_bytes INTEGER, held_by TEXT, PRIMARY KEY (slot, thread_uid, stack_key))
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS census (slot INTEGER PRIMARY KEY, blocks_before INTEGER, bytes_before INTEGER,
    unread_before INTEGER, blocks_after INTEGER, bytes_after INTEGER, unread_after INTEGER, why_not TEXT,
    before_at REAL, after_at REAL);
"""
"""What looks before and after the trace found; see ``fates``."""

TABLES: Final = f"""
CREATE TABLE trace (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE targets (slot INTEGER PRIMARY KEY, pid INTEGER, comm TEXT, exe TEXT, jvm_version TEXT, allocators TEXT,
    end TEXT, end_signal INTEGER);
CREATE TABLE runtimes (slot INTEGER PRIMARY KEY, name TEXT, version TEXT);
CREATE TABLE unwatched (slot INTEGER, number INTEGER, object TEXT, allocator TEXT, prefix TEXT, why TEXT,
    PRIMARY KEY (slot, number)) WITHOUT ROWID;
CREATE TABLE children (slot INTEGER, pid INTEGER, comm TEXT, rss_bytes INTEGER, growth_bytes INTEGER, alive INTEGER,
    as_much INTEGER, PRIMARY KEY (slot, pid)) WITHOUT ROWID;
CREATE TABLE threads (uid INTEGER PRIMARY KEY, slot INTEGER, tid INTEGER, name TEXT, alive INTEGER);
CREATE TABLE frames (id INTEGER PRIMARY KEY, function TEXT, module TEXT, ip INTEGER, offset INTEGER, kind TEXT,
    file TEXT, line INTEGER, build_id TEXT, module_offset INTEGER, found TEXT);
CREATE TABLE stacks (key INTEGER PRIMARY KEY, frames BLOB, truncated INTEGER, end TEXT);
CREATE TABLE sites (id INTEGER PRIMARY KEY, kind TEXT, slot INTEGER, thread_uid INTEGER, stack_key INTEGER,
    owner TEXT, functions TEXT, allocated_bytes INTEGER, allocated_count INTEGER, freed_bytes INTEGER,
    freed_count INTEGER, resident_bytes INTEGER, reserved_bytes INTEGER, born_s REAL, slices BLOB);
CREATE TABLE sampling (site_id INTEGER PRIMARY KEY, n_sampled INTEGER, variance_bytes REAL, variance_count REAL);
CREATE TABLE retired (kind TEXT, slot INTEGER, owner TEXT, allocated_bytes INTEGER, allocated_count INTEGER,
    freed_bytes INTEGER, freed_count INTEGER, PRIMARY KEY (kind, slot, owner)) WITHOUT ROWID;
CREATE TABLE unmapped (slot INTEGER, number INTEGER, thread_uid INTEGER, stack_key INTEGER, owner TEXT, functions TEXT,
    n_calls INTEGER, freed_bytes INTEGER, other_threads_bytes INTEGER, reserved_bytes INTEGER, older_bytes INTEGER,
    PRIMARY KEY (slot, number)) WITHOUT ROWID;
CREATE TABLE snapshots (id INTEGER PRIMARY KEY, elapsed_s REAL, rss_bytes INTEGER, slice_s REAL, probe_hits INTEGER,
    probe_cost_ns REAL, target_cpu_s REAL, tracer_cpu_s REAL, tracer_max_rss_bytes INTEGER, counters TEXT,
    n_samples INTEGER, samples BLOB);
CREATE TABLE limits (id INTEGER PRIMARY KEY, slot INTEGER, kind TEXT, name TEXT, limit_bytes INTEGER);
CREATE TABLE limit_usage (snapshot_id INTEGER, limit_id INTEGER, usage_bytes INTEGER,
    PRIMARY KEY (snapshot_id, limit_id)) WITHOUT ROWID;
CREATE TABLE process_memory (snapshot_id INTEGER, slot INTEGER, rss_bytes INTEGER, anon_bytes INTEGER,
    swap_bytes INTEGER, peak_rss_bytes INTEGER, n_threads INTEGER, PRIMARY KEY (snapshot_id, slot)) WITHOUT ROWID;
CREATE TABLE memory_lines (elapsed_s REAL, slot INTEGER, line TEXT, n_bytes INTEGER,
    PRIMARY KEY (elapsed_s, slot, line)) WITHOUT ROWID;
CREATE TABLE blocks (number INTEGER PRIMARY KEY, n INTEGER, columns BLOB);
CREATE TABLE events (id INTEGER PRIMARY KEY, elapsed_s REAL, what TEXT, text TEXT);
{LOOK_TABLES}"""

JVM: Final = "hotspot"
"""The runtime whose version stands in ``targets.jvm_version`` too, its only place before the table ``runtimes``."""

_ZLIB_LEVEL: Final = 1
_ID_BYTES: Final = 4
_VALUE_BYTES: Final = 8
_N_VALUES: Final = 5
_NO_RESIDENT: Final = -1
_NOTHING: Final = (0, 0)
"""One object for all empty slices: most of a site's are."""


class Sample(NamedTuple):
    """Totals of one site at one snapshot; ``resident_bytes`` is -1 if it was not measured."""

    site_id: int
    allocated_bytes: int
    allocated_count: int
    outstanding_bytes: int
    outstanding_count: int
    resident_bytes: int = _NO_RESIDENT


class Samples(NamedTuple):
    """The samples of one snapshot as columns of equal length, in the order of ``Sample``."""

    site_id: array[int]
    allocated_bytes: array[int]
    allocated_count: array[int]
    outstanding_bytes: array[int]
    outstanding_count: array[int]
    resident_bytes: array[int]


def to_signed(value: int) -> int:
    """The signed 64-bit number with the bits of an unsigned one."""
    return value - (1 << 64) if value >= 1 << 63 else value


def to_unsigned(value: int) -> int:
    """The unsigned 64-bit number with the bits of a signed one."""
    return value & (1 << 64) - 1


def pack_samples(samples: Sequence[Sample]) -> bytes:
    """Columns one after another, little-endian (u32 ids, then five i64 columns), compressed."""
    columns = list(zip(*samples, strict=True)) or [()] * (1 + _N_VALUES)
    raw = _little_endian(array("I", columns[0])).tobytes()
    raw += b"".join(_little_endian(array("q", column)).tobytes() for column in columns[1:])
    return zlib.compress(raw, _ZLIB_LEVEL)


def unpack_samples(blob: bytes, n_samples: int) -> Samples:
    """Inverse of ``pack_samples``.

    Raises:
        ValueError: The blob does not hold ``n_samples`` samples.
    """
    expected = n_samples * (_ID_BYTES + _N_VALUES * _VALUE_BYTES)
    try:
        raw = zlib.decompressobj().decompress(blob, expected + 1)
    except zlib.error as error:
        raise ValueError(f"samples cannot be decompressed: {error}") from error
    if len(raw) != expected:
        raise ValueError(f"samples take {len(raw)} bytes, not {expected}")
    start = n_samples * _ID_BYTES
    width = n_samples * _VALUE_BYTES
    values = (_column("q", raw[start + i * width : start + (i + 1) * width]) for i in range(_N_VALUES))
    return Samples(_column("I", raw[:start]), *values)


def pack_slices(slices: Iterable[tuple[int, int]]) -> bytes:
    """Birth slices as pairs of u32, or of i64 if one does not fit, after a letter that says which; empty for no slices.

    Not compressed: initialising zlib for these few bytes took most of the time of a snapshot.
    """
    flat = list(chain.from_iterable(slices))
    if not flat:
        return b""
    typecode = "I" if max(flat) < 1 << 32 and min(flat) >= 0 else "q"
    return typecode.encode() + _little_endian(array(typecode, flat)).tobytes()


def unpack_slices(blob: bytes) -> tuple[tuple[int, int], ...]:
    """Inverse of ``pack_slices``.

    Raises:
        ValueError: The blob is damaged.
    """
    if not blob:
        return ()
    flat = unpack_flat_slices(blob)
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return tuple(pair if pair != _NOTHING else _NOTHING for pair in pairs)


def unpack_flat_slices(blob: bytes) -> array[int]:
    """Bytes and count of each birth slice, one after another.

    Raises:
        ValueError: The blob is damaged.
    """
    if blob[:1] not in (b"I", b"q"):
        raise ValueError("birth slices of an unknown kind")
    return _column(blob[:1].decode(), blob[1:])


def pack_ids(ids: Iterable[int]) -> bytes:
    """Frame ids as little-endian u32."""
    return _little_endian(array("I", ids)).tobytes()


def unpack_ids(blob: bytes) -> array[int]:
    """Inverse of ``pack_ids``.

    Raises:
        ValueError: The length is not a multiple of four.
    """
    return _column("I", blob)


def _little_endian(values: array[int]) -> array[int]:
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _column(typecode: str, raw: bytes) -> array[int]:
    values: array[int] = array(typecode)
    values.frombytes(raw)
    return _little_endian(values)
