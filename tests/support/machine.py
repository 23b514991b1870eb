"""What this machine has, and what a test requires of it: programs, allocators, processors, rights of a user."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


PRELOADS = {
    "jemalloc": "libjemalloc.so.2",
    "tcmalloc": "libtcmalloc_minimal.so.4",
    "mimalloc": "libmimalloc.so.2.0",
}
"""Allocator -> its library as Debian names it, in the folder of the machine's libraries."""


IS_LONG = bool(os.environ.get("NATIVELEAK_TEST_LONG"))
"""Whether long batteries run whole; CI runs a sample of each."""


def is_everything_required() -> bool:
    """Tell whether a test that cannot run here has failed, rather than been skipped."""
    return os.environ.get("NATIVELEAK_REQUIRE") == "all"


def require(condition: object, reason: str) -> None:
    """Skip the test unless ``condition`` holds; fail it where everything is required.

    Args:
        condition: Anything with a truth value.
        reason: What is missing, as a sentence without a full stop.
    """
    if condition:
        return
    if is_everything_required():
        pytest.fail(f"required: {reason}", pytrace=False)
    pytest.skip(reason)


def require_root() -> None:
    """Skip unless this process may load BPF programs and attach them to any process."""
    require(os.geteuid() == 0, "tracing needs root")


def require_program(*names: str) -> None:
    """Skip unless all these programs are on the path."""
    missing = [name for name in names if shutil.which(name) is None]
    require(not missing, f"not installed: {' '.join(missing)}")


def preload(allocator: str) -> dict[str, str]:
    """Environment that puts an allocator (a key of ``PRELOADS``) under a target; skips where it is not installed."""
    found = sorted(Path("/usr/lib").glob(f"*-linux-gnu/{PRELOADS[allocator]}"))
    require(found, f"{allocator} is not installed")
    return {"LD_PRELOAD": str(found[0])}


@contextlib.contextmanager
def one_processor() -> Iterator[None]:
    """All that is started inside runs on one and the same processor, with all its threads and children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def processors_of(pid: int) -> set[int]:
    """The processors that any thread of a process may run on."""
    return set().union(*(os.sched_getaffinity(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()))


NOBODY = 65534


def as_nobody(*capabilities: str) -> tuple[list[str], dict[str, str]]:
    """How to run Python as a user without rights but for these capabilities; skips where that cannot be.

    Args:
        capabilities: As setpriv(1) writes them: ``bpf``, ``sys_ptrace``.

    Returns:
        The beginning of a command line, up to and with the interpreter, and the environment it takes.
    """
    require_root()
    require_program("setpriv")
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    if capabilities:
        wanted = ",".join(f"+{name}" for name in capabilities)
        command += [f"--inh-caps=-all,{wanted}", f"--ambient-caps=-all,{wanted}", f"--bounding-set=-all,{wanted}"]
    # An interpreter in root's home cannot be run by others: the system's, with our path, can.
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    require(python, "no python3 in /usr/bin for other users")
    path = [str(ROOT / "tracer"), *(entry for entry in sys.path if "site-packages" in entry)]
    environment = {
        "PYTHONPATH": ":".join(path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
    }
    probe = [*command, str(python), "-c", "import sys, nativeleak, click; assert sys.version_info >= (3, 11)"]
    usable = subprocess.run(probe, env=environment, capture_output=True, check=False, cwd="/")
    require(usable.returncode == 0, "the package cannot be imported by other users")
    return [*command, str(python)], environment
