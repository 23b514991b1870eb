"""What one hit of an allocator probe costs on this machine, measured on a child process that does nothing else.

The child is a copy of this process, so its C library is ours; the host's programs have the same, those of a container
perhaps not. A target whose functions the kernel has to single-step is reckoned with what that costs in our library.
Caveat: timings on a busy machine are rather high than low, and stacks are as shallow as ours. What a target's own
stacks cost is measured while it is traced (``bpf.run_statistics``).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from nativeleak.engines.bpf.budget.load import Costs
from nativeleak.engines.bpf.kernel import abi, bpf
from nativeleak.engines.bpf.kernel.programs import Programs
from nativeleak.probes.placement import PlacedProbe, Placement
from nativeleak.probes.returns import Plan

_ROUNDS: Final = 5
_PAIRS: Final = 100
_BYTES: Final = 1009
_HITS_A_PAIR: Final = 3
"""Entry and return of malloc, entry of free."""
_SLOT: Final = abi.MAX_TARGETS - 1
"""The command line takes one target less."""
_DOUBLE: Final = struct.Struct("=d")


@dataclass(frozen=True, slots=True)
class Calibration:
    """What hits cost where the kernel emulates the probed instruction, and what single-stepping adds, nanoseconds."""

    costs: Costs
    stepped_ns: float

    @property
    def hit_ns(self) -> float:
        """A hit of the exact level, on average over entry, return and free."""
        costs = self.costs
        return (costs.call_ns + costs.return_ns + costs.free_ns) / _HITS_A_PAIR + costs.run_ns

    def of(self, *, calls_stepped: bool, frees_stepped: bool) -> Costs:
        """Costs in a target some of whose functions have to be single-stepped."""
        return replace(
            self.costs,
            call_ns=self.costs.call_ns + self.stepped_ns * calls_stepped,
            free_ns=self.costs.free_ns + self.stepped_ns * frees_stepped,
        )


def calibrate(engine: Programs, pair: Plan, path: str) -> Calibration:
    """Measure, in some 50 ms. Everything a target's call goes through is done for real.

    To be called before any window is open: the child's calls count in the counters.

    Args:
        pair: How malloc and free of our own C library are probed. An exit is hit also when the return is not wanted:
            its cost is a part of that of the entry.
        path: That library.

    Raises:
        CannotTraceError: The probes cannot be attached.
        OSError: No child process can be made.
    """
    with _child() as child:
        plain_ns = child.time_pairs()
        engine.add_target(_SLOT, child.pid, abi.Target(max_depth=abi.MAX_FRAMES, unwind=abi.Unwind.FP))
        try:
            with engine.attached_for_now():
                engine.attach_functions(_SLOT, child.pid, path, path, pair)
                engine.count_only(_SLOT)
                counted_ns = child.time_pairs() - plain_ns
                counting_ns = _run_ns(engine, child)
                engine.open_window(_SLOT, time.monotonic_ns())
                traced_ns = child.time_pairs() - plain_ns
                run_ns = _run_ns(engine, child)
                engine.close_window(_SLOT)
                stepped_ns = _stepped_ns(engine, child, pair.placed, path)
        finally:
            engine.forget_target(_SLOT)
    # What a program that only counts takes is no part of the trap.
    entry_ns = max(0.0, counted_ns / 2 - counting_ns)
    return Calibration(
        Costs(
            call_ns=entry_ns,
            free_ns=entry_ns,
            return_ns=max(0.0, traced_ns - 2 * entry_ns - _HITS_A_PAIR * run_ns),
            run_ns=run_ns,
            light_run_ns=run_ns / 2,
        ),
        max(0.0, stepped_ns - entry_ns) if stepped_ns else 0.0,
    )


def _run_ns(engine: Programs, child: _Child) -> float:
    """What our programs take of a hit; 0.0 where the kernel does not say, and all of it counts as the trap then."""
    try:
        statistics = bpf.run_statistics()
    except OSError:
        return 0.0
    try:
        before_ns, n_before = engine.program_times()
        child.time_pairs()
        after_ns, n_after = engine.program_times()
    finally:
        os.close(statistics)
    return (after_ns - before_ns) / (n_after - n_before) if n_after > n_before else 0.0


def _stepped_ns(engine: Programs, child: _Child, placed: Sequence[PlacedProbe], path: str) -> float:
    """What a hit costs where the kernel single-steps the instruction: at the entry of a function that we avoid.

    0.0 where our library has no such function: then neither have most targets.
    """
    at_entry = [
        probe._replace(placement=Placement(0, emulated=False, instruction=""))
        for probe in placed
        if probe.point.spec.frees and probe.placement.offset
    ]
    if not at_entry:
        return 0.0
    without_ns = child.time_pairs()
    engine.attach_functions(_SLOT, child.pid, path, path, Plan(tuple(at_entry)))
    return max(0.0, child.time_pairs() - without_ns)


class _Child:
    """A process that allocates when told to."""

    def __init__(self, pid: int, commands: int, answers: int) -> None:
        self.pid, self._commands, self._answers = pid, commands, answers

    def time_pairs(self) -> float:
        """Nanoseconds that it takes for a malloc and a free.

        Raises:
            OSError: It is gone.
        """
        os.write(self._commands, b"t")
        answer = os.read(self._answers, _DOUBLE.size)
        if len(answer) != _DOUBLE.size:
            raise OSError(0, "the child process that measures what probes cost has ended")
        return float(_DOUBLE.unpack(answer)[0])


@contextlib.contextmanager
def _child() -> Iterator[_Child]:
    commands_read, commands = os.pipe()
    answers, answers_write = os.pipe()
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    library.free.restype, library.free.argtypes = None, (ctypes.c_void_p,)
    pid = os.fork()
    if not pid:
        try:
            os.close(commands)
            os.close(answers)
            while os.read(commands_read, 1):
                os.write(answers_write, _DOUBLE.pack(_time_pairs(library)))
        finally:
            os._exit(0)
    os.close(commands_read)
    os.close(answers_write)
    try:
        yield _Child(pid, commands, answers)
    finally:
        # The end of its commands is the end of it.
        os.close(commands)
        os.close(answers)
        os.waitpid(pid, 0)


def _time_pairs(library: ctypes.CDLL) -> float:
    """Nanoseconds for a malloc and a free called from here: the least of some rounds, since interruptions only add."""
    rounds = []
    for _ in range(_ROUNDS):
        start_ns = time.perf_counter_ns()
        for _ in range(_PAIRS):
            library.free(library.malloc(_BYTES))
        rounds.append((time.perf_counter_ns() - start_ns) / _PAIRS)
    return min(rounds)
