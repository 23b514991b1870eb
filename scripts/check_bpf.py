"""Compiles each file of bpf/ alone, for both machines: every file includes what it uses, and one knows the machine.

Scope: syntax only; takes about three seconds. bcc.bpf.c is left out, because only BCC's compiler has its headers;
``test_bcc`` compiles it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hatch_build import MACHINES, clang_flags

BPF = Path(__file__).parents[1] / "bpf"
ONLY_BCC = "bcc.bpf.c"
ARCH = "arch.bpf.h"
"""The only file that may test for a machine."""
FOR_BCC = {"compat.h": ["-DNATIVELEAK_BCC", "-DNL_BLIND"]}
"""Header -> options of the compiler, as BCC gives them on a kernel without type information."""


def compile_alone(path: Path, arch: str) -> str:
    """What clang says against a file for a machine (``x86``, ``arm64``), nothing where it compiles.

    Raises:
        OSError: clang is missing.
    """
    flags = [*clang_flags(path.parent, arch), *FOR_BCC.get(path.name, []), "-Wno-unused-function"]
    command = ["clang", *flags, "-fsyntax-only", "-x", "c", "-"]
    done = subprocess.run(command, input=f'#include "{path.name}"\n', capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def main() -> int:
    """Print what does not compile; returns the exit status."""
    said = [
        f"{path.name} does not compile alone for {arch}:\n{errors}"
        for path in sorted(BPF.glob("*.[ch]"))
        if path.name != ONLY_BCC
        for arch in MACHINES.values()
        if (errors := compile_alone(path, arch))
    ]
    said += [
        f"{path.name} tests for a machine: that belongs into {ARCH}"
        for path in sorted(BPF.glob("*.[ch]"))
        if path.name != ARCH and "__TARGET_ARCH_" in path.read_text()
    ]
    print("\n".join(said))
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
