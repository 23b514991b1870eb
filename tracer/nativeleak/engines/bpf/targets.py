"""One traced process as the recorder sees it: its facts, its address space, and the files that give its names."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from nativeleak.engines.bpf.kernel import abi
from nativeleak.errors import NativeleakError
from nativeleak.ledger.address_space import AddressSpace
from nativeleak.model import TargetEnd, TargetInfo, ThreadInfo
from nativeleak.probes.wrappers import find_wrappers
from nativeleak.process import procfs
from nativeleak.process.check import TargetFacts
from nativeleak.process.mapped import executable_objects
from nativeleak.process.residency import ResidencyReader
from nativeleak.runtimes.base import Runtime
from nativeleak.symbols.resolver import Symbolizer
from nativeleak.unwind.verify import ReturnAddresses


@dataclass(slots=True)
class TargetState:
    """State of one target.

    Attributes:
        runtime: Its runtime of managed code, where it has one whose frames can be shown.
        config_map: Map of the kernel side that takes what the walker has to know of the runtime.
        names_read: What the runtime said last of the names of its threads.
        runtime_names: Names of threads that the runtime has given, by TID; of those that have not ended yet.
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
    runtime: Runtime | None = None
    config_map: str = ""
    start_ns: int = 0
    oom_killed: bool = False
    new_code: bool = False
    names_read: Mapping[int, str] | None = None
    runtime_names: dict[int, str] = field(default_factory=dict)
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

    def read_rss(self) -> int:
        """Resident bytes, 0 once it is gone."""
        try:
            return 0 if self.is_over else procfs.read_rss(self.facts.pid)
        except NativeleakError:
            return 0

    def read_cpu(self) -> float:
        """CPU seconds since its window opened; after its end those of the last look."""
        with contextlib.suppress(NativeleakError):
            self.cpu_s = procfs.read_cpu_s(self.facts.pid) - self.cpu_before_s
        return self.cpu_s

    def close(self) -> None:
        """Close its files."""
        self.symbolizer.close()
        self.returns.close()
        if self.runtime is not None:
            self.runtime.close()
        if self.residency is not None:
            self.residency.close()


def set_wrappers(target: abi.Target, pid: int) -> None:
    """Tell the kernel side where the C library is, and which of its system call wrappers have a frame."""
    for mapped in executable_objects(pid, procfs.read_maps(pid, executable_only=True)):
        if mapped.name.startswith(("libc.so", "libc-", "ld-musl", "libc.musl")):
            start, _, file_offset = mapped.ranges[0]
            target.wrappers_start, target.wrappers_end = start, mapped.ranges[-1][1]
            for entry, wrapper in zip(target.wrappers, find_wrappers(mapped.file_path), strict=False):
                entry.start, entry.end = wrapper.start + start - file_offset, wrapper.end + start - file_offset
                entry.frame_bytes = wrapper.frame_bytes
            return
