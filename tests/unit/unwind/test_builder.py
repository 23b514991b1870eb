from __future__ import annotations

import select
import sys
from pathlib import Path

import pytest

from nativeleak.symbols.elf import BytesSource, ElfFile
from nativeleak.unwind import builder
from nativeleak.unwind.builder import build, start_build
from nativeleak.unwind.cache import TableCache
from nativeleak.unwind.table import build_table
from unit.unwind.objects import TEXT, frames, make_object

OBJECT = make_object(frames((TEXT, 16, bytes.fromhex("48 0e10"))), b"\x90\x90\x90\xe8" + bytes(4))


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "object"
    file.write_bytes(OBJECT)
    return str(file)


@pytest.fixture
def by_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "MAX_HERE_BYTES", 0)


def _n_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("full", [False, True])
def test_build_by_child_the_same_as_here(path: str, full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    here = build(path, full=full)
    monkeypatch.setattr(builder, "MAX_HERE_BYTES", 0)
    monkeypatch.setattr(builder, "build_table", None)
    n_fds = _n_fds()
    assert build(path, full=full) == here == build_table(BytesSource(OBJECT), full=full)
    assert here.reason == ""
    assert _n_fds() == n_fds


def test_build_descriptor_stays_the_callers(path: str) -> None:
    with open(path, "rb") as file:
        n_fds = _n_fds()
        assert build(file.fileno()).reason == ""
        assert _n_fds() == n_fds
        assert file.read(4) == b"\x7fELF"


@pytest.mark.usefixtures("by_child")
def test_start_build_descriptor_becomes_readable(path: str) -> None:
    with start_build(path) as started:
        while not started.poll():
            ready, _, _ = select.select([started.fileno()], [], [], 30)
            assert ready, "the child said nothing"
        assert started.result().reason == ""


def test_start_build_here_is_ready_at_once(path: str) -> None:
    with start_build(path) as started:
        assert select.select([started.fileno()], [], [], 0)[0]
        assert started.poll()


@pytest.mark.usefixtures("by_child")
def test_start_build_closed_early_leaves_no_child(path: str) -> None:
    n_fds = _n_fds()
    started = start_build(path)
    child = started._child
    assert child is not None
    started.close()
    started.close()
    assert child.returncode is not None
    assert _n_fds() == n_fds


@pytest.mark.usefixtures("by_child")
def test_build_child_dies_says_so(path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    killer = tmp_path / "python"
    killer.write_text("#!/bin/sh\nkill -9 $$\n")
    killer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killer))
    cache = TableCache(tmp_path / "cache")
    table = build(path, "0123456789abcdef", cache=cache)
    assert "signal 9" in table.reason
    assert table.words == b""
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("by_child")
def test_build_child_cannot_start_says_so(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    assert "starting a process failed" in build(path).reason


@pytest.mark.usefixtures("by_child")
def test_build_child_takes_nothing_from_the_current_folder(
    path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "struct.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert build(path).reason == ""


@pytest.mark.parametrize("name", ["nothing", "folder", "a\0b", "text"])
def test_build_what_cannot_be_read_says_why(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("hello")
    table = build(str(tmp_path / name))
    assert table.reason
    assert table.words == b""


def test_build_kept_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/proc/self/exe"
    with ElfFile.open(path) as elf:
        build_id = elf.build_id
    if not build_id:
        pytest.skip("this interpreter has no build id")
    cache = TableCache(tmp_path / "cache")
    made = build(path, build_id, cache=cache)
    monkeypatch.setattr(builder, "build_table", None)
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    assert build(path, build_id, cache=cache) == made


def test_build_without_build_id_is_not_kept(path: str, tmp_path: Path) -> None:
    cache = TableCache(tmp_path / "cache")
    assert build(path, "", cache=cache).reason == ""
    assert not (tmp_path / "cache").exists()
