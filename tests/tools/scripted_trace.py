"""``nativeleak`` with a governor that decides nothing by itself: at each SIGUSR1 it takes the next plan of a list.

usage: scripted_trace.py LEVEL[:BYTES],LEVEL[:BYTES],... trace ARGUMENTS...
The first plan is the one to begin with. So a test has every change of level at the moment it wants, on any machine.
"""

from __future__ import annotations

import math
import signal
import sys

from nativeleak.cli.main import main
from nativeleak.engines.bpf import engine
from nativeleak.engines.bpf.budget import governor
from nativeleak.engines.bpf.budget.load import Load, Plan
from nativeleak.model import Level


class ScriptedGovernor(governor.Governor):
    """Takes the plans of the command line in their order."""

    plans: list[Plan]
    n_signals = 0

    @property
    def due_s(self) -> float:
        """Signals alone decide."""
        return math.inf

    def begin(self, load: Load) -> governor.Step:
        """The first plan."""
        del load
        self.plan = self.plans.pop(0)
        return governor.Step(self.plan)

    def decide(self, now_s: float, passed_s: float, load: Load) -> governor.Step | None:
        """The next plan, once for each signal."""
        del now_s, passed_s, load
        if not ScriptedGovernor.n_signals:
            return None
        ScriptedGovernor.n_signals -= 1
        self.plan = self.plans.pop(0)
        return governor.Step(self.plan, why="as the script says")


def _parse(text: str) -> Plan:
    level, _, n_bytes = text.partition(":")
    return Plan(Level(level), int(n_bytes or 0))


def _count(*_: object) -> None:
    ScriptedGovernor.n_signals += 1


if __name__ == "__main__":
    ScriptedGovernor.plans = [_parse(text) for text in sys.argv[1].split(",")]
    signal.signal(signal.SIGUSR1, _count)
    engine.Governor = ScriptedGovernor  # type: ignore[misc]
    sys.argv = ["nativeleak", *sys.argv[2:]]
    sys.exit(main())
