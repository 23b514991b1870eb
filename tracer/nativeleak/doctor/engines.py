"""Which engine ``trace`` would take, and why none before it.

Scope: a conclusion from the other checks for BPF, a look of its own for the others; nothing is attached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from nativeleak.doctor.checks import ENGINE, Check, State
from nativeleak.engines.choose import check_bcc, check_strace
from nativeleak.engines.names import LOST, EngineName
from nativeleak.engines.pmap.engine import read_smaps
from nativeleak.engines.strace.engine import refuse_traced
from nativeleak.errors import NativeleakError
from nativeleak.process.check import check_target

_OF_LIBBPF: Final = ("kernel", "BTF", "BPF programs")
"""Checks whose failure says nothing about BCC."""


def engine_check(checks: Sequence[Check], pid: int | None) -> Check:
    """What ``--engine auto`` comes to.

    Args:
        checks: All others, of the machine and, with ``pid``, of the process.
        pid: The process; None where the question is only what the machine can do.
    """
    refusals: list[str] = []
    for engine, why in _obstacles(checks, pid):
        if not why:
            return _taken(engine, refusals, pid)
        refusals.append(f"{engine} ({why})")
    return Check(ENGINE, State.FAIL, f"none can trace it: {'; '.join(refusals)}", "run as root")


def _taken(engine: EngineName, refusals: Sequence[str], pid: int | None) -> Check:
    name = ENGINE if pid is not None else "engines"
    if engine is EngineName.LIBBPF:
        return Check(name, State.OK, f"auto takes {engine}")
    whom = "" if pid is not None else ", for processes that it may read"
    detail = f"auto takes {engine}{whom}: not {', not '.join(refusals)}; lost by it: {LOST[engine]}"
    return Check(name, State.WARN, detail)


def _obstacles(checks: Sequence[Check], pid: int | None) -> Iterator[tuple[EngineName, str]]:
    failed = [check.name for check in checks if check.state is State.FAIL]
    yield EngineName.LIBBPF, ", ".join(failed)
    others = [name for name in failed if name not in _OF_LIBBPF]
    yield EngineName.BCC, ", ".join(others) or _obstacle(check_bcc)
    yield EngineName.STRACE, _obstacle(lambda: _try_strace(pid))
    yield EngineName.PMAP, _obstacle(lambda: _try_pmap(pid))


def _obstacle(check: Callable[[], None]) -> str:
    try:
        check()
    except NativeleakError as error:
        return error.what.rpartition(" failed: ")[2]
    return ""


def _try_strace(pid: int | None) -> None:
    check_strace(is_forced=False)
    if pid is not None:
        check_target(pid, any_width=True)
        refuse_traced(pid)


def _try_pmap(pid: int | None) -> None:
    if pid is not None:
        check_target(pid, any_width=True)
        read_smaps(pid)
