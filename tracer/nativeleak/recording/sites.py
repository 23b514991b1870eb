"""The sites of a recording as columns: what a report of very many sites needs, without an object for each.

Source: the table ``sites`` of ``schema.py``; the columns are checked by ``columns.py`` when a recording is opened.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Final, NamedTuple

from nativeleak.model import Kind, Owner, SiteTotals, Uncertainty
from nativeleak.recording.columns import parse_texts
from nativeleak.recording.schema import pack_slices, to_signed, to_unsigned, unpack_flat_slices

SITE_NUMBERS: Final = (
    "kind",
    "slot",
    "thread_uid",
    "stack_key",
    "owner",
    "allocated_bytes",
    "allocated_count",
    "freed_bytes",
    "freed_count",
    "reserved_bytes",
    "resident_bytes",
)
"""Columns of ``read_numbers``."""
_UNKNOWN: Final = -1
_KINDS: Final = frozenset(kind.value for kind in Kind)
_OWNERS: Final = frozenset(owner.value for owner in Owner)


class BirthSlices(NamedTuple):
    """Birth slices of sites that have the same number of them.

    Attributes:
        positions: The sites.
        width: Number of slices.
        values: Bytes and count of each slice, oldest first, site after site.
    """

    positions: list[int]
    width: int
    values: array[int]


class StackColumns(NamedTuple):
    """Many stacks, without an object for each.

    Attributes:
        keys: Unsigned.
        bounds: Where the frames of each stack begin in ``frames``, and where the last one's end.
        frames: Ids of ``Recording.frames``, leaf first, stack after stack.
        ends: As ``model.Stack.end``.
    """

    keys: list[int]
    bounds: list[int]
    frames: array[int]
    ends: list[str]


class SiteColumns(NamedTuple):
    """Columns of equal length, one row a site in the order of ``Samples.site_id``. As ``model.SiteTotals``.

    Attributes:
        kind: Values of ``model.Kind``.
        owner: Values of ``model.Owner``.
        slices: Packed; see ``birth_slices``.
        uncertainty: Of the sampled sites, by position.
    """

    kind: Sequence[str]
    slot: Sequence[int]
    thread_uid: Sequence[int]
    stack_key: Sequence[int]
    owner: Sequence[str]
    functions: Sequence[tuple[str, ...]]
    allocated_bytes: Sequence[int]
    allocated_count: Sequence[int]
    freed_bytes: Sequence[int]
    freed_count: Sequence[int]
    resident_bytes: Sequence[int | None]
    reserved_bytes: Sequence[int]
    oldest_s: Sequence[float | None]
    slices: Sequence[bytes]
    uncertainty: Mapping[int, Uncertainty]

    def __len__(self) -> int:
        """Number of sites."""
        return len(self.kind)

    def birth_slices(self) -> list[BirthSlices]:
        """Birth slices of the sites that have any, by their number.

        Raises:
            ValueError: They are damaged.
        """
        groups: dict[bytes, tuple[list[int], list[bytes]]] = {}
        for position, blob in enumerate(self.slices):
            if blob:
                positions, blobs = groups.setdefault(blob[:1] + len(blob).to_bytes(4, "little"), ([], []))
                positions.append(position)
                blobs.append(blob[1:])
        found = []
        for kind, (positions, blobs) in groups.items():
            values = unpack_flat_slices(kind[:1] + b"".join(blobs))
            n_each = len(values) // len(positions)
            if n_each % 2 or n_each * len(positions) != len(values):
                raise ValueError("half a birth slice")
            found.append(BirthSlices(positions, n_each // 2, values))
        return found


def read_columns(db: sqlite3.Connection, end_s: float, uncertainty: Mapping[int, Uncertainty]) -> SiteColumns:
    """The latest totals of all sites; dropped sites have empty totals.

    Args:
        db: The recording.
        end_s: Of the last snapshot.
        uncertainty: Of the sampled sites.

    Raises:
        ValueError: The table is damaged.
    """
    rows = db.execute("SELECT * FROM sites ORDER BY id").fetchall()
    columns = list(zip(*rows, strict=True)) or [()] * 15
    del rows
    ids, kind, slot, thread_uid, stack_key, owner, functions = columns[:7]
    allocated_bytes, allocated_count, freed_bytes, freed_count, resident_bytes, reserved_bytes, born, slices = columns[
        7:
    ]
    if ids != tuple(range(len(ids))):
        raise ValueError("site ids have gaps")
    if not _KINDS.issuperset(kind) or not _OWNERS.issuperset(owner):
        raise ValueError("a site of an unknown kind or owner")
    names = {text: parse_texts(text) for text in set(functions)}
    return SiteColumns(
        kind,
        slot,
        thread_uid,
        tuple(map(to_unsigned, stack_key)),
        owner,
        tuple(map(names.__getitem__, functions)),
        allocated_bytes,
        allocated_count,
        freed_bytes,
        freed_count,
        resident_bytes,
        reserved_bytes,
        tuple(None if born_s is None else max(0.0, end_s - born_s) for born_s in born),
        slices,
        uncertainty,
    )


def read_numbers(db: sqlite3.Connection) -> array[int]:
    """The latest totals of all sites as numbers, ``SITE_NUMBERS`` of one after those of another.

    Raises:
        ValueError: The table is damaged.
    """

    def position(column: str, values: Iterable[str]) -> str:
        cases = " ".join(f"WHEN '{value}' THEN {i}" for i, value in enumerate(values))
        return f"CASE {column} {cases} ELSE {_UNKNOWN} END"

    chosen = [
        position("kind", Kind),
        "slot",
        "thread_uid",
        "stack_key",
        position("owner", Owner),
        *SITE_NUMBERS[5:-1],
        f"coalesce(resident_bytes, {_UNKNOWN})",
    ]
    rows = db.execute(f"SELECT {', '.join(chosen)} FROM sites ORDER BY id")
    numbers = array("q", chain.from_iterable(rows))
    if _UNKNOWN in numbers[:: len(SITE_NUMBERS)] or _UNKNOWN in numbers[4 :: len(SITE_NUMBERS)]:
        raise ValueError("a site of an unknown kind or owner")
    first, last, n_sites = db.execute(
        "SELECT coalesce(min(id), 0), coalesce(max(id), -1), count(*) FROM sites"
    ).fetchone()
    if (first, last) != (0, n_sites - 1):
        raise ValueError("site ids have gaps")
    return numbers


def numbers_of(columns: SiteColumns) -> array[int]:
    """The same of columns that are at hand."""
    kinds = {kind.value: i for i, kind in enumerate(Kind)}
    owners = {owner.value: i for i, owner in enumerate(Owner)}
    rows = zip(
        map(kinds.__getitem__, columns.kind),
        columns.slot,
        columns.thread_uid,
        map(to_signed, columns.stack_key),
        map(owners.__getitem__, columns.owner),
        columns.allocated_bytes,
        columns.allocated_count,
        columns.freed_bytes,
        columns.freed_count,
        columns.reserved_bytes,
        (_UNKNOWN if resident is None else resident for resident in columns.resident_bytes),
        strict=True,
    )
    return array("q", chain.from_iterable(rows))


def columns_of(sites: Iterable[SiteTotals]) -> SiteColumns:
    """The columns of sites that are at hand one by one."""
    every = list(sites)
    return SiteColumns(
        [site.key.kind.value for site in every],
        [site.key.slot for site in every],
        [site.key.thread_uid for site in every],
        [site.key.stack_key for site in every],
        [site.owner.value for site in every],
        [site.functions for site in every],
        [site.allocated_bytes for site in every],
        [site.allocated_count for site in every],
        [site.freed_bytes for site in every],
        [site.freed_count for site in every],
        [site.resident_bytes for site in every],
        [site.reserved_bytes for site in every],
        [site.oldest_s for site in every],
        [pack_slices(site.slices) for site in every],
        {i: site.uncertainty for i, site in enumerate(every) if site.uncertainty.n_sampled},
    )
