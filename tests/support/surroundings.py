"""What surrounds a tracer or a target, made for a test so that the machine's own does not matter.

Each is the beginning of a command line, for ``Trace(within=...)`` or before a target's: it runs the rest in a mount
namespace of its own, which nobody else sees and which goes with it, and becomes the rest by exec.
"""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from nativeleak.children import SYSTEM_FOLDERS

Within = tuple[str, ...]
"""The beginning of a command line that ends in the command to run."""


def in_own_mounts(script: str) -> Within:
    """Run the rest of a command line in a mount namespace of its own that a script prepares.

    Args:
        script: For sh; where a command of it fails, nothing is run and the status is that command's.
    """
    return ("unshare", "--mount", "sh", "-e", "-c", f'{script}\nexec "$@"', "sh")


MOUNT_TRACEFS = "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing"
"""For sh: have tracefs where systemd mounts it. No options: they would hold for every mount of it on the machine."""

UNMOUNT_TRACEFS = """
for folder in /sys/kernel/debug /sys/kernel/tracing; do
  while mountpoint -q "$folder"; do umount --lazy "$folder"; done
done
"""
"""For sh: tracefs in neither of its places. debugfs goes too: it mounts tracefs in itself for whoever looks there."""

WITH_TRACEFS = in_own_mounts(MOUNT_TRACEFS)
"""Tracefs is mounted, as systemd does everywhere."""

WITHOUT_TRACEFS = in_own_mounts(UNMOUNT_TRACEFS)
"""Tracefs is not mounted, as in containers and on minimal machines."""

TRACEFS = {"mounted": WITH_TRACEFS, "not mounted": WITHOUT_TRACEFS}
"""Both, for tests of what depends on it."""

WITHOUT_PMU = in_own_mounts("mount -t tmpfs none /sys/bus/event_source/devices")
"""What looks like a kernel whose perf events make no probes in user programs."""

WITHOUT_BTF = in_own_mounts("mount -t tmpfs none /sys/kernel/btf")
"""What looks like a kernel that does not describe its types."""


def hiding(*paths: str | Path) -> Within:
    """See an empty device in the place of each of these files."""
    return in_own_mounts(
        "\n".join(f"mount --bind /dev/null {shlex.quote(str(Path(path).resolve()))}" for path in paths)
    )


def without_program(name: str) -> Within:
    """See no such program in any of the machine's folders of programs, whether it is installed or not."""
    installed = {path.resolve() for folder in SYSTEM_FOLDERS if (path := Path(folder, name)).exists()}
    return hiding(*sorted(installed))


def own_libc(folder: Path) -> dict[str, str]:
    """Environment of a target whose C library is a copy in this folder: no other tracer holds a probe on that."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    (library,) = {line.split(maxsplit=5)[5] for line in maps if line.endswith("/libc.so.6")}
    shutil.copy(library, folder)
    return {"LD_LIBRARY_PATH": str(folder)}
