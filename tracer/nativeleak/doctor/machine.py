"""Checks of the machine and of our rights: the requirements of tracing any process.

Scope: facts that are cheap to read. Whether tracing works is not derived from them but tried (``trial.py``); these
checks explain a failure.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from nativeleak import arch
from nativeleak.doctor.checks import Check, CheckFunction, State
from nativeleak.doctor.leftovers import check_leaked_uprobes
from nativeleak.engines.bpf.budget.memory import ENTRY_OVERHEAD_BYTES, fixed_map_bytes, read_possible_cpus
from nativeleak.engines.bpf.kernel import abi, features
from nativeleak.engines.bpf.kernel.loaders.bcc import has_bcc
from nativeleak.engines.bpf.kernel.loaders.headers import find_headers
from nativeleak.engines.bpf.kernel.loaders.libbpf import Libbpf, object_path
from nativeleak.engines.bpf.kernel.mounts import Tracefs
from nativeleak.engines.bpf.kernel.programs import Limits
from nativeleak.engines.bpf.kernel.syscalls import OPTIONAL_TRACEPOINTS, TRACEPOINTS
from nativeleak.errors import CannotTraceError, NativeleakError
from nativeleak.process import procfs
from nativeleak.process.residency import ResidencyReader
from nativeleak.units import format_bytes

CAPABILITIES: Final[Mapping[str, int]] = {
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
    "CAP_CHECKPOINT_RESTORE": 40,
}
"""Numbers of the capabilities that tracing may use. Source: include/uapi/linux/capability.h."""

INIT_NAMESPACES: Final[Mapping[str, str]] = {"pid": "pid:[4026531836]", "user": "user:[4026531837]"}
"""Targets of the links in /proc/PID/ns for the host's namespaces. Source: include/linux/proc_ns.h."""

_RUN_AS_ROOT: Final = "run as root, or with CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"


def machine_functions() -> list[tuple[str, CheckFunction]]:
    """All checks of the machine with their names, in the order of the report."""
    return [
        ("rights", check_rights),
        ("seccomp", check_seccomp),
        ("PID namespace", check_pid_namespace),
        ("kernel", check_kernel),
        ("lockdown", check_lockdown),
        ("kernel settings", check_settings),
        ("BTF", check_btf),
        ("libbpf", check_libbpf),
        ("BCC", check_bcc),
        ("uprobes", check_uprobes),
        ("leaked uprobes", check_leaked_uprobes),
        ("tracepoints", check_tracepoints),
        ("residency", check_residency),
        ("memory", check_memory),
    ]


# Rights


def parse_capabilities(mask: int) -> frozenset[str]:
    """Names of the ``CAPABILITIES`` in a capability mask (``CapEff`` of /proc/PID/status)."""
    return frozenset(name for name, number in CAPABILITIES.items() if mask >> number & 1)


def check_rights() -> Iterator[Check]:
    """Effective capabilities, and whether they apply outside our user namespace."""
    held = _effective_capabilities()
    yield judge_rights(os.geteuid(), held, in_init_userns=_is_in_init_namespace("user"))


def judge_rights(uid: int, held: frozenset[str], *, in_init_userns: bool) -> Check:
    """Whether a user id and effective capabilities are enough for tracing."""
    who = "root" if uid == 0 else f"user {uid}"
    if not in_init_userns:
        detail = f"{who} of a user namespace: its capabilities do not apply to BPF"
        return Check("rights", State.FAIL, detail, "run as root of the host; a rootless container cannot trace")
    is_admin = "CAP_SYS_ADMIN" in held
    missing = [name for name in ("CAP_BPF", "CAP_PERFMON") if name not in held]
    if missing and not is_admin:
        return Check("rights", State.FAIL, f"{who} without {' and '.join(missing)}", _RUN_AS_ROOT)
    limits = []
    if "CAP_SYS_PTRACE" not in held:
        limits.append("no CAP_SYS_PTRACE: only processes of this user can be traced")
    if uid != 0 and "CAP_DAC_READ_SEARCH" not in held:
        limits.append("no CAP_DAC_READ_SEARCH: files of other users are not read")
    if not is_admin and "CAP_CHECKPOINT_RESTORE" not in held:
        limits.append("no CAP_CHECKPOINT_RESTORE: deleted libraries are not read")
    if limits:
        return Check("rights", State.WARN, f"{who}; {'; '.join(limits)}", _RUN_AS_ROOT)
    return Check("rights", State.OK, f"{who}, with all capabilities that tracing needs")


def check_seccomp() -> Iterator[Check]:
    """A filter on our system calls may refuse what our capabilities allow."""
    if procfs.read_status(os.getpid()).get("Seccomp", "0") == "2":
        yield Check(
            "seccomp",
            State.OK,
            "a seccomp filter is active; it may refuse bpf() and perf_event_open()",
            "if the checks below fail in a container: --security-opt seccomp=unconfined, or --privileged",
        )


def check_pid_namespace() -> Iterator[Check]:
    """In a container only processes of its own PID namespace can be traced, not those of namespaces inside it."""
    if _is_in_init_namespace("pid"):
        yield Check("PID namespace", State.OK, "the host's own")
    else:
        yield Check(
            "PID namespace", State.OK, "not the host's (a container): only processes of this namespace can be traced"
        )


def _effective_capabilities() -> frozenset[str]:
    return parse_capabilities(int(procfs.read_status(os.getpid()).get("CapEff", "0"), 16))


def _is_in_init_namespace(name: str) -> bool:
    try:
        return str(Path(f"/proc/self/ns/{name}").readlink()) == INIT_NAMESPACES[name]
    except OSError:
        return True  # a kernel without this namespace has only one


def _may_use_bpf() -> bool:
    held = _effective_capabilities()
    return "CAP_SYS_ADMIN" in held or {"CAP_BPF", "CAP_PERFMON"} <= held


# The kernel


def check_kernel() -> Iterator[Check]:
    """Release and machine, and whether this installation has BPF programs for it."""
    detail = f"Linux {os.uname().release} on {arch.here().name}"
    try:
        object_path()
    except CannotTraceError as error:
        yield Check("kernel", State.FAIL, f"{detail}: {error.what}", error.remedy)
    else:
        missing = features.describe(features.missing_features())
        yield Check("kernel", State.OK, f"{detail}; it lacks {missing}" if missing else detail)


def parse_lockdown(text: str) -> str:
    """The active mode of ``none [integrity] confidentiality``: the one in brackets."""
    match = re.search(r"\[(\w+)\]", text)
    return match[1] if match else "unknown"


def check_lockdown() -> Iterator[Check]:
    """In confidentiality mode BPF cannot read kernel memory, and nobody can use tracefs."""
    text = _read("/sys/kernel/security/lockdown")
    mode = parse_lockdown(text) if text else "none"
    if mode != "confidentiality":
        yield Check("lockdown", State.OK, mode if text else "not active")
        return
    yield Check(
        "lockdown",
        State.FAIL,
        "confidentiality: BPF programs may not read memory",
        "start the kernel with lockdown=integrity or without lockdown=; Secure Boot may turn it on",
    )


def check_settings() -> Iterator[Check]:
    """Two settings that affect only users without capabilities."""
    names = ("unprivileged_bpf_disabled", "perf_event_paranoid")
    values = ", ".join(f"{name} = {_read(f'/proc/sys/kernel/{name}') or 'unknown'}" for name in names)
    effect = (
        "they do not matter with these rights"
        if _may_use_bpf()
        else "these settings do not help; tracing needs capabilities"
    )
    yield Check("kernel settings", State.OK, f"{values}: {effect}")


def check_btf() -> Iterator[Check]:
    """The kernel's type information, which adapts the BPF programs to this kernel."""
    path = Path("/sys/kernel/btf/vmlinux")
    if os.access(path, os.R_OK):
        yield Check("BTF", State.OK, f"{path}, {format_bytes(path.stat().st_size)}")
    else:
        detail = f"{path} does not exist: the BPF programs cannot be adapted to this kernel"
        yield Check("BTF", State.WARN, detail, "use a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions ship it")


def check_libbpf() -> Iterator[Check]:
    """The library that loads the BPF programs."""
    try:
        yield Check("libbpf", State.OK, Libbpf().version)
    except CannotTraceError as error:
        yield Check("libbpf", State.FAIL, error.what, error.remedy)


def check_bcc() -> Iterator[Check]:
    """Kernel headers that BCC would compile the BPF programs with, if BCC is installed."""
    if has_bcc():
        yield Check("BCC", State.OK, f"would compile with {find_headers().said}")


def check_uprobes() -> Iterator[Check]:
    """Uprobes as perf events; newer ways to attach do not need them."""
    path = "/sys/bus/event_source/devices/uprobe/type"
    kind = _read(path)
    if kind:
        yield Check("uprobes", State.OK, f"perf event type {kind}")
    else:
        remedy = "use a kernel with CONFIG_UPROBE_EVENTS=y, unless the tracefs probes below work"
        yield Check("uprobes", State.WARN, f"{path} does not exist", remedy)


def check_tracepoints() -> Iterator[Check]:
    """Whether tracefs can be read, and has the tracepoints that we attach to."""
    try:
        tracefs = Tracefs()
    except OSError as error:
        why = f"tracefs cannot be read ({error.strerror})"
        detail = f"{why}: raw tracepoints are used instead, which run at every system call"
        remedy = "as root: mount -t tracefs tracefs /sys/kernel/tracing (for other users to read it: -o mode=755)"
        yield Check("tracepoints", State.WARN if _may_use_bpf() else State.FAIL, detail, remedy)
        return
    try:
        yield _tracepoint_check(tracefs)
    finally:
        tracefs.close()


def _tracepoint_check(tracefs: Tracefs) -> Check:
    missing = [event for event in TRACEPOINTS if not _has_event(tracefs, event)]
    where = "in a private mount of tracefs, the host has none" if tracefs.private else "in tracefs"
    if not missing:
        return Check("tracepoints", State.OK, f"all {len(TRACEPOINTS)}, {where}")
    if OPTIONAL_TRACEPOINTS.issuperset(missing):
        detail = f"no {', '.join(missing)}: an OOM kill of the target is reported as a plain kill"
        return Check("tracepoints", State.WARN, detail)
    remedy = "run as root, on a kernel with CONFIG_FTRACE_SYSCALLS=y"
    return Check("tracepoints", State.FAIL, f"cannot read: {', '.join(missing)}", remedy)


def _has_event(tracefs: Tracefs, event: str) -> bool:
    try:
        return tracefs.event_id(event) >= 0
    except OSError:
        return False


def check_residency() -> Iterator[Check]:
    """How resident memory is measured."""
    try:
        with ResidencyReader(os.getpid()) as reader:
            scans = reader.uses_scan
    except (NativeleakError, OSError) as error:
        yield Check("residency", State.WARN, f"resident bytes cannot be measured: {error}", _RUN_AS_ROOT)
        return
    slow = "by /proc/PID/pagemap, slower (no PAGEMAP_SCAN); pages that were only read count as resident"
    yield Check("residency", State.OK, "by PAGEMAP_SCAN" if scans else slow)


# Memory


def map_bytes(limits: Limits, n_cpus: int) -> int:
    """Kernel memory of all maps when they are full, in bytes, on a machine that may have so many processors."""
    hashes = (
        (limits.n_allocations, 8 + ctypes.sizeof(abi.Live)),
        (limits.n_sites, ctypes.sizeof(abi.SiteKeyStruct) + ctypes.sizeof(abi.Site)),
        (limits.n_threads, 4 + abi.THREAD_BYTES),
        (limits.n_stacks, 8 + 4),
        (limits.n_new_stacks, 8 + ctypes.sizeof(abi.StackStruct)),
    )
    hash_bytes = sum(n * (n_bytes + ENTRY_OVERHEAD_BYTES) for n, n_bytes in hashes)
    return fixed_map_bytes(n_cpus) + limits.ring_bytes + hash_bytes


def parse_available(meminfo: str) -> int:
    """``MemAvailable`` of /proc/meminfo in bytes.

    Raises:
        ValueError: The text has no such line.
    """
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo, re.MULTILINE)
    if match is None:
        raise ValueError("no MemAvailable in /proc/meminfo")
    return int(match[1]) << 10


def check_memory() -> Iterator[Check]:
    """Free memory, compared with the most that a trace may take."""
    yield judge_memory(parse_available(_read("/proc/meminfo")), map_bytes(Limits(), read_possible_cpus()))


def judge_memory(available_bytes: int, needed_bytes: int) -> Check:
    """A trace should never take more than half of what is free."""
    detail = (
        f"{format_bytes(available_bytes)} free; a trace takes up to {format_bytes(needed_bytes)} of kernel memory when"
        " all its maps are full"
    )
    if needed_bytes * 2 <= available_bytes:
        return Check("memory", State.OK, detail)
    return Check("memory", State.WARN, detail, "trace with --max-allocations 100000, or --min-size 64K")


def _read(path: str) -> str:
    """A small file of the kernel; empty if it cannot be read."""
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
