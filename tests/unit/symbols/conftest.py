"""Small ELF files to read: made by hand where that is enough, by the compiler where a real one is needed."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

from support import require_program

LIBRARY = """
#include <stdlib.h>
__attribute__((noinline)) static void *hidden_helper(size_t n) { void *p = malloc(n); if (p) *(char *)p = 1; return p; }
void *public_alloc(size_t n) { return (char *)hidden_helper(n + 1) + 0; }
void *public_twice(size_t n) { free(hidden_helper(n)); return hidden_helper(2 * n); }
"""


class Sym(NamedTuple):
    """One symbol of a handmade file; section 1 is code at 0x1000-0x2000, section 2 data at 0x3000-0x4000."""

    name: str
    value: int
    size: int = 0
    kind: int = 2  # STT_FUNC
    binding: int = 1  # STB_GLOBAL
    section: int = 1


def make_elf(symbols: Iterable[Sym], *, machine: int = 62) -> bytes:
    """A shared object with one executable segment (file 0x1000 at address 0x1000) and the symbols in .symtab."""
    strings = bytearray(b"\0")
    table = bytearray(24)
    for symbol in symbols:
        info = symbol.binding << 4 | symbol.kind
        table += struct.pack("<IBBHQQ", len(strings), info, 0, symbol.section, symbol.value, symbol.size)
        strings += symbol.name.encode() + b"\0"
    names = b"\0.text\0.data\0.symtab\0.strtab\0.shstrtab\0"
    symtab_at = 0x2000
    strings_at = symtab_at + len(table)
    names_at = strings_at + len(strings)
    headers_at = names_at + len(names) + 7 & ~7
    sections = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (names.index(b".text"), 1, 6, 0x1000, 0x1000, 0x1000, 0, 0, 16, 0),
        (names.index(b".data"), 8, 3, 0x3000, 0x2000, 0x1000, 0, 0, 16, 0),
        (names.index(b".symtab"), 2, 0, 0, symtab_at, len(table), 4, 0, 8, 24),
        (names.index(b".strtab"), 3, 0, 0, strings_at, len(strings), 0, 0, 1, 0),
        (names.index(b".shstrtab"), 3, 0, 0, names_at, len(names), 0, 0, 1, 0),
    ]
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, headers_at, 0, 64, 56, 1, 64, len(sections), 5
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0x1000, 0x1000, 0x1000, 0x1000, 0x1000, 0x1000)
    body = (header + segment).ljust(symtab_at, b"\0") + table + strings + names
    return body.ljust(headers_at, b"\0") + b"".join(struct.pack("<IIQQQQIIQQ", *each) for each in sections)


def run(*command: str | Path) -> None:
    """Run a program of the tool chain.

    Raises:
        CalledProcessError: It failed.
    """
    subprocess.run([str(each) for each in command], check=True, capture_output=True)


class Library(NamedTuple):
    """A compiled library as a distribution ships it.

    Attributes:
        full: With all symbols.
        stripped: Without ``.symtab``.
        debug: The symbols that were taken out.
    """

    full: Path
    stripped: Path
    debug: Path


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """A library with a build id and a static function, ``hidden_helper``, that only a full symbol table names."""
    return compile_library(tmp_path_factory.mktemp("library"), "-Wl,--build-id=sha1")


@pytest.fixture(scope="session")
def library_without_build_id(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """The same without a build id: its debug file can be told by its checksum only."""
    return compile_library(tmp_path_factory.mktemp("library"), "-Wl,--build-id=none")


def compile_library(folder: Path, *flags: str) -> Library:
    """Compile ``LIBRARY`` and part it from its symbols."""
    require_program("gcc", "objcopy")
    made = Library(folder / "full.so", folder / "libleak.so", folder / "libleak.debug")
    (folder / "leak.c").write_text(LIBRARY)
    run("gcc", "-O1", "-fPIC", "-shared", *flags, "-o", made.full, folder / "leak.c")
    run("objcopy", "--only-keep-debug", made.full, made.debug)
    run("objcopy", "--strip-all", f"--add-gnu-debuglink={made.debug}", made.full, made.stripped)
    return made


@pytest.fixture
def elf_with() -> Callable[..., bytes]:
    """``make_elf``, for tests that need no compiler."""
    return make_elf
