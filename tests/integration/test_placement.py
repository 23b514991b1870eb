"""Probes at the chosen places: hit exactly as often as the entry, paired with their returns, and harmless.

Hits are counted by perf events without any program, on private copies of the libraries, since probes belong to the
inode.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import pytest

from nativeleak.probes.calls import AllocCall
from nativeleak.probes.emulation import CONSERVATIVE, InstructionClass, measure_emulated
from nativeleak.probes.placement import PlacedProbe, place
from nativeleak.probes.search import find_allocators
from nativeleak.symbols.functions import find_function_offsets
from support import PRELOADS, LineReader, require, require_program

_PROGRAM = r"""
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <dlfcn.h>

static void *blocks[256];

/* A function that the allocator does not have would be glibc's, whose blocks it cannot free. */
static void *find(const char *name, int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], name))
			return dlsym(RTLD_DEFAULT, name);
	return NULL;
}

/* Only the calls that are counted: no stdio, which has blocks of its own. */
int main(int argc, char **argv)
{
	void *(*reallocarray_)(void *, size_t, size_t) = find("reallocarray", argc, argv);
	void *(*memalign_)(size_t, size_t) = find("memalign", argc, argv);
	void *(*valloc_)(size_t) = find("valloc", argc, argv);
	void *(*pvalloc_)(size_t) = find("pvalloc", argc, argv);
	char command;
	long i;

	for (;;) {
		if (write(1, "\n", 1) != 1 || read(0, &command, 1) != 1)
			return 0;
		switch (command) {
		case 'm':
			for (i = 0; i < 101; i++) {
				blocks[i] = malloc(i * 97);
				memset(blocks[i], 1, i * 97);
			}
			break;
		case 'f': /* 89, of which 7 are NULL */
			for (i = 0; i < 82; i++)
				free(blocks[i]);
			for (i = 0; i < 7; i++)
				free(*(void *volatile *)&blocks[255]);
			break;
		case 'o': /* 13 of each */
			for (i = 0; i < 13; i++) {
				void *block = calloc(i, 31), *aligned = NULL;

				block = realloc(block, 1000 + i);
				if (reallocarray_)
					block = reallocarray_(block, i + 1, 301);
				free(block);
				if (posix_memalign(&aligned, 64, 100 + i) || ((uintptr_t)aligned & 63))
					return 1;
				free(aligned);
				free(aligned_alloc(256, 512));
				if (memalign_)
					free(memalign_(128, 100 + i));
				if (valloc_)
					free(valloc_(10 + i));
				if (pvalloc_)
					free(pvalloc_(10 + i));
			}
			break;
		case 'x': /* 100,000 calls */
			for (i = 0; i < 50000; i++) {
				size_t bytes = i % 1000 ? i % 3000 : i * 20;
				char *block = malloc(bytes + 1);

				block[bytes] = 1;
				free(block);
			}
			break;
		}
	}
}
"""

ALLOCATORS = ("glibc", "jemalloc", "tcmalloc", "mimalloc", "musl")
NAMES = (
    "malloc",
    "calloc",
    "realloc",
    "reallocarray",
    "posix_memalign",
    "aligned_alloc",
    "memalign",
    "valloc",
    "pvalloc",
)

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="all probes sit at the entry on this machine")


class Counter:
    """Hits of one place in one process; a context manager.

    Source: perf_event_open(2), the ``uprobe`` PMU: config1 the path, config2 the offset, bit 0 of config the return.
    """

    def __init__(self, pid: int, path: str, offset: int, *, at_return: bool = False) -> None:
        pmu = int(Path("/sys/bus/event_source/devices/uprobe/type").read_text())
        name = ctypes.create_string_buffer(os.fsencode(path))
        attr = struct.pack("<IIQQQQQII", pmu, 112, int(at_return), 0, 0, 0, 0, 0, 0)
        attr = attr.ljust(56, b"\0") + struct.pack("<QQ", ctypes.addressof(name), offset)
        buffer = ctypes.create_string_buffer(attr.ljust(112, b"\0"), 112)
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = int(libc.syscall(ctypes.c_long(298), buffer, pid, -1, -1, ctypes.c_ulong(8)))
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), f"uprobe at {path}+{offset:#x}: {os.strerror(ctypes.get_errno())}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def read(self) -> int:
        """Hits so far."""
        return int.from_bytes(os.read(self.fd, 8), "little")


class Program:
    """The program above, running on a private copy of an allocator; a context manager."""

    def __init__(self, allocator: str, folder: Path) -> None:
        source, binary = folder / "calls.c", folder / "calls"
        source.write_text(_PROGRAM)
        compiler = "musl-gcc" if allocator == "musl" else "cc"
        require_program(compiler)
        flags = ["-O1", "-fno-builtin", "-w"]
        subprocess.run([compiler, *flags, "-o", str(binary), str(source), "-ldl"], check=True, timeout=60)
        self.library, command, env = _private_copy(allocator, folder, binary)
        functions = find_function_offsets(self.library, NAMES)
        self.process = subprocess.Popen(
            [*command, *functions], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **env}, bufsize=0
        )
        assert self.process.stdout is not None
        self._lines = LineReader(self.process.stdout.fileno())
        self._wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        status = self.process.wait(30.0)
        self._lines.close()
        assert status == 0

    def do(self, command: str) -> None:
        """Let it make the calls of one command."""
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode())
        self._wait()

    def _wait(self) -> None:
        line = self._lines.readline(60.0)
        assert line is not None, f"the program ended with status {self.process.wait(10.0)}"


def _private_copy(allocator: str, folder: Path, binary: Path) -> tuple[str, list[str], Mapping[str, str]]:
    """The copy, and how the program is run on it."""
    if allocator == "musl":
        loader = Path("/lib/ld-musl-x86_64.so.1")
        require(loader.exists(), "musl is not installed")
        copy = shutil.copy(loader.resolve(), folder / loader.name)
        return str(copy), [str(copy), str(binary)], {}
    name = "libc.so.6" if allocator == "glibc" else PRELOADS[allocator]
    found = sorted(Path("/usr/lib").glob(f"*-linux-gnu/{name}")) or sorted(Path("/lib").glob(f"*-linux-gnu/{name}"))
    require(found, f"{allocator} is not installed")
    copy = shutil.copy(found[0].resolve(), folder / name)
    return str(copy), [str(binary)], {"LD_LIBRARY_PATH": str(folder)} if allocator == "glibc" else {"LD_PRELOAD": copy}


def _placed(library: str) -> list[PlacedProbe]:
    points = find_allocators(library).points
    return [probe for probe in place(library, points) if probe.point.function in (*NAMES, "free")]


@pytest.fixture(scope="module")
def emulated() -> frozenset[InstructionClass]:
    @contextlib.contextmanager
    def attach(path: str, offsets: Sequence[int]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for offset in offsets:
                stack.enter_context(Counter(os.getpid(), path, offset))
            yield

    return measure_emulated(attach)


def test_measure_emulated_this_kernel_all_that_is_believed_of_any(emulated: frozenset[InstructionClass]) -> None:
    assert emulated >= CONSERVATIVE


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_place_chosen_places_hit_as_often_as_the_entries(allocator: str, tmp_path: Path) -> None:
    with Program(allocator, tmp_path) as program, contextlib.ExitStack() as stack:
        placed = {probe.point.function: probe for probe in _placed(program.library)}
        pid, library = program.process.pid, program.library
        entry = {n: stack.enter_context(Counter(pid, library, p.point.offset)) for n, p in placed.items()}
        chosen = {n: stack.enter_context(Counter(pid, library, p.offset)) for n, p in placed.items()}
        program.do("m")
        assert (entry["malloc"].read(), chosen["malloc"].read()) == (101, 101)
        assert (entry["free"].read(), chosen["free"].read()) == (0, 0)
        program.do("f")
        n_seen = 89 if placed["free"].placement.sees_null else 82
        assert (entry["free"].read(), chosen["free"].read()) == (89, n_seen)
        program.do("o")
        n_null = entry["free"].read() - chosen["free"].read()
        assert n_null == 89 - n_seen
        hits = {name: (entry[name].read(), chosen[name].read()) for name in placed if name != "free"}
        assert all(at_entry == at_chosen >= 13 for at_entry, at_chosen in hits.values()), hits


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_place_return_probes_at_the_chosen_places_pair_with_the_calls(allocator: str, tmp_path: Path) -> None:
    """100,000 calls under entry and return probes: each returns, to the right place, and the program goes on."""
    with Program(allocator, tmp_path) as program, contextlib.ExitStack() as stack:
        calls, returns, frees = {}, {}, []
        for probe in _placed(program.library):
            where = (program.process.pid, program.library, probe.offset)
            if probe.point.kind is AllocCall.FREE:
                frees.append(stack.enter_context(Counter(*where)))
            else:
                calls[probe.point.function] = stack.enter_context(Counter(*where))
                returns[probe.point.function] = stack.enter_context(Counter(*where, at_return=True))
        program.do("m")
        program.do("f")
        program.do("o")
        before = calls["malloc"].read(), sum(free.read() for free in frees)
        program.do("x")
        assert calls["malloc"].read() - before[0] == 50_000
        assert sum(free.read() for free in frees) - before[1] == 50_000
        assert {name: counter.read() for name, counter in returns.items()} == {
            name: counter.read() for name, counter in calls.items()
        }
