"""The BPF programs of one trace in the kernel: loaded, attached, read.

Features are found by trying, best first: each way to attach allocator probes with each way to trace system calls. What
is attached hangs on descriptors of this process: whatever way it ends, the kernel takes the probes away.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Final, NamedTuple

from nativeleak.closing import Closing
from nativeleak.engines.bpf.kernel import abi, bpf, features, tracefs, uprobes
from nativeleak.engines.bpf.kernel import syscalls as syscall_ways
from nativeleak.engines.bpf.kernel.attachment import FunctionProbes, close_later
from nativeleak.engines.bpf.kernel.call_sites import CallSiteProbes
from nativeleak.engines.bpf.kernel.clock import read_tick_ns
from nativeleak.engines.bpf.kernel.cookies import CookiePrograms, KeptCookies
from nativeleak.engines.bpf.kernel.failures import NoLinksError, load_error
from nativeleak.engines.bpf.kernel.limits import Limits, map_sizes
from nativeleak.engines.bpf.kernel.loaders.bcc import BccObject
from nativeleak.engines.bpf.kernel.loaders.late import LatePrograms
from nativeleak.engines.bpf.kernel.loaders.libbpf import BpfObject, Libbpf, object_path
from nativeleak.engines.bpf.kernel.maps import U32, CounterTable, EventReader, TableStore, TargetTable, ThreadTable
from nativeleak.engines.bpf.kernel.mounts import Tracefs
from nativeleak.engines.bpf.kernel.syscalls import SyscallHooks, SyscallWay
from nativeleak.engines.bpf.kernel.uprobes import AttachMode, UprobeWay
from nativeleak.engines.bpf.live_set import LiveSet
from nativeleak.engines.bpf.raw import RawSite
from nativeleak.engines.bpf.site_store import SiteStore
from nativeleak.engines.bpf.stack_store import StackStore
from nativeleak.errors import CannotTraceError
from nativeleak.probes.returns import Plan
from nativeleak.process.pidns import read_inner_pid_namespace
from nativeleak.runtimes.registry import RUNTIMES

__all__ = ["AttachMode", "Limits", "Loader", "Programs", "SyscallHooks"]


_FOR_EVERY_WAY: Final = (errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Loader(StrEnum):
    """Who makes the programs fit this kernel. Only libbpf's can walk by unwind tables and through Java frames."""

    LIBBPF = "libbpf"
    BCC = "bcc"


class _Loaded(NamedTuple):
    """What the ladder ended at: the ways, the object, and what keeps the system calls' programs attached."""

    uprobes: UprobeWay
    syscalls: SyscallWay
    object: BpfObject | BccObject
    programs: LatePrograms | BccObject
    syscall_fds: list[int]


class _Ladder:
    """Loads the programs for the first way of attaching, and of tracing system calls, that the kernel takes.

    Args:
        libbpf: The library.
        loader: Whose programs.
        limits: Sizes of the maps.
        missing: Features that the kernel lacks.
        mount: Tracefs where it is available.
    """

    def __init__(
        self, libbpf: Libbpf, loader: Loader, limits: Limits, missing: abi.MissingFeature, mount: Tracefs | None
    ) -> None:
        self._libbpf, self._loader, self._limits = libbpf, loader, limits
        self._missing, self._mount = missing, mount

    def load(self, modes: Sequence[AttachMode], hooks: Sequence[SyscallHooks], notes: list[str]) -> _Loaded:
        """Try one after the other.

        Args:
            notes: Gets what the user should know of the way that was taken.

        Raises:
            CannotTraceError: The kernel takes none.
        """
        syscalls = syscall_ways.choose_ways(hooks, self._mount, has_fentry=self._loader is Loader.LIBBPF)
        failure: OSError | None = None
        for mode in modes:
            for way in syscalls:
                self._libbpf.messages.clear()
                try:
                    return self._load_for(uprobes.way_of(mode, self._mount), way, notes)
                except NoLinksError as error:
                    failure = error
                    break
                except OSError as error:
                    failure = error
            # EACCES is the verifier's: it refused one program, not us. Those of another way may pass.
            # What this process lacks, it lacks for every way.
            if failure is not None and failure.errno in _FOR_EVERY_WAY:
                break
        raise self._error(failure) from failure

    def program_source(self, loaded: _Loaded) -> KeptCookies | CookiePrograms:
        """The allocator programs, with the cookies of their probes.

        Raises:
            CannotTraceError: The kernel refuses.
        """
        if abi.MissingFeature.COOKIES not in self._missing:
            return KeptCookies(loaded.programs.program_fd)
        asking = [name for name in uprobes.ASK_FOR_COOKIE if name in loaded.uprobes.programs]
        try:
            cookies = loaded.object.map("cookies", 0, 0).fd
            return CookiePrograms(self._libbpf, cookies, loaded.programs.program_fd, asking)
        except OSError as error:
            raise self._error(error) from error

    def _error(self, failure: OSError | None) -> CannotTraceError:
        needs_btf = self._loader is Loader.LIBBPF
        return load_error(failure, self._missing, self._libbpf.messages, needs_btf=needs_btf)

    def _load_for(self, way: UprobeWay, syscalls: SyscallWay, notes: list[str]) -> _Loaded:
        way.check_kernel()
        bpf_object = self._open()
        try:
            self._configure(bpf_object, way, syscalls)
            bpf_object.load()
            way.check_loaded(bpf_object)
            new_notes: list[str] = []
            programs = self._programs(bpf_object, way)
            loaded = _Loaded(way, syscalls, bpf_object, programs, syscalls.attach(bpf_object, new_notes))
        except BaseException:
            bpf_object.close()
            raise
        notes += new_notes
        return loaded

    def _open(self) -> BpfObject | BccObject:
        if self._loader is Loader.BCC:
            return BccObject(self._libbpf, self._missing)
        return BpfObject(self._libbpf, object_path(), self._missing)

    def _programs(self, bpf_object: BpfObject | BccObject, way: UprobeWay) -> LatePrograms | BccObject:
        if isinstance(bpf_object, BccObject):
            return bpf_object
        late = [
            {name: attach_type for name, attach_type in way.programs.items() if name in kind}
            for kind in (uprobes.AT_EXITS, uprobes.AT_SITES)
        ]
        again = functools.partial(BpfObject, self._libbpf, object_path(), self._missing)
        return LatePrograms(bpf_object, again, late, self._error)

    def _configure(self, bpf_object: BpfObject | BccObject, way: UprobeWay, syscalls: SyscallWay) -> None:
        late = (*uprobes.AT_EXITS, *uprobes.AT_SITES) if isinstance(bpf_object, BpfObject) else ()
        for name in uprobes.ALL_PROGRAMS:
            bpf_object.set_autoload(name, load=name in way.programs and name not in late)
            bpf_object.set_attach_type(name, way.programs.get(name, 0))
        for name in syscall_ways.ALL_PROGRAMS:
            bpf_object.set_autoload(name, load=name in syscalls.programs)
        syscall_ways.set_process_autoload(bpf_object.set_autoload, self._mount)
        has_atomics = abi.MissingFeature.ATOMICS not in self._missing
        sizes = map_sizes(
            self._limits,
            self._libbpf.n_cpus,
            has_atomics=has_atomics,
            has_exchange=has_atomics and self._loader is Loader.LIBBPF,
        )
        for name, n in sizes.items():
            bpf_object.set_max_entries(name, n)
        bpf_object.set_constants(read_inner_pid_namespace() or (0, 0), read_tick_ns())


class Programs(Closing):
    """Programs, maps and links of one trace. A context manager: nothing stays attached when it is left.

    Args:
        limits: Sizes of the maps.
        on_event: Gets each event while ``consume`` runs; the structure is valid during the call only.
        modes: Ways to attach that may be tried, best first.
        loader: Whose programs.
        calls: Ways to trace system calls that may be tried; named tracepoints only where tracefs is available, raw
            ones only where it is not.

    Attributes:
        mode: How allocator probes are attached.
        calls: How system calls are traced.
        notes: What the user should know of how it was done, a sentence each.
        groups: Allocator probes by group, to attach and detach some of them.
        call_sites: Probes at call sites; None where there are no links for them.
        stacks: The stack store.
        live: The live set.

    Raises:
        CannotTraceError: The kernel, its configuration or our rights do not do.
    """

    max_mappings: Final = abi.MAX_MAPPINGS

    def __init__(
        self,
        limits: Limits,
        on_event: Callable[[abi.Event], None],
        modes: Sequence[AttachMode] = tuple(AttachMode),
        loader: Loader = Loader.LIBBPF,
        calls: Sequence[SyscallHooks] = tuple(SyscallHooks),
    ) -> None:
        self.notes: list[str] = []
        libbpf = Libbpf()
        missing = features.missing_features()
        with contextlib.ExitStack() as stack:
            mount = _open_tracefs()
            if mount is not None:
                stack.callback(mount.close)
                self.notes += _remove_stale_probes(mount)
            ladder = _Ladder(libbpf, loader, limits, missing, mount)
            loaded = ladder.load(modes, calls, self.notes)
            self._object, self._syscalls, self._way = loaded.object, loaded.syscalls, loaded.uprobes
            self._allocator_programs = loaded.programs
            self._background_fds = loaded.syscall_fds
            stack.callback(self._object.close)
            stack.callback(self._allocator_programs.close)
            stack.callback(_close_in_background, self._background_fds)
            self.mode, self.calls = self._way.mode, self._syscalls.hooks
            if isinstance(self._object, BccObject):
                self.notes += self._object.notes
            if missing:
                self.notes.append(f"this kernel lacks {features.describe(missing)}")
            self._take_maps(libbpf, limits, on_event, stack)
            source = ladder.program_source(loaded)
            stack.callback(source.close)
            self._probes = FunctionProbes(self._way, source)
            self.groups = self._probes.groups
            can = isinstance(self._object, BpfObject) and set(uprobes.AT_SITES) <= self._way.programs.keys()
            self.call_sites = CallSiteProbes(self._probes, self._object.map("call_sites", 4, 8)) if can else None
            stack.callback(self.detach)
            self._background_fds += syscall_ways.attach_process_events(self._object, mount, self.notes)
            self._resources = stack.pop_all()

    def _take_maps(
        self, libbpf: Libbpf, limits: Limits, on_event: Callable[[abi.Event], None], stack: contextlib.ExitStack
    ) -> None:
        take = self._object.map
        self.live, self._sites = LiveSet(take), SiteStore(take)
        frame_bytes = abi.CHUNK_FRAMES * abi.FRAME_BYTES
        self.stacks = StackStore(
            take("stacks", 8, ctypes.sizeof(abi.StackStruct)),
            take("stack_frames", 16, frame_bytes),
            take("known_stacks", 8, 4),
        )
        self._targets, self._threads = TargetTable(take), ThreadTable(take)
        self._tables = TableStore(libbpf, take)
        self._runtimes = {
            spec.config_map: take(spec.config_map, 4, spec.config_bytes) for spec in RUNTIMES if spec.config_map
        }
        self._counters = CounterTable(take, libbpf.n_cpus)
        self._all_maps = [take(name, 0, 0) for name in self._object.map_names()]
        self._events = EventReader(libbpf, take, limits.ring_bytes, on_event)
        stack.callback(self._events.close)

    # Probes

    def attach_functions(self, slot: int, pid: int, path: str, name: str, plan: Plan) -> None:
        """Probe functions of one mapped object in one process: ``FunctionProbes.attach``."""
        self._probes.attach(slot, pid, path, name, plan)

    def attached_to_ourselves(self, path: str, offsets: Sequence[int]) -> AbstractContextManager[None]:
        """Probes in code of our own: ``FunctionProbes.attached_to_ourselves``."""
        return self._probes.attached_to_ourselves(path, offsets)

    def attached_for_now(self) -> AbstractContextManager[None]:
        """What is attached inside is detached at the end."""
        return self._probes.attached_for_now()

    def program_times(self) -> tuple[int, int]:
        """Nanoseconds that the allocator's programs have run, and how often, while ``bpf.run_statistics`` was on."""
        loaded = self._allocator_programs
        facts = [bpf.read_fdinfo(loaded.program_fd(name)) for name in loaded.loaded(self._way.programs)]
        return sum(int(f.get("run_time_ns", 0)) for f in facts), sum(int(f.get("run_cnt", 0)) for f in facts)

    # Targets

    def add_target(self, slot: int, tgid: int, target: abi.Target) -> None:
        """Make a process known; its window stays closed."""
        self._sites.add_others(slot)
        self._targets.add(slot, tgid, target)

    def forget_target(self, slot: int) -> None:
        """Drop a target of our own making, with all that was kept of it."""
        tgid = self._targets.remove(slot)
        self.delete_sites([(slot, site.thread, site.stack) for site in self.read_sites() if site.slot == slot])
        for stack in self.stacks.fetch_all():
            self.stacks.forget(stack.key)
        self._threads.forget(tgid)

    def open_window(self, slot: int, start_ns: int) -> None:
        """From now on everything counts. ``start_ns`` is CLOCK_MONOTONIC."""
        self._targets.open_window(slot, start_ns)

    def count_only(self, slot: int) -> None:
        """Count what the allocator probes of a target see, and nothing else."""
        self._targets.set_window(slot, abi.WindowState.COUNTING)

    def close_window(self, slot: int) -> None:
        """From now on nothing counts."""
        self._targets.set_window(slot, abi.WindowState.OFF)

    def set_generation(self, generation: int) -> None:
        """Double the birth slices' width; see ``ledger/slices.py``."""
        self._targets.set_generation(generation)

    def set_sampling(self, rate: int, above: int, flags: abi.TargetFlag) -> None:
        """Which blocks are kept from now on: one in about ``rate`` bytes, all of at least ``above``; rate 0: all."""
        self._targets.set_sampling(rate, above, flags)

    # Unwinding

    def add_table(self, words: bytes) -> int:
        """Put an unwind table into the kernel: ``TableStore.add``."""
        return self._tables.add(words)

    def set_mappings(self, slot: int, mappings: Sequence[tuple[int, int, int, int]]) -> None:
        """Say where code is mapped in a target: ``TargetTable.set_mappings``."""
        self._targets.set_mappings(slot, mappings)

    def set_runtime(self, slot: int, config_map: str, config: bytes) -> None:
        """Give the walker what it has to know of a target's runtime: ``Runtime.walker_config`` for its map."""
        self._runtimes[config_map].update(U32.pack(slot), config)

    # Reading

    @property
    def epoll_fd(self) -> int:
        """Readable when there are events."""
        return self._events.epoll_fd

    @property
    def is_filling(self) -> bool:
        """Whether more events wait than may be left waiting."""
        return self._events.is_filling

    def consume(self, within_s: float = math.inf) -> int:
        """Hand the waiting events to ``on_event``, as far as it goes in this time; returns how many."""
        return self._events.consume(within_s)

    def read_sites(self) -> Iterator[RawSite]:
        """All sites; a site that changes meanwhile may come twice."""
        return self._sites.read()

    def delete_sites(self, sites: Sequence[tuple[int, int, int]]) -> None:
        """Drop sites of which nothing is outstanding: ``SiteStore.delete``."""
        self._sites.delete(sites)

    def mark_sites(self, sites: Sequence[tuple[int, int, int, int]]) -> None:
        """Change ``check`` of sites: (slot, thread, stack, new value)."""
        self._sites.mark(sites, lambda: bpf.run_program(self._object.program_fd("on_retire")))

    def wait_for_programs(self) -> None:
        """Wait until every program that is running now has ended: ``bpf.wait_for_programs``."""
        bpf.wait_for_programs()

    def read_live(self) -> Iterator[tuple[memoryview, memoryview, int]]:
        """Chunks of the live set: keys (u64), values (``struct nl_live``), how many."""
        return self.live.batches()

    def read_counters(self, counters: Iterable[abi.Counter] = abi.Counter) -> dict[abi.Counter, int]:
        """Counters, all if not said otherwise, summed over the CPUs."""
        return self._counters.read(counters)

    def n_missed_calls(self) -> int:
        """System calls that the kernel left out of the trace: ``SyscallWay.n_missed``."""
        return self._syscalls.n_missed(self._object)

    def map_memory_bytes(self) -> int:
        """Kernel memory that the maps take now, as the kernel says in fdinfo, and the unwind tables."""
        maps = sum(int(bpf.read_fdinfo(each.fd).get("memlock", 0)) for each in self._all_maps)
        return maps + self._tables.n_bytes

    # The end

    def detach(self) -> None:
        """Take the allocator probes away: when this returns none runs any more. The maps can still be read.

        The programs at system calls go in the background, and the process does not end before they are gone: with the
        windows closed they cost the machine next to nothing, and the kernel takes 40 ms for each.
        """
        self._probes.detach()
        self._object.detach_all()
        _close_in_background(self._background_fds)

    def close(self) -> None:
        """Take everything out of the kernel."""
        self._resources.close()


def _close_in_background(fds: list[int]) -> None:
    """Close descriptors, and forget them."""
    if fds:
        close_later([functools.partial(os.close, fd) for fd in fds])
        fds.clear()


def _remove_stale_probes(mount: Tracefs) -> list[str]:
    """Take away what tracers that were killed have left in tracefs, where we may; a note of it."""
    with contextlib.suppress(OSError):
        n = tracefs.remove_stale(mount)
        if n:
            return [f"removed {n} probes from tracefs that a tracer left there which was killed"]
    return []


def _open_tracefs() -> Tracefs | None:
    """Tracefs with events that may be read; None where it is not mounted, or not for us, and we may not mount it."""
    try:
        mount = Tracefs()
    except OSError:
        return None
    try:
        mount.event_id(syscall_ways.TRACEPOINTS[0])
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            mount.close()
            return None
    return mount
