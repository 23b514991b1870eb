"""What an engine is: the seam between the loop of a trace (``session/``) and all that observes a process.

To add an engine: a class with these members, and a row in ``registry.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from nativeleak.model import Coverage, Limit, MemoryLine, Snapshot, Stack, TargetInfo


@dataclass(frozen=True, slots=True)
class Row:
    """One call site of the live view.

    Attributes:
        count: Outstanding allocations, or mappings where the engine sees no allocations.
    """

    outstanding_bytes: int
    count: int
    thread: str
    function: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A trace at one moment, as the live view and the progress lines show it.

    Attributes:
        rss_bytes: Resident memory of the targets together, 0 once they are gone.
        outstanding_bytes: Of all sites.
        outstanding_count: Allocations; None where the engine sees no single allocations.
        n_sites: Call sites; None where the engine does not count them along the way.
        rows: Sites with the most outstanding bytes, largest first.
    """

    rss_bytes: int
    outstanding_bytes: int
    outstanding_count: int | None = None
    n_sites: int | None = None
    rows: tuple[Row, ...] = ()


class Sink(Protocol):
    """Where an engine puts its findings between two snapshots.

    They are pushed and not asked for: the stacks before the last snapshot may be many, and are written a few at a time.
    """

    def add_stacks(self, stacks: Sequence[Stack]) -> None:
        """Take stacks that were seen for the first time."""

    def note(self, what: str, text: str, *, is_shown: bool = True) -> None:
        """Take a note about the trace.

        Args:
            what: One word for machines.
            text: A sentence.
            is_shown: Whether the user should read it at once.
        """


class Engine(Protocol):
    """Observes some processes. Made by ``EngineSpec.open``, which raises where the engine cannot work.

    Attributes:
        probes: What it observes: ``("malloc", "mmap", "brk")``.
        coverage: What it can see with these options on this machine.
        may_yield: Whether no target ever waits for this process, so that it may run at a lower priority.
    """

    probes: tuple[str, ...]
    coverage: Coverage
    may_yield: bool

    @property
    def targets(self) -> Sequence[TargetInfo]:
        """Facts of all targets by slot, with what has become of them."""

    @property
    def elapsed_s(self) -> float:
        """Seconds since the window opened, 0.0 before."""

    @property
    def ended(self) -> str:
        """Why it can observe no longer, for the recording; empty while it can."""

    @property
    def headline(self) -> str:
        """What it observes, or by which means, in a few words."""

    @property
    def details(self) -> Sequence[str]:
        """Sentences on how it works here, for ``-v``."""

    @property
    def fds(self) -> Sequence[int]:
        """Descriptors that are readable when ``work`` has something to do; the same from ``start`` on."""

    def start(self) -> None:
        """Begin to observe: from now on everything counts.

        Raises:
            NativeleakError: It cannot.
        """

    def work(self) -> float:
        """Do what is due; seconds after which it wants to be called again though no descriptor is readable."""

    def is_urgent(self) -> bool:
        """Whether ``work`` should be called now: events pile up, or costs, or a target waits. Cheap."""

    def target_exited(self, slot: int) -> None:
        """The process is gone."""

    def progress(self, n_rows: int) -> Progress:
        """The trace as it is now, with so many sites."""

    def memory_bytes(self) -> int:
        """Memory of this process and of all else that the engine takes, such as maps in the kernel."""

    def memory_lines(self, slot: int) -> Mapping[MemoryLine, int]:
        """Resident memory of a target by use. Costly for the target: see ``engines/memory.py``.

        Raises:
            NativeleakError: It cannot be read.
        """

    def runtime_limits(self, slot: int) -> Sequence[Limit]:
        """Limits that a target's runtime sets itself."""

    def freeze(self, near: str) -> None:
        """Take in nothing more that needs memory, and note that.

        Args:
            near: How much is taken, and the bound.
        """

    def snapshot(self, *, final: bool = False) -> Snapshot:
        """Everything as it is now.

        Args:
            final: The engine was stopped: no other snapshot follows.
        """

    def stop(self) -> None:
        """Observe no longer, and let go of the targets; all that was seen can still be read."""

    def close(self) -> None:
        """Let go of everything; may be called again, and at any time."""
