"""The cache on disk: kept, bounded, and nothing when it is damaged or not ours."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nativeleak.probes.cache import PlacementCache, cache_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "nativeleak"


def test_store_rows_found_by_another_object(folder: Path) -> None:
    PlacementCache(folder).store("key", [1, "two"])
    assert PlacementCache(folder).find("key") == [1, "two"]
    assert PlacementCache(folder).find("other") is None


def test_store_file_and_folder_are_private(folder: Path) -> None:
    PlacementCache(folder).store("key", [])
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [(path.name, path.stat().st_mode & 0o777) for path in folder.iterdir()] == [("placements.json", 0o600)]


def test_store_more_than_fit_the_first_go(folder: Path) -> None:
    cache = PlacementCache(folder)
    for n in range(259):
        cache.store(str(n), [n])
    assert [cache.find(str(n)) for n in (0, 1, 2)] == [None, None, None]
    assert [cache.find(str(n)) for n in (3, 258)] == [[3], [258]]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b"[" * 100_000,
        b'{"version": 1}',
        b'{"version": 0, "entries": {"key": [1]}}',
        b'{"version": 1, "entries": []}',
        b'{"version": 1, "entries": {"key": 1}}',
    ],
)
def test_find_damaged_file_nothing_and_written_anew(folder: Path, content: bytes) -> None:
    cache = PlacementCache(folder)
    cache.store("before", [])
    (folder / "placements.json").write_bytes(content)
    assert cache.find("key") is None
    cache.store("key", [7])
    assert cache.find("key") == [7]


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_find_file_that_others_may_write_is_ignored(folder: Path, mode: int) -> None:
    cache = PlacementCache(folder)
    cache.store("key", [7])
    (folder / "placements.json").chmod(mode)
    assert cache.find("key") is None


def test_find_folder_that_others_may_write_is_ignored(folder: Path) -> None:
    cache = PlacementCache(folder)
    cache.store("key", [7])
    folder.chmod(0o777)
    assert cache.find("key") is None
    cache.store("key", [8])
    folder.chmod(0o700)
    assert cache.find("key") == [7]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", ["", "placements.json"])
def test_find_foreign_owner_is_ignored(folder: Path, name: str) -> None:
    cache = PlacementCache(folder)
    cache.store("key", [7])
    os.chown(folder / name, 65534, 65534)
    assert cache.find("key") is None


def test_find_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    cache = PlacementCache(folder)
    cache.store("key", [7])
    (folder / "placements.json").rename(tmp_path / "elsewhere")
    (folder / "placements.json").symlink_to(tmp_path / "elsewhere")
    assert cache.find("key") is None
    cache.store("key", [8])
    assert json.loads((tmp_path / "elsewhere").read_text())["entries"] == {"key": [7]}
    assert cache.find("key") == [8]


def test_find_fifo_in_its_place_does_not_block(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    os.mkfifo(folder / "placements.json", 0o600)
    assert PlacementCache(folder).find("key") is None


def test_store_impossible_place_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = PlacementCache(tmp_path / "file" / "nativeleak")
    cache.store("key", [7])
    assert cache.find("key") is None


def test_cache_folder_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/nativeleak")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert cache_folder() == Path("/var/cache/nativeleak")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/nativeleak")
