"""Filters, merging and order of sites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import recording_fixtures as fixtures
from nativeleak.analysis.rows import objects
from nativeleak.analysis.select import By, Metric, Selection, keep_functions, keep_threads, merge, pool_of, rank
from nativeleak.analysis.table import UNKNOWN_THREAD, site_table
from nativeleak.errors import UsageError
from nativeleak.recording import Recording, open_recording


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as opened:
        yield opened


@pytest.mark.parametrize(
    ("pattern", "tids"),
    [
        (None, {5687, 1860, 1861}),
        ("1860", {1860}),
        ("worker", {1861}),
        ("nio*", {1860}),
        ("/^(java|worker)$/", {5687, 1861}),
        ("nio", set()),
    ],
)
def test_keep_threads_pattern_keeps_its_threads(recording: Recording, pattern: str | None, tids: set[int]) -> None:
    assert set(keep_threads(site_table(recording), pattern)["tid"]) == tids


def test_keep_functions_any_frame_counts(recording: Recording) -> None:
    table = site_table(recording)
    assert set(keep_functions(table, "^load_", recording.stack)["stack_key"]) == {13}
    assert set(keep_functions(table, "Codec.decode$", recording.stack)["stack_key"]) == {11}
    assert len(keep_functions(table, "no such", recording.stack)) == 0


def test_keep_threads_bad_regex_is_a_usage_error(recording: Recording) -> None:
    with pytest.raises(UsageError, match="--thread '\\(' is no regular expression"):
        keep_threads(site_table(recording), "/(/")


def test_keep_functions_bad_regex_is_a_usage_error(recording: Recording) -> None:
    with pytest.raises(UsageError, match="--function '\\(' is no regular expression"):
        keep_functions(site_table(recording), "(", recording.stack)


def test_merge_by_site_adds_threads_up(recording: Recording) -> None:
    table = site_table(recording)
    merged, labels = merge(table, By.SITE, len(table))
    row = {name: column[0] for name, column in merged.where(merged["stack_key"] == 11).columns.items()}
    assert (row["outstanding_bytes"], row["outstanding_count"]) == (38 * 16 * fixtures.MIB + 1009, 39)
    assert (row["thread"], row["tid"], row["n_threads"]) == ("*", 0, 2)
    assert labels[0] == labels[3]
    assert merged["outstanding_bytes"].sum() == table["outstanding_bytes"].sum()


def test_merge_by_pool_folds_numbers_in_names_and_keeps_sites_apart(recording: Recording) -> None:
    table = site_table(recording)
    table = table.assign(path_id=table["stack_key"].astype("int64"))
    table = table.assign(thread=objects([f"reactor-http-epoll-{1 + i % 2}" for i in range(len(table))]))
    merged, labels = merge(table, By.POOL, len(table))
    assert set(merged["thread"]) == {"reactor-http-epoll-*"}
    row = {name: column[0] for name, column in merged.where(merged["stack_key"] == 11).columns.items()}
    assert (row["outstanding_bytes"], row["n_threads"], row["tid"]) == (38 * 16 * fixtures.MIB + 1009, 2, 0)
    assert labels[0] == labels[3]
    assert merged["outstanding_bytes"].sum() == table["outstanding_bytes"].sum()
    table = table.assign(thread=objects([f"{'one' if i else 'two'}-1" for i in range(len(table))]))
    merged, labels = merge(table, By.POOL, len(table))
    assert labels[0] != labels[3]


@pytest.mark.parametrize(
    ("thread", "pool"),
    [
        ("reactor-http-epoll-12", "reactor-http-epoll-*"),
        ("pool-3-thread-17", "pool-*-thread-*"),
        ("C2 CompilerThread0", "C2 CompilerThread*"),
        ("http2-worker-1", "http2-worker-*"),
        ("GC Thread#3", "GC Thread#*"),
        ("main", "main"),
        ("", ""),
    ],
)
def test_pool_of_a_thread_leaves_numbers_out(thread: str, pool: str) -> None:
    assert pool_of(thread) == pool


def test_merge_by_thread_keeps_kinds_and_owners_apart(recording: Recording) -> None:
    table = site_table(recording)
    merged, _ = merge(table, By.THREAD, len(table))
    java = merged.where(merged["tid"] == 5687)
    assert set(zip(java["kind"], java["owner"], strict=True)) == {
        ("heap", "program"),
        ("map", "program"),
        ("map", "allocator"),
        ("map", "jvm"),
        ("brk", "program"),
    }


def test_rank_metric_decides_order_and_min_and_top_cut(recording: Recording) -> None:
    table = site_table(recording)
    by_count = rank(table, Selection(metric=Metric.COUNT, top=1))
    assert by_count["stack_key"].tolist() == [12]
    large = rank(table, Selection(min_bytes=64 * fixtures.MIB))
    assert large["stack_key"].tolist() == [11, 16, 13]
    resident = rank(table, Selection(metric=Metric.RESIDENT, min_bytes=1))
    assert resident["stack_key"].tolist() == [16, 13, 15, 14]


def test_site_table_unknown_thread_has_a_name_of_its_own(tmp_path: Path) -> None:
    with fixtures.record(
        tmp_path / "a.nlk", lambda w: w.write_snapshot(fixtures.snapshot(1.0, [fixtures.heap_site(0, 11, (5, 1))]))
    ) as recording:
        table = site_table(recording)
        assert (table["tid"].tolist(), table["thread"].tolist()) == ([0], [UNKNOWN_THREAD])
