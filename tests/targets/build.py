"""Builds the test targets into ``tests/targets/bin``; a target newer than its sources is left alone.

Usage: ``python tests/targets/build.py [NAME ...]``, all but ``ON_DEMAND`` without a name; from a test:
``build_target(NAME)``.

Caveat: several processes may build at once (pytest-xdist); each target is written beside its place and moved there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
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
THROWING = ("-std=c++17", *FRAME_POINTERS, *NAMES)
OVER_JEMALLOC = ("-Wl,-u,mallocx,--allow-multiple-definition", "-l:libjemalloc.a", "-Wl,--no-as-needed", "-lm")
"""jemalloc in the program itself, but for its C++ operators where the program has its own."""
RUST = ("--edition=2021", "-g", "-Dwarnings")
JAVA = ("--release", "11", "-g", "-nowarn", "-sourcepath", str(HERE / "java"))
JAVA_UNSAFE = (*JAVA, "-XDignore.symbol.file")
"""sun.misc.Unsafe is no part of the API of a release."""
NETTY = "/usr/share/java/netty-buffer.jar:/usr/share/java/netty-common.jar"
"""Of Debian's libnetty-java."""
JDK = Path(os.path.realpath(shutil.which("javac") or "javac")).parent.parent
JNI = ("-isystem", str(JDK / "include"), "-isystem", str(JDK / "include" / "linux"))

PACKAGES = {
    "gcc": "gcc libc6-dev",
    "g++": "g++",
    "clang": "clang",
    "clang++": "clang",
    "musl-gcc": "musl-tools",
    "rustc": "rustc",
    "javac": "openjdk-17-jdk-headless",
    "sh": "dash",
}
"""Compiler -> the Debian packages that bring it."""


class BuildError(Exception):
    """A compiler is missing or refuses a target."""


@dataclass(frozen=True, slots=True)
class Spec:
    """How one target is made.

    Attributes:
        source: In this folder. The compiler ``sh`` runs it with the folder to fill as its argument.
        needs: Other targets that it loads.
        result: Path below ``BIN``; "" for the target's name. For Java the class path.
    """

    source: str
    compiler: str = "gcc"
    flags: tuple[str, ...] = (*FRAME_POINTERS, *NAMES)
    needs: tuple[str, ...] = ()
    result: str = ""


TARGETS = {
    "affixed": Spec("affixed.c", flags=("-std=gnu11", *FRAME_POINTERS, *NAMES), needs=("libfamily.so",)),
    "battery": Spec("battery.c"),
    "battery_musl": Spec("battery.c", compiler="musl-gcc"),
    "battery_nofp": Spec("battery.c", flags=(*NO_FRAME_POINTERS, *NAMES)),
    "brk": Spec("brk.c"),
    "brk_odd": Spec("brk_odd.c"),
    "calls32": Spec("calls32.c", flags=("-m32", "-nostdlib", "-static", "-fno-stack-protector", "-fno-pie", "-no-pie")),
    "checked": Spec("checked.c"),
    "churn": Spec("churn.c"),
    "rate": Spec("rate.c"),
    "cxx": Spec("cxx.cc", compiler="g++", flags=("-std=c++17", *FRAME_POINTERS, *NAMES)),
    "debugger": Spec("debugger.c"),
    "deep": Spec("deep.c"),
    "deep_nofp": Spec("deep.c", flags=(*NO_FRAME_POINTERS, *NAMES)),
    "drips": Spec("drips.c"),
    "drips_musl": Spec("drips.c", compiler="musl-gcc"),
    "dlclose": Spec("dlclose.c", needs=("liballoc2.so",)),
    "dlopen_alloc": Spec("dlopen_alloc.c", needs=("liballoc2.so",)),
    "execs": Spec("execs.c"),
    "exit_calls": Spec("exit_calls.cc", compiler="g++", flags=("-std=c++17", *FRAME_POINTERS, *NAMES)),
    "exit_calls_musl": Spec("exit_calls.cc", compiler="musl-gcc", flags=("-x", "c", *FRAME_POINTERS)),
    "exits": Spec("exits.c"),
    "fibers": Spec("safety/fibers.c"),
    "forks": Spec("forks.c"),
    "grows": Spec("grows.c"),
    "uses": Spec("uses.c"),
    "held": Spec("held.c", flags=()),
    "held_cxx": Spec("held_cxx.cc", compiler="g++", flags=("-std=c++17",)),
    "held_cxx_stripped": Spec("held_cxx.cc", compiler="g++", flags=("-std=c++17", "-s")),
    "held_rust": Spec("held_rust.rs", compiler="rustc", flags=("-Copt-level=2",)),
    "held_many": Spec("held_many.c", flags=()),
    "held_traced": Spec("held_traced.c", flags=()),
    "held_musl": Spec("held.c", compiler="musl-gcc", flags=()),
    "heap_states": Spec("heap_states.c"),
    "heap_states_musl": Spec("heap_states.c", compiler="musl-gcc"),
    "heap_states_static": Spec("heap_states.c", flags=(*FRAME_POINTERS, "-static")),
    "hostile": Spec("hostile.c"),
    "libhostile.so": Spec("libhostile.c", flags=(*FRAME_POINTERS, "-shared", "-fPIC")),
    "libfamily.so": Spec("libfamily.c", flags=(*FRAME_POINTERS, "-shared", "-fPIC", "-Wl,-Bsymbolic")),
    "workers": Spec("workers.c"),
    "inside": Spec("inside.c", flags=FRAME_POINTERS),
    "plugin.so": Spec("plugin.c", flags=(*NO_FRAME_POINTERS, "-shared", "-fPIC")),
    "plugins": Spec("plugins.c", needs=("plugin.so",)),
    "liballoc2.so": Spec("liballoc2.c", flags=(*FRAME_POINTERS, "-shared", "-fPIC", "-Wl,-Bsymbolic")),
    "libcalls": Spec("libcalls.c"),
    "librecord.so": Spec("librecord.c", flags=(*FRAME_POINTERS, "-shared", "-fPIC")),
    "lives": Spec("lives.c"),
    "many": Spec("many.c"),
    "maps": Spec("maps.c"),
    "million": Spec("million.c"),
    "mixed": Spec("mixed.c"),
    "mixed_musl": Spec("mixed.c", compiler="musl-gcc"),
    "musl": Spec("portable.c", compiler="musl-gcc"),
    "musl_static": Spec("portable.c", compiler="musl-gcc", flags=(*FRAME_POINTERS, "-static")),
    "oddcalls": Spec("oddcalls.c"),
    "other_stack": Spec("safety/other_stack.c"),
    "own": Spec("own.c"),
    "own_backtrace": Spec("safety/own_backtrace.c"),
    "own_unproved": Spec("safety/other_stack.c", flags=(*FRAME_POINTERS, *NAMES, "-DUNPROVED")),
    "peeked": Spec("peeked.c"),
    "phases": Spec("phases.c"),
    "pairs": Spec("unwind/pairs.c", flags=(*FRAME_POINTERS, *NAMES)),
    "pairs_nofp": Spec("unwind/pairs.c", flags=(*NO_FRAME_POINTERS, *NAMES)),
    "portable": Spec("portable.c"),
    "race": Spec("race.c"),
    "ram": Spec("ram.c"),
    "random_paths": Spec("random_paths.c"),
    "rename": Spec("rename.c"),
    "rare_sites": Spec("rare_sites.cc", compiler="g++", flags=("-std=c++17", *NO_FRAME_POINTERS, *NAMES)),
    "reloads": Spec("reloads.c", needs=("liballoc2.so",)),
    "restless": Spec("restless.c"),
    "sandbox": Spec("sandbox.c"),
    "script": Spec("script.c"),
    "spawns": Spec("spawns.c"),
    "static": Spec("portable.c", flags=(*FRAME_POINTERS, "-static")),
    "static_stripped": Spec("portable.c", flags=(*FRAME_POINTERS, "-static", "-s")),
    "storm": Spec("storm.c"),
    "libtails.so": Spec("tails.c", flags=(*NO_FRAME_POINTERS, "-DLIBRARY", "-shared", "-fPIC")),
    "tails": Spec(
        "tails.c",
        flags=("-fomit-frame-pointer", "-Wl,--no-as-needed", str(BIN / "libtails.so"), f"-Wl,-rpath,{BIN}"),
        needs=("libtails.so",),
    ),
    "throwing_new": Spec("safety/throwing_new.cc", compiler="g++", flags=THROWING),
    "throwing_new_quota": Spec("safety/throwing_new.cc", compiler="g++", flags=(*THROWING, "-DQUOTA", *OVER_JEMALLOC)),
    "throws": Spec("throws.cc", compiler="g++", flags=("-std=c++17", *FRAME_POINTERS, *NAMES)),
    "Fills": Spec("Fills.java", compiler="javac", flags=JAVA),
    "Leaker": Spec("Leaker.java", compiler="javac", flags=JAVA),
    "Churn": Spec("Churn.java", compiler="javac", flags=JAVA),
    "Truth": Spec("java/Truth.java", compiler="javac", flags=JAVA),
    "Classes": Spec("java/Classes.java", compiler="javac", flags=JAVA),
    "Depths": Spec("java/Depths.java", compiler="javac", flags=JAVA),
    "ManyMappings": Spec("java/ManyMappings.java", compiler="javac", flags=JAVA),
    "Mappings": Spec("java/Mappings.java", compiler="javac", flags=JAVA, needs=("libmappings.so",)),
    "Stress": Spec("java/Stress.java", compiler="javac", flags=JAVA, needs=("libnofp.so",)),
    "Forger": Spec("java/Forger.java", compiler="javac", flags=JAVA, needs=("libforge.so",)),
    "ZipStreams": Spec("java/ZipStreams.java", compiler="javac", flags=JAVA),
    "Holds": Spec("java/Holds.java", compiler="javac", flags=JAVA_UNSAFE),
    "HoldsMany": Spec("java/HoldsMany.java", compiler="javac", flags=JAVA_UNSAFE),
    "Gateway": Spec("java/Gateway.java", compiler="javac", flags=(*JAVA, "-cp", NETTY)),
    "libforge.so": Spec("java/forge.c", flags=(*NO_FRAME_POINTERS, *JNI, "-shared", "-fPIC")),
    "unmaps": Spec("unmaps.c"),
    "unmaps_musl": Spec("unmaps.c", compiler="musl-gcc"),
    "unmaps_nofp": Spec("unmaps.c", flags=(*NO_FRAME_POINTERS, *NAMES)),
    "unmaps_static": Spec("unmaps.c", flags=(*FRAME_POINTERS, "-static")),
    "libmappings.so": Spec("java/mappings.c", flags=(*NO_FRAME_POINTERS, *JNI, "-shared", "-fPIC")),
    "libnofp.so": Spec("java/nofp.c", flags=(*NO_FRAME_POINTERS, *JNI, "-shared", "-fPIC")),
}


OWN_STACK = "unwind/own_stack.c"
WRAPPED = ("-Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=memalign", str(BIN / "own_stack_wrap.o"))
C_COMPILERS = {"gcc": "g++", "clang": "clang++"}
NO_TABLES = ("-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-finstrument-functions")
UNWIND_VARIANTS: dict[str, tuple[str, ...]] = {
    "static": ("-static", *WRAPPED),
    "static_pie": ("-static-pie", "-fPIE", *WRAPPED),
    "lto": ("-flto",),
    "cet": ("-fcf-protection=full", "-Wl,-z,now", "-Wl,-z,ibtplt"),
    "hardened": ("-fstack-protector-all", "-fstack-clash-protection", "-D_FORTIFY_SOURCE=2", "-mno-red-zone"),
}
"""What tests/integration/test_unwind_truth.py compares its stacks with; the targets are named NAME_COMPILER_VARIANT."""


def _own_stack(source: str, compiler: str, *flags: str, needs: tuple[str, ...] = ()) -> Spec:
    """A target that notes its own stacks (unwind/own_stack.c)."""
    harness = "own_stack_wrap.o" if WRAPPED[-1] in flags else "own_stack.o"
    frames = () if "-fno-omit-frame-pointer" in flags else ("-fomit-frame-pointer",)
    objects = () if WRAPPED[-1] in flags else (str(BIN / harness),)
    standard = ("-std=c++20",) if source.endswith(".cc") else ()
    return Spec(f"unwind/{source}", compiler, (*standard, *frames, *flags, *objects), (harness, *needs))


def _unwind_targets() -> dict[str, Spec]:
    made = {
        "own_stack.o": Spec(OWN_STACK, flags=("-c", "-fPIC")),
        "own_stack_wrap.o": Spec(OWN_STACK, flags=("-c", "-fPIC", "-DOWN_STACK_WRAP")),
        "coroutines_gcc_O0": _own_stack("coroutines.cc", "g++", "-O0"),
        "coroutines_gcc_O2": _own_stack("coroutines.cc", "g++"),
        "late.so": Spec("unwind/late.cc", "g++", ("-shared", "-fPIC", "-fomit-frame-pointer", "-fvisibility=hidden")),
        "loads_late": _own_stack("loads_late.c", "gcc", "-rdynamic", needs=("late.so",)),
        "signals": _own_stack("signals.c", "gcc"),
        "calls_gcc_debug_frame": _own_stack("calls.c", "gcc", *NO_TABLES),
        "calls_gcc_no_tables": _own_stack("calls.c", "gcc", *NO_TABLES, "-g0"),
    }
    for name, level in (("O0", "0"), ("O2", "2")):
        flags = (f"-Copt-level={level}", f"-Clink-arg={BIN / 'own_stack.o'}")
        made[f"calls_rustc_{name}"] = Spec("unwind/calls.rs", "rustc", flags, ("own_stack.o",))
    for c, cxx in C_COMPILERS.items():
        for level in ("O0", "O1", "O2", "O3", "Os"):
            made[f"calls_{c}_{level}"] = _own_stack("calls.c", c, f"-{level}")
            made[f"calls_{c}_{level}_fp"] = _own_stack("calls.c", c, f"-{level}", "-fno-omit-frame-pointer")
            made[f"calls_{cxx}_{level}"] = _own_stack("calls.cc", cxx, f"-{level}")
        made[f"calls_{cxx}_O2_fp"] = _own_stack("calls.cc", cxx, "-fno-omit-frame-pointer")
    for variant, flags in UNWIND_VARIANTS.items():
        made[f"calls_gcc_{variant}"] = _own_stack("calls.c", "gcc", *flags)
        made[f"calls_g++_{variant}"] = _own_stack("calls.cc", "g++", *flags)
    return made


CORPUS = "../corpus"
EXTENSION = (*FRAME_POINTERS, "-shared", "-fPIC", "-isystem", sysconfig.get_paths()["include"])


def _corpus_targets() -> dict[str, Spec]:
    """The programs of tests/corpus: all scenarios of a language and half are one program."""
    made = {}
    for half in ("open", "held", "blind"):
        java = ("--release", "17", "-g", "-nowarn", "-sourcepath", str(HERE / CORPUS))
        extension = f"corpus/ext_{half}.so"
        made[f"corpus_c_{half}"] = Spec(f"{CORPUS}/{half}.c", flags=())
        made[f"corpus_cxx_{half}"] = Spec(f"{CORPUS}/{half}.cc", "g++", ("-std=c++17",))
        made[f"corpus_rust_{half}"] = Spec(f"{CORPUS}/{half}.rs", "rustc", ("-O",))
        made[f"corpus_ext_{half}"] = Spec(f"{CORPUS}/ext_{half}.c", flags=EXTENSION, result=extension)
        made[f"corpus_java_{half}"] = Spec(f"{CORPUS}/{half.capitalize()}.java", "javac", java, result="corpus")
    return made


def _field_targets() -> dict[str, Spec]:
    """The programs of tests/targets/field: each folder has a build.sh that fills another folder."""
    cases = (script.parent.name for script in (HERE / "field").glob("*/build.sh"))
    return {f"field_{case}": Spec(f"field/{case}/build.sh", "sh", (), result=f"field/{case}") for case in cases}


TARGETS |= _unwind_targets()
ON_DEMAND = _corpus_targets() | _field_targets() | {"naming": Spec("naming.c")}
"""Not built unless a test or benchmark asks for them: what they need is not on every machine."""
TARGETS |= ON_DEMAND


def build_target(name: str) -> Path:
    """Build one target where it is missing or old.

    Returns:
        The executable or library; for one in Java the folder to put on the class path.

    Raises:
        BuildError: The compiler is missing or fails; the text says what to install, or what it said.
    """
    spec = TARGETS[name]
    for needed in spec.needs:
        build_target(needed)
    if spec.compiler == "javac":
        return _build_java(spec)
    result = BIN / (spec.result or name)
    if not _is_current(result, spec):
        result.parent.mkdir(parents=True, exist_ok=True)
        if spec.compiler == "sh":
            return _fill(result, spec)
        with tempfile.TemporaryDirectory(dir=BIN) as room:
            part = Path(room) / name
            common = RUST if spec.compiler == "rustc" else COMMON
            _compile(spec, [*common, *spec.flags, "-o", str(part), str(HERE / spec.source)])
            part.replace(result)
    return result


def _build_java(spec: Spec) -> Path:
    """Compile into the class path; all the classes of a source come into being together."""
    path = BIN / spec.result
    if not _is_current(path / f"{Path(spec.source).stem}.class", spec):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BIN) as room:
            _compile(spec, [*spec.flags, "-d", room, str(HERE / spec.source)])
            # The outer class last: it is what says that the build is whole.
            for part in sorted(Path(room).iterdir(), key=lambda path: "$" not in path.name):
                part.replace(path / part.name)
    return path


def _fill(result: Path, spec: Spec) -> Path:
    """Let a script fill a folder; one of another build that was faster stays."""
    with tempfile.TemporaryDirectory(dir=BIN) as room:
        part, old = Path(room) / "new", Path(room) / "old"
        part.mkdir()
        _compile(spec, [str(HERE / spec.source), str(part)])
        if result.exists():
            result.replace(old)
        part.replace(result)
    return result


def _is_current(result: Path, spec: Spec) -> bool:
    folder = (HERE / spec.source).parent
    sources = [HERE / spec.source, HERE / "truth.h", Path(__file__), *(BIN / needed for needed in spec.needs)]
    sources += folder.glob("*.h")
    if spec.compiler == "rustc":
        sources += folder.glob("*.rs")
    if spec.compiler == "javac":
        sources += folder.glob("*.java")
    if spec.compiler == "sh":
        sources += (path for path in folder.rglob("*") if path.is_file())
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
    for name in names or [name for name in TARGETS if name not in ON_DEMAND]:
        try:
            build_target(name)
        except BuildError as error:
            failures += 1
            print(f"build.py: {error}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
