"""Call paths: what parts two of them, what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

import recording_fixtures as fixtures
from nativeleak.analysis.paths import Paths, fold_cycles
from nativeleak.model import Frame, FrameKind, Stack
from nativeleak.recording import Recording, RecordingWriter

LEAF, ROOT = fixtures.native("malloc"), fixtures.native("main", "app")


def _record(path: Path, stacks: list[Stack]) -> Recording:
    def write(writer: RecordingWriter) -> None:
        writer.add_stacks(stacks)
        writer.write_snapshot(fixtures.snapshot(1.0, []))

    return fixtures.record(path / "a.nlk", write)


def _ids(path: Path, *stacks: Stack) -> list[int]:
    with _record(path, list(stacks)) as recording:
        paths = Paths(recording)
        paths.load([stack.key for stack in stacks])
        return [paths.path_id(stack.key) for stack in stacks]


@pytest.mark.parametrize(
    ("steps", "folded"),
    [
        ([1, 2, 3], (1, 2, 3)),
        ([1, 2, 2, 2, 3], (1, 2, 3)),
        ([1, 2, 3, 2, 3, 2, 3, 4], (1, 2, 3, 4)),
        ([1, 2, 3, 4, 2, 3, 4, 5], (1, 2, 3, 4, 5)),
        ([1, 2, 1, 3, 1], (1, 2, 1, 3, 1)),
        ([5, 1, 1, 2, 1, 1, 2, 7], (5, 1, 2, 7)),
        ([], ()),
    ],
)
def test_fold_cycles_of_any_period_count_once(steps: list[int], folded: tuple[int, ...]) -> None:
    assert fold_cycles(steps) == folded


def test_paths_address_and_way_of_running_part_no_paths(tmp_path: Path) -> None:
    def stack(key: int, offset: int, kind: FrameKind, line: int) -> Stack:
        method = fixtures.java("com.example.Cache.put", kind, line)
        return Stack(key, (LEAF, fixtures.native("grow", "libgrow.so", offset), method, ROOT))

    one, other, elsewhere = _ids(
        tmp_path,
        stack(1, 16, FrameKind.JAVA_COMPILED, 41),
        stack(2, 99, FrameKind.JAVA_INTERPRETED, 41),
        stack(3, 16, FrameKind.JAVA_COMPILED, 42),
    )
    assert one == other
    assert one != elsewhere


def test_paths_module_parts_paths(tmp_path: Path) -> None:
    one, other = _ids(
        tmp_path,
        Stack(1, (LEAF, fixtures.native("init", "liba.so"), ROOT)),
        Stack(2, (LEAF, fixtures.native("init", "libb.so"), ROOT)),
    )
    assert one != other


def test_paths_depth_of_recursion_parts_no_paths(tmp_path: Path) -> None:
    walk, visit = fixtures.native("walk", "app"), fixtures.native("visit", "app")
    ids = _ids(tmp_path, *[Stack(n, (LEAF, *[walk, visit] * n, ROOT)) for n in range(1, 6)])
    assert len(set(ids)) == 1


def test_paths_cut_by_a_late_table_joins_the_one_path_that_begins_like_it(tmp_path: Path) -> None:
    def frames(*names: str) -> tuple[Frame, ...]:
        return (LEAF, *(fixtures.native(name, "app") for name in names))

    cut = Stack(1, frames("keep"), truncated=True, end="no table")
    whole = Stack(2, frames("keep", "serve", "main"))
    assert len(set(_ids(tmp_path, cut, whole))) == 1


def test_paths_cut_path_with_two_ways_on_stays_alone(tmp_path: Path) -> None:
    def frames(*names: str) -> tuple[Frame, ...]:
        return (LEAF, *(fixtures.native(name, "app") for name in names))

    cut = Stack(1, frames("keep"), truncated=True, end="no table")
    ids = _ids(tmp_path, cut, Stack(2, frames("keep", "serve")), Stack(3, frames("keep", "load")))
    assert len(set(ids)) == 3


def test_paths_cut_path_goes_on_as_far_as_the_whole_ones_agree(tmp_path: Path) -> None:
    """A pool's library without names, cut there: the pool's function is known, its callers are not."""

    def frames(*names: str) -> tuple[Frame, ...]:
        return (LEAF, *(fixtures.native(name, "app") for name in names))

    cut = Stack(1, frames("refill"), truncated=True, end="no table")
    whole = [
        Stack(2, frames("refill", "g_slice_alloc", "event_new")),
        Stack(3, frames("refill", "g_slice_alloc", "meta_new")),
    ]
    with _record(tmp_path, [cut, *whole]) as recording:
        paths = Paths(recording)
        paths.load([1, 2, 3])
        names = [paths.steps[step].name for step in paths.path(paths.path_id(1))]
    assert names == ["malloc", "refill", "g_slice_alloc"]
