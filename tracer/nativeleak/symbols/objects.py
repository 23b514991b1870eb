"""One mapped file with all the symbol tables that name its code.

Scope: the tables and the order in which they are searched. A full table (``.symtab`` of the object or of its debug
file) comes first, then ``.gnu_debugdata``, which has functions that the dynamic table lacks, then the dynamic table.
Each is read on first use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from nativeleak.symbols.budget import Budget
from nativeleak.symbols.debugfiles import DEBUG_FOLDERS, Opener, find_debug_file, read_debugdata
from nativeleak.symbols.elf import SYMBOL_BYTES, ElfError, ElfFile, SymbolArea
from nativeleak.symbols.symtab import Symbol, SymbolTable

_LABEL_BYTES: Final = 32
"""Reach of a label without a size, if not all functions have names: enough for malloc's first instructions."""


class SymbolizedObject:
    """Names for the addresses of one ELF file; it and its debug file stay open.

    Args:
        elf: The file; closed with the object.
        path: Its path in the target's file system, to find its debug file.
        openers: The file systems to search for its debug file, best first.
        folders: Folders of debug files.
        budget: Limit for all objects of the process.
    """

    def __init__(
        self,
        elf: ElfFile,
        path: str,
        openers: Sequence[Opener] = (),
        folders: Sequence[str] = DEBUG_FOLDERS,
        budget: Budget | None = None,
    ) -> None:
        self.elf = elf
        self._path = path
        self._openers = openers
        self._folders = folders
        self._budget = budget or Budget()
        self._debug: ElfFile | None = None
        self._tables: list[SymbolTable] = []
        self._knows_all = False
        first = self._own_symtab if elf.symtab is not None else self._separate_symtab
        self._unread: list[Callable[[], SymbolTable | None]] = [first, self._dynsym]

    def lookup(self, vaddr: int) -> Symbol | None:
        """The function at a virtual address of the file; None if no table names it.

        A function whose size covers the address comes before a label without a size, in whichever table it is. If only
        exports have names, a label counts only for its first bytes: the code after it may have no name.
        """
        label: Symbol | None = None
        for table in self._all_tables():
            try:
                symbol = table.lookup(vaddr)
            except ElfError:
                continue  # the file was changed under us
            if symbol is not None and symbol.sized:
                return symbol
            label = label or symbol
        if label is not None and not self._knows_all and label.offset >= _LABEL_BYTES:
            return None
        return label

    def close(self) -> None:
        """Close the files; nothing can be looked up afterwards."""
        self._tables.clear()
        self._unread.clear()
        self.elf.close()
        if self._debug is not None:
            self._debug.close()

    def _all_tables(self) -> Iterator[SymbolTable]:
        yield from list(self._tables)
        while self._unread:
            try:
                table = self._unread.pop(0)()
            except ElfError:
                continue
            if table is not None:
                self._tables.append(table)
                yield table

    def _own_symtab(self) -> SymbolTable | None:
        table = self._table(self.elf, self.elf.symtab)
        self._knows_all = table is not None
        return table

    def _separate_symtab(self) -> SymbolTable | None:
        budget = self._budget
        self._debug = find_debug_file(self.elf, self._path, self._openers, self._folders, budget) or read_debugdata(
            self.elf, budget
        )
        table = self._table(self._debug, self._debug.symtab) if self._debug is not None else None
        self._knows_all = table is not None
        return table

    def _dynsym(self) -> SymbolTable | None:
        return self._table(self.elf, self.elf.dynsym)

    def _table(self, elf: ElfFile, area: SymbolArea | None) -> SymbolTable | None:
        if area is None:
            return None
        self._budget.read(area.n_symbols * SYMBOL_BYTES)
        table = SymbolTable(elf, area)
        self._budget.keep(table.n_bytes)
        return table
