"""The engines by name, and what a report by each lacks. Imports nothing of ours."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class EngineName(StrEnum):
    """Values of ``--engine``."""

    AUTO = "auto"
    LIBBPF = "libbpf"
    BCC = "bcc"
    STRACE = "strace"
    PMAP = "pmap"


ORDER: Final = (EngineName.LIBBPF, EngineName.BCC, EngineName.STRACE, EngineName.PMAP)
"""What ``auto`` tries, best first."""

BACKENDS: Final = {
    EngineName.LIBBPF: "bpf-libbpf",
    EngineName.BCC: "bpf-bcc",
    EngineName.STRACE: "strace",
    EngineName.PMAP: "pmap",
}
"""``tool.backend`` of the report."""

LOST: Final = {
    EngineName.LIBBPF: "",
    EngineName.BCC: "no Java frames, and native stacks only where there are frame pointers",
    EngineName.STRACE: "no single allocations and no Java frames, only what malloc and the program map; and the target"
    " is slowed down",
    EngineName.PMAP: "no call stacks, no threads and no single allocations, only which region grows",
}
"""What a report lacks that one by libbpf has."""

LOST_BY_BACKEND: Final = {backend: LOST[engine] for engine, backend in BACKENDS.items()}
"""The same by ``tool.backend`` of a report."""
