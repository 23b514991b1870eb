"""How the watched process ended, in words and for programs."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any

from nativeleak.inputs.oom.reader import in_words
from nativeleak.inputs.oom.witness import Kill, OomWitness
from nativeleak.model import TargetEnd
from nativeleak.process.exit_status import read_exit_status, signal_of


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a process.

    Attributes:
        end: As in the report of a trace.
        text: One sentence.
        status: As wait(2) gives it; None where the kernel does not say.
        kill: The OOM kill; None without one.
    """

    end: TargetEnd
    text: str
    status: int | None = None
    kill: Kill | None = None

    def as_json(self) -> dict[str, Any]:
        """For the last object of the JSON lines."""
        event = self.kill.event if self.kill is not None else None
        return {
            "target_end": self.end.value,
            "text": self.text,
            "signal": signal_of(self.status) or None,
            "oom": event.as_json() if event is not None else None,
        }


STILL_RUNNING = Ending(TargetEnd.RUNNING, "it goes on")


def read_ending(pidfd: int, witness: OomWitness) -> Ending:
    """How a process ended that has just ended.

    Args:
        pidfd: Of the process.
        witness: That was there before.
    """
    status = read_exit_status(pidfd)
    number = signal_of(status)
    was_killed = None if status is None else number == signal.SIGKILL
    kill = witness.look(was_killed=was_killed)
    if kill is not None and kill.event is not None:
        return Ending(TargetEnd.OOM_KILLED, f"killed by the OOM killer: {in_words(kill.event)}", status, kill)
    if kill is not None:
        text = f"killed by the OOM killer, most likely: {kill.group} has counted a kill; the kernel's log says no more"
        return Ending(TargetEnd.OOM_KILLED, text, status, kill)
    if number:
        name = signal.Signals(number).name if number in {each.value for each in signal.Signals} else str(number)
        return Ending(TargetEnd.KILLED, f"ended by signal {name}", status)
    if status is not None:
        return Ending(TargetEnd.EXITED, f"ended by itself, status {status >> 8 & 255}", status)
    return Ending(TargetEnd.EXITED, "ended; this kernel does not say how")
