"""The exits of real allocators, held against what their functions return: under ptrace, without any probe."""

from __future__ import annotations

from pathlib import Path

import pytest

from nativeleak.probes.calls import AllocCall
from nativeleak.probes.emulation import CONSERVATIVE
from nativeleak.probes.exits import Exits, find_exits
from nativeleak.probes.flow import FlowReader
from nativeleak.probes.image import Image
from nativeleak.probes.search import find_allocators
from nativeleak.symbols.elf import ElfFile
from stepping import Outcome, Stepper
from support import preload, require, target_path

ROUNDS = 40
ALIGNED = ("valloc", "pvalloc")
HOT = ("malloc", "calloc", "realloc", "_Znwm", "_ZnwmRKSt9nothrow_t")


def passes_again(function: str, library: str) -> bool:
    """Whether a call may pass an exit a second time, with the same block and with no call in between.

    Aligned blocks of mimalloc do, in code that its own names share.
    """
    return "mimalloc" in library and ("align" in function or function.removeprefix("mi_") in ALIGNED)


def step(path: str, argv: list[str], env: dict[str, str]) -> tuple[dict[str, Exits], Outcome]:
    """All allocating functions of an object, in a program that calls each on all of its paths."""
    points = [point for point in find_allocators(path).points if not point.spec.frees]
    with ElfFile.open(path) as elf:
        reader = FlowReader(Image(elf))
        entries = {point.function: elf.offset_to_vaddr(point.offset) or 0 for point in points}
        exits = {
            point.function: find_exits(reader, entries[point.function], point.kind, CONSERVATIVE, set(entries.values()))
            for point in points
        }
    assert {name: each.reason for name, each in exits.items() if each.reason} == {}
    posix = [point.function for point in points if point.kind is AllocCall.POSIX_MEMALIGN]
    again = [name for name in exits if passes_again(name, Path(path).name)]
    return exits, Stepper(argv, env, Path(path).resolve().name, entries, exits, posix, again).run()


def check(exits: dict[str, Exits], outcome: Outcome) -> None:
    assert outcome.status == 0
    assert outcome.faults == []
    # Each function was called often enough to mean something, and did return.
    called = {name for name, n in outcome.n_calls.items() if n > ROUNDS}
    assert called >= {name for name in HOT if name in exits}
    assert sum(outcome.n_calls.values()) > 1000


@pytest.mark.parametrize("tunables", ["", "glibc.malloc.tcache_count=0"])
def test_glibc_each_call_passes_one_exit_with_its_block(tunables):
    path = next(Path("/lib").glob("*-linux-gnu/libc.so.6"))
    argv = [str(target_path("exit_calls")), str(ROUNDS)]
    check(*step(str(path), argv, {"GLIBC_TUNABLES": tunables}))


@pytest.mark.parametrize("allocator", ["jemalloc", "tcmalloc", "mimalloc"])
def test_allocator_each_call_passes_one_exit_with_its_block(allocator):
    env = preload(allocator)
    # mimalloc's operator new ends the process where it would have to throw.
    argv = [str(target_path("exit_calls")), str(ROUNDS), *(["aborts"] if allocator == "mimalloc" else [])]
    exits, outcome = step(env["LD_PRELOAD"], argv, env)
    check(exits, outcome)
    if allocator != "mimalloc":
        assert outcome.n_thrown["_Znwm"] > ROUNDS / 4


def test_musl_each_call_passes_one_exit_with_its_block():
    libraries = sorted(Path("/lib").glob("ld-musl-*.so.1"))
    require(libraries, "musl is not installed")
    check(*step(str(libraries[0]), [str(target_path("exit_calls_musl")), str(ROUNDS)], {}))
