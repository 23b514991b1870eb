"""What one hit of an allocator probe costs on this machine, measured on this very process."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence
from typing import Final

from nativeleak.engines.bpf import abi
from nativeleak.engines.bpf.engine import BpfEngine
from nativeleak.probes.placement import PlacedProbe

_CALIBRATION_ROUNDS: Final = 5
_CALIBRATION_PAIRS: Final = 100
_CALIBRATION_BYTES: Final = 1009
_HITS_A_PAIR: Final = 3
"""Entry and return of malloc, entry of free."""
_SLOT: Final = abi.MAX_TARGETS - 1
"""The command line takes one target less."""


def measure_hit_cost(engine: BpfEngine, placed: Sequence[PlacedProbe], path: str) -> float:
    """Nanoseconds that a hit costs.

    Everything a target's call goes through is done for real, with a stack as shallow as ours. To be called before any
    window is open: our own calls count in the counters.

    Args:
        placed: Where malloc and free of our own C library are.
        path: That library.

    Raises:
        CannotTraceError: The probes cannot be attached.
    """
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    library.free.restype, library.free.argtypes = None, (ctypes.c_void_p,)
    untraced_ns = _time_pairs(library)
    engine.add_target(_SLOT, os.getpid(), abi.Target(max_depth=abi.MAX_FRAMES, unwind=abi.Unwind.FP))
    with engine.attached_for_now():
        engine.attach_functions(_SLOT, os.getpid(), path, path, placed)
        engine.open_window(_SLOT, time.monotonic_ns())
        traced_ns = _time_pairs(library)
        engine.close_window(_SLOT)
    engine.forget_target(_SLOT)
    return max(0.0, traced_ns - untraced_ns) / _HITS_A_PAIR


def _time_pairs(library: ctypes.CDLL) -> float:
    """Nanoseconds for a malloc and a free called from here: the median of some rounds."""
    rounds = []
    for _ in range(_CALIBRATION_ROUNDS):
        start_ns = time.perf_counter_ns()
        for _ in range(_CALIBRATION_PAIRS):
            library.free(library.malloc(_CALIBRATION_BYTES))
        rounds.append((time.perf_counter_ns() - start_ns) / _CALIBRATION_PAIRS)
    return sorted(rounds)[len(rounds) // 2]
