"""A memory group for a test, of whichever version this machine has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from support import Target, eventually, require, require_root, target_path

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


def require_memory_group() -> None:
    """Skip where no memory group can be made."""
    require_root()
    controllers = V2 / "cgroup.subtree_control"
    has_v2 = controllers.exists() and "memory" in controllers.read_text().split()
    require(has_v2 or (V1 / "memory.limit_in_bytes").exists(), "no cgroup with the memory controller")


class MemoryGroup:
    """A control group with a limit; removed with ``remove``, when all in it have ended.

    Args:
        limit_mib: Its limit.
    """

    def __init__(self, limit_mib: int) -> None:
        self._limit_mib = limit_mib
        is_v1 = (V1 / "memory.limit_in_bytes").exists()
        self.path = (V1 if is_v1 else V2) / f"nativeleak-test-{os.getpid()}"
        self._kills = "memory.oom_control" if is_v1 else "memory.events"
        self.path.mkdir()
        (self.path / ("memory.limit_in_bytes" if is_v1 else "memory.max")).write_text(str(limit_mib << 20))

    @property
    def within(self) -> tuple[str, ...]:
        """The beginning of a command line whose rest runs in the group."""
        return ("sh", "-e", "-c", f'echo $$ > {self.path}/cgroup.procs; exec "$@"', "sh")

    @property
    def n_oom_kills(self) -> int:
        """Processes of the group that the OOM killer has ended."""
        fields = dict(line.split() for line in (self.path / self._kills).read_text().splitlines())
        return int(fields["oom_kill"])

    def target(self, free_mib: int) -> Target:
        """Start a target in the group that leaves so much of the limit free."""
        return Target("ram", self._limit_mib - free_mib, command=[*self.within, target_path("ram")])

    def remove(self) -> None:
        """Remove it; what has ended in it may be charged for a moment longer."""

        def gone() -> bool:
            try:
                self.path.rmdir()
            except OSError:
                return False
            return True

        eventually(gone, f"{self.path} removed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
