from __future__ import annotations

import os
from pathlib import Path

import pytest

from nativeleak.unwind import cache as cache_module
from nativeleak.unwind import pack
from nativeleak.unwind.cache import CacheKey, TableCache, default_folder
from nativeleak.unwind.table import UnwindTable, decode, encode, no_table

BUILD_ID = "0123456789abcdef"
KEY = CacheKey(BUILD_ID, 0, 100, False)
TABLE = UnwindTable(BUILD_ID, bytes(range(256)) * 16, 12, 3, False, "", 0x5000)


def _key(number: int) -> CacheKey:
    return CacheKey(f"{number:016x}", 0, 100, False)


def _table(number: int) -> UnwindTable:
    return UnwindTable(f"{number:016x}", bytes(4096), 12, 3, False, "", 0x5000)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a" / "unwind"


def test_load_what_was_stored(folder: Path) -> None:
    cache = TableCache(folder)
    assert cache.load(KEY) is None
    cache.store(KEY, TABLE)
    assert cache.load(KEY) == TABLE
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / KEY.name).stat().st_mode & 0o777 == 0o600
    assert _names(folder) == [KEY.name]


@pytest.mark.parametrize(
    "key",
    [KEY._replace(full=True), KEY._replace(owner=1000), KEY._replace(n_bytes=101), KEY._replace(build_id="f" * 16)],
)
def test_load_other_key_nothing(folder: Path, key: CacheKey) -> None:
    cache = TableCache(folder)
    cache.store(KEY, TABLE)
    assert cache.load(key) is None


@pytest.mark.parametrize(
    "build_id", ["", "ab", "../../../etc/passwd", "0" * 65, "ABCDEF0123456789", "01234567/9abcdef"]
)
def test_store_without_proper_build_id_nothing_kept(folder: Path, build_id: str) -> None:
    cache = TableCache(folder)
    key = KEY._replace(build_id=build_id)
    cache.store(key, UnwindTable(build_id, bytes(4096), 1, 1, False, "", 0))
    assert cache.load(key) is None
    assert not folder.exists()


def test_store_reason_is_kept_too(folder: Path) -> None:
    cache = TableCache(folder)
    table = no_table("it has no unwind information", build_id=BUILD_ID)
    cache.store(KEY, table)
    assert cache.load(KEY) == table


def test_load_every_flipped_or_missing_byte_is_noticed() -> None:
    data = encode(UnwindTable(BUILD_ID, bytes(64), 12, 3, True, "why", 0x5000))
    assert decode(data) is not None
    for place in range(len(data)):
        assert decode(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]) is None
        assert decode(data[:place]) is None
    assert decode(data + b"\0") is None


def test_load_other_format_version_is_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TableCache(folder)
    cache.store(KEY, TABLE)
    monkeypatch.setattr(pack, "FORMAT_VERSION", 0)
    assert cache.load(KEY) is None


def test_load_corrupt_file_is_passed_over_and_replaced(folder: Path) -> None:
    cache = TableCache(folder)
    cache.store(KEY, TABLE)
    (folder / KEY.name).write_bytes(b"garbage")
    assert cache.load(KEY) is None
    cache.store(KEY, TABLE)
    assert cache.load(KEY) == TABLE


def test_load_symbolic_link_is_passed_over_and_replaced(folder: Path, tmp_path: Path) -> None:
    cache = TableCache(folder)
    cache.store(KEY, TABLE)
    other = tmp_path / "other"
    (folder / KEY.name).rename(other)
    (folder / KEY.name).symlink_to(other)
    assert cache.load(KEY) is None
    cache.store(KEY, TABLE)
    assert cache.load(KEY) == TABLE
    assert not (folder / KEY.name).is_symlink()
    assert other.exists()


def test_load_fifo_does_not_wait(folder: Path) -> None:
    cache = TableCache(folder)
    cache.store(KEY, TABLE)
    (folder / KEY.name).unlink()
    os.mkfifo(folder / KEY.name)
    assert cache.load(KEY) is None


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_load_file_that_others_may_write_is_passed_over(folder: Path, mode: int) -> None:
    cache = TableCache(folder)
    cache.store(KEY, TABLE)
    (folder / KEY.name).chmod(mode)
    assert cache.load(KEY) is None
    cache.store(KEY, TABLE)
    assert cache.load(KEY) == TABLE


def test_folder_that_others_may_write_is_not_used(folder: Path) -> None:
    cache = TableCache(folder)
    cache.store(KEY, TABLE)
    folder.chmod(0o777)
    assert cache.load(KEY) is None
    cache.store(_key(1), _table(1))
    assert _names(folder) == [KEY.name]


def test_folder_behind_a_symbolic_link_is_not_used(folder: Path, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir(0o700)
    folder.parent.mkdir()
    folder.symlink_to(real)
    TableCache(folder).store(KEY, TABLE)
    assert _names(real) == []


def test_foreign_owner_is_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TableCache(folder)
    cache.store(KEY, TABLE)
    monkeypatch.setattr(cache_module.os, "geteuid", lambda: os.getuid() + 1)
    assert cache.load(KEY) is None


def test_store_least_recently_used_make_room(folder: Path) -> None:
    cache = TableCache(folder, max_files=3)
    for number in (1, 2, 3):
        cache.store(_key(number), _table(number))
        os.utime(folder / _key(number).name, (number, number))
    assert cache.load(_key(1)) is not None  # now it is the last that was used
    (folder / "notes.txt").write_text("mine")
    cache.store(_key(4), _table(4))
    assert [number for number in (1, 2, 3, 4) if cache.load(_key(number))] == [1, 3, 4]
    assert (folder / "notes.txt").exists()


def test_store_bytes_are_bounded(folder: Path) -> None:
    cache = TableCache(folder, max_bytes=3 * 4200 + 100)
    for number in range(6):
        cache.store(_key(number), _table(number))
        os.utime(folder / _key(number).name, (number + 1, number + 1))
    assert [number for number in range(6) if cache.load(_key(number))] == [3, 4, 5]


def test_store_leftovers_of_a_killed_writer_go_first(folder: Path) -> None:
    cache = TableCache(folder, max_files=1)
    folder.mkdir(parents=True, mode=0o700)
    left = folder / f"{KEY.name}.{'0' * 16}"
    left.write_bytes(b"half")
    cache.store(KEY, TABLE)
    assert _names(folder) == [KEY.name]


def test_store_folder_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = TableCache(tmp_path / "file" / "unwind")
    cache.store(KEY, TABLE)
    assert cache.load(KEY) is None


def test_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_folder() == Path("/x/nativeleak/unwind")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(cache_module.os, "geteuid", lambda: 0)
    assert default_folder() == Path("/var/cache/nativeleak/unwind")
    monkeypatch.setattr(cache_module.os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/u")
    assert default_folder() == Path("/home/u/.cache/nativeleak/unwind")
