"""The BPF programs in the kernel: load them, attach them, read what they keep.

Features are found by trying, best first: one session link for entry and return (Linux 6.13), multi links (6.6), perf
events, and perf events of probes that tracefs defines. What is attached hangs on descriptors of this process: whatever
way it ends, the kernel takes the probes away; only of the last kind definitions stay (``tracefs.py``).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import resource
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from nativeleak.engines.bpf import live_set, site_store
from nativeleak.engines.bpf.kernel import abi, features, perf, tracefs
from nativeleak.engines.bpf.kernel.btf import BTF_PATH
from nativeleak.engines.bpf.kernel.cookies import CookiePrograms
from nativeleak.engines.bpf.kernel.groups import Close, Group, ProbeGroups, close_together
from nativeleak.engines.bpf.kernel.loaders.bcc import BccObject
from nativeleak.engines.bpf.kernel.loaders.libbpf import BpfObject, Libbpf, RingBuffer, object_path
from nativeleak.engines.bpf.live_set import LiveSet
from nativeleak.engines.bpf.raw import RawSite
from nativeleak.engines.bpf.site_store import SiteStore
from nativeleak.engines.bpf.stack_store import StackStore
from nativeleak.errors import CannotTraceError, MendableError
from nativeleak.probes.families import FREE_KINDS, CallKind
from nativeleak.probes.placement import PlacedProbe
from nativeleak.probes.returns import ExitPlace
from nativeleak.process.pidns import read_inner_pid_namespace

_U32: Final = struct.Struct("=I")
_RING_BYTES: Final = 2 << 20
"""The ring is mapped twice over: each MiB is two of the recorder's resident memory."""
_FILLING: Final = 1 / 32
_N_SITES_DEFAULT: Final = 1 << 16
_N_THREADS_DEFAULT: Final = 1 << 15
_N_NEW_STACKS: Final = 1 << 14
_N_KNOWN_STACKS: Final = 1 << 17


class AttachMode(StrEnum):
    """How allocator probes are attached."""

    SESSION = "uprobe session"
    MULTI = "uprobe multi"
    PERF = "perf events"
    TRACEFS = "perf events by tracefs"


class SyscallHooks(StrEnum):
    """How system calls are seen."""

    FENTRY = "fentry"
    TRACEPOINTS = "tracepoints"
    RAW = "raw tracepoints"
    """Those two that see every call: bpf/syscalls_raw.bpf.c."""


class Loader(StrEnum):
    """Who makes the programs fit this kernel. Only libbpf's can walk by unwind tables and through Java frames."""

    LIBBPF = "libbpf"
    BCC = "bcc"


_AT_EXITS: Final = ("on_exits_entry", "on_alloc_exit")
_APART: Final = ("on_alloc_entry", "on_alloc_return", "on_free", *_AT_EXITS)
_ALLOCATOR_PROGRAMS: Final[dict[AttachMode, dict[str, int]]] = {
    AttachMode.SESSION: {
        "on_alloc_session": perf.ATTACH_UPROBE_SESSION,
        **dict.fromkeys(("on_free", *_AT_EXITS), perf.ATTACH_UPROBE_MULTI),
    },
    AttachMode.MULTI: dict.fromkeys(_APART, perf.ATTACH_UPROBE_MULTI),
    AttachMode.PERF: dict.fromkeys(_APART, 0),
    AttachMode.TRACEFS: dict.fromkeys(_APART, 0),
}
_REALLOCS: Final = (CallKind.REALLOC, CallKind.REALLOCARRAY)
_DECLINABLE: Final = (
    CallKind.MALLOC,
    CallKind.CALLOC,
    CallKind.NEW,
    CallKind.ALIGNED_ALLOC,
    CallKind.POSIX_MEMALIGN,
)
"""Kinds of functions whose return may be declined, most frequent first. realloc is none: it gives a block back too."""
_ASK_FOR_COOKIE: Final = ("on_alloc_entry", "on_free", *_AT_EXITS)
_ALL_ALLOCATOR_PROGRAMS: Final = ("on_alloc_session", *_APART)

_SYSCALLS: Final = ("mmap", "munmap", "mremap", "mprotect", "pkey_mprotect", "brk", "shmget", "shmat", "shmdt")
TRACEPOINTS: Final = [
    *((f"on_{call}_entry", f"syscalls/sys_enter_{call}") for call in _SYSCALLS),
    *(("on_syscall_exit", f"syscalls/sys_exit_{call}") for call in _SYSCALLS),
    ("on_oom_kill", "oom/mark_victim"),
]
"""(program, event as tracefs names it)."""
_NO_SYSCALL: Final = TRACEPOINTS[-1]
_FENTRY: Final = (
    *(f"on_{call}_begin" for call in ("munmap", "mremap", "brk", "shmdt")),
    *(f"on_{call}_end" for call in _SYSCALLS),
)
OPTIONAL_TRACEPOINTS: Final = frozenset(
    {"oom/mark_victim", "syscalls/sys_enter_pkey_mprotect", "syscalls/sys_exit_pkey_mprotect"}
)
_RAW_SYSCALLS: Final = {"on_raw_entry": "sys_enter", "on_raw_exit": "sys_exit"}
_RAW_TRACEPOINTS: Final = {
    "on_rename": "task_rename",
    "on_exit": "sched_process_exit",
    "on_exec": "sched_process_exec",
}

_CALLS: Final = {
    CallKind.MALLOC: abi.Call.MALLOC,
    CallKind.CALLOC: abi.Call.CALLOC,
    CallKind.REALLOC: abi.Call.REALLOC,
    CallKind.REALLOCARRAY: abi.Call.REALLOCARRAY,
    CallKind.POSIX_MEMALIGN: abi.Call.POSIX_MEMALIGN,
    CallKind.ALIGNED_ALLOC: abi.Call.ALIGNED_ALLOC,
    CallKind.FREE: abi.Call.FREE,
    CallKind.DELETE: abi.Call.DELETE,
    CallKind.NEW: abi.Call.NEW,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes of the kernel maps; memory is taken as it is used, but for some bytes an entry of hash table.

    Attributes:
        n_targets: Processes to trace.
        n_allocations: Outstanding allocations (``--max-allocations``).
        n_sites: Call sites.
        n_threads: Threads alive at one time; where they are many, a few more find room.
        n_stacks: Distinct stacks.
        n_new_stacks: Stacks that user space has not fetched yet.
        ring_bytes: Events that user space has not fetched yet; a power of two.
    """

    n_targets: int = 1
    n_allocations: int = 1 << 20
    n_sites: int = _N_SITES_DEFAULT
    n_threads: int = _N_THREADS_DEFAULT
    n_stacks: int = _N_KNOWN_STACKS
    n_new_stacks: int = _N_NEW_STACKS
    ring_bytes: int = _RING_BYTES


class Programs:
    """Programs, maps and links of one trace. A context manager: nothing stays attached when it is left.

    Args:
        limits: Sizes of the maps.
        on_event: Gets each event while ``consume`` runs; the structure is valid during the call only.
        modes: Ways to attach that may be tried, best first.
        loader: Whose programs.
        calls: Ways to see system calls that may be tried; those that tracefs is needed for only where it is to be had,
            and raw tracepoints only where it is not.

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
        self._limits = limits
        self._loader = loader
        self._on_event = on_event
        self._libbpf = Libbpf()
        self.groups = ProbeGroups()
        self._tracepoint_fds: list[int] = []
        self._tracefs = _open_tracefs()
        self._ring: RingBuffer | None = None
        self._targets: dict[int, abi.Target] = {}
        self._n_tables = 0
        self._table_bytes = 0
        self._n_functions: dict[int, int] = {}
        self.error: BaseException | None = None
        self.notes: list[str] = []
        self._remove_stale_probes()
        self._lacks = features.missing_features()
        self._cookie_programs: CookiePrograms | None = None
        try:
            self.mode, self.calls, self._object = self._load(modes, self._ways(calls))
        except BaseException:
            if self._tracefs is not None:
                self._tracefs.close()
            raise
        if isinstance(self._object, BccObject):
            self.notes += self._object.notes
        if self._lacks:
            self.notes.append(f"this kernel is without {features.describe(self._lacks)}")
        try:
            self._take_maps()
            self._make_cookie_programs()
            self._attach_tracepoints()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Loading

    def _remove_stale_probes(self) -> None:
        """Take away what tracers that were killed have left in tracefs; whoever may not leaves it to one who may."""
        if self._tracefs is not None:
            with contextlib.suppress(OSError):
                n = tracefs.remove_stale(self._tracefs)
                if n:
                    self.notes.append(f"removed {n} probes from tracefs that a tracer left there which was killed")

    def _check_events(self, mode: AttachMode) -> None:
        """Make sure that the kernel has the perf events of a mode.

        Raises:
            OSError: It has not, or we may not.
        """
        if mode is AttachMode.PERF and not perf.has_uprobe_pmu():
            raise OSError(errno.ENODEV, "perf events make no probes in user programs on this kernel")
        if mode is AttachMode.TRACEFS and (self._tracefs is None or not tracefs.can_define(self._tracefs)):
            raise OSError(errno.EPERM, "no probes can be defined in tracefs")

    def _ways(self, wanted: Sequence[SyscallHooks]) -> list[SyscallHooks]:
        """How system calls may be seen here, best first."""
        ways = []
        if (
            SyscallHooks.FENTRY in wanted
            and self._loader is Loader.LIBBPF
            and perf.may_load_fentry()
            and not perf.may_be_preempted()
        ):
            ways.append(SyscallHooks.FENTRY)
        other = SyscallHooks.RAW if self._tracefs is None else SyscallHooks.TRACEPOINTS
        ways += [other] if other in wanted else []
        if not ways:
            raise CannotTraceError(
                f"cannot trace system calls: this kernel has no {', '.join(wanted)}",
                "try the other way: --syscalls tracepoints",
            )
        return ways

    def _load(
        self, modes: Sequence[AttachMode], ways: Sequence[SyscallHooks]
    ) -> tuple[AttachMode, SyscallHooks, BpfObject | BccObject]:
        """The object, loaded for the first way of attaching that the kernel takes."""
        failure: OSError | None = None
        for mode in modes:
            for calls in ways:
                self._libbpf.messages.clear()
                try:
                    return mode, calls, self._load_for(mode, calls)
                except _NoLinksError as error:
                    failure = error
                    break
                except OSError as error:
                    failure = error
            # EACCES is the verifier's: it refused one program, not us. Those of another way may pass.
            if failure is not None and failure.errno == errno.EPERM:
                break
        raise self._load_error(failure) from failure

    def _open(self) -> BpfObject | BccObject:
        if self._loader is Loader.BCC:
            return BccObject(self._libbpf, self._lacks)
        return BpfObject(self._libbpf, object_path(), self._lacks)

    def _load_for(self, mode: AttachMode, calls: SyscallHooks) -> BpfObject | BccObject:
        self._check_events(mode)
        bpf_object = self._open()
        try:
            wanted = _ALLOCATOR_PROGRAMS[mode]
            for name in _ALL_ALLOCATOR_PROGRAMS:
                bpf_object.set_autoload(name, load=name in wanted)
                bpf_object.set_attach_type(name, wanted.get(name, 0))
            for way, names in (
                (SyscallHooks.RAW, _RAW_SYSCALLS),
                (SyscallHooks.TRACEPOINTS, {program for program, _ in TRACEPOINTS}),
                (SyscallHooks.FENTRY, _FENTRY),
            ):
                for name in names:
                    bpf_object.set_autoload(name, load=calls is way)
            bpf_object.set_autoload(_NO_SYSCALL[0], load=self._tracefs is not None)
            sizes = {
                "live": self._limits.n_allocations,
                "sites": self._limits.n_sites,
                **self._cache_sizes(),
                "threads": self._limits.n_threads,
                "stacks": self._limits.n_new_stacks,
                "known_stacks": self._limits.n_stacks,
                "events": self._limits.ring_bytes,
                "stack_frames": 2 * self._limits.n_new_stacks,
                "scratch": self._libbpf.lib.libbpf_num_possible_cpus() * abi.SCRATCH_PER_CPU,
                "mappings": 2 * self._limits.n_targets,
            }
            for name, n in sizes.items():
                bpf_object.set_max_entries(name, n)
            bpf_object.set_constants(read_inner_pid_namespace() or (0, 0), perf.read_tick_ns())
            bpf_object.load()
            for name, attach_type in wanted.items():
                if attach_type and not perf.has_uprobe_links(bpf_object.program_fd(name), attach_type):
                    raise _NoLinksError(errno.EOPNOTSUPP, f"this kernel has no {mode} links")
            if calls is SyscallHooks.FENTRY:
                self._attach_fentry(bpf_object)
        except BaseException:
            bpf_object.close()
            raise
        return bpf_object

    def _cache_sizes(self) -> dict[str, int]:
        """Sizes of the direct-mapped caches: one element where a cache is off. BCC's programs have that of threads."""
        limits, is_bcc = self._limits, self._loader is Loader.BCC
        has_atomics = abi.Lack.ATOMICS not in self._lacks
        has_exchange = has_atomics and not is_bcc
        n_threads = abi.THREAD_CACHE_SIZE if has_atomics and limits.n_threads >= 2 * abi.THREAD_CACHE_SIZE else 0
        return {
            **dict.fromkeys(live_set.MAP_NAMES, live_set.cache_entries(limits.n_allocations if has_exchange else 0)),
            **dict.fromkeys(site_store.MAP_NAMES, site_store.cache_entries(limits.n_sites if has_exchange else 0)),
            "thread_cache": 1 + n_threads,
        }

    def _load_error(self, failure: OSError | None) -> CannotTraceError:
        why = os.strerror(failure.errno or 0) if failure else "no way to attach left to try"
        if failure and failure.errno == errno.EPERM and abi.Lack.ATOMICS in self._lacks and _is_memlock_bounded():
            return CannotTraceError(
                f"loading the BPF programs failed: {why}: before Linux 5.11 BPF maps count as locked memory, of which"
                f" this process may have {resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] >> 10} KiB",
                "`ulimit -l unlimited` (LimitMEMLOCK=infinity of a service), or run with CAP_SYS_RESOURCE too",
            )
        if failure and failure.errno == errno.EPERM:
            return CannotTraceError(
                f"loading the BPF programs failed: {why}",
                "run as root, or with the capabilities CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH",
            )
        if self._loader is Loader.LIBBPF and not BTF_PATH.exists():
            return CannotTraceError(
                f"loading the BPF programs failed: this kernel does not describe its types: {BTF_PATH} is missing",
                "another engine does without: --engine bcc (apt-get install python3-bpfcc)",
            )
        detail = next((line for line in reversed(self._libbpf.messages) if line), "")
        return CannotTraceError(
            f"loading the BPF programs failed: {why}",
            f"`nativeleak doctor` says what this kernel lacks{f' (libbpf: {detail})' if detail else ''}",
        )

    def _take_maps(self) -> None:
        take = self._object.map
        self._live = LiveSet(take)
        self._sites = SiteStore(take)
        stacks = take("stacks", 8, ctypes.sizeof(abi.StackStruct))
        known = take("known_stacks", 8, 4)
        self._target_map = take("targets", 4, ctypes.sizeof(abi.Target))
        self._slots = take("slots", 4, 4)
        self._windows = take("windows", 4, 4)
        frames = take("stack_frames", 16, abi.CHUNK_FRAMES * abi.FRAME_BYTES)
        self.stacks = StackStore(stacks, frames, known)
        self._thread_cache = take("thread_cache", 4, abi.THREAD_BYTES)
        self._threads = take("threads", 4, abi.THREAD_BYTES)
        self._mappings = take("mappings", 4, ctypes.sizeof(abi.Mappings))
        self._tables = take("tables", 4, 4)
        self._javas = take("javas", 4, ctypes.sizeof(abi.Java))
        self._n_cpus = int(self._libbpf.lib.libbpf_num_possible_cpus())
        self._counters = take("counters", 4, 8 * self._n_cpus)
        self._all_maps = [take(name, 0, 0) for name in self._object.map_names()]
        self._ring = RingBuffer(self._libbpf, take("events", 0, 0).fd, self._on_sample)

    def _on_sample(self, address: int, size: int) -> None:
        """An exception must not unwind into libbpf: it is kept, and raised by ``consume``."""
        try:
            if size == ctypes.sizeof(abi.Event):
                self._on_event(abi.Event.from_address(address))
        except BaseException as error:
            self.error = self.error or error

    # Attaching

    def _attach_tracepoints(self) -> None:
        if self.calls is SyscallHooks.FENTRY:
            self.notes.append("traces system calls by fentry: those of other programs cost nothing more")
        if self.calls is SyscallHooks.RAW:
            self.notes.append("tracefs is not mounted and may not be: used raw tracepoints, at every system call")
            for program, tracepoint in _RAW_SYSCALLS.items():
                self._object.attach_raw_tracepoint(program, tracepoint)
        if self._tracefs is not None:
            self._attach_by_tracefs(self._tracefs)
        for program, tracepoint in _RAW_TRACEPOINTS.items():
            self._object.attach_raw_tracepoint(program, tracepoint)

    def _attach_fentry(self, bpf_object: BpfObject | BccObject) -> None:
        """All of them, or none.

        Raises:
            OSError: As the kernel says.
        """
        try:
            for name in _FENTRY:
                self._tracepoint_fds.append(perf.attach_fentry(bpf_object.program_fd(name)))
        except OSError:
            _close_fds(self._tracepoint_fds)
            self._tracepoint_fds.clear()
            raise

    def _attach_by_tracefs(self, tracefs: perf.Tracefs) -> None:
        if tracefs.private:
            self.notes.append("tracefs is not mounted here: used a private mount of our own")
        for program, event in TRACEPOINTS if self.calls is SyscallHooks.TRACEPOINTS else [_NO_SYSCALL]:
            try:
                fd = perf.attach_tracepoint(self._object.program_fd(program), tracefs.event_id(event))
            except OSError as error:
                if event in OPTIONAL_TRACEPOINTS:
                    self.notes.append(f"tracepoint {event} is not to be had: {error.strerror}")
                    continue
                raise CannotTraceError(
                    f"attaching to tracepoint {event} failed: {error.strerror}",
                    "run as root; `nativeleak doctor` says what this kernel lacks",
                ) from error
            self._tracepoint_fds.append(fd)

    def attach_functions(self, slot: int, pid: int, path: str, name: str, placed: Sequence[PlacedProbe]) -> None:
        """Probe functions of one mapped object in one process.

        Args:
            path: Where the object's file can be opened, by this process.
            name: What to call it in an error.
            placed: Which functions, and where in them.

        Raises:
            CannotTraceError: The kernel refuses; the error says what may be the matter.
        """
        numbers = self._number_functions(slot, placed)
        frees = [probe for probe in placed if probe.point.kind in FREE_KINDS]
        allocs = [probe for probe in placed if probe.point.kind not in FREE_KINDS]
        # Returns before entries: an entry without its return would be a call that never ends.
        jobs = [("on_free", frees, False, Group.FREES)]
        for group in (Group.REALLOCS, Group.ALLOCATIONS):
            probes = [probe for probe in allocs if (probe.point.kind in _REALLOCS) == (group is Group.REALLOCS)]
            if self.mode is AttachMode.SESSION:
                jobs.append(("on_alloc_session", probes, False, group))
            else:
                jobs += [("on_alloc_return", probes, True, group), ("on_alloc_entry", probes, False, group)]
        try:
            for program, probes, at_return, group in jobs:
                places = [(p.offset, _cookie(slot, p, numbers.get(p.offset, 0))) for p in probes]
                if places:
                    self.groups.add(
                        group, functools.partial(self._attach, program, pid, path, places, at_return=at_return)
                    )
        except OSError as error:
            raise _attach_error(name, error) from error

    def attach_at_exits(
        self,
        slot: int,
        pid: int,
        path: str,
        name: str,
        at_exits: Sequence[tuple[PlacedProbe, Sequence[ExitPlace]]],
    ) -> None:
        """Probe functions of one mapped object at their entries and exits; see ``attach_functions``.

        Args:
            at_exits: Each function with its exits; an exit that several have is probed once.

        Raises:
            CannotTraceError: The kernel refuses; the error says what may be the matter.
        """
        taken: set[tuple[int, int]] = set()
        try:
            # Those of realloc first: they stay while others are taken away (``groups.FREES_ONLY``).
            for group in (Group.REALLOCS, Group.ALLOCATIONS):
                chosen = [each for each in at_exits if (each[0].point.kind in _REALLOCS) == (group is Group.REALLOCS)]
                exits = {place for _, places in chosen for place in places}
                cookies = {(place.offset, _exit_cookie(slot, place)) for place in exits} - taken
                taken |= cookies
                # Exits before entries: an entry without its exits would be a call that never ends.
                for program, places in (
                    ("on_alloc_exit", sorted(cookies)),
                    ("on_exits_entry", [(probe.offset, _cookie(slot, probe, 0)) for probe, _ in chosen]),
                ):
                    if places:
                        self.groups.add(group, functools.partial(self._attach, program, pid, path, places))
        except OSError as error:
            raise _attach_error(name, error) from error

    def _number_functions(self, slot: int, placed: Sequence[PlacedProbe]) -> dict[int, int]:
        """Offset of a probe -> number of its function among those of the target whose return may be declined.

        Only a session's entry can decline; elsewhere the return is trapped all the same, and has to be known for what
        it is by the walk of a stack.
        """
        numbers: dict[int, int] = {}
        if self.mode is AttachMode.SESSION:
            for probe in sorted((p for p in placed if p.point.kind in _DECLINABLE), key=_declinable_order):
                number = self._n_functions.get(slot, 0) + 1
                if number < abi.N_FUNCTIONS and probe.offset not in numbers:
                    numbers[probe.offset] = self._n_functions[slot] = number
        return numbers

    def _make_cookie_programs(self) -> None:
        """Where the kernel keeps no cookies of probes.

        Raises:
            CannotTraceError: The kernel refuses.
        """
        if abi.Lack.COOKIES not in self._lacks:
            return
        take, programs = self._object.map, [name for name in _ASK_FOR_COOKIE if name in _ALLOCATOR_PROGRAMS[self.mode]]
        try:
            self._cookie_programs = CookiePrograms(
                self._libbpf, take("cookies", 0, 0).fd, {name: self._object.program_fd(name) for name in programs}
            )
        except OSError as error:
            raise self._load_error(error) from error

    def _program_with(self, program: str, cookie: int) -> tuple[int, int, Close]:
        """A program to attach, the cookie that the kernel is to keep for it, and what to call once it is attached."""
        makes = self._cookie_programs
        if makes is None or not makes.asks(program):
            return self._object.program_fd(program), 0 if makes else cookie, lambda: None
        fd = makes.make(program, cookie)
        return fd, 0, functools.partial(os.close, fd)

    def _attach(
        self, program: str, pid: int, path: str, places: Sequence[tuple[int, int]], *, at_return: bool = False
    ) -> list[Close]:
        """One program at (file offset, cookie) each: by one link where the kernel has such, else by perf events."""
        if self.mode in (AttachMode.PERF, AttachMode.TRACEFS):
            return self._attach_events(program, pid, path, places, at_return=at_return)
        attach_type = _ALLOCATOR_PROGRAMS[self.mode][program]
        offsets, cookies = [offset for offset, _ in places], [cookie for _, cookie in places]
        fd = perf.link_uprobes(
            self._object.program_fd(program), attach_type, path, offsets, cookies, pid, at_return=at_return
        )
        return [functools.partial(os.close, fd)]

    def _attach_events(
        self, program: str, pid: int, path: str, places: Sequence[tuple[int, int]], *, at_return: bool
    ) -> list[Close]:
        closes: list[Close] = []
        try:
            for offset, cookie in places:
                fd, kept, release = self._program_with(program, cookie)
                try:
                    closes.append(self._attach_event(fd, pid, path, offset, kept, at_return=at_return))
                finally:
                    release()
        except BaseException:
            close_together(closes)
            raise
        return closes

    def _attach_event(self, fd: int, pid: int, path: str, offset: int, cookie: int, *, at_return: bool) -> Close:
        if self.mode is AttachMode.TRACEFS:
            assert self._tracefs is not None  # noqa: S101
            return tracefs.attach(self._tracefs, fd, pid, path, offset, cookie, at_return=at_return)
        return functools.partial(_close_fds, perf.attach_uprobe(fd, pid, path, offset, cookie, at_return=at_return))

    @contextlib.contextmanager
    def attached_to_ourselves(self, path: str, offsets: Sequence[int]) -> Iterator[None]:
        """Probes in code of our own that do next to nothing, to measure what the kernel takes for a hit.

        Raises:
            OSError: As the kernel says.
        """
        closes = self._attach("on_free", os.getpid(), path, [(offset, 0) for offset in offsets])
        try:
            yield
        finally:
            self._close_later(closes)

    # Targets

    def add_target(self, slot: int, tgid: int, target: abi.Target) -> None:
        """Make a process known; its window stays closed."""
        target.tgid = tgid
        self._targets[slot] = target
        self._sites.add_others(slot)
        self._write_target(slot)
        self._slots.update(_U32.pack(tgid), _U32.pack(slot))

    def open_window(self, slot: int, start_ns: int) -> None:
        """From now on everything counts. ``start_ns`` is CLOCK_MONOTONIC."""
        self._targets[slot].start_ns = start_ns
        self._write_target(slot)
        self._windows.update(_U32.pack(slot), _U32.pack(1))

    def count_only(self, slot: int) -> None:
        """Count what the allocator probes of a target see, and nothing else."""
        self._windows.update(_U32.pack(slot), _U32.pack(2))

    def program_times(self) -> tuple[int, int]:
        """Nanoseconds that the allocator's programs have run, and how often, while ``perf.run_statistics`` was on."""
        names = _ALLOCATOR_PROGRAMS[self.mode]
        facts = [perf.read_fdinfo(self._object.program_fd(name)) for name in names]
        return sum(int(f.get("run_time_ns", 0)) for f in facts), sum(int(f.get("run_cnt", 0)) for f in facts)

    def empty_live_set(self) -> None:
        """Forget all outstanding blocks; to be called while no allocator probe is attached."""
        self._live.clear()

    def close_window(self, slot: int) -> None:
        """From now on nothing counts."""
        self._windows.update(_U32.pack(slot), _U32.pack(0))

    def set_generation(self, generation: int) -> None:
        """Double the birth slices' width; see ``ledger/slices.py``."""
        for slot, target in self._targets.items():
            target.generation = generation
            self._write_target(slot)

    def set_sampling(self, rate: int, above: int, flags: abi.TargetFlag) -> None:
        """Which blocks are kept from now on: one in about ``rate`` bytes, all of at least ``above``; rate 0: all."""
        for slot, target in self._targets.items():
            target.sample_rate, target.sample_above, target.flags = rate, above, flags
            self._write_target(slot)

    def _write_target(self, slot: int) -> None:
        self._target_map.update(_U32.pack(slot), bytes(self._targets[slot]))

    @contextlib.contextmanager
    def attached_for_now(self) -> Iterator[None]:
        """What is attached inside is detached at the end."""
        n_before = len(self.groups)
        try:
            yield
        finally:
            # Each close waits for the kernel, some 50 ms, and nobody has to wait with it.
            self._close_later(self.groups.drop(n_before))

    def _close_later(self, closes: Sequence[Close]) -> None:
        thread = threading.Thread(target=_close_all, args=(tuple(closes),), name="nativeleak-detach")
        thread.start()

    def forget_target(self, slot: int) -> None:
        """Drop a target of our own making, with all that was kept of it."""
        tgid = self._targets.pop(slot).tgid
        self._slots.delete(_U32.pack(tgid))
        for site in list(self.read_sites()):
            if site.slot == slot:
                self.delete_site(slot, site.thread, site.stack)
        for stack in self.stacks.fetch_all():
            self.stacks.forget(stack.key)
        self._threads.delete(_U32.pack(tgid))
        place = _U32.pack(1 + tgid % abi.THREAD_CACHE_SIZE)
        thread = self._thread_cache.lookup(place)
        if thread is not None and _U32.unpack_from(thread, abi.THREAD_TID_AT) == (tgid,):
            self._thread_cache.update(place, bytes(abi.THREAD_BYTES))

    # Unwinding

    def add_table(self, words: bytes) -> int:
        """Put an unwind table into the kernel; returns its index.

        Args:
            words: As ``unwind/pack.py`` makes them, a multiple of 4 KiB.

        Raises:
            OSError: No room.
        """
        if self._n_tables >= abi.MAX_TABLES:
            raise OSError(errno.ENOSPC, f"more than {abi.MAX_TABLES} objects with unwind tables")
        fd = self._libbpf.create_table_map(len(words) // abi.CHUNK_BYTES, words)
        try:
            index = self._n_tables
            self._tables.update(_U32.pack(index), _U32.pack(fd))
        finally:
            os.close(fd)
        self._n_tables += 1
        self._table_bytes += len(words)
        return index

    def set_mappings(self, slot: int, mappings: Sequence[tuple[int, int, int, int]]) -> None:
        """Say where code is mapped in a target: (start, end, bias, table), in order of address.

        The kernel side goes on with the old ones until the new ones are whole.
        """
        target = self._targets[slot]
        epoch = (target.epoch + 1) & 0xFFFF_FFFF
        value = abi.Mappings(n=min(len(mappings), abi.MAX_MAPPINGS))
        for entry, (start, end, bias, table) in zip(value.mappings, mappings, strict=False):
            entry.start, entry.end, entry.bias, entry.table = start, end, bias & (1 << 64) - 1, table
        self._mappings.update(_U32.pack(slot * 2 + (epoch & 1)), bytes(value))
        target.epoch = epoch
        self._write_target(slot)

    def set_java(self, slot: int, java: abi.Java) -> None:
        """Say where things lie in the JVM that a target is."""
        self._javas.update(_U32.pack(slot), bytes(java))

    # Reading

    @property
    def epoll_fd(self) -> int:
        """Readable when there are events."""
        assert self._ring is not None  # noqa: S101
        return self._ring.epoll_fd

    @property
    def is_filling(self) -> bool:
        """Whether more events wait than may be left waiting."""
        assert self._ring is not None  # noqa: S101
        return self._ring.waiting_bytes > _FILLING * self._limits.ring_bytes

    def consume(self) -> int:
        """Hand the waiting events to ``on_event``; returns how many."""
        assert self._ring is not None  # noqa: S101
        n = self._ring.consume()
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return n

    def read_sites(self) -> Iterator[RawSite]:
        """All sites; a site that changes meanwhile may come twice."""
        return self._sites.read()

    def delete_site(self, slot: int, thread: int, stack: int) -> None:
        """Drop a site of which nothing is outstanding and whose thread is gone."""
        self._sites.delete(slot, thread, stack)

    def read_live(self) -> Iterator[tuple[memoryview, memoryview, int]]:
        """Chunks of the live set: keys (u64), values (``struct nl_live``), how many."""
        return self._live.batches()

    def read_counters(self, counters: Iterable[abi.Counter] = abi.Counter) -> dict[abi.Counter, int]:
        """Counters, all if not said otherwise, summed over the CPUs."""
        totals = {}
        for counter in counters:
            value = self._counters.lookup(_U32.pack(counter))
            totals[counter] = sum(struct.unpack(f"={self._n_cpus}Q", value)) if value else 0
        return totals

    def n_missed_calls(self) -> int:
        """System calls that a trampoline left out, since its program was running already on that CPU."""
        if self.calls is not SyscallHooks.FENTRY:
            return 0
        facts = [perf.read_fdinfo(self._object.program_fd(name)) for name in _FENTRY]
        return sum(int(each.get("recursion_misses", 0)) for each in facts)

    def map_memory_bytes(self) -> int:
        """Kernel memory that the maps take now, as the kernel says in fdinfo, and the unwind tables."""
        return sum(_memlock_bytes(m.fd) for m in self._all_maps) + self._table_bytes

    def detach(self) -> None:
        """Take the allocator probes away: when this returns none runs any more. The maps can still be read.

        The tracepoints go in the background, and the process does not end before they are gone: with the windows closed
        they cost the machine next to nothing, and the kernel takes 40 ms for each.
        """
        close_together(self.groups.drop())
        self._object.detach_all()
        self._close_later([functools.partial(os.close, fd) for fd in self._tracepoint_fds])
        self._tracepoint_fds.clear()

    def close(self) -> None:
        """Take everything out of the kernel."""
        self.detach()
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        if self._cookie_programs is not None:
            self._cookie_programs.close()
        self._object.close()
        if self._tracefs is not None:
            self._tracefs.close()
            self._tracefs = None


class _NoLinksError(OSError):
    """The kernel has no links of the kind that a way of attaching needs."""


def _open_tracefs() -> perf.Tracefs | None:
    """Tracefs with events that may be read; None where it is not mounted, or not for us, and we may not mount it."""
    try:
        tracefs = perf.Tracefs()
    except OSError:
        return None
    try:
        tracefs.event_id(TRACEPOINTS[0][1])
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            tracefs.close()
            return None
    return tracefs


def _close_fds(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _close_all(closes: Sequence[Close]) -> None:
    for close in closes:
        close()


def _cookie(slot: int, probe: PlacedProbe, function: int) -> int:
    at = probe.placement
    return abi.cookie(_CALLS[probe.point.kind], slot, at.offset, at.pushed_bytes, at.arguments, function)


def _exit_cookie(slot: int, place: ExitPlace) -> int:
    at = place.exit
    return abi.exit_cookie(slot, at.depth_bytes, at.register, at.condition)


def _declinable_order(probe: PlacedProbe) -> int:
    return _DECLINABLE.index(probe.point.kind)


def _is_memlock_bounded() -> bool:
    """Whether the bound on locked memory stands although libbpf has tried to lift it."""
    return resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY


def _memlock_bytes(fd: int) -> int:
    return int(perf.read_fdinfo(fd).get("memlock", 0))


def _attach_error(name: str, error: OSError) -> CannotTraceError:
    if error.errno == errno.EINVAL:
        return MendableError(
            f"probing the allocator functions of {name} failed: {os.strerror(errno.EINVAL)}",
            "another tracer may hold a probe on the same function with another reference counter (bcc's memleak does;"
            " the kernel's log then says `ref_ctr_offset mismatch`): end it and try again",
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        return CannotTraceError(
            f"probing the allocator functions of {name} failed: {os.strerror(error.errno)}",
            "run as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE",
        )
    return CannotTraceError(
        f"probing the allocator functions of {name} failed: {os.strerror(error.errno or 0)}",
        "`nativeleak doctor -p PID` says what can be probed",
    )
