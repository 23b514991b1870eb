"""The child process that makes the table of a large object: ``python -m nativeleak.unwind.worker FD calls|full``.

Scope: the file is open as descriptor FD; the table goes to standard output. The child has its own limits and is
the preferred victim of the OOM killer: reading the CFI of 100 MB of code takes about 100 MB for a second, and the
machine may be short of memory.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import sys
from pathlib import Path
from typing import Final, NoReturn

from nativeleak.symbols.source import FileSource
from nativeleak.unwind.table import build_table, encode

MAX_CPU_S: Final = 60
"""libLLVM-14, with 102 MB of code, takes 1."""
MAX_MEMORY_BYTES: Final = 2 << 30


def main(arguments: list[str]) -> NoReturn:
    """Make the table and end the process."""
    fd, kind = int(arguments[0]), arguments[1]
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    # A million tuples and no cycles: the collector would look at them again and again, for a fifth of the time.
    gc.disable()
    table = build_table(FileSource(fd), full=kind == "full")
    with open(sys.stdout.fileno(), "wb", closefd=False) as output:
        output.write(encode(table))
    os._exit(0)  # giving back a hundred megabytes of tuples one by one would take another tenth of the time


if __name__ == "__main__":
    main(sys.argv[1:])
