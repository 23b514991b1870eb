"""Flags of a JVM, read from its memory: the table that ``-XX:+PrintFlagsFinal`` prints.

Source: jvmFlag.hpp (globals.hpp before JDK 17): ``JVMFlag::flags`` points at ``numFlags`` entries with ``_name`` and
``_addr``. arguments.cpp: MaxDirectMemorySize 0 means that direct buffers may take what the Java heap may.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from nativeleak.model import LimitKind
from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError

_MAX_FLAGS: Final = 1 << 13
_MAX_ENTRY_BYTES: Final = 256
_HEAP: Final = "MaxHeapSize"
_DIRECT: Final = "MaxDirectMemorySize"


def read_flags(vm: HotSpot, names: Collection[str]) -> dict[str, int]:
    """Values of flags that have 64 bits; without those that this JVM does not have.

    Raises:
        UnreadableError: The JVM does not describe its flags.
    """
    structs, memory = vm.structs, vm.memory
    table, count = vm.pointer("JVMFlag::flags", "Flag::flags"), structs.static("JVMFlag::numFlags", "Flag::numFlags")
    name_at, value_at = structs.field("JVMFlag::_name", "Flag::_name"), structs.field("JVMFlag::_addr", "Flag::_addr")
    n_bytes = structs.size("JVMFlag") or structs.size("Flag")
    if table is None or count is None or name_at is None or value_at is None or not n_bytes:
        raise UnreadableError("reading the JVM's flags failed: it does not describe them")
    if n_bytes > _MAX_ENTRY_BYTES or max(name_at, value_at) + 8 > n_bytes:
        raise UnreadableError("reading the JVM's flags failed: impossible layout")
    found: dict[str, int] = {}
    for entry in range(table, table + n_bytes * min(memory.u64(count), _MAX_FLAGS), n_bytes):
        address = memory.u64(entry + name_at)
        name = memory.cstr(address) if address else ""
        if name in names:
            found[name] = memory.u64(memory.u64(entry + value_at))
            if len(found) == len(names):
                break
    return found


def read_limits(vm: HotSpot) -> list[tuple[LimitKind, str, int]]:
    """The most that the Java heap and direct buffers may take; empty where the JVM does not say."""
    try:
        flags = read_flags(vm, (_HEAP, _DIRECT))
    except UnreadableError:
        return []
    heap = flags.get(_HEAP, 0)
    direct = flags.get(_DIRECT, 0) or heap
    found = [(LimitKind.JAVA_HEAP, _HEAP, heap), (LimitKind.DIRECT_MEMORY, _DIRECT, direct)]
    return [limit for limit in found if 0 < limit[2] < 1 << 62]
