"""The JVM's own flags, as they are after it chose what it was not told.

Source: jvmFlag.hpp (JVMFlag: a table of name, address of the value and more).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError

_MAX_FLAGS: Final = 5000
_MAX_ENTRY: Final = 256


def read_flags(vm: HotSpot, names: Iterable[str]) -> dict[str, int]:
    """Values of flags by name, sizes in bytes and switches as 0 or 1; those are left out that this JVM does not have.

    Raises:
        UnreadableError: The JVM does not describe its flags.
    """
    structs, memory = vm.structs, vm.memory
    table, entry = vm.pointer("JVMFlag::flags", "Flag::flags"), structs.size("JVMFlag") or structs.size("Flag")
    number = structs.static("JVMFlag::numFlags", "Flag::numFlags")
    name_at, value_at = structs.field("JVMFlag::_name", "Flag::_name"), structs.field("JVMFlag::_addr", "Flag::_addr")
    if table is None or entry is None or number is None or name_at is None or value_at is None or entry > _MAX_ENTRY:
        raise UnreadableError("reading the JVM's flags failed: it does not describe them")
    raw = memory.read(table, entry * min(memory.u64(number), _MAX_FLAGS))
    wanted, found = set(names), {}
    for place in range(0, len(raw), entry):
        name_address = int.from_bytes(raw[place + name_at : place + name_at + 8], "little")
        address = int.from_bytes(raw[place + value_at : place + value_at + 8], "little")
        if not name_address or not address:
            continue
        name = memory.cstr(name_address, 96)
        if name in wanted:
            # A switch is a C++ bool, of one byte.
            found[name] = memory.u8(address) if name.startswith("Use") else memory.u64(address)
    return found
