"""Builds the test targets into ``tests/targets/bin``; a target newer than its sources is left alone.

Usage: ``python tests/targets/build.py [NAME ...]``, all of them without a name; from a test: ``build_target(NAME)``.

Caveat: several processes may build at once (pytest-xdist); each target is written beside its place and moved there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BIN = HERE / "bin"

COMMON = ("-O2", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-fno-builtin")
"""-fno-builtin: no compiler may leave out a pair of malloc and free, or know what malloc(PTRDIFF_MAX) does."""

FRAME_POINTERS = ("-fno-omit-frame-pointer", "-fno-optimize-sibling-calls")
NO_FRAME_POINTERS = ("-fomit-frame-pointer", "-fno-optimize-sibling-calls")
NAMES = ("-rdynamic",)

PACKAGES = {
    "gcc": "gcc libc6-dev",
    "g++": "g++",
    "musl-gcc": "musl-tools",
    "javac": "openjdk-17-jdk-headless",
}
"""Compiler -> the Debian packages that bring it."""


class BuildError(Exception):
    """A compiler is missing or refuses a target."""


@dataclass(frozen=True, slots=True)
class Spec:
    """How one target is made: a source in this folder, a compiler, its flags, other targets it loads."""

    source: str
    compiler: str = "gcc"
    flags: tuple[str, ...] = (*FRAME_POINTERS, *NAMES)
    needs: tuple[str, ...] = ()


TARGETS = {
    "battery": Spec("battery.c"),
    "battery_nofp": Spec("battery.c", flags=(*NO_FRAME_POINTERS, *NAMES)),
    "brk": Spec("brk.c"),
    "churn": Spec("churn.c"),
    "cxx": Spec("cxx.cc", compiler="g++", flags=("-std=c++17", *FRAME_POINTERS, *NAMES)),
    "deep": Spec("deep.c"),
    "dlopen_alloc": Spec("dlopen_alloc.c", needs=("liballoc2.so",)),
    "execs": Spec("execs.c"),
    "exits": Spec("exits.c"),
    "forks": Spec("forks.c"),
    "liballoc2.so": Spec("liballoc2.c", flags=(*FRAME_POINTERS, "-shared", "-fPIC", "-Wl,-Bsymbolic")),
    "million": Spec("million.c"),
    "musl": Spec("portable.c", compiler="musl-gcc"),
    "musl_static": Spec("portable.c", compiler="musl-gcc", flags=(*FRAME_POINTERS, "-static")),
    "portable": Spec("portable.c"),
    "race": Spec("race.c"),
    "rename": Spec("rename.c"),
    "static": Spec("portable.c", flags=(*FRAME_POINTERS, "-static")),
    "static_stripped": Spec("portable.c", flags=(*FRAME_POINTERS, "-static", "-s")),
    "Leaker": Spec("Leaker.java", compiler="javac", flags=("--release", "11", "-g")),
}


def build_target(name: str) -> Path:
    """Build one target where it is missing or old.

    Returns:
        The executable or library; for ``Leaker`` the folder to put on Java's class path.

    Raises:
        BuildError: The compiler is missing or fails; the text says what to install, or what it said.
    """
    spec = TARGETS[name]
    for needed in spec.needs:
        build_target(needed)
    if spec.compiler == "javac":
        return _build_java(spec)
    result = BIN / name
    if not _is_current(result, spec):
        BIN.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BIN) as room:
            part = Path(room) / name
            _compile(spec, [*COMMON, *spec.flags, "-o", str(part), str(HERE / spec.source)])
            part.replace(result)
    return result


def _build_java(spec: Spec) -> Path:
    """Compile into the class path; all the classes of a source come into being together."""
    if not _is_current(BIN / "Leaker.class", spec):
        BIN.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BIN) as room:
            _compile(spec, [*spec.flags, "-d", room, str(HERE / spec.source)])
            # The outer class last: it is what says that the build is whole.
            for part in sorted(Path(room).iterdir(), key=lambda path: "$" not in path.name):
                part.replace(BIN / part.name)
    return BIN


def _is_current(result: Path, spec: Spec) -> bool:
    sources = [HERE / spec.source, HERE / "truth.h", Path(__file__)]
    return result.exists() and result.stat().st_mtime >= max(source.stat().st_mtime for source in sources)


def _compile(spec: Spec, arguments: list[str]) -> None:
    if shutil.which(spec.compiler) is None:
        raise BuildError(
            f"{spec.source}: {spec.compiler} is not installed: run scripts/setup --tests, "
            f"or apt-get install {PACKAGES[spec.compiler]}"
        )
    done = subprocess.run(
        [spec.compiler, *arguments], capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    if done.returncode:
        raise BuildError(f"{spec.source}: {spec.compiler} failed:\n{done.stdout}{done.stderr}")


def main(names: list[str]) -> int:
    """Build what is named, or everything; go on after a failure and say what failed."""
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        print(f"unknown target {' '.join(unknown)}; known: {' '.join(TARGETS)}", file=sys.stderr)
        return 2
    failures = 0
    for name in names or TARGETS:
        try:
            build_target(name)
        except BuildError as error:
            failures += 1
            print(f"build.py: {error}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
