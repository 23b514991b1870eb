"""Source lines and inlined functions, against a program that tells the return addresses of its own calls."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import recording_fixtures as fixtures
from nativeleak.cli.main import run
from nativeleak.model import Frame, Stack
from nativeleak.recording import Recording, RecordingWriter
from nativeleak.recording.lines import RecordingWithLines
from nativeleak.symbols.elf import ElfFile
from nativeleak.symbols.lines.child import NO_DEBUG, NO_FILE
from nativeleak.symbols.source import BytesSource

SOURCE = """
#include <cstdio>
#include <cstdlib>
__attribute__((noinline)) void *note(size_t n) {
  printf("%p\\n", __builtin_return_address(0));
  return malloc(n);
}
struct Cache {
  void *last;
  __attribute__((always_inline)) inline void *take(size_t n) {
    void *p = note(n);  // take
    last = p;
    return p;
  }
};
__attribute__((always_inline)) static inline void *remember(Cache &cache, size_t n) {
  void *p = cache.take(n + 1);  // remember
  return p;
}
__attribute__((noinline)) void *serve(Cache &cache, size_t n) {
  void *p = remember(cache, n);  // serve
  asm volatile("" ::"r"(p) : "memory");
  return p;
}
int main(int argc, char **) {
  Cache cache;
  serve(cache, argc);
}
"""
KEY = 7
TRUTH = [("Cache::take(unsigned long)", "take"), ("remember", "remember"), ("serve(Cache&, unsigned long)", "serve")]


class Built(NamedTuple):
    path: Path
    build_id: str
    address: int


def build(folder: Path, *flags: str) -> Built:
    """The program, linked to fixed addresses so that what it prints are addresses of its file."""
    source, program = folder / "shop.cpp", folder / "shop"
    source.write_text(SOURCE)
    options = ("-O2", "-g", "-no-pie", "-Wl,--build-id", *flags)
    subprocess.run(["g++", *options, "-o", program, source], check=True, cwd=folder)
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    elf = ElfFile(BytesSource(program.read_bytes()))
    return Built(program, elf.build_id, int(printed, 16))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("shop"))


def recorded(folder: Path, program: Built, exe: str = "") -> Recording:
    """A recording with a stack of the program, as a trace writes it: without lines."""
    folder.mkdir(exist_ok=True)
    address = program.address
    frames = (
        Frame("malloc", "libc.so.6", 0x7F0000001000, 0),
        Frame("serve(Cache&, unsigned long)", "shop", address, 13, build_id=program.build_id, module_offset=address),
        fixtures.java("com.shop.Main.main", line=3),
    )
    path = folder / "a.nlk"
    with RecordingWriter(path, fixtures.trace_info()) as writer:
        writer.add_stacks([Stack(KEY, frames)])
        target = fixtures.target(exe=exe or str(program.path))
        for at_s in (1.0, 2.0, 3.0):
            site = fixtures.heap_site(1, KEY, (int(at_s) * 1000, int(at_s)))
            writer.write_snapshot(fixtures.snapshot(at_s, [site], targets=(target,), threads=fixtures.THREADS))
        writer.finish("duration", 3.0)
    return Recording.from_bytes(path.read_bytes())


def shown(lined: Recording) -> list[tuple[str, str, int, bool]]:
    """The frames of the program's stack that are in its file."""
    stack = lined.stack(KEY)
    assert stack is not None
    assert [frame.function for frame in stack.frames[:1]] == ["malloc"]
    assert stack.frames[-1].function == "com.shop.Main.main"
    return [(each.function, each.file or "", each.line or 0, each.is_inlined) for each in stack.frames[1:-1]]


def truth(program: Built) -> list[tuple[str, str, int, bool]]:
    lines = SOURCE.splitlines()
    where = {mark: next(i for i, text in enumerate(lines, 1) if text.endswith(f"// {mark}")) for _, mark in TRUTH}
    file = str(program.path.with_name("shop.cpp"))
    return [(name, file, where[mark], mark != "serve") for name, mark in TRUTH]


def test_inlined_functions_and_lines_are_those_of_the_source(built: Built, tmp_path: Path) -> None:
    with recorded(tmp_path, built) as recording:
        lined = RecordingWithLines(recording, kept=tmp_path / "kept")
        assert shown(lined) == truth(built)
        assert [frame.line for frame in recording.stack(KEY).frames[1:-1]] == [None]  # type: ignore[union-attr]
        assert [stack.frames for stack in lined.stacks({KEY})] == [lined.stack(KEY).frames]  # type: ignore[union-attr]


def test_table_that_was_kept_serves_without_the_program(built: Built, tmp_path: Path) -> None:
    with recorded(tmp_path, built) as recording:
        RecordingWithLines(recording, kept=tmp_path / "kept")
    with recorded(tmp_path / "later", built, exe="/gone/shop") as recording:
        assert shown(RecordingWithLines(recording, kept=tmp_path / "kept")) == truth(built)


@pytest.fixture
def parted(built: Built, tmp_path: Path) -> tuple[Built, Path]:
    """The program stripped, and its debug file apart from it."""
    folder = tmp_path / "parted"
    folder.mkdir()
    program, debug = folder / "shop", tmp_path / "shop.debug"
    shutil.copy(built.path, program)
    subprocess.run(["objcopy", "--only-keep-debug", program, debug], check=True)
    subprocess.run(["strip", program], check=True)
    subprocess.run(["objcopy", f"--add-gnu-debuglink={debug}", program], check=True)
    return Built(program, built.build_id, built.address), debug


def test_stripped_program_has_no_lines_and_the_reason_is_said(parted: tuple[Built, Path], tmp_path: Path) -> None:
    with recorded(tmp_path, parted[0]) as recording:
        lined = RecordingWithLines(recording, kept=tmp_path / "kept")
        assert [each.why for each in lined.modules] == [NO_DEBUG]
        assert [line for _, _, line, _ in shown(lined)] == [0]


def test_debug_file_is_found_by_its_link_and_by_its_build_id(
    built: Built, parted: tuple[Built, Path], tmp_path: Path
) -> None:
    program, debug = parted
    folder = tmp_path / "given" / ".build-id" / built.build_id[:2]
    folder.mkdir(parents=True)
    shutil.copy(debug, folder / f"{built.build_id[2:]}.debug")
    with recorded(tmp_path, program, exe="/gone/shop") as recording:
        by_id = RecordingWithLines(recording, [tmp_path / "given"], kept=tmp_path / "by-id")
        assert shown(by_id) == truth(built)
    beside = program.path.parent / ".debug"
    beside.mkdir()
    shutil.copy(debug, beside / "shop.debug")
    with recorded(tmp_path / "again", program) as recording:
        assert shown(RecordingWithLines(recording, kept=tmp_path / "by-link")) == truth(built)


def test_file_of_another_build_gives_no_lines(built: Built, tmp_path: Path) -> None:
    other = Built(built.path, "ab" * 20, built.address)
    with recorded(tmp_path, other) as recording:
        lined = RecordingWithLines(recording, kept=tmp_path / "kept")
        assert [each.why for each in lined.modules] == [NO_FILE]


@pytest.mark.parametrize("build_id", ["../../../etc/passwd", "*", "", "ab", "AB" * 20])
def test_build_id_of_a_foreign_recording_is_no_path(built: Built, tmp_path: Path, build_id: str) -> None:
    with recorded(tmp_path, Built(built.path, build_id, built.address)) as recording:
        assert RecordingWithLines(recording, kept=tmp_path / "kept").modules == ()
        assert not (tmp_path / "kept").exists()


def test_damaged_debug_information_ends_no_report(built: Built, tmp_path: Path) -> None:
    data = bytearray(built.path.read_bytes())
    for section in range(len(data) // 2, len(data) - 4096, 7):
        data[section] ^= 0xFF
    broken = tmp_path / "shop"
    broken.write_bytes(data)
    with recorded(tmp_path, built, exe=str(broken)) as recording:
        lined = RecordingWithLines(recording, kept=tmp_path / "kept")
        assert len(shown(lined)) >= 1


class _Server(http.server.BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012 - read by the test
    debug = b""

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200 if self.debug else 404)
        self.end_headers()
        self.wfile.write(self.debug)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(parted: tuple[Built, Path]) -> Iterator[str]:
    _Server.asked, _Server.debug = [], parted[1].read_bytes()
    with http.server.HTTPServer(("127.0.0.1", 0), _Server) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def test_debuginfod_is_asked_only_where_the_user_named_one(
    built: Built, parted: tuple[Built, Path], server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)
    with recorded(tmp_path, parted[0]) as recording:
        RecordingWithLines(recording, kept=tmp_path / "kept")
        assert _Server.asked == []
        monkeypatch.setenv("DEBUGINFOD_URLS", server)
        assert shown(RecordingWithLines(recording, kept=tmp_path / "kept")) == truth(built)
    assert _Server.asked == [f"/buildid/{built.build_id}/debuginfo"]


def test_report_shows_lines_and_keeps_the_ids_of_its_sites(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recorded(tmp_path, built).close()
    found = []
    for options in (["--lines"], ["--no-lines"]):
        assert run(["report", str(tmp_path / "a.nlk"), "--format", "json", *options]) == 0
        out, err = capfd.readouterr()
        found.append(json.loads(out))
        assert ("source lines: 1 of 1 modules" in err) == (options == ["--lines"])
    with_lines, without = (report["sites"][0] for report in found)
    assert with_lines["id"] == without["id"]
    names = [(frame["function"], frame.get("inlined", False)) for frame in with_lines["frames"][1:-1]]
    assert names == [("Cache::take(unsigned long)", True), ("remember", True), ("serve(Cache&, unsigned long)", False)]
    assert run(["report", str(tmp_path / "a.nlk"), "--format", "folded", "--lines"]) == 0
    assert "serve(Cache&, unsigned long);remember_[i];Cache::take(unsigned long)_[i];malloc" in capfd.readouterr()[0]
