"""The inner loops: in C where the helper was built, in numpy elsewhere. Both give the same results.

Scope: looking up words in a table of blocks, and three walks of the graph. ``native/holders.c`` describes each.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from nativeleak.heaps.memory import Words
from nativeleak.holders.graph import Graph
from nativeleak.holders.numpy_helper import NumpyHelper
from nativeleak.holders.table import NONE, Blocks, BlockTable, Bytes
from nativeleak.holders.windows import Runs

_NUMPY_ONLY: Final = "NATIVELEAK_NO_HELPER"


class Helper(Protocol):
    """The loops."""

    name: str

    def roots(self, table: BlockTable, runs: Runs) -> tuple[Words, Blocks, Bytes]:
        """Pointers from memory that no block has: place, block, flags of each."""
        ...

    def edges(self, table: BlockTable, runs: Runs, seen: Blocks) -> tuple[Blocks, Blocks]:
        """Pointers from block to block: sources and targets. ``seen``: see ``sees``."""
        ...

    def mark(self, graph: Graph, roots: Blocks, marks: Bytes, *, follows_leftovers: bool = True) -> int:
        """Mark what is reached from roots; what has a mark is not passed. Returns the number of new marks."""
        ...

    def owners(self, graph: Graph, roots: Blocks, labels: Blocks) -> Blocks:
        """The label of the nearest root of each block, the first of several; NONE where none reaches it."""
        ...

    def exclusive(self, graph: Graph, roots: Blocks, labels: Blocks) -> Blocks:
        """The only label that reaches each block; SHARED, or NONE."""
        ...


class _Table(ctypes.Structure):
    """struct nl_blocks of native/holders.c."""

    _fields_ = (
        ("n_spans", ctypes.c_int64), ("span_start", ctypes.c_void_p), ("span_end", ctypes.c_void_p),
        ("page_base", ctypes.c_void_p), ("first_block", ctypes.c_void_p), ("start", ctypes.c_void_p),
        ("end", ctypes.c_void_p), ("n_blocks", ctypes.c_int64), ("link_offset", ctypes.c_uint64),
    )  # fmt: skip


class _Runs(ctypes.Structure):
    """struct nl_runs of native/holders.c."""

    _fields_ = (
        ("data", ctypes.c_void_p), ("address", ctypes.c_void_p), ("offset", ctypes.c_void_p),
        ("n_bytes", ctypes.c_void_p), ("n_runs", ctypes.c_int64), ("step", ctypes.c_int64),
    )  # fmt: skip


class _Walk(ctypes.Structure):
    """struct nl_walk of native/holders.c."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            "max_blocks", "max_edges", "n_found", "next_root", "head", "depth", "edge", "end", "block",
        )
    )  # fmt: skip


@dataclass(slots=True)
class _Room:
    """Arrays that the scans fill, kept from window to window."""

    places: Words
    sources: Blocks
    targets: Blocks
    flags: Bytes


class CHelper:
    """The loops in C.

    Args:
        path: The shared object.

    Raises:
        OSError: It cannot be loaded.
        AttributeError: It is not ours.
    """

    name = "C"

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._roots, self._edges = library.nl_roots, library.nl_edges
        self._mark, self._owners, self._exclusive = library.nl_mark, library.nl_owners, library.nl_exclusive
        self._roots.argtypes = (pointer,) * 5
        self._edges.argtypes = (pointer,) * 5
        self._mark.argtypes = (pointer, pointer, pointer, number, number, pointer, pointer, pointer)
        self._owners.argtypes = (pointer, pointer, pointer, pointer, number, pointer, pointer, pointer)
        self._exclusive.argtypes = (pointer, pointer, pointer, pointer, number, pointer, pointer, pointer, pointer)
        for function in (self._roots, self._edges, self._mark, self._owners, self._exclusive):
            function.restype = number
        self._room = _Room(
            np.zeros(0, np.uint64), np.zeros(0, np.uint32), np.zeros(0, np.uint32), np.zeros(0, np.uint8)
        )

    def roots(self, table: BlockTable, runs: Runs) -> tuple[Words, Blocks, Bytes]:
        """See ``Helper``."""
        room = self._room_for(runs)
        n = self._roots(
            ctypes.byref(_table(table)), ctypes.byref(_runs(runs)),
            room.places.ctypes.data, room.targets.ctypes.data, room.flags.ctypes.data,
        )  # fmt: skip
        return room.places[:n], room.targets[:n], room.flags[:n]

    def edges(self, table: BlockTable, runs: Runs, seen: Blocks) -> tuple[Blocks, Blocks]:
        """See ``Helper``."""
        room = self._room_for(runs)
        n = self._edges(
            ctypes.byref(_table(table)), ctypes.byref(_runs(runs)),
            room.sources.ctypes.data, room.targets.ctypes.data, seen.ctypes.data,
        )  # fmt: skip
        return room.sources[:n], room.targets[:n]

    def mark(self, graph: Graph, roots: Blocks, marks: Bytes, *, follows_leftovers: bool = True) -> int:
        """See ``Helper``."""
        roots, stack = np.ascontiguousarray(roots), np.empty(len(marks) + 1, np.uint32)
        return _walk(
            graph,
            lambda walk: self._mark(
                graph.offsets.ctypes.data, graph.targets.ctypes.data, roots.ctypes.data, len(roots),
                int(follows_leftovers), marks.ctypes.data, stack.ctypes.data, walk,
            ),
        )  # fmt: skip

    def owners(self, graph: Graph, roots: Blocks, labels: Blocks) -> Blocks:
        """See ``Helper``."""
        owner, queue = _none(graph), _none(graph)
        roots, labels = np.ascontiguousarray(roots), np.ascontiguousarray(labels)
        _walk(
            graph,
            lambda walk: self._owners(
                graph.offsets.ctypes.data, graph.targets.ctypes.data, roots.ctypes.data, labels.ctypes.data,
                len(roots), owner.ctypes.data, queue.ctypes.data, walk,
            ),
        )  # fmt: skip
        return owner

    def exclusive(self, graph: Graph, roots: Blocks, labels: Blocks) -> Blocks:
        """See ``Helper``."""
        only, stack, queued = _none(graph), _none(graph), np.zeros(len(graph.offsets), np.uint8)
        roots, labels = np.ascontiguousarray(roots), np.ascontiguousarray(labels)
        _walk(
            graph,
            lambda walk: self._exclusive(
                graph.offsets.ctypes.data, graph.targets.ctypes.data, roots.ctypes.data, labels.ctypes.data,
                len(roots), only.ctypes.data, stack.ctypes.data, queued.ctypes.data, walk,
            ),
        )  # fmt: skip
        return only

    def _room_for(self, runs: Runs) -> _Room:
        n = len(runs.data) // runs.step + 1
        if len(self._room.places) < n:
            self._room = _Room(
                np.empty(n, np.uint64), np.empty(n, np.uint32), np.empty(n, np.uint32), np.empty(n, np.uint8)
            )
        return self._room


def _walk(graph: Graph, go_on: Callable[[Any], int]) -> int:
    """Walk to the end, giving back memory of a spilled graph on the way. Returns ``n_found``."""
    walk = _Walk()
    walk.max_blocks, walk.max_edges = graph.blocks_a_step, graph.edges_a_step
    while go_on(ctypes.byref(walk)):
        graph.rest_if_large()
    graph.rest_if_large()
    return int(walk.n_found)


def _none(graph: Graph) -> Blocks:
    return np.full(max(len(graph.offsets) - 1, 1), NONE, np.uint32)


def _table(table: BlockTable) -> _Table:
    return _Table(
        len(table.span_starts), table.span_starts.ctypes.data, table.span_ends.ctypes.data,
        table.page_bases.ctypes.data, table.first_blocks.ctypes.data, table.starts.ctypes.data,
        table.ends.ctypes.data, len(table), table.link_offset,
    )  # fmt: skip


def _runs(runs: Runs) -> _Runs:
    return _Runs(
        runs.data.ctypes.data, runs.addresses.ctypes.data, runs.offsets.ctypes.data, runs.sizes.ctypes.data,
        len(runs.addresses), runs.step,
    )  # fmt: skip


@cache
def find_helper() -> Helper:
    """The C helper where it was built for this machine; numpy elsewhere, and where NATIVELEAK_NO_HELPER is set."""
    if not os.environ.get(_NUMPY_ONLY):
        try:
            return CHelper(Path(__file__).parent / f"helper.{platform.machine()}.so")
        except (OSError, AttributeError):
            pass
    return NumpyHelper()


def sees(table: BlockTable) -> Blocks:
    """What calls of ``Helper.edges`` of one scan share, at its beginning: of each block the last source of an edge."""
    return np.full(max(len(table), 1), NONE, np.uint32)
