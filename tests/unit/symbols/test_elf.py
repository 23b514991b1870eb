"""The ELF reader on real files, on files without section headers, and on damaged ones."""

from __future__ import annotations

import ctypes.util
import os
import random
import struct
import subprocess
import time
from pathlib import Path

import pytest

from nativeleak.symbols.debugfiles import read_debugdata
from nativeleak.symbols.elf import BytesSource, ElfError, ElfFile
from nativeleak.symbols.functions import find_function_offsets, function_symbols
from nativeleak.symbols.symtab import SymbolTable
from support import require_program
from unit.symbols.conftest import Library, Sym, make_elf

N_DAMAGED = 400


def libc_path() -> str:
    """The C library of this test's own process."""
    paths = {line.split(None, 5)[5] for line in Path("/proc/self/maps").read_text().splitlines() if "/libc.so" in line}
    return paths.pop()


def test_elf_libc_has_build_id_segments_and_functions() -> None:
    with ElfFile.open(libc_path()) as elf:
        assert len(bytes.fromhex(elf.build_id)) in (16, 20)
        symbols = function_symbols(elf, ["malloc", "free", "memcpy", "no_such_function", "environ"])
        assert set(symbols) == {"malloc", "free", "memcpy"}
        assert symbols["malloc"].size > 0
        assert not symbols["malloc"].is_ifunc
        offset = elf.vaddr_to_offset(symbols["malloc"].vaddr)
        assert offset is not None
        assert elf.offset_to_vaddr(offset) == symbols["malloc"].vaddr


def test_elf_build_id_agrees_with_readelf(library: Library) -> None:
    require_program("readelf")
    output = subprocess.run(["readelf", "-n", library.full], check=True, capture_output=True, text=True).stdout
    with ElfFile.open(str(library.full)) as elf:
        assert f"Build ID: {elf.build_id}\n" in output
    with ElfFile.open(str(library.debug)) as elf:
        assert f"Build ID: {elf.build_id}\n" in output


def test_elf_debug_link_is_name_and_checksum(library: Library) -> None:
    with ElfFile.open(str(library.stripped)) as elf:
        assert elf.debug_link is not None
        assert elf.debug_link[0] == "libleak.debug"
        assert elf.symtab is None
    with ElfFile.open(str(library.full)) as elf:
        assert elf.debug_link is None
        assert elf.symtab is not None


def without_section_headers(data: bytes, *, without_hash: bool = False) -> bytes:
    """The file as ``sstrip`` leaves it; ``without_hash`` also blanks the tags of its hash tables."""
    changed = bytearray(data)
    changed[40:48] = bytes(8)  # e_shoff
    changed[60:64] = bytes(4)  # e_shnum, e_shstrndx
    if without_hash:
        phoff, phnum = int.from_bytes(data[32:40], "little"), int.from_bytes(data[56:58], "little")
        for place in range(phoff, phoff + 56 * phnum, 56):
            kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", data, place)
            for at in range(offset, offset + size, 16) if kind == 2 else ():
                if int.from_bytes(data[at : at + 8], "little") in (4, 0x6FFFFEF5):
                    changed[at : at + 8] = (0x6FFFFFFF - at).to_bytes(8, "little")
    return bytes(changed)


@pytest.mark.parametrize("style", ["gnu", "sysv"])
@pytest.mark.parametrize("without_hash", [False, True])
def test_elf_without_section_headers_finds_functions_by_dynamic_segment(
    tmp_path: Path, library: Library, style: str, without_hash: bool
) -> None:
    require_program("gcc")
    path = tmp_path / "lib.so"
    command = [
        "gcc",
        "-O1",
        "-fPIC",
        "-shared",
        f"-Wl,--hash-style={style}",
        "-o",
        path,
        library.full.parent / "leak.c",
    ]
    subprocess.run(command, check=True)
    names = ["public_alloc", "public_twice", "malloc"]
    with ElfFile.open(str(path)) as elf:
        expected = function_symbols(elf, names)
    elf = ElfFile(BytesSource(without_section_headers(path.read_bytes(), without_hash=without_hash)))
    assert elf.sections == ()
    assert elf.symtab is None
    assert function_symbols(elf, names) == expected
    assert set(expected) == {"public_alloc", "public_twice"}
    assert len(bytes.fromhex(elf.build_id)) in (0, 20)


def test_elf_program_segments_are_asked_code_first() -> None:
    with ElfFile.open(os.path.realpath("/proc/self/exe")) as elf:
        assert elf.loads[0].flags & 1


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, b"\x7fELG"), (4, b"\x01"), (5, b"\x02"), (18, b"\x28\x00"), (32, b"\xff" * 8), (54, b"\x01\x00"),
        (56, b"\xfe\xff"),
    ],
    ids=["magic", "class", "byte-order", "machine", "phoff", "phentsize", "phnum"],
)  # fmt: skip
def test_elf_damaged_header_raises_elf_error(place: int, value: bytes) -> None:
    data = bytearray(make_elf([Sym("f", 0x1000, 8)]))
    data[place : place + len(value)] = value
    with pytest.raises(ElfError):
        ElfFile(BytesSource(bytes(data)))


@pytest.mark.parametrize("size", [0, 1, 16, 63])
def test_elf_shorter_than_its_header_raises_elf_error(size: int) -> None:
    with pytest.raises(ElfError):
        ElfFile(BytesSource(make_elf([])[:size]))


def test_elf_open_of_a_text_raises_elf_error_and_closes(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no ELF file" * 20)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(ElfError, match="not a 64-bit"):
        ElfFile.open(str(tmp_path / "text"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_elf_truncated_while_open_raises_elf_error(tmp_path: Path) -> None:
    path = tmp_path / "lib.so"
    path.write_bytes(make_elf([Sym("f", 0x1000, 8)]))
    with ElfFile.open(str(path)) as elf:
        assert elf.symtab is not None
        table = SymbolTable(elf, elf.symtab)
        assert table.lookup(0x1001) is not None
        os.truncate(path, 100)
        with pytest.raises(ElfError, match="truncated"):
            table.lookup(0x1001)


def use_everything(data: bytes) -> None:
    """Whatever the package reads of a file.

    Raises:
        ElfError: The file is damaged, which is fine.
    """
    elf = ElfFile(BytesSource(data))
    assert len(elf.sections) <= 1 << 16
    assert elf.build_id is not None
    assert elf.debug_link is None or elf.debug_link[0]
    read_debugdata(elf)
    for area in (elf.symtab, elf.dynsym):
        if area is not None:
            table = SymbolTable(elf, area)
            for vaddr in (0, 0x1000, 0x1010, 0x1109, 0x1150, 0x1FFF, 1 << 40, (1 << 64) - 1):
                table.lookup(vaddr)
    function_symbols(elf, ["malloc", "public_alloc", "hidden_helper"])


@pytest.mark.parametrize("headers", ["with", "without"])
def test_elf_random_damage_raises_elf_error_at_most(library: Library, headers: str) -> None:
    original = library.full.read_bytes()
    if headers == "without":
        original = without_section_headers(original)
    # Flips in code prove nothing: most go where the structures are, the headers and the start and end of the file.
    section_table = int.from_bytes(library.full.read_bytes()[40:48], "little")
    places = [*range(64 + 56 * 12), *range(64 + 56 * 12, 0x600), *range(section_table, len(original))]
    chooser = random.Random(20_231)
    n_damaged = 0
    begin = time.monotonic()
    for case in range(N_DAMAGED):
        data = bytearray(original)
        for _ in range(chooser.choice((1, 3, 30))):
            place = chooser.choice(places) if chooser.random() < 0.8 else chooser.randrange(len(data))
            data[place] = chooser.choice((0, 0xFF, 0x80, chooser.randrange(256)))
        if case % 7 == 0:
            del data[chooser.randrange(len(data)) :]
        try:
            use_everything(bytes(data))
        except ElfError:
            n_damaged += 1
    assert 0 < n_damaged < N_DAMAGED
    assert time.monotonic() - begin < 60


def test_find_function_offsets_gives_file_offsets_without_ifuncs() -> None:
    offsets = find_function_offsets(libc_path(), ["malloc", "free", "memcpy", "no_such_function"])
    assert set(offsets) == {"malloc", "free"}
    address = ctypes.cast(ctypes.CDLL(None).malloc, ctypes.c_void_p).value or 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < end:
            assert offsets["malloc"] == address - start + int(line.split()[2], 16)


def test_find_function_offsets_undefined_function_is_not_found(library: Library) -> None:
    assert set(find_function_offsets(str(library.full), ["malloc", "free", "public_alloc", "hidden_helper"])) == {
        "public_alloc",
        "hidden_helper",
    }


def test_function_symbols_version_in_the_name_default_is_preferred() -> None:
    symbols = [
        Sym("malloc@GLIBC_2.2.5", 0x1100, 8),
        Sym("malloc@@GLIBC_2.30", 0x1200, 8),
        Sym("free@OLD_1", 0x1300, 8),
        Sym("mallocator", 0x1400, 8),
    ]
    found = function_symbols(ElfFile(BytesSource(make_elf(symbols))), ["malloc", "free"])
    assert {name: symbol.vaddr for name, symbol in found.items()} == {"malloc": 0x1200, "free": 0x1300}


def test_function_symbols_global_before_local_and_ifunc_flagged() -> None:
    symbols = [
        Sym("malloc", 0x1100, 8, binding=0),
        Sym("malloc", 0x1200, 8),
        Sym("memcpy", 0x1300, 8, kind=10),
        Sym("free", 0, 0, section=0),
        Sym("calloc", 0x3000, 8, kind=1, section=2),
    ]
    found = function_symbols(ElfFile(BytesSource(make_elf(symbols))), ["malloc", "memcpy", "free", "calloc"])
    assert found == {"malloc": (0x1200, 8, False), "memcpy": (0x1300, 8, True)}


def test_elf_aarch64_file_is_read() -> None:
    elf = ElfFile(BytesSource(make_elf([Sym("malloc", 0x1100, 8)], machine=183)))
    assert function_symbols(elf, ["malloc"]) == {"malloc": (0x1100, 8, False)}
