"""Frames of live, changed and dead processes."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nativeleak.model.stack import Frame, FrameKind
from nativeleak.runtimes.registry import jit_kind
from nativeleak.symbols import resolver
from nativeleak.symbols.elf import ElfFile
from nativeleak.symbols.functions import function_symbols
from nativeleak.symbols.resolver import Symbolizer
from unit.symbols.conftest import Library

# Does what it is told on its standard input, a line of Python each, and answers with the value.
CHILD = """
import ctypes, mmap, sys
names = {"ctypes": ctypes, "mmap": mmap, "kept": []}
print("ready", flush=True)
for line in sys.stdin:
    print(eval(line, names), flush=True)
"""


class Child:
    """A process that evaluates what it is told."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", CHILD]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid
        assert self._line() == "ready"

    def ask(self, expression: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        return self._line()

    def load(self, path: Path, function: str) -> int:
        """Load a library; returns the address of one of its functions."""
        self.ask(f"kept.append(ctypes.CDLL({str(path)!r}))")
        return int(self.ask(f"ctypes.cast(kept[-1].{function}, ctypes.c_void_p).value"))

    def end(self) -> None:
        self.process.communicate("")

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child()
    with child.process:
        yield child
        if child.process.poll() is None:
            child.end()


@pytest.fixture
def own() -> Iterator[Symbolizer]:
    with Symbolizer(os.getpid(), refresh_interval_s=0.0) as symbolizer:
        yield symbolizer


def address_of(name: str) -> int:
    return ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value or 0


@pytest.mark.parametrize("name", ["malloc", "free", "calloc", "realloc", "mmap"])
def test_resolve_libc_function_entry_is_its_name_at_offset_0(own: Symbolizer, name: str) -> None:
    ip = address_of(name)
    frame = own.resolve(ip, True)
    assert (frame.function, frame.offset, frame.ip, frame.kind) == (name, 0, ip, FrameKind.NATIVE)
    assert frame.module is not None
    assert frame.module.startswith("libc")
    assert len(frame.build_id) == 40
    assert (own.resolved_frames, own.unresolved_frames) == (1, 0)


def test_resolve_middle_of_a_function_counts_from_its_start(own: Symbolizer) -> None:
    ip = address_of("malloc")
    frame = own.resolve(ip + 5, True)
    assert (frame.function, frame.offset) == ("malloc", 5)
    assert frame.module_offset == own.resolve(ip, True).module_offset + 5


def test_resolve_caller_looks_one_byte_before_and_counts_from_ip(child: Child, library: Library) -> None:
    start = child.load(library.full, "public_alloc")
    with ElfFile.open(str(library.full)) as elf:
        symbol = function_symbols(elf, ["public_alloc"])["public_alloc"]
    with Symbolizer(child.pid) as symbolizer:
        behind = start + symbol.size  # where a call that is the last instruction returns to
        frame = symbolizer.resolve(behind, False)
        assert (frame.function, frame.offset, frame.ip) == ("public_alloc", symbol.size, behind)
        assert frame.module_offset == symbol.vaddr + symbol.size
        assert symbolizer.resolve(behind, True).function != "public_alloc"


def test_resolve_static_function_without_symbol_is_unresolved_in_its_module(child: Child, library: Library) -> None:
    start = child.load(library.stripped, "public_alloc")
    with ElfFile.open(str(library.full)) as elf:
        symbols = function_symbols(elf, ["public_alloc", "hidden_helper"])
        build_id = elf.build_id
    vaddr = symbols["hidden_helper"].vaddr
    ip = start - symbols["public_alloc"].vaddr + vaddr
    shutil.move(library.debug, library.debug.with_suffix(".away"))
    try:
        with Symbolizer(child.pid, debug_folders=[]) as symbolizer:
            frame = symbolizer.resolve(ip, True)
            assert symbolizer.unresolved_frames == 1
    finally:
        shutil.move(library.debug.with_suffix(".away"), library.debug)
    function = f"0x{ip:x} [libleak.so+0x{vaddr:x}]"
    assert frame == Frame(
        function, "libleak.so", ip, vaddr, FrameKind.UNRESOLVED, build_id=build_id, module_offset=vaddr
    )


def test_resolve_stripped_library_finds_its_debug_file(child: Child, library: Library) -> None:
    start = child.load(library.stripped, "public_alloc")
    with ElfFile.open(str(library.full)) as elf:
        symbols = function_symbols(elf, ["public_alloc", "hidden_helper"])
    with Symbolizer(child.pid) as symbolizer:
        ip = start - symbols["public_alloc"].vaddr + symbols["hidden_helper"].vaddr
        assert symbolizer.resolve(ip + 2, True).function == "hidden_helper"


def test_resolve_deleted_library_is_named_after_the_target_ended(
    child: Child, library: Library, tmp_path: Path
) -> None:
    path = Path(shutil.copy(library.full, tmp_path / "lib gone.so"))
    start = child.load(path, "public_alloc")
    path.unlink()
    with Symbolizer(child.pid, refresh_interval_s=0.0) as symbolizer:
        child.end()
        assert not symbolizer.refresh_maps()
        frame = symbolizer.resolve(start + 1, False)
        assert (frame.function, frame.offset, frame.module) == ("public_alloc", 1, "lib gone.so")


def test_resolve_library_loaded_later_is_found_by_refresh(child: Child, library: Library) -> None:
    with Symbolizer(child.pid, refresh_interval_s=3600.0) as symbolizer:
        start = child.load(library.full, "public_alloc")
        assert symbolizer.resolve(start, True).kind is FrameKind.UNRESOLVED
        assert symbolizer.refresh_maps()
        assert symbolizer.resolve(start, True).function == "public_alloc"
    with Symbolizer(child.pid, refresh_interval_s=0.0) as symbolizer:
        assert symbolizer.resolve(start, True).function == "public_alloc"


def test_resolve_unloaded_library_is_still_named(child: Child, library: Library, tmp_path: Path) -> None:
    path = Path(shutil.copy(library.full, tmp_path / "plugin.so"))
    start = child.load(path, "public_alloc")
    with Symbolizer(child.pid, refresh_interval_s=0.0) as symbolizer:
        child.ask("ctypes.CDLL(None).dlclose(ctypes.c_void_p(kept.pop()._handle))")
        assert symbolizer.refresh_maps()
        assert not any(entry.path == str(path) for entry in symbolizer._maps)
        assert symbolizer.resolve(start, True).function == "public_alloc"


@pytest.mark.parametrize("as_jvm", [False, True])
def test_resolve_jit_code_is_named_by_the_perf_map(
    child: Child, library: Library, tmp_path: Path, as_jvm: bool
) -> None:
    if as_jvm:
        child.load(Path(shutil.copy(library.full, tmp_path / "libjvm.so")), "public_alloc")
    flags = "mmap.MAP_ANONYMOUS | " + ("mmap.MAP_PRIVATE" if as_jvm else "mmap.MAP_SHARED")
    child.ask(f"kept.append(mmap.mmap(-1, 4096, flags={flags}, prot=7))")
    start = int(child.ask("ctypes.addressof(ctypes.c_char.from_buffer(kept[-1]))"))
    path = Path(f"/tmp/perf-{child.pid}.map")
    with Symbolizer(child.pid, refresh_interval_s=0.0, jit_kind=jit_kind) as symbolizer:
        assert symbolizer.resolve(start + 0x20, False).function == f"0x{start + 0x20:x} [anon]"
        try:
            path.write_text(f"{start:x} 20 Lcom/example/Leak;::run\n")
            frame = symbolizer.resolve(start + 0x20, False)
        finally:
            path.unlink()
        kind = FrameKind.JAVA_COMPILED if as_jvm else FrameKind.NATIVE
        assert frame == Frame("Lcom/example/Leak;::run", None, start + 0x20, 0x20, kind)
        assert symbolizer.resolve(start + 0x21, False).kind is FrameKind.UNRESOLVED


def test_resolve_vdso_function_is_named(own: Symbolizer) -> None:
    (vdso,) = (entry for entry in own._maps if entry.path == "[vdso]")
    frames = [own.resolve(ip, True) for ip in range(vdso.start, vdso.end, 16)]
    names = {frame.function for frame in frames if frame.kind is FrameKind.NATIVE}
    assert any("clock_gettime" in name for name in names)
    assert {frame.module for frame in frames if frame.kind is FrameKind.NATIVE} == {"[vdso]"}


def test_resolve_memory_that_is_no_code_says_what_it_is(own: Symbolizer) -> None:
    with mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        first = ctypes.c_char.from_buffer(memory)
        anonymous = ctypes.addressof(first)
        own.refresh_maps()
        assert own.resolve(anonymous, True) == Frame(
            f"0x{anonymous:x} [anon]", None, anonymous, 0, FrameKind.UNRESOLVED
        )
        del first
    (stack,) = (entry for entry in own._maps if entry.path == "[stack]")
    assert own.resolve(stack.start + 8, True).function == f"0x{stack.start + 8:x} [stack]"


@pytest.mark.parametrize("ip", [0, 1, 0x10, (1 << 47) - 1, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("is_leaf", [False, True])
def test_resolve_address_nowhere_is_unresolved(own: Symbolizer, ip: int, is_leaf: bool) -> None:
    frame = own.resolve(ip, is_leaf)
    assert (frame.function, frame.kind) == (f"0x{ip:x} [unmapped]", FrameKind.UNRESOLVED)
    assert (own.resolved_frames, own.unresolved_frames) == (0, 1)


def test_resolve_mapped_file_that_is_no_elf_file_is_unresolved(own: Symbolizer, tmp_path: Path) -> None:
    path = tmp_path / "evil\x1b[31m.so"
    path.write_bytes(b"\xc3" * 8192)
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_PRIVATE, prot=7, offset=4096) as memory,
    ):
        first = ctypes.c_char.from_buffer(memory)
        ip = ctypes.addressof(first) + 0x10
        own.refresh_maps()
        frame = own.resolve(ip, True)
        del first
    assert frame == Frame(
        f"0x{ip:x} [evil?[31m.so+0x1010]", "evil?[31m.so", ip, 0x1010, FrameKind.UNRESOLVED, module_offset=0x1010
    )


def test_symbolizer_of_no_process_answers_unresolved() -> None:
    with Symbolizer(int(Path("/proc/sys/kernel/pid_max").read_text()) + 1) as symbolizer:
        assert symbolizer.resolve(0x1234, True).function == "0x1234 [unmapped]"
        assert not symbolizer.refresh_maps()


def test_resolve_cache_is_bounded(own: Symbolizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "MAX_CACHED_FRAMES", 16)
    start = address_of("malloc")
    for offset in range(100):
        assert own.resolve(start + offset, True).offset == offset
    assert len(own._cache) == 16
    assert own.resolved_frames == 100


def test_close_gives_all_descriptors_back() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    symbolizer = Symbolizer(os.getpid())
    symbolizer.resolve(address_of("malloc"), True)
    assert len(list(Path("/proc/self/fd").iterdir())) > before
    symbolizer.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert symbolizer.resolve(address_of("free"), True).kind is FrameKind.UNRESOLVED
