"""Checks of one process: whether it can be traced, which functions would be probed, and how complete its stacks are.

Scope: only reading. No probe is attached to the process, and nothing is requested from it. A process that catches
SIGSYS without a seccomp filter is stopped for some microseconds (``process/dispatch.py``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from nativeleak import arch
from nativeleak.doctor.checks import HAZARDS, Check, CheckFunction, State
from nativeleak.doctor.returns import check_returns
from nativeleak.doctor.trial import allocator_objects
from nativeleak.errors import NativeleakError
from nativeleak.probes.families import ProbePoint
from nativeleak.probes.placement import place
from nativeleak.process import procfs
from nativeleak.process.check import TargetFacts
from nativeleak.process.hazards import filter_hazard, filters_deny_probes, find_hazard, has_filter
from nativeleak.process.mapped import MappedObject, executable_objects
from nativeleak.runtimes.base import RuntimeSpec
from nativeleak.runtimes.registry import find_runtime, open_runtime
from nativeleak.symbols.debugfiles import debug_openers, find_debug_file, read_debugdata
from nativeleak.symbols.elf import ElfFile
from nativeleak.symbols.source import ElfError

_C_LIBRARIES: Final = ("libc.so", "libc-", "ld-musl", "libc.musl")
_PT_GNU_EH_FRAME: Final = 0x6474E550
"""Source: elf.h."""


def target_functions(facts: TargetFacts) -> list[tuple[str, CheckFunction]]:
    """All checks of one process with their names, in the order of the report."""
    target = _TargetChecks(facts)
    return [
        ("target", target.check_process),
        (HAZARDS, target.check_hazards),
        ("allocators", target.check_allocators),
        ("returns", partial(check_returns, facts.pid)),
        ("other tracers", target.check_other_tracers),
        ("symbols", target.check_symbols),
        ("runtime", target.check_runtime),
        ("stacks", target.check_stacks),
    ]


class _TargetChecks:
    def __init__(self, facts: TargetFacts) -> None:
        self._facts = facts
        self._pid = facts.pid

    def check_process(self) -> Iterator[Check]:
        facts = self._facts
        detail = f"PID {facts.pid} ({facts.comm}), {facts.exe}, {len(procfs.read_threads(facts.pid))} threads"
        yield Check("target", State.OK, detail)
        if not facts.same_pid_ns or not facts.same_mnt_ns:
            others = [n for n, same in (("PID", facts.same_pid_ns), ("mount", facts.same_mnt_ns)) if not same]
            detail = f"in its own {' and '.join(others)} namespace; its PID there is {facts.ns_pid}"
            yield Check("namespaces", State.OK, detail)

    def check_hazards(self) -> Iterator[Check]:
        hazard = find_hazard(self._pid)
        if hazard is not None:
            yield Check(HAZARDS, State.FAIL, hazard.why, hazard.remedy)
        if has_filter(self._pid) and arch.here() is arch.X86_64 and filters_deny_probes(os.uname().release):
            detail = (
                "runs under a seccomp filter: on Linux 6.11 to 6.13 a return probe may end it; trace tries one on a"
                " child of its own first, and refuses the process where that child ends"
            )
            yield Check("seccomp", State.WARN, detail, filter_hazard().remedy)
        elif has_filter(self._pid):
            detail = "runs under a seccomp filter; trace tries a return probe under one on a child of its own first"
            yield Check("seccomp", State.OK, detail)

    def check_allocators(self) -> Iterator[Check]:
        n_objects = 0
        for mapped, points in allocator_objects(self._pid):
            n_objects += 1
            names = ", ".join(sorted(point.function for point in points))
            yield Check(f"allocator {mapped.name}", State.OK, f"{len(points)} functions: {names}")
            yield _cost_check(mapped, points)
        if not n_objects:
            yield Check(
                "allocators",
                State.WARN,
                "no allocator functions in its objects: a stripped static program, or Go",
                "trace only mmap and brk with --maps-only, or run a build with symbols",
            )

    def check_other_tracers(self) -> Iterator[Check]:
        if not arch.here().breakpoint:
            return
        held = sorted(
            {
                f"{point.function} of {mapped.name}"
                for mapped, points in allocator_objects(self._pid)
                for point in points
                if _has_foreign_probe(self._pid, mapped, point)
            }
        )
        if held:
            detail = f"another tracer holds a probe on {', '.join(held)}"
            yield Check(
                "other tracers",
                State.WARN,
                detail,
                "stop that tracer if attaching fails; two probes on a function cost more than one",
            )

    def check_symbols(self) -> Iterator[Check]:
        maps = procfs.read_maps(self._pid)
        _, library = _runtime_of(maps)
        for mapped in executable_objects(self._pid, maps):
            is_libc = mapped.name.startswith(_C_LIBRARIES)
            if mapped.path not in (self._facts.exe, library) and not is_libc:
                continue
            # A runtime's launcher has hardly any code, and the dynamic table of a C library has all that callers use.
            matters = not is_libc and (mapped.path != self._facts.exe or not library)
            yield _symbol_check(self._pid, mapped, matters=matters)

    def check_runtime(self) -> Iterator[Check]:
        maps = procfs.read_maps(self._pid)
        spec, library = _runtime_of(maps)
        if spec is None:
            return
        words = spec.words
        yield Check(words.title, State.OK, f"version {spec.read_version(self._pid, maps)}, {library}")
        name, frames = f"{words.language} stacks", f"{words.language} frames"
        runtime, why = open_runtime(self._pid, spec)
        if runtime is None:
            remedy = words.remedy.format(pid=self._facts.ns_pid)
            yield Check(name, State.WARN, f"{frames} cannot be shown: {why}", remedy)
            return
        n_threads = len(runtime.thread_names())
        runtime.close()
        if why:
            yield Check(name, State.WARN, f"not all {frames} can be shown: {why}")
        else:
            yield Check(name, State.OK, f"{words.whole}; {n_threads} {words.language} threads named")

    def check_stacks(self) -> Iterator[Check]:
        """Objects without unwind information: callers above their code are guesses."""
        without = sorted(
            mapped.name
            for mapped in executable_objects(self._pid, procfs.read_maps(self._pid))
            if not mapped.is_vdso and not _has_unwind_information(mapped)
        )
        if not without:
            yield Check("stacks", State.OK, "all its objects have unwind information; frame pointers are not needed")
            return
        detail = f"no unwind information in {', '.join(without)}: callers above it are guesses, marked [?]"
        yield Check("stacks", State.WARN, detail, "build with -fasynchronous-unwind-tables, or with frame pointers")


def _runtime_of(maps: Sequence[procfs.MapEntry]) -> tuple[RuntimeSpec | None, str]:
    """The runtime of a process and the path of its library; None and nothing where it has none."""
    spec = find_runtime(maps)
    library = spec.find_library(maps) if spec is not None else None
    return spec, library.path if library is not None else ""


def _has_unwind_information(mapped: MappedObject) -> bool:
    try:
        with ElfFile.open(mapped.file_path) as elf:
            return any(segment.type == _PT_GNU_EH_FRAME for segment in elf.segments) or bool(elf.section(".eh_frame"))
    except (ElfError, OSError):
        return False


def _cost_check(mapped: MappedObject, points: Sequence[ProbePoint]) -> Check:
    name = f"probe cost {mapped.name}"
    if not arch.here().decodes:
        return Check(name, State.OK, f"unknown on {arch.here().name}")
    slow = sorted(each.point.function for each in place(mapped.file_path, points) if not each.placement.emulated)
    if not slow:
        return Check(name, State.OK, "one trap per call: the kernel emulates the instruction under every probe")
    return Check(name, State.OK, f"two traps per call, which takes some microseconds more, in: {', '.join(slow)}")


def _has_foreign_probe(pid: int, mapped: MappedObject, point: ProbePoint) -> bool:
    """Whether the target's memory has a breakpoint where the file has none."""
    breakpoint_ = arch.here().breakpoint
    for start, end, file_offset in mapped.ranges:
        address = start + point.offset - file_offset
        if start <= address < end:
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory, open(mapped.file_path, "rb") as file:
                memory.seek(address)
                file.seek(point.offset)
                return memory.read(len(breakpoint_)) == breakpoint_ != file.read(len(breakpoint_))
    return False


def _symbol_check(pid: int, mapped: MappedObject, *, matters: bool) -> Check:
    name = f"symbols {mapped.name}"
    try:
        with ElfFile.open(mapped.file_path) as elf:
            tables = _symbol_tables(pid, mapped, elf)
            exports = f"{elf.dynsym.n_symbols} exported" if elf.dynsym is not None else "none"
    except (ElfError, OSError) as error:
        why = error.what if isinstance(error, NativeleakError) else error.strerror
        return Check(name, State.WARN, f"cannot be read: {why}")
    if tables:
        return Check(name, State.OK, tables)
    detail = f"only names in .dynsym ({exports}); its other functions have no names"
    if not matters:
        return Check(name, State.OK, detail)
    remedy = "install its debug symbols (Debian: NAME-dbgsym or NAME-dbg; RHEL: debuginfo-install NAME)"
    return Check(name, State.WARN, detail, remedy)


def _symbol_tables(pid: int, mapped: MappedObject, elf: ElfFile) -> str:
    """The table that names all functions; empty if none does."""
    if elf.symtab is not None:
        return f"all functions, in .symtab ({elf.symtab.n_symbols} symbols)"
    debug = find_debug_file(elf, mapped.path, debug_openers(pid))
    if debug is not None:
        debug.close()
        return "all functions, in a separate debug file"
    packed = read_debugdata(elf)
    if packed is not None:
        packed.close()
        return "all functions, in .gnu_debugdata"
    return ""
