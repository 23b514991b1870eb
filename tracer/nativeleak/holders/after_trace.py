"""The look at the end of a trace, as a program of its own: who holds the recorded blocks, added to the recording.

Arguments: the recording, and the seconds that all looks together may take. Where a target cannot be looked at, the
recording says why.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from nativeleak.errors import EXIT_FAILURE, NativeleakError
from nativeleak.holders.lost import LOST
from nativeleak.holders.result import HoldersReport
from nativeleak.holders.run import Options, find_who_holds
from nativeleak.model import Look, SiteFate, TargetEnd, TargetInfo
from nativeleak.recording import open_recording
from nativeleak.recording.fates import add_look


def look_after_trace(path: Path, budget_s: float) -> None:
    """Look at the targets of a recording that still run.

    Args:
        path: The recording, finished.
        budget_s: Seconds for all targets together.

    Raises:
        NativeleakError: The recording cannot be read or written.
    """
    with open_recording(path) as recording:
        targets, has_blocks = recording.targets, any(chunk.columns for chunk in recording.blocks())
        ended = recording.info.started + recording.elapsed_s
    deadline = time.monotonic() + budget_s
    for n_before, target in enumerate(targets):
        left_s = (deadline - time.monotonic()) / (len(targets) - n_before)
        after_s = max(0.0, time.time() - ended)
        if has_blocks:
            look, fates = _look(path, target, left_s, after_s)
        else:
            look, fates = _no_look(target, after_s, "no addresses of blocks were recorded"), []
        add_look(path, look, fates)


def _look(path: Path, target: TargetInfo, budget_s: float, after_s: float) -> tuple[Look, list[SiteFate]]:
    if target.end is not TargetEnd.RUNNING:
        return _no_look(target, after_s, f"{target.comm} (PID {target.pid}) ended during the trace"), []
    try:
        report = find_who_holds(target.pid, Options(budget_s=budget_s, recording=path, with_causes=False))
    except NativeleakError as error:
        return _no_look(target, after_s, error.what), []
    return _look_of(report, target, after_s), report.fates


def _no_look(target: TargetInfo, after_s: float, why: str) -> Look:
    return Look(target.slot, after_s, why_not=why)


def _look_of(report: HoldersReport, target: TargetInfo, after_s: float) -> Look:
    lost = report.grade(LOST)
    n_unlisted = report.recorded.n_unlisted if report.recorded is not None else 0
    why = "" if report.lost is not None else "which blocks are lost is not known: no whole scan within --budget"
    return Look(target.slot, after_s, lost.certainty if lost is not None else "", why, n_unlisted)


def main(arguments: list[str]) -> int:
    """Run it; returns 0 where the recording says what was found, or why nothing was.

    SIGTERM ends it in order: what is being added to the recording is taken back.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        look_after_trace(Path(arguments[0]), float(arguments[1]))
    except NativeleakError as error:
        print(error.what, file=sys.stderr)  # noqa: T201
        return error.exit_status
    except MemoryError:
        print("out of memory", file=sys.stderr)  # noqa: T201
        return EXIT_FAILURE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
