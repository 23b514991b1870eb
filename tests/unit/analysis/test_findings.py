"""Findings on recordings whose leaks are known: the right frame, its whole growth, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

import recording_fixtures as fixtures
from nativeleak.analysis.curves import watched_span
from nativeleak.analysis.finding import Finding, Findings
from nativeleak.analysis.findings import find
from nativeleak.analysis.growth import Verdict
from nativeleak.analysis.path_columns import add_paths
from nativeleak.analysis.paths import Paths
from nativeleak.analysis.table import site_table
from nativeleak.model import SiteTotals, Stack
from nativeleak.recording import RecordingWriter

N_SNAPSHOTS = 20
Course = Callable[[int], tuple[int, int]]
"""Blocks allocated and blocks freed since the start, at a snapshot."""


def leak(each: int = 10) -> Course:
    return lambda number: (each * (number + 1), 0)


def churn(number: int) -> tuple[int, int]:
    return 100 * (number + 1), 100 * (number + 1)


def cache(number: int) -> tuple[int, int]:
    return 100 * (number + 1), max(0, 100 * (number + 1) - 300)


def _site(key: int, course: Course, number: int, block: int, thread: int = 1) -> SiteTotals:
    made, freed = course(number)
    n_slices = 16
    oldest = [course(number * i // n_slices)[0] for i in range(n_slices + 1)]
    born = [b - a for a, b in pairwise(oldest)]
    born[0] += oldest[0]
    kept, gone = [], freed
    for n in born:  # the oldest go first, as in a cache
        gone_now = min(n, gone)
        gone -= gone_now
        kept.append(n - gone_now)
    slices = tuple((n * block, n) for n in kept)
    return fixtures.heap_site(thread, key, (made * block, made), (freed * block, freed), slices=slices)


def _found(
    tmp_path: Path, rows: Sequence[tuple[Sequence[str], Course]], blocks: Sequence[int] = (), threads: int = 1
) -> Findings:
    """The findings in a program with these paths, leaf first; malloc and main are added."""

    def write(writer: RecordingWriter) -> None:
        for key, (names, _) in enumerate(rows, 1):
            frames = [fixtures.native(name, "app") for name in (*names, "main")]
            writer.add_stacks([Stack(key, (fixtures.native("malloc"), *frames))])
        for number in range(N_SNAPSHOTS):
            sites = [
                _site(key, course, number, blocks[key - 1] if blocks else 64, 1 + key % threads)
                for key, (_, course) in enumerate(rows, 1)
            ]
            writer.write_snapshot(fixtures.snapshot(number + 1.0, sites, slice_s=N_SNAPSHOTS / 16))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        paths = Paths(recording)
        table = add_paths(site_table(recording), paths)
        return find(recording, table, paths, watched_span(recording))


def _names(findings: Sequence[Finding]) -> list[tuple[str, str | None]]:
    return [(each.name, each.called_by) for each in findings]


def test_find_leak_over_many_paths_is_one_suspect_where_they_meet(tmp_path: Path) -> None:
    rows = [(("remember", f"handler_{n}", "serve"), leak(2)) for n in range(200)]
    found = _found(tmp_path, rows, threads=7)
    assert _names(found.suspects) == [("remember", None)]
    suspect = found.suspects[0]
    assert suspect.outstanding_count == 200 * 2 * N_SNAPSHOTS
    assert suspect.growth.slope_bytes_per_s == pytest.approx(200 * 2 * 64)
    assert suspect.share_pct == pytest.approx(100)
    assert suspect.n_stacks == 200


def test_find_frame_with_a_leak_and_a_steady_part_is_entered(tmp_path: Path) -> None:
    found = _found(tmp_path, [(("make_buffer", "render"), churn), (("make_buffer", "subscribe"), leak())])
    assert _names(found.suspects) == [("subscribe", None)]
    assert [step.name for step in found.suspects[0].path] == ["malloc", "make_buffer", "subscribe"]


def test_find_full_cache_beside_a_leak_is_no_suspect(tmp_path: Path) -> None:
    found = _found(tmp_path, [(("fill", "Cache::put"), cache), (("Sessions::open", "serve"), leak(50))])
    assert [each.name for each in found.suspects] == ["Sessions::open"]
    assert found.others[0].growth.verdict is Verdict.LEVELLING_OFF


def test_find_two_leaks_behind_one_helper_come_apart(tmp_path: Path) -> None:
    found = _found(tmp_path, [(("copy_text", "log_line"), leak()), (("copy_text", "add_user"), leak())], [64, 200])
    assert _names(found.suspects) == [("copy_text", "add_user"), ("copy_text", "log_line")]


def test_find_main_is_named_only_where_nothing_else_is(tmp_path: Path) -> None:
    beside = [(("make_node", "load"), churn), (("make_node",), leak())]
    assert _names(_found(tmp_path, beside).suspects) == [("make_node", None)]
    (tmp_path / "a.nlk").unlink()
    assert _names(_found(tmp_path, [((), leak())]).suspects) == [("main", None)]


def test_find_many_small_heads_are_one_suspect_at_their_caller(tmp_path: Path) -> None:
    rows = [((f"parse_{n}", "load_document", "serve"), leak(1)) for n in range(40)]
    found = _found(tmp_path, rows)
    assert _names(found.suspects) == [("load_document", None)]
    assert found.suspects[0].outstanding_count == 40 * N_SNAPSHOTS


def test_find_nothing_that_grows_is_no_suspect(tmp_path: Path) -> None:
    found = _found(tmp_path, [(("make_buffer", "render"), churn), (("Cache::put",), cache)])
    assert found.suspects == ()


def test_find_batches_are_periodic(tmp_path: Path) -> None:
    def batches(number: int) -> tuple[int, int]:
        n_batches, within = divmod(number, 5)
        return 400 * n_batches + 100 * within, 400 * n_batches

    found = _found(tmp_path, [(("run_batch",), batches)])
    assert found.suspects == ()
    assert [each.growth.verdict for each in found.others] in ([Verdict.PERIODIC], [])


def test_find_growth_under_a_collector_is_judged_by_troughs(tmp_path: Path) -> None:
    def sawtooth(number: int) -> tuple[int, int]:
        made = 100 * (number + 1)
        return made, (made // 400 * 400) * 9 // 10

    found = _found(tmp_path, [(("newBuffer", "handle"), sawtooth)])
    assert _names(found.suspects) in ([("newBuffer", None)], [])
    peak = (found.suspects or found.others)[0]
    assert peak.peak_bytes >= peak.outstanding_bytes


def test_find_stacks_and_structures_of_threads_are_one_suspect_that_counts_threads(tmp_path: Path) -> None:
    def write(writer: RecordingWriter) -> None:
        for key, leaf in ((1, "mmap"), (2, "calloc")):
            names = (leaf, "pthread_create", "open_session", "main")
            modules = ("libc.so.6", "libc.so.6", "app", "app")
            frames = [fixtures.native(name, module) for name, module in zip(names, modules, strict=True)]
            writer.add_stacks([Stack(key, tuple(frames))])
        for number in range(N_SNAPSHOTS):
            n = 2 * (number + 1)
            sites = [
                fixtures.map_site(1, 1, (n << 20, n), resident_bytes=n << 16),
                _site(2, leak(2), number, 320),
            ]
            writer.write_snapshot(fixtures.snapshot(number + 1.0, sites, slice_s=N_SNAPSHOTS / 16))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        paths = Paths(recording)
        found = find(recording, add_paths(site_table(recording), paths), paths, watched_span(recording))
    (threads,) = found.suspects
    n_threads = 2 * N_SNAPSHOTS
    assert (threads.name, threads.kind, threads.outstanding_count) == ("open_session", "threads", n_threads)
    assert threads.resident_bytes == (n_threads << 16) + n_threads * 320
    assert threads.outstanding_bytes == (n_threads << 20) + n_threads * 320
