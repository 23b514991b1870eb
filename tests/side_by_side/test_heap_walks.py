"""Heaps walked from outside, against what the allocator and the program count themselves."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from nativeleak.heaps.audit import find_gone
from nativeleak.heaps.blocks import BlockList
from nativeleak.heaps.census import HeapWalk
from nativeleak.heaps.glibc.walk import walk_glibc
from nativeleak.heaps.jemalloc import walk_jemalloc
from nativeleak.heaps.memory import HeapMemory, Places
from nativeleak.heaps.musl import walk_musl
from nativeleak.process.procfs import read_exe, read_maps, read_rss
from support.machine import preload
from support.target import Target, Truth

# Blocks beside the program's own: a thread's cache, the loader's vector of a thread, what a static program begins with.
_CACHE_BYTES = 656
_STATE_SIZES = {_CACHE_BYTES, 288, 48, 176, 336, 1248, 100016}


def _walk(target: Target) -> HeapWalk:
    with HeapMemory(target.pid) as memory:
        return walk_glibc(memory, read_maps(target.pid), read_exe(target.pid))


def _own_sizes(truth: Truth, walk: HeapWalk) -> Counter[int]:
    """The program's blocks by size of their chunk: one word more than usable, two for those with a mapping."""
    sizes: Counter[int] = Counter()
    for usable, count in truth["sizes"].items():
        sizes[int(usable) + (16 if int(usable) + 16 in walk.mapped else 8)] += count
    return sizes


@pytest.mark.parametrize("program", ["heap_states", "heap_states_static"])
@pytest.mark.parametrize(
    ("state", "arguments"),
    [("live", [20011]), ("freed", [20011]), ("gaps", [20011]), ("trimmed", [20011]), ("big", [7]), ("live", [2003, 8])],
)
def test_glibc_at_rest_equals_mallinfo2_and_the_programs_own_blocks(
    program: str, state: str, arguments: list[int]
) -> None:
    with Target(program, state, *arguments) as target:
        truth = target.ask("truth")
        walk = _walk(target)
    total = walk.total
    assert total.in_use.n_bytes + total.cached.n_bytes + total.header_bytes == truth["uordblks"]
    assert total.free.n_bytes + total.fast.n_bytes + total.top_bytes == truth["fordblks"]
    assert total.fast.n_bytes == truth["fsmblks"]
    assert (walk.n_mapped, walk.mapped_bytes) == (truth["hblks"], truth["hblkhd"])
    assert walk.mapped.total() == truth["hblks"]
    assert walk.system_bytes == truth["arena"]
    assert (total.n_breaks, total.unread_bytes, walk.notes) == (0, 0, ())
    own = _own_sizes(truth, walk)
    others = walk.sizes - own
    assert own - walk.sizes == Counter()
    assert set(others) <= _STATE_SIZES
    n_threads = 1 + (arguments[1] if len(arguments) > 1 else 0)
    assert others[_CACHE_BYTES] == n_threads
    assert len(walk.arenas) == n_threads


def test_what_malloc_trim_gives_back_is_foretold() -> None:
    with Target("heap_states", "gaps", 20011) as target:
        before, rss_before = _walk(target).total, read_rss(target.pid)
        target.ask("trim")
        after, rss_after = _walk(target).total, read_rss(target.pid)
    assert before.trimmable_bytes > 20 << 20
    assert after.trimmable_bytes == 0
    # The kernel's own count of resident pages is off by some pages of each thread.
    assert rss_before - rss_after == pytest.approx(before.trimmable_bytes, abs=512 << 10)
    assert before.retained_resident_bytes - after.retained_resident_bytes == pytest.approx(
        before.trimmable_bytes, abs=256 << 10
    )


def test_absent_pages_are_neither_mapped_nor_swapped_in_by_the_walk() -> None:
    with Target("heap_states", "trimmed", 20011) as target:
        before = _walk(target).total, read_rss(target.pid)
        after = _walk(target).total, read_rss(target.pid)
    assert before[0].retained_resident_bytes == after[0].retained_resident_bytes
    assert before[1] == after[1]


def test_glibc_in_motion_is_within_some_per_cent_and_says_what_it_did_not_read() -> None:
    with Target("heap_states", "live", 40009) as target:
        target.ask("churn")
        walks = [_walk(target) for _ in range(12)][5:]  # by then no size is new to the heap
        truth = target.ask("rest")
        at_rest = _walk(target)
    total = at_rest.total
    assert total.in_use.n_bytes + total.cached.n_bytes + total.header_bytes == truth["uordblks"]
    in_use = sorted(walk.total.in_use.n_bytes for walk in walks)[3]
    assert in_use == pytest.approx(total.in_use.n_bytes, rel=0.1)
    n_blocks = sorted(walk.total.in_use.n_blocks for walk in walks)[3]
    assert n_blocks == pytest.approx(total.in_use.n_blocks, rel=0.05)
    assert all(walk.walked_share > 0.9 for walk in walks)


@pytest.mark.parametrize("state", ["live", "gaps", "freed"])
def test_musl_at_rest_has_exactly_the_programs_blocks(state: str) -> None:
    with Target("heap_states_musl", state, 20011) as target:
        truth = target.ask("truth")
        with HeapMemory(target.pid) as memory:
            walk = walk_musl(memory, read_maps(target.pid))
    # The one block beside the program's own holds the end of the heap down.
    assert walk.total.in_use.n_blocks == truth["n_blocks"] + 1
    assert walk.in_use_bytes > truth["usable_bytes"]


@pytest.mark.parametrize("state", ["live", "gaps", "freed"])
def test_jemalloc_at_rest_equals_its_own_statistics(state: str) -> None:
    with Target("heap_states", state, 20011, env=preload("jemalloc")) as target:
        truth = target.ask("truth")
        with HeapMemory(target.pid) as memory:
            walk = walk_jemalloc(memory, read_maps(target.pid))
    assert walk.in_use_bytes == pytest.approx(truth["allocated"], rel=0.002)
    # Blocks in threads' caches count as in use too.
    assert all(walk.sizes[int(usable)] >= count for usable, count in truth["sizes"].items())


@pytest.mark.parametrize(
    ("program", "env", "least"),
    # Extents of jemalloc that are freed whole may keep no description that fits: their blocks are not judged.
    [("heap_states", {}, 1.0), ("heap_states_musl", {}, 1.0), ("heap_states", preload("jemalloc"), 0.8)],
    ids=["glibc", "musl", "jemalloc"],
)
def test_audit_finds_the_blocks_that_were_freed_and_no_other(program: str, env: dict[str, str], least: float) -> None:
    with Target(program, "live", 20011, env=env) as target:
        before = _addresses(target, program, env)
        n_before = target.ask("truth")["n_blocks"]
        assert not find_gone(target.pid, before).any()
        n_after = target.ask("half")["n_blocks"]
        gone = find_gone(target.pid, before)
        left = _addresses(target, program, env)
    assert n_before - n_after == 10006
    assert least * 10006 <= int(gone.sum()) <= 10006
    assert not gone[np.isin(before, left)].any()


def _addresses(target: Target, program: str, env: dict[str, str]) -> Places:
    """Addresses of all blocks in use; those of glibc with a mapping of their own too, which no audit judges."""
    blocks = BlockList()
    with HeapMemory(target.pid) as memory:
        maps = read_maps(target.pid)
        if program == "heap_states_musl":
            walk_musl(memory, maps, blocks)
        elif env:
            walk_jemalloc(memory, maps, blocks)
        else:
            walk_glibc(memory, maps, read_exe(target.pid), blocks=blocks)
    return blocks.take()[0].astype(np.int64)


def test_blocks_without_pages_are_passed_over_and_counted_as_unread() -> None:
    with Target("heap_states", "hole", 20011) as target:
        walk, rss = _walk(target), read_rss(target.pid)
        assert read_rss(target.pid) == rss
        truth = target.ask("truth")
    total = walk.total
    assert total.n_breaks == 1
    assert total.unread_bytes == pytest.approx(truth["usable_bytes"] / 4, rel=0.1)
    assert total.in_use.n_blocks == pytest.approx(truth["n_blocks"] * 3 / 4, rel=0.02)
    assert 0.7 < walk.walked_share < 0.8
