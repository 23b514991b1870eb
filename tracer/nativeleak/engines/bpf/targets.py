"""One traced process as the recorder sees it: its facts, its address space, and the files that give its names."""

from __future__ import annotations

from dataclasses import dataclass, field

from nativeleak.engines.bpf.java import JavaTarget
from nativeleak.ledger.address_space import AddressSpace
from nativeleak.model import TargetEnd, TargetInfo, ThreadInfo
from nativeleak.process.check import TargetFacts
from nativeleak.process.residency import ResidencyReader
from nativeleak.symbols.resolver import Symbolizer
from nativeleak.unwind.verify import ReturnAddresses


@dataclass(slots=True)
class TargetState:
    """State of one target.

    Attributes:
        java: Its JVM, where it is one whose frames can be shown.
        start_ns: When its window opened, CLOCK_MONOTONIC; 0 before.
        renamed: The thread that was renamed last, by its old name.
        new_code: Code was mapped since its objects were looked at.
        leaf_names: Address of a probed function -> its name, where one address has several.
        segments: Shared memory: shmid -> bytes.
        cpu_before_s: CPU seconds it had used when its window opened.
        cpu_s: CPU seconds since.
        cpu_total_s: All CPU seconds when last seen.
    """

    slot: int
    facts: TargetFacts
    symbolizer: Symbolizer
    space: AddressSpace
    residency: ResidencyReader | None
    returns: ReturnAddresses
    info: TargetInfo
    java: JavaTarget | None = None
    start_ns: int = 0
    oom_killed: bool = False
    new_code: bool = False
    thread_names: dict[int, str] = field(default_factory=dict)
    renamed: ThreadInfo | None = None
    leaf_names: dict[int, str] = field(default_factory=dict)
    segments: dict[int, int] = field(default_factory=dict)
    cpu_before_s: float = 0.0
    cpu_s: float = 0.0
    cpu_total_s: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether its window is closed for good."""
        return self.info.end is not TargetEnd.RUNNING

    def close(self) -> None:
        """Close its files."""
        self.symbolizer.close()
        self.returns.close()
        if self.java is not None:
            self.java.close()
        if self.residency is not None:
            self.residency.close()
