"""Check of one process: does it need ``--returns exits``, and can its allocators be seen that way?

Scope: signs only. The imports of a program and its environment show that it may leave its stack inside of
malloc or walk it; that it does so cannot be seen from outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from nativeleak import arch
from nativeleak.doctor.checks import Check, State
from nativeleak.doctor.trial import allocator_objects
from nativeleak.probes.cache import PlacementCache
from nativeleak.probes.emulation import CONSERVATIVE
from nativeleak.probes.placement import place
from nativeleak.probes.returns import HARM, Plan, Returns, describe_unproved, plan_returns
from nativeleak.process import procfs
from nativeleak.process.mapped import MappedObject, executable_objects
from nativeleak.symbols.elf import ElfFile
from nativeleak.symbols.source import ElfError

_SWITCHES: Final = ("swapcontext", "setcontext", "jump_fcontext", "ontop_fcontext", "bthread_start_background")
"""Functions that leave a stack for another: glibc, Boost.Context, brpc."""
_PROFILERS: Final = (
    (b"MALLOC_CONF", b"prof:true", "jemalloc's heap profiler"),
    (b"HEAPPROFILE", b"", "tcmalloc's heap profiler"),
)
"""(variable, what is in it, what it switches on): they walk the stack inside of malloc."""
_MAX_NAMES_BYTES: Final = 64 << 20


def check_returns(pid: int) -> Iterator[Check]:
    """How a process's allocators would be seen, and whether return probes may harm or disturb it."""
    if not arch.here().decodes:
        return
    signs = [*_find_switches(pid), *_find_profilers(pid)]
    n_exits, n_default, unseen, unproved = 0, 0, [], []
    for mapped, points in allocator_objects(pid):
        try:
            placed = place(mapped.file_path, points)
            all_exits, default = (
                plan_returns(mapped.file_path, placed, returns, CONSERVATIVE, PlacementCache())
                for returns in (Returns.EXITS, Returns.AUTO)
            )
        except (ElfError, OSError):
            continue
        n_exits, n_default = n_exits + len(all_exits.at_exits), n_default + len(default.at_exits)
        unseen += _describe_unseen(mapped, all_exits)
        if default.unproved:
            unproved.append(describe_unproved(default.unproved, mapped.name))
    detail = f"{n_default} functions are seen at their exits by default, {n_exits} with --returns exits"
    if unseen:
        detail += f"; not seen with it: {', '.join(unseen)}"
    if unproved:
        remedy = "--returns exits leaves these functions out; --maps-only probes no function: docs/returns.md"
        yield Check("returns", State.WARN, f"{'; '.join([*unproved, *signs])}: {HARM}. {detail}", remedy)
    elif signs:
        remedy = "trace it with --returns exits: docs/returns.md"
        yield Check("returns", State.WARN, f"{'; '.join(signs)}: return probes may harm it. {detail}", remedy)
    else:
        yield Check("returns", State.OK, f"nothing speaks against return probes; {detail}")


def _describe_unseen(mapped: MappedObject, plan: Plan) -> list[str]:
    return [f"{each.function} of {mapped.name} ({each.reason})" for each in plan.unseen]


def _find_switches(pid: int) -> list[str]:
    """Objects that use functions which switch stacks; the C library that has them does not."""
    found = []
    for mapped in executable_objects(pid, procfs.read_maps(pid)):
        if mapped.is_vdso or not mapped.file_path:
            continue
        try:
            names = _read_names(mapped.file_path)
        except (ElfError, OSError):
            continue
        if b"\0makecontext\0" in names and b"\0__libc_start_main\0" in names and b"\0gnu_get_libc_version\0" in names:
            continue
        used = [name for name in _SWITCHES if f"\0{name}\0".encode() in names]
        if used:
            found.append(f"{mapped.name} uses {', '.join(used)}: its fibers may yield inside of malloc")
    return found


def _read_names(path: str) -> bytes:
    """Strings of the dynamic symbols: what an object has and what it uses.

    Raises:
        OSError: The file cannot be opened.
        ElfError: It is no ELF file that can be read.
    """
    with ElfFile.open(path) as elf:
        area = elf.dynsym
        if area is None or area.strings_bytes > _MAX_NAMES_BYTES:
            return b""
        return elf.source.read(area.strings_offset, area.strings_bytes)


def _find_profilers(pid: int) -> list[str]:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
    return [
        f"{what} is on and walks the stack inside of malloc"
        for name, part, what in _PROFILERS
        if any(each.startswith(name + b"=") and part in each for each in variables)
    ]
