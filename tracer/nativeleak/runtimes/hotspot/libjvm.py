"""The libjvm.so that a target runs: where it was loaded, and the addresses of its variables.

Scope: variables, which ``symbols.functions`` leaves out, and its slot for thread-local storage. The file is looked at
once and closed.
"""

from __future__ import annotations

import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from nativeleak.arch import X86_64
from nativeleak.errors import NativeleakError
from nativeleak.process.mapped import executable_objects, open_object
from nativeleak.process.procfs import PAGE_BYTES, read_maps
from nativeleak.runtimes.hotspot.memory import UnreadableError
from nativeleak.runtimes.hotspot.version import find_libjvm
from nativeleak.symbols.elf import SYMBOL_BYTES, ElfFile, FileSource, SymbolArea

_SHT_RELA: Final = 4
_RELA_WORDS: Final = 6  # Elf64_Rela is three 8-byte numbers: r_offset, r_info (type in the lower half), r_addend
# R_X86_64_DTPMOD64 and R_AARCH64_TLS_DTPMOD: the loader stores the module's number there (elf.h).
_DTPMOD: Final = {62: 16, 183: 1028}
_PT_TLS: Final = 7
_STT_TLS: Final = 6
_MAX_TABLE_BYTES: Final = 256 << 20


class Variable(NamedTuple):
    """A variable that libjvm.so defines.

    Attributes:
        address: In the target; of a thread-local one its offset in the module's block.
        is_thread_local: Each thread has its own.
    """

    address: int
    is_thread_local: bool


@dataclass(frozen=True, slots=True)
class Libjvm:
    """What the file says.

    Attributes:
        path: As the target sees it.
        bias: Added to the file's own addresses.
        is_x86: It is for x86-64.
        is_stripped: It has no full symbol table: names that are not exported are missing.
        variables: By mangled name, those that were asked for and are there.
        tls_module_slot: Where the loader keeps its module number for thread-local storage, 0 where it keeps none.
        tls_bytes: Size of its block of thread-local storage.
    """

    path: str
    bias: int
    is_x86: bool
    is_stripped: bool
    variables: dict[str, Variable]
    tls_module_slot: int
    tls_bytes: int

    def address(self, name: str) -> int | None:
        """Address of a variable that all threads share, None where the file does not have it."""
        variable = self.variables.get(name)
        return None if variable is None or variable.is_thread_local else variable.address


def read_libjvm(pid: int, names: Iterable[str]) -> Libjvm:
    """Look at the libjvm.so mapped into a process.

    Args:
        pid: The process.
        names: Mangled names of the variables that are wanted.

    Raises:
        UnreadableError: There is none, or it cannot be opened or understood.
    """
    try:
        maps = read_maps(pid)
        first = find_libjvm(maps)
        if first is None:
            raise UnreadableError(f"reading the JVM of PID {pid} failed: no libjvm.so is mapped")
        entries = [each for each in maps if (each.dev, each.inode) == (first.dev, first.inode)]
        mapped = executable_objects(pid, entries)
        if not mapped:
            raise UnreadableError(f"reading the JVM of PID {pid} failed: {first.path} is not mapped as a program")
        with ElfFile(FileSource(open_object(pid, mapped[0]))) as elf:
            return _read(elf, first.path, first.start - first.offset, frozenset(names))
    except OSError as error:
        raise UnreadableError(f"reading the JVM of PID {pid} failed: {error.strerror}") from error
    except UnreadableError:
        raise
    except (NativeleakError, ValueError) as error:
        raise UnreadableError(f"reading the JVM of PID {pid} failed: {error}") from error


def _read(elf: ElfFile, path: str, start: int, names: frozenset[str]) -> Libjvm:
    lowest = min(elf.loads, key=lambda segment: segment.vaddr, default=None)
    if lowest is None:
        raise UnreadableError(f"reading {path} failed: nothing of it is mapped")
    bias = start - (lowest.vaddr - lowest.offset) // PAGE_BYTES * PAGE_BYTES
    found: dict[str, Variable] = {}
    for area in (elf.dynsym, elf.symtab):
        if area is not None:
            found |= _variables(elf, area, names - found.keys(), bias)
    slot = _module_slot(elf)
    tls_bytes = next((each.memory_bytes for each in elf.segments if each.type == _PT_TLS), 0)
    return Libjvm(
        path,
        bias,
        elf.machine == X86_64.elf_machine,
        elf.symtab is None,
        found,
        slot + bias if slot else 0,
        tls_bytes,
    )


def _variables(elf: ElfFile, area: SymbolArea, names: frozenset[str], bias: int) -> dict[str, Variable]:
    """The variables of these names that one symbol table defines."""
    if not names or area.strings_bytes > _MAX_TABLE_BYTES:
        return {}
    strings = elf.source.read(area.strings_offset, area.strings_bytes)
    table = elf.source.read(area.offset, area.n_symbols * SYMBOL_BYTES)
    # Elf64_Sym: st_name (4 bytes), st_info (1), st_other (1), st_shndx (2), st_value (8), st_size (8).
    name_words = array.array("I", table)[0 :: SYMBOL_BYTES // 4]
    found = {}
    for name in names:
        index = _index_of(name_words, strings, name)
        if index is None:
            continue
        entry = table[index * SYMBOL_BYTES : (index + 1) * SYMBOL_BYTES]
        if entry[6:8] == b"\0\0":
            continue  # used here, defined elsewhere
        is_thread_local = entry[4] & 15 == _STT_TLS
        value = int.from_bytes(entry[8:16], "little")
        found[name] = Variable(value if is_thread_local else value + bias, is_thread_local)
    return found


def _index_of(name_words: array.array[int], strings: bytes, name: str) -> int | None:
    """Place of a name in a symbol table; a linker may have stored it as the end of a longer one."""
    raw = name.encode() + b"\0"
    place = strings.find(raw)
    while place >= 0:
        try:
            return name_words.index(place)
        except ValueError:
            place = strings.find(raw, place + 1)
    return None


def _module_slot(elf: ElfFile) -> int:
    """Address, as the file counts them, of a word that holds the module number; 0 where there is none."""
    wanted = _DTPMOD.get(elf.machine, 0)
    for section in elf.sections:
        if section.type != _SHT_RELA or section.n_bytes > _MAX_TABLE_BYTES:
            continue
        table = elf.source.read(section.offset, section.n_bytes // (4 * _RELA_WORDS) * 4 * _RELA_WORDS)
        try:
            index = array.array("I", table)[2::_RELA_WORDS].index(wanted)
        except ValueError:
            continue
        return int.from_bytes(table[index * 4 * _RELA_WORDS :][:8], "little")
    return 0
