"""What other tracers, or earlier traces, have left in the kernel."""

from __future__ import annotations

from collections.abc import Iterator

from nativeleak.doctor.checks import Check, State
from nativeleak.process.kernel_log import count_leaked_uprobes


def check_leaked_uprobes() -> Iterator[Check]:
    """Probes that the kernel could not remove; they stay until the machine restarts."""
    n = count_leaked_uprobes()
    if n:
        yield judge_leaked_uprobes(n)


def judge_leaked_uprobes(n: int) -> Check:
    """The check for so many probes."""
    return Check(
        "leaked uprobes",
        State.OK,
        f"the kernel's log names {n} that it could not remove: a tracer was killed while it attached",
        "if attaching fails with `Invalid argument`, the place is taken until the machine restarts",
    )
