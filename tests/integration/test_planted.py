"""Code that lies in the current folder or on the caller's PATH is not run, whatever the verb or the engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import nativeleak
from support import Target, require_program

# Each would be imported by one of the programs that root starts, were the current folder on its path.
MODULES = (
    "bcc", "capstone", "click", "ctypes", "json", "linecache", "numpy", "pandas", "psutil", "pycxxfilt", "rich",
    "runpy", "select", "signal", "site", "sitecustomize", "sqlite3", "struct", "subprocess", "tempfile",
    "usercustomize",
)  # fmt: skip
PROGRAMS = ("strace", "true", "pmap", "ldconfig", "gcc", "uname", "python", "python3", "perl", "sh")
COMMAND = Path(sys.executable).with_name("nativeleak")


def plant(folder: Path) -> None:
    """Leave code in a folder that any user may write to; it does nothing but say that it ran."""
    folder.chmod(0o1777)
    python = f"import os\nopen({str(folder)!r} + '/PLANTED-{{name}}', 'w').write(f'uid {{{{os.getuid()}}}}')\n"
    for name in MODULES:
        (folder / f"{name}.py").write_text(python.format(name=name))
    package = folder / "nativeleak"
    package.mkdir()
    for name in ("__init__", "__main__", "errors"):
        (package / f"{name}.py").write_text(python.format(name=f"nativeleak-{name}"))
    for name in PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\n: > {folder}/PLANTED-program-{name}\nexit 1\n")
        (folder / name).chmod(0o755)


def run_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed command, started in that folder, which is on the PATH as well."""
    environment = {**os.environ, "PATH": f".:{folder}:{os.environ['PATH']}"}
    return subprocess.run(
        [str(COMMAND), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def planted(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("PLANTED*"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "anyones"
    place.mkdir()
    plant(place)
    return place


def test_planted_code_runs_where_it_can(folder):
    """The plants work: Python that is not isolated runs them."""
    subprocess.run([sys.executable, "-m", "nativeleak"], cwd=folder, check=False)
    assert "PLANTED-nativeleak-__main__" in planted(folder)


@pytest.mark.parametrize("engine", ["libbpf", "bcc", "strace", "pmap"])
def test_trace_in_a_foreign_folder_runs_nothing_of_it(engine, folder):
    with Target("rate", 97) as target:
        arguments = ("-p", str(target.pid), "--duration", "1s", "--engine", engine, "-o", "r.nlk", "--format", "json")
        done = run_in(folder, "trace", *arguments)
    assert planted(folder) == []
    assert done.returncode == 0, done.stderr
    assert '"schema": "nativeleak.report/1"' in done.stdout
    reported = run_in(folder, "report", "r.nlk")
    assert planted(folder) == []
    assert reported.stdout.startswith("rate (PID")


def test_doctor_in_a_foreign_folder_runs_nothing_of_it(folder):
    with Target("rate", 97) as target:
        done = run_in(folder, "doctor", "-p", str(target.pid))
    assert planted(folder) == []
    assert "rights" in done.stdout


def test_demo_in_a_foreign_folder_runs_nothing_of_it(folder):
    done = run_in(folder, "demo", "--duration", "2s", "--output", "d.nlk")
    assert planted(folder) == []
    assert done.returncode == 0, done.stderr
    assert (folder / "d.nlk").is_file()


def test_recorded_output_in_a_foreign_folder_runs_nothing_of_it(folder):
    require_program("strace")
    with Target("rate", 97) as target:
        listing = Path(f"/proc/{target.pid}/smaps").read_text()
    (folder / "smaps.txt").write_text(listing)
    run_in(folder, "trace", "--input", "smaps.txt", "-o", "i.nlk")
    assert planted(folder) == []


def test_package_is_not_that_of_the_folder():
    assert "anyones" not in nativeleak.__file__
