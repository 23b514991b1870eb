"""Perf maps: parsing, overlaps, and which files are trusted."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from nativeleak.symbols import perfmap
from nativeleak.symbols.perfmap import PerfMap, parse_perf_map


def test_parse_perf_map_names_with_blanks_are_looked_up_with_offset() -> None:
    table = parse_perf_map(b"1000 10 Lfoo;::bar (int)\n0x2000 0x0000000000000020 stub\nbad line\n3000 0 empty\n")
    assert len(table) == 2
    assert table.lookup(0x100F) == ("Lfoo;::bar (int)", 0xF)
    assert table.lookup(0x2000) == ("stub", 0)
    assert [table.lookup(ip) for ip in (0xFFF, 0x1010, 0x2020, 0x3000)] == [None] * 4


def test_parse_perf_map_later_line_wins_where_lines_overlap() -> None:
    table = parse_perf_map(b"1000 100 old\n1040 20 middle\n1050 40 new\n2000 10 a\n2000 10 b\n")
    found = [table.lookup(ip) for ip in (0x1000, 0x1040, 0x104F, 0x1050, 0x108F, 0x1090, 0x10FF, 0x2001)]
    assert found == [
        ("old", 0), ("middle", 0), ("middle", 0xF), ("new", 0), ("new", 0x3F), ("old", 0x90), ("old", 0xFF), ("b", 1),
    ]  # fmt: skip


def test_parse_perf_map_later_larger_line_covers_an_earlier_inside_it() -> None:
    table = parse_perf_map(b"1010 10 old\n1000 100 new\n")
    assert table.lookup(0x1015) == ("new", 0x15)


@pytest.mark.parametrize("text", [b"", b"\n\n", b"no map", b"ffffffffffffffff ff x\n", b"\xff\xfe\0"])
def test_parse_perf_map_nonsense_is_empty(text: bytes) -> None:
    assert len(parse_perf_map(text)) == 0
    assert parse_perf_map(text).lookup(0) is None


@pytest.fixture
def map_path() -> Iterator[tuple[Path, int]]:
    """A perf map of a process id that nobody has: (path, that id)."""
    ns_pid = (1 << 32) + uuid.uuid4().int % (1 << 31)
    path = Path(f"/tmp/perf-{ns_pid}.map")
    yield path, ns_pid
    path.unlink(missing_ok=True)


def test_perf_map_written_after_the_first_look_is_read_when_it_changes(map_path: tuple[Path, int]) -> None:
    path, ns_pid = map_path
    names = PerfMap(os.getpid(), ns_pid, os.geteuid())
    assert not names.refresh()
    path.write_text("1000 10 first\n")
    assert names.refresh()
    assert names.lookup(0x1004) == ("first", 4)
    assert not names.refresh()
    with path.open("a") as file:
        file.write("2000 10 second\n")
    assert names.refresh()
    assert names.lookup(0x2004) == ("second", 4)
    path.unlink()
    assert not names.refresh()
    assert names.lookup(0x2004) == ("second", 4)


def test_perf_map_behind_a_symbolic_link_is_not_read(map_path: tuple[Path, int], tmp_path: Path) -> None:
    path, ns_pid = map_path
    (tmp_path / "map").write_text("1000 10 name\n")
    path.symlink_to(tmp_path / "map")
    assert not PerfMap(os.getpid(), ns_pid, os.geteuid()).refresh()


def test_perf_map_that_is_a_fifo_is_not_read(map_path: tuple[Path, int]) -> None:
    path, ns_pid = map_path
    os.mkfifo(path)
    assert not PerfMap(os.getpid(), ns_pid, os.geteuid()).refresh()


def test_perf_map_of_a_stranger_is_not_read(map_path: tuple[Path, int]) -> None:
    path, ns_pid = map_path
    path.write_text("1000 10 name\n")
    uid = os.geteuid()
    if uid == 0:
        os.chown(path, 12345, 12345)
    names = PerfMap(os.getpid(), ns_pid, 54321)
    assert not names.refresh()
    assert PerfMap(os.getpid(), ns_pid, path.stat().st_uid).refresh()


def test_perf_map_longer_than_the_limit_only_its_end_is_read(
    map_path: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ns_pid = map_path
    monkeypatch.setattr(perfmap, "MAX_PERF_MAP_BYTES", 40)
    path.write_text("".join(f"{start:x} 10 name{start:x}\n" for start in range(0x1000, 0x1100, 0x10)))
    names = PerfMap(os.getpid(), ns_pid, os.geteuid())
    assert names.refresh()
    assert names.lookup(0x10F1) == ("name10f0", 1)
    assert names.lookup(0x1001) is None
