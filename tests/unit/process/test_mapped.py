"""Files that are mapped executable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nativeleak.process import mapped, procfs
from nativeleak.process.procfs import MapEntry


def entry(start: int, perms: str, offset: int, inode: int, path: str, *, deleted: bool = False) -> MapEntry:
    return MapEntry(start, start + 0x1000, perms, offset, "fd:01" if inode else "00:00", inode, path, deleted)


def test_executable_objects_several_ranges_of_a_file_are_one_object() -> None:
    maps = [
        entry(0x10000, "r--p", 0, 5, "/lib/a.so"),
        entry(0x11000, "r-xp", 0x1000, 5, "/lib/a.so"),
        entry(0x12000, "r-xp", 0, 6, "/lib/b.so"),
        entry(0x13000, "rwxp", 0x3000, 5, "/lib/a.so"),
        entry(0x14000, "rwxp", 0, 0, ""),
        entry(0x15000, "r-xp", 0, 0, "[vdso]"),
        entry(0x16000, "--xp", 0, 0, "[vsyscall]"),
    ]
    objects = mapped.executable_objects(os.getpid(), maps)
    assert [each.name for each in objects] == ["a.so", "b.so", "[vdso]"]
    assert objects[0].ranges == ((0x11000, 0x12000, 0x1000), (0x13000, 0x14000, 0x3000))
    assert objects[0].key == ("fd:01", 5)
    assert [each.is_vdso for each in objects] == [False, False, True]
    assert objects[2].file_path == ""


def test_executable_objects_own_process_files_can_be_opened() -> None:
    pid = os.getpid()
    objects = mapped.executable_objects(pid, procfs.read_maps(pid))
    for each in objects:
        if each.is_vdso:
            continue
        with open(each.file_path, "rb") as file:
            assert file.read(4) == b"\x7fELF"
        with open(mapped.open_object(pid, each), "rb") as file:
            assert (os.fstat(file.fileno()).st_ino, file.read(4)) == (each.inode, b"\x7fELF")


def test_executable_objects_deleted_file_without_link_has_no_path(tmp_path: Path) -> None:
    other = tmp_path / "a.so"
    other.write_bytes(b"another file of that name")
    maps = [entry(0x10000, "r-xp", 0, 5, str(other), deleted=True)]
    (each,) = mapped.executable_objects(os.getpid(), maps)
    assert (each.deleted, each.file_path) == (True, "")
    with pytest.raises(OSError):
        mapped.open_object(os.getpid(), each)


def test_executable_objects_no_link_falls_back_to_the_root(tmp_path: Path) -> None:
    (tmp_path / "a b.so").write_bytes(b"x")
    (each,) = mapped.executable_objects(os.getpid(), [entry(0x10000, "r-xp", 0, 5, f"{tmp_path}/a b.so")])
    assert each.file_path == f"/proc/{os.getpid()}/root{tmp_path}/a b.so"
    with open(mapped.open_object(os.getpid(), each), "rb") as file:
        assert file.read() == b"x"
