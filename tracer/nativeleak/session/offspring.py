"""The targets' child processes during a trace: their resident memory, and which of them hold as much as the target."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from nativeleak.errors import NativeleakError
from nativeleak.model import Child, TargetInfo
from nativeleak.process.descendants import read_descendants, read_title
from nativeleak.process.procfs import read_rss, read_start_ticks
from nativeleak.units import format_bytes

_MIN_GROWTH_BYTES: Final = 256 << 10
"""Less growth is noise."""
_MAX_ENDED: Final = 256
_MAX_NAMED: Final = 5


@dataclass(slots=True)
class _Seen:
    title: str
    first_bytes: int
    last_bytes: int
    start_ticks: int
    is_alive: bool = True


class Offspring:
    """Looks at the processes that descend from the targets.

    Args:
        pids: The targets; children that are traced too are left out, and this process.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._left_out = {*pids, os.getpid()}
        self._seen: dict[int, dict[int, _Seen]] = {pid: {} for pid in pids}
        self._target_rss: dict[int, tuple[int, int]] = {}

    def look(self) -> None:
        """Read the resident memory of all of them now."""
        for pid, seen in self._seen.items():
            try:
                rss_bytes = read_rss(pid)
                self._target_rss[pid] = (self._target_rss.get(pid, (rss_bytes, 0))[0], rss_bytes)
            except NativeleakError:
                continue  # its children are init's now: what is known of them stays
            alive = [child for child in read_descendants(pid) if child not in self._left_out]
            for child in alive:
                _look_at(child, seen)
            for child in seen.keys() - set(alive):
                seen[child].is_alive = False
            ended = [child for child, each in seen.items() if not each.is_alive]
            ended.sort(key=lambda child: seen[child].last_bytes - seen[child].first_bytes)
            for child in ended[:-_MAX_ENDED]:
                del seen[child]

    def of(self, pid: int) -> tuple[Child, ...]:
        """Those of one target, largest growth first."""
        first, last = self._target_rss.get(pid, (0, 0))
        least_growth = max(_MIN_GROWTH_BYTES, last - first)
        children = []
        for child, each in self._seen.get(pid, {}).items():
            growth = each.last_bytes - each.first_bytes
            as_much = growth >= least_growth or each.last_bytes >= max(last, 1)
            children.append(Child(child, each.title, each.last_bytes, growth, each.is_alive, as_much))
        return tuple(sorted(children, key=lambda child: (-child.growth_bytes, -child.rss_bytes, child.pid)))

    def added_to(self, targets: Sequence[TargetInfo]) -> tuple[TargetInfo, ...]:
        """The targets with their children."""
        return tuple(replace(target, children=self.of(target.pid)) for target in targets)

    def warning(self, pid: int) -> str:
        """A sentence on the children that hold as much as a target; empty without any."""
        chosen = sorted((c for c in self.of(pid) if c.holds_as_much and c.is_alive), key=lambda c: -c.rss_bytes)
        if not chosen:
            return ""
        named = ", ".join(f"{c.pid} ({c.comm}, {format_bytes(c.rss_bytes)})" for c in chosen[:_MAX_NAMED])
        more = f" and {len(chosen) - _MAX_NAMED} more" if len(chosen) > _MAX_NAMED else ""
        count = "1 child that holds" if len(chosen) == 1 else f"{len(chosen)} children that hold"
        return f"PID {pid} has {count} as much memory or more: {named}{more}; trace one: nativeleak trace -p PID"


def _look_at(pid: int, seen: dict[int, _Seen]) -> None:
    try:
        ticks, rss_bytes, title = read_start_ticks(pid), read_rss(pid), read_title(pid)
    except (NativeleakError, ValueError):
        return
    known = seen.get(pid)
    if known is None or known.start_ticks != ticks:
        seen[pid] = _Seen(title, rss_bytes, rss_bytes, ticks)
    else:
        known.title, known.last_bytes, known.is_alive = title, rss_bytes or known.last_bytes, rss_bytes > 0
