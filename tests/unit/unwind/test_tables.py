"""What becomes of executable mappings and objects that are more than the kernel side or the open files can hold."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from nativeleak.unwind import tables
from nativeleak.unwind.tables import NO_TABLE, MappingRow, UnwindTables, most_needed


class Store:
    """Keeps what it is told of one target."""

    def __init__(self, max_mappings: int) -> None:
        self.max_mappings = max_mappings
        self.n_tables = 0
        self.mappings: Sequence[MappingRow] = ()

    def add_table(self, words: bytes) -> int:
        assert words
        self.n_tables += 1
        return self.n_tables - 1

    def set_mappings(self, slot: int, mappings: Sequence[MappingRow]) -> None:
        assert slot == 0
        self.mappings = mappings


def test_most_needed_objects_with_few_mappings_stay_in_order_of_address() -> None:
    often = [(start, start + 1, 0, 7) for start in range(100)]
    once = [(1000, 1001, 0, 1), (2000, 2001, 0, 2)]
    guessed = [(3000, 3001, 0, NO_TABLE)]
    rows = [*often, *once, *guessed]
    assert most_needed(rows, 5) == [*often[:3], *once]
    assert most_needed(rows, 102) == [*often, *once]
    assert most_needed(rows, 103) == rows


def test_tables_mappings_without_room_are_told_of_once(capsys: pytest.CaptureFixture[str]) -> None:
    store, notes = Store(max_mappings=3), []
    made = UnwindTables(store, lambda word, text: notes.append((word, text)))
    made.add_target(0, os.getpid())
    while made.is_busy:
        made.work()
    made.refresh(0)
    made.close()
    assert len(store.mappings) == 3
    assert list(store.mappings) == sorted(store.mappings)
    (note,) = [text for word, text in notes if word == "limits"]
    assert f"executable mappings of PID {os.getpid()} were dropped (map full)" in note


def test_tables_that_are_all_there_are_told_of_once_and_not_before() -> None:
    store, notes = Store(max_mappings=1 << 20), []
    made = UnwindTables(store, lambda word, text: notes.append((word, text, store.n_tables)))
    made.work()
    made.add_target(0, os.getpid())
    assert made.is_busy
    while made.is_busy:
        assert not any("have their unwind tables" in text for _, text, _ in notes)
        made.work()
    made.work()
    made.close()
    (told,) = [(word, n_tables) for word, text, n_tables in notes if "have their unwind tables" in text]
    assert told == ("unwind", store.n_tables)


def test_tables_files_that_may_not_be_open_together_are_opened_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = Store(max_mappings=1 << 20)
    few = Store(max_mappings=1 << 20)
    for store, limit in ((everything, 4000), (few, 4)):
        monkeypatch.setattr(tables, "max_open_files", lambda limit=limit: limit)
        made = UnwindTables(store, lambda *_: None)
        made.add_target(0, os.getpid())
        assert sum(job.fd >= 0 for job in made._jobs) <= limit // 4
        while made.is_busy:
            made.work()
        made.close()
    assert few.n_tables == everything.n_tables > 5
    assert [row[3] == NO_TABLE for row in few.mappings] == [row[3] == NO_TABLE for row in everything.mappings]


def test_tables_are_waited_for_until_all_are_made_or_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tables, "default_folder", lambda: tmp_path)
    made = UnwindTables(Store(max_mappings=1 << 20), lambda *_: None)
    made.add_target(0, os.getpid())
    started_s = time.monotonic()
    made.wait(started_s)
    assert made.is_busy
    assert time.monotonic() < started_s + 5
    made.wait(started_s + 120)
    assert not made.is_busy
    made.close()
