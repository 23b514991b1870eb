"""Who the kernel's OOM killer takes first: never the target because of us.

Source: oom_badness() in mm/oom_kill.c; proc(5), /proc/PID/oom_score_adj.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nativeleak.process.cgroups import shared_groups

_MAX_ADJ: Final = 1000


def read_oom_score_adj(pid: int | str) -> int:
    """How much likelier than by its size a process is to be killed, -1000 to 1000; 0 where it cannot be read."""
    try:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def prefer_as_oom_victim(pids: Sequence[int]) -> int:
    """Raise our own oom_score_adj above that of each process; returns what it is now. Our children inherit it.

    It is never lowered. In a shortage of the whole machine a step above is enough, and more would have us killed first
    in every one, also one that is not ours, and just then the trace is wanted. In a memory group with a limit that we
    share with a target a step is a thousandth of the limit, less than a target's size: there it becomes the most.
    """
    own = read_oom_score_adj("self")
    wanted = min(_MAX_ADJ, max((read_oom_score_adj(pid) + 1 for pid in pids), default=own))
    if shared_groups(os.getpid(), pids):
        wanted = _MAX_ADJ
    if wanted > own:
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(wanted), encoding="ascii")
    return read_oom_score_adj("self")
