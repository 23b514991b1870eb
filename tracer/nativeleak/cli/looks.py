"""Looks at the targets before and after a trace: by children, so that the recorder loads nothing for them."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from typing import Final

from nativeleak import children
from nativeleak.cli.final_report import limiting
from nativeleak.engines.options import TraceOptions
from nativeleak.process.cgroups import tightest_shared_group
from nativeleak.process.shortage import describe_room
from nativeleak.units import format_bytes, format_duration

_LEAST_BYTES: Final = 80 << 20
"""What a look at a small heap takes: measured 50 MiB resident, 64 to 80 MiB of data (RLIMIT_DATA).

Each recorded block adds 100 bytes: measured 142 MiB resident at a million.
"""
_ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1"}
_MAX_WHY: Final = 300


def room_for_a_look(options: TraceOptions) -> tuple[int, str]:
    """The most memory of a look, 0 for as much as it wants; and why there is too little, empty where there is enough.

    In a memory group that a target shares the look gets what is free, so that it never pushes the target out.
    """
    bound_bytes = options.budget.max_memory_bytes
    least = f"a look takes at least {format_bytes(_LEAST_BYTES)}"
    if bound_bytes and bound_bytes < _LEAST_BYTES:
        return bound_bytes, f"{least}, more than --max-memory {format_bytes(bound_bytes)}"
    group = tightest_shared_group(options.pids)
    if group is None:
        return bound_bytes, ""
    if group.room_bytes < _LEAST_BYTES:
        return bound_bytes, f"{least}, and {describe_room(group)}, which the target shares"
    return min(bound_bytes or group.room_bytes, group.room_bytes), ""


def look(module: str, arguments: Sequence[str], timeout_s: float, bound_bytes: int) -> tuple[bytes, str]:
    """Run a module of ours in a process of its own.

    Args:
        module: Its name.
        arguments: What it gets.
        timeout_s: It is ended then.
        bound_bytes: The most memory that it may take; 0 for any.

    Returns:
        What it printed, and why it failed; empty where it did not.
    """
    try:
        done = children.run(
            children.python_module(module, *arguments),
            env=children.environment(**_ENVIRONMENT),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=timeout_s,
            preexec_fn=limiting(bound_bytes) if bound_bytes else None,
        )
    except subprocess.TimeoutExpired:
        return b"", f"the look took longer than {format_duration(timeout_s)}"
    except OSError as error:
        return b"", f"the look could not be started: {error.strerror}"
    if done.returncode < 0:
        return b"", f"the look was ended by {signal.strsignal(-done.returncode) or f'signal {-done.returncode}'}"
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return b"", f"the look failed: {said[-1][:_MAX_WHY]}" if said else f"it ended with status {done.returncode}"
    return done.stdout, ""
