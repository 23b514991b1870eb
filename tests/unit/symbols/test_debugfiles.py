"""Separate debug files, found and refused."""

from __future__ import annotations

import lzma
import os
import shutil
from pathlib import Path

import pytest

from nativeleak.process.namespaces import open_regular
from nativeleak.symbols import debugfiles
from nativeleak.symbols.debugfiles import debug_openers, find_debug_file, read_debugdata
from nativeleak.symbols.elf import BytesSource, ElfFile
from nativeleak.symbols.functions import function_symbols
from nativeleak.symbols.objects import SymbolizedObject
from unit.symbols.conftest import Library, Sym, make_elf, run


def hidden_vaddr(library: Library) -> int:
    with ElfFile.open(str(library.full)) as elf:
        return function_symbols(elf, ["hidden_helper"])["hidden_helper"].vaddr


def hidden_name(path: Path, vaddr: int, folders: list[str]) -> str | None:
    """What ``vaddr`` is called by the object at ``path`` with all its symbol sources."""
    each = SymbolizedObject(ElfFile.open(str(path)), str(path), debug_openers(os.getpid()), folders)
    try:
        symbol = each.lookup(vaddr)
        return symbol.name if symbol is not None else None
    finally:
        each.close()


@pytest.fixture
def installed(tmp_path: Path, library: Library) -> Path:
    """The stripped library alone in a folder."""
    (tmp_path / "lib").mkdir()
    return Path(shutil.copy(library.stripped, tmp_path / "lib/libleak.so"))


def test_lookup_stripped_object_without_debug_file_knows_exports_only(installed: Path, library: Library) -> None:
    assert hidden_name(installed, hidden_vaddr(library), []) is None
    with ElfFile.open(str(library.full)) as elf:
        exported = function_symbols(elf, ["public_twice"])["public_twice"].vaddr
    assert hidden_name(installed, exported + 1, []) == "public_twice"


def test_find_debug_file_by_build_id_is_used(tmp_path: Path, installed: Path, library: Library) -> None:
    with ElfFile.open(str(installed)) as elf:
        place = tmp_path / "debug/.build-id" / elf.build_id[:2] / f"{elf.build_id[2:]}.debug"
    place.parent.mkdir(parents=True)
    shutil.copy(library.debug, place)
    assert hidden_name(installed, hidden_vaddr(library), [str(tmp_path / "debug")]) == "hidden_helper"


@pytest.mark.parametrize("where", ["{home}", "{home}/.debug", "{debug}{home}"])
@pytest.mark.parametrize("kind", ["library", "library_without_build_id"])
def test_find_debug_file_by_debug_link_is_used(
    tmp_path: Path, request: pytest.FixtureRequest, where: str, kind: str
) -> None:
    library: Library = request.getfixturevalue(kind)
    home, debug = tmp_path / "lib", tmp_path / "debug"
    home.mkdir()
    installed = Path(shutil.copy(library.stripped, home / "libleak.so"))
    folder = Path(where.format(home=home, debug=debug))
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(library.debug, folder / "libleak.debug")
    assert hidden_name(installed, hidden_vaddr(library), [str(debug)]) == "hidden_helper"


def test_find_debug_file_wrong_checksum_is_refused(tmp_path: Path, library_without_build_id: Library) -> None:
    library = library_without_build_id
    installed = Path(shutil.copy(library.stripped, tmp_path / "libleak.so"))
    (tmp_path / "libleak.debug").write_bytes(library.debug.read_bytes() + b"\0")
    assert hidden_name(installed, hidden_vaddr(library), []) is None


def test_find_debug_file_wrong_build_id_is_refused(
    installed: Path, library: Library, library_without_build_id: Library
) -> None:
    shutil.copy(library_without_build_id.debug, installed.parent / "libleak.debug")
    assert hidden_name(installed, hidden_vaddr(library), []) is None


def test_find_debug_file_fifo_in_its_place_is_passed_over(installed: Path) -> None:
    os.mkfifo(installed.parent / "libleak.debug")
    with ElfFile.open(str(installed)) as elf:
        assert find_debug_file(elf, str(installed), [open_regular], []) is None


def with_debugdata(tmp_path: Path, library: Library, packed: bytes) -> Path:
    (tmp_path / "packed.xz").write_bytes(packed)
    made = tmp_path / "mini.so"
    run("objcopy", f"--add-section=.gnu_debugdata={tmp_path}/packed.xz", library.stripped, made)
    return made


def test_read_debugdata_names_what_the_dynamic_table_lacks(tmp_path: Path, library: Library) -> None:
    made = with_debugdata(tmp_path, library, lzma.compress(library.debug.read_bytes()))
    assert hidden_name(made, hidden_vaddr(library), []) == "hidden_helper"


def test_read_debugdata_damaged_is_none(tmp_path: Path, library: Library) -> None:
    packed = bytearray(lzma.compress(library.debug.read_bytes()))
    packed[len(packed) // 2] ^= 0xFF
    for data in (bytes(packed), bytes(packed[:40]), b"no xz", lzma.compress(b"no ELF file")):
        with ElfFile.open(str(with_debugdata(tmp_path, library, data))) as elf:
            assert read_debugdata(elf) is None


def test_read_debugdata_longer_than_the_limit_is_none(
    tmp_path: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debugfiles, "MAX_DEBUGDATA_BYTES", 4 << 20)
    bomb = lzma.compress(library.debug.read_bytes() + bytes(5 << 20), preset=0)
    with ElfFile.open(str(with_debugdata(tmp_path, library, bomb))) as elf:
        assert read_debugdata(elf) is None


def test_read_debugdata_without_the_section_is_none() -> None:
    assert read_debugdata(ElfFile(BytesSource(make_elf([Sym("f", 0x1000, 8)])))) is None


def test_lookup_behind_a_label_is_none_where_only_exports_are_named(tmp_path: Path) -> None:
    """Assembly may come without sizes, and what follows it without a name: musl's clone was called memset."""
    source, full, stripped = tmp_path / "code.s", tmp_path / "full.so", tmp_path / "stripped.so"
    code = ".text\n.globl label\n.type label, @function\nlabel:\n .fill 64, 1, 0x90\n ret\nhidden:\n ret\n"
    source.write_text(code + '.section .note.GNU-stack,"",@progbits\n')
    run("gcc", "-shared", "-nostdlib", "-o", full, source)
    run("objcopy", "--strip-all", full, stripped)
    found = []
    for path in (full, stripped):
        elf = ElfFile.open(str(path))
        label = function_symbols(elf, ["label"])["label"].vaddr
        mapped = SymbolizedObject(elf, str(path))
        found.append([symbol and symbol.name for symbol in map(mapped.lookup, (label, label + 31, label + 65))])
        mapped.close()
    assert found == [["label", "label", "hidden"], ["label", "label", None]]
