"""What a trace is to do: made once from the command line, then handed down whole.

``Limits``, the sizes of the kernel's maps, stands beside the maps in ``bpf/kernel/programs.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from nativeleak.engines.bpf.kernel.programs import AttachMode, Limits, SyscallHooks
from nativeleak.engines.registry import AUTO
from nativeleak.probes.families import Affix
from nativeleak.probes.returns import Returns


class Unwind(StrEnum):
    """How native stacks are walked."""

    AUTO = "auto"
    FP = "fp"
    TABLES = "tables"


@dataclass(frozen=True, slots=True)
class Budget:
    """What a trace may cost, and which blocks it keeps in order to cost less.

    Attributes:
        max_overhead_pct: CPU time of the probes, in percent of the targets' CPU time, or of 0.4 of a core where they
            use less; 0: no limit. See ``bpf/budget/purse.py``.
        max_blip_s: Longest stretch in which probes take more than a fifth of the time of the targets' busy threads;
            0: none.
        max_memory_bytes: Memory of the recorder and its kernel maps together; 0: as the limits of the maps allow.
        sample_bytes: Mean bytes from one sampled heap block to the next; 0: every block is kept.
        sample_above: Blocks of this size or more are always kept; 0: as ``sample_bytes``.
        chooses_distance: Blocks are sampled at a distance that the budget pays for; ``sample_bytes`` is 0 then.
    """

    max_overhead_pct: float = 0.0
    max_blip_s: float = 0.1
    max_memory_bytes: int = 0
    sample_bytes: int = 0
    sample_above: int = 0
    chooses_distance: bool = False


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """What the command line asks for. Sizes in bytes, times in seconds.

    Attributes:
        duration_s: None: until interrupted or the target ends.
        maps_only: No allocator probes: mmap and brk only.
        modes: Ways to attach probes that may be tried.
        calls: Ways to trace system calls that may be tried.
        given: Options as given, for the recording.
        engine: A value of ``--engine``.
        inputs: Output of other programs to read instead of tracing.
        returns: How the ends of allocator calls are seen.
        keeps_blocks: Record the addresses of outstanding heap blocks at the end.
        allocators: Families of functions that are allocators by the user's word.
    """

    pids: tuple[int, ...]
    output: Path
    duration_s: float | None = None
    interval_s: float = 10.0
    min_size: int = 0
    max_size: int = 0
    budget: Budget = field(default_factory=Budget)
    max_depth: int = 127
    unwind: Unwind = Unwind.AUTO
    limits: Limits = field(default_factory=Limits)
    maps_only: bool = False
    overwrite: bool = False
    keeps_blocks: bool = False
    modes: tuple[AttachMode, ...] = tuple(AttachMode)
    calls: tuple[SyscallHooks, ...] = tuple(SyscallHooks)
    given: dict[str, str] = field(default_factory=dict)
    engine: str = AUTO
    inputs: tuple[Path, ...] = ()
    returns: Returns = Returns.AUTO
    allocators: tuple[Affix, ...] = ()
