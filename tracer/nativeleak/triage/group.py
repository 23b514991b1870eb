"""What control groups are charged for beside the process's own memory: words, JSON, verdicts.

Scope: rules over one ledger, as in ``verdicts``. Verdicts look at the group with the least room only: a group without a
limit kills nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from nativeleak.process.charges import GroupCharge
from nativeleak.triage.lines import Ledger
from nativeleak.triage.statement import PROVEN, Verdict
from nativeleak.units import format_bytes

_MIN_BYTES: Final = 16 << 20
_MIN_SHARE: Final = 0.15
_CACHE_SHARE: Final = 0.4
_OTHERS_SHARE: Final = 0.3
_NEAR: Final = 0.8
_MAX_PARTS: Final = 5
_WORDS: Final = {
    "pagetables": "page tables",
    "sec_pagetables": "page tables of devices",
    "kernel_stack": "kernel stacks",
    "percpu": "per-CPU data",
}
_CAUSES: Final = {
    "slab": "slab: files, directory entries and sockets that the kernel remembers: many files or connections",
    "pagetables": "page tables: much address space that is touched thinly, or many processes",
    "kernel_stack": "kernel stacks: 16 KiB for each thread",
    "percpu": "per-CPU data: many control groups, or BPF maps",
}


def tightest_group(ledger: Ledger) -> GroupCharge | None:
    """The group with the least room below its limit, page cache counted as room; None where none has a limit."""
    limited = [group for group in ledger.charges if group.limit is not None]
    return min(limited, key=lambda group: (group.limit or 0) - group.usage + (group.page_cache or 0), default=None)


def charge_words(group: GroupCharge) -> str:
    """What a group is charged for, by kind; kinds that the kernel does not say are left out."""
    kinds = (
        ("anonymous", group.anonymous),
        ("page cache", group.page_cache),
        ("shared memory", group.shared_memory),
        (_kernel_name(group), group.kernel),
        ("TCP buffers" if group.version == 1 else "socket buffers", group.sockets),
        ("swapped out", group.swap),
    )
    said = [f"{name} {format_bytes(n_bytes)}" for name, n_bytes in kinds if n_bytes]
    return ", ".join(said) or "nothing"


def _kernel_name(group: GroupCharge) -> str:
    return "kernel memory" if group.version == 1 else "kernel"


def group_lines(ledger: Ledger) -> Iterator[str]:
    """All groups of the process, one line each, and one for the parts of the kernel's memory."""
    for group in ledger.charges:
        limit = "no limit" if group.limit is None else f"limit {format_bytes(group.limit)}"
        more = "".join(
            f", {name} {format_bytes(n_bytes)}" for name, n_bytes in group.limits.items() if n_bytes != group.limit
        )
        yield f"cgroup {group.path}: {format_bytes(group.usage)}, {limit}{more}: {charge_words(group)}"
        if group.kernel_parts:
            parts = ", ".join(f"{_WORDS.get(name, name)} {format_bytes(n)}" for name, n in group.kernel_parts)
            yield f"cgroup {group.path}: kernel: {parts}"


def group_line(ledger: Ledger) -> str | None:
    """The group with the least room, for the first screen; None without one."""
    group = tightest_group(ledger)
    return None if group is None else f"control group: {format_bytes(group.usage)} charged: {charge_words(group)}"


def groups_json(ledger: Ledger) -> list[dict[str, Any]]:
    """For programs; null: the kernel does not say."""
    return [
        {
            "path": str(group.path),
            "version": group.version,
            "limits": dict(group.limits),
            "usage_bytes": group.usage,
            "anonymous_bytes": group.anonymous,
            "page_cache_bytes": group.page_cache,
            "shared_memory_bytes": group.shared_memory,
            "kernel_bytes": group.kernel,
            "kernel_parts": dict(group.kernel_parts),
            "sockets_bytes": group.sockets,
            "swap_bytes": group.swap,
            "n_processes": group.n_processes,
        }
        for group in ledger.charges
    ]


def kernel_memory(ledger: Ledger) -> Verdict | None:
    """The kernel's own memory is a large part of what counts against the limit."""
    group = tightest_group(ledger)
    if group is None or not group.kernel:
        return None
    n_bytes = group.kernel + (group.sockets or 0 if group.version == 2 else 0)
    if n_bytes < _MIN_BYTES or n_bytes < _MIN_SHARE * group.usage:
        return None
    parts = [(name, size) for name, size in group.kernel_parts if size >= _MIN_SHARE * n_bytes]
    evidence = [f"{_WORDS.get(name, name)} {format_bytes(size)}" for name, size in parts]
    if group.version == 2 and group.sockets:
        evidence.append(f"socket buffers {format_bytes(group.sockets)}")
    causes = tuple(_CAUSES[name] for name, _ in parts if name in _CAUSES)
    return Verdict(
        "group-kernel-memory",
        PROVEN,
        f"The kernel itself holds {format_bytes(n_bytes)} of the {format_bytes(group.usage)} that the control group is "
        "charged for.",
        (", ".join(evidence[:_MAX_PARTS]) or "this version of control groups does not say its parts",
         f"it is in no process's resident memory; group {group.path}"),
        causes[:2] or ("slabtop -o -s c | head    shows the kernel's own caches of the whole machine",),
        n_bytes,
    )  # fmt: skip


def page_cache(ledger: Ledger) -> Verdict | None:
    """Page cache makes the group look full."""
    group = tightest_group(ledger)
    if group is None or group.limit is None or not group.page_cache:
        return None
    n_bytes = group.page_cache
    if n_bytes < _MIN_BYTES or n_bytes < _CACHE_SHARE * group.usage or group.usage < _NEAR * group.limit:
        return None
    return Verdict(
        "group-page-cache",
        PROVEN,
        f"Page cache is {format_bytes(n_bytes)} of the {format_bytes(group.usage)} that the control group is charged "
        "for: no leak.",
        (f"the kernel gives it back before it kills; without it {format_bytes(group.usage - n_bytes)} of "
         f"{format_bytes(group.limit)} are used",),
        ("Let alarms look at the working set: usage without inactive_file of memory.stat.",),
        n_bytes,
    )  # fmt: skip


def shared_memory(ledger: Ledger) -> Verdict | None:
    """Files of tmpfs that this process does not map count against the limit."""
    group = tightest_group(ledger)
    if group is None or not group.shared_memory:
        return None
    n_bytes = group.shared_memory - ledger.resident("shared")
    if n_bytes < _MIN_BYTES or n_bytes < _MIN_SHARE * group.usage:
        return None
    return Verdict(
        "group-shared-memory",
        PROVEN,
        f"Shared memory that this process does not map holds {format_bytes(n_bytes)} of the control group's "
        f"{format_bytes(group.usage)}.",
        ("files in tmpfs (/dev/shm, /tmp of a container) or System V segments; the kernel never gives them back",),
        ("du -sh /dev/shm /tmp; ipcs -m    inside of the container",),
        n_bytes,
    )


def other_processes(ledger: Ledger) -> Verdict | None:
    """Most of the group's memory is that of other processes."""
    group = tightest_group(ledger)
    if group is None or group.anonymous is None:
        return None
    n_bytes = group.anonymous - ledger.anonymous
    if n_bytes < _MIN_BYTES or n_bytes < _OTHERS_SHARE * group.usage:
        return None
    number = f"; {group.n_processes:,} processes are in it" if group.n_processes and group.n_processes > 1 else ""
    return Verdict(
        "group-other-processes",
        PROVEN,
        f"Other processes hold {format_bytes(n_bytes)} of the {format_bytes(group.usage)} that the control group is "
        "charged for.",
        (f"anonymous memory: the group {format_bytes(group.anonymous)}, this process "
         f"{format_bytes(ledger.anonymous)}{number}",),
        (f"nativeleak triage --cgroup {group.path.name}    lists the processes of the group, the largest first",),
        n_bytes,
    )  # fmt: skip
