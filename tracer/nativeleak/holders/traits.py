"""Dynamic types of Rust trait objects: by the table that the second word of a fat pointer points at.

Scope: modules with a symbol table. A table begins with the function that drops the value, its size and its alignment;
the name of that function has the type's. A type that needs no drop has no such function; only its size is known;
types whose drop is the same code may share one name, since linkers fold such functions.

Source: rustc's vtable layout (compiler/rustc_middle/src/ty/vtable.rs: drop, size, align, then methods), not stable; the
numbers are checked against the blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from nativeleak.heaps.memory import HeapMemory, Words
from nativeleak.holders.classes import Classes
from nativeleak.holders.data_symbols import DataSymbols, read_function_symbols
from nativeleak.holders.table import BlockTable
from nativeleak.holders.windows import Reader
from nativeleak.process.procfs import MapEntry
from nativeleak.symbols.demangle import demangle

_DROP: Final = "core::ptr::drop_in_place<"
_MANGLED_DROP: Final = "drop_in_place"
_MAX_SIZE: Final = 1 << 30
_MAX_ALIGN: Final = 4096
_MAX_TABLE_BYTES: Final = 64 << 20
_WORDS: Final = 4
_ADDRESS: Final = np.uint64((1 << 48) - 1)


@dataclass(frozen=True, slots=True)
class TraitTables:
    """Tables of types.

    Attributes:
        addresses: Ascending.
        sizes: Bytes of a value of each.
        names: Of each.
    """

    addresses: Words
    sizes: Words
    names: tuple[str, ...]


def find_trait_tables(memory: HeapMemory, maps: Sequence[MapEntry]) -> TraitTables | None:
    """Tables of all modules that drop values as Rust does; None where there is none."""
    found: dict[int, tuple[int, str]] = {}
    files: dict[str, list[MapEntry]] = {}
    for entry in maps:
        if entry.inode and entry.path.startswith("/"):
            files.setdefault(entry.path, []).append(entry)
    for entries in files.values():
        if not any(entry.executable for entry in entries):
            continue
        symbols = read_function_symbols(memory.pid, entries, _MANGLED_DROP)
        if len(symbols.starts):
            for entry in entries:
                if entry.perms == "r--p" and entry.end - entry.start <= _MAX_TABLE_BYTES:
                    found |= _tables_in(memory, entry, symbols, entries)
    if not found:
        return None
    addresses = sorted(found)
    return TraitTables(
        np.array(addresses, np.uint64),
        np.array([found[each][0] for each in addresses], np.uint64),
        tuple(found[each][1] for each in addresses),
    )


def _tables_in(
    memory: HeapMemory, entry: MapEntry, drops: DataSymbols, entries: Sequence[MapEntry]
) -> dict[int, tuple[int, str]]:
    """Size and name of the type of each table of a mapping."""
    window = memory.window(entry.start, entry.end)
    words = window.words
    if len(words) < _WORDS:
        return {}
    n = len(words) - _WORDS + 1
    drop, size, align, method = (words[shift : shift + n] for shift in range(_WORDS))
    index = np.clip(np.searchsorted(drops.starts, drop), 0, len(drops.starts) - 1)
    has_drop = drops.starts[index] == drop
    code = [(each.start, each.end) for each in entries if each.executable]
    has_code = np.zeros(n, np.bool_)
    for low, high in code:
        has_code |= (method >= np.uint64(low)) & (method < np.uint64(high))
    fits = (has_drop | ((drop == 0) & has_code)) & (size > 0) & (size < _MAX_SIZE)
    fits &= (align > 0) & (align <= _MAX_ALIGN) & (align & (align - np.uint64(1)) == 0)
    fits &= size % np.maximum(align, np.uint64(1)) == 0
    found = {}
    for place in np.flatnonzero(fits).tolist():
        name = _type_name(drops.names[int(index[place])]) if has_drop[place] else None
        n_bytes = int(size[place])
        found[window.start + 8 * place] = n_bytes, name or f"Rust trait object of {n_bytes:,} bytes"
    return found


def _type_name(mangled: str) -> str | None:
    name = demangle(mangled)
    return name.removeprefix(_DROP).removesuffix(">") if name.startswith(_DROP) else None


def find_trait_objects(
    tables: TraitTables, table: BlockTable, reader: Reader, ranges: Iterable[tuple[int, int]], classes: Classes
) -> Classes:
    """Types of blocks that some fat pointer has; what has a type already keeps it.

    Args:
        tables: The tables.
        table: The blocks.
        reader: Of the process.
        ranges: Where pointers may be.
        classes: Types that are known.
    """
    of_blocks = classes.of_blocks.copy()
    names = list(classes.names)
    number_of: dict[str, int] = {name: number for number, name in enumerate(names)}
    numbers = np.zeros(len(tables.names), np.int32)
    for place, name in enumerate(tables.names):
        if name not in number_of:
            number_of[name] = len(names)
            names.append(name)
        numbers[place] = number_of[name]
    low, high = tables.addresses[0], tables.addresses[-1]
    for runs in reader.windows(ranges):
        for offset, size in zip(runs.offsets.tolist(), runs.sizes.tolist(), strict=True):
            words = runs.data[offset : offset + size // 8 * 8].view(np.uint64)
            places = np.flatnonzero((words[1:] >= low) & (words[1:] <= high))
            index = np.clip(np.searchsorted(tables.addresses, words[places + 1]), 0, len(tables.addresses) - 1)
            exact = tables.addresses[index] == words[places + 1]
            places, index = places[exact], index[exact]
            blocks = table.look(words[places] & _ADDRESS)
            fits = blocks >= 0
            blocks, index, places = blocks[fits], index[fits], places[fits]
            fits = (table.starts[blocks] == words[places]) & (table.sizes[blocks] >= tables.sizes[index])
            fits &= of_blocks[blocks] < 0
            of_blocks[blocks[fits]] = numbers[index[fits]]
    return Classes(tuple(names), of_blocks)
