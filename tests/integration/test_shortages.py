"""Too few descriptors, too little memory of our own: `auto` keeps its engine, and the limit to raise is named."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from support import Target, Trace, require_program, require_root


def limited(limit: int, amount: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line under a limit of its process, hard and soft."""

    def set_limit() -> None:
        resource.setrlimit(limit, (amount, amount))

    return subprocess.run(
        [sys.executable, "-m", "nativeleak", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=set_limit,
    )


@pytest.mark.parametrize("n_files", [8, 16, 24, 40])
@pytest.mark.parametrize("engine", ["auto", "libbpf"])
def test_too_few_descriptors_are_named_and_no_other_engine_begins(n_files: int, engine: str, tmp_path: Path) -> None:
    require_root()
    output = tmp_path / "x.nlk"
    with Target("brk") as target:
        arguments = ["trace", "-p", target.pid, "--engine", engine, "--duration", "1s", "-o", output]
        done = limited(resource.RLIMIT_NOFILE, n_files, *arguments)
    assert done.returncode == 3
    assert done.stderr == (
        f"nativeleak: tracing failed: too many open files: this process may have {n_files} (RLIMIT_NOFILE)\n"
        "  raise the hard limit: `ulimit -Hn 4096` before nativeleak, or LimitNOFILE=4096 of its service\n"
    )
    assert not output.exists()


def test_soft_limit_of_descriptors_is_raised_by_ourselves() -> None:
    require_root()
    require_program("prlimit")
    with Target("brk") as target, Trace(target, within=["prlimit", "--nofile=16:4096"]) as trace:
        target.go()
        assert trace.stop()["tool"]["backend"] == "bpf-libbpf"


@pytest.mark.parametrize("mib", [36, 48])
def test_too_little_memory_is_named_and_no_other_engine_begins(mib: int, tmp_path: Path) -> None:
    require_root()
    output = tmp_path / "x.nlk"
    with Target("brk") as target:
        arguments = ["trace", "-p", target.pid, "--duration", "1s", "-o", output]
        done = limited(resource.RLIMIT_AS, mib << 20, *arguments)
    assert done.returncode == 3, done.stderr
    assert re.fullmatch(
        rf"nativeleak: .* failed: out of memory: this process may have {mib} MiB \(RLIMIT_AS\)\n"
        r"  raise the limit: `ulimit -v unlimited` \(LimitAS=infinity of a service\)\n",
        done.stderr,
    )
    assert not output.exists()
