"""A verdict about child processes that hold as much as the process: a PID file names a master, its workers grow.

Scope: one look at resident memory, in which pages that processes share count for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nativeleak.model import Child
from nativeleak.session.offspring import Offspring
from nativeleak.triage.lines import Ledger
from nativeleak.triage.statement import PROVEN, Verdict
from nativeleak.units import format_bytes

_MAX_NAMED: Final = 3
_MIN_BYTES: Final = 1 << 20


def read_children(pid: int) -> Sequence[Child]:
    """The processes that descend from a process and hold as much as it or more, the largest first."""
    offspring = Offspring([pid])
    offspring.look()
    found = [child for child in offspring.of(pid) if child.holds_as_much and child.rss_bytes >= _MIN_BYTES]
    return sorted(found, key=lambda child: -child.rss_bytes)


def children(ledger: Ledger) -> Verdict | None:
    """Others of its processes hold as much or more."""
    found = ledger.children
    if not found:
        return None
    n_bytes = sum(child.rss_bytes for child in found)
    said = "1 child process holds" if len(found) == 1 else f"{len(found)} child processes hold"
    each = "" if len(found) == 1 else ", each"
    named = ", ".join(f"{child.pid} ({child.comm}) {format_bytes(child.rss_bytes)}" for child in found[:_MAX_NAMED])
    return Verdict(
        "children",
        PROVEN,
        f"{said} as much as this process or more{each}: this may be the master of a server.",
        (f"{named}; pages that they share count for each",),
        (f"nativeleak triage -p {found[0].pid}",),
        n_bytes,
    )
