"""Programs as distributions ship them, optimised and stripped, without frame pointers: their stacks reach the root."""

from __future__ import annotations

import platform
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nativeleak.model import Frame, FrameSource, Kind
from nativeleak.recording import open_recording
from stacks import await_snapshots, await_tables, is_marked
from support import Trace, require

SNAPSHOTS_OF_LOAD = 6

MAX_ENTRY_BYTES = 64
"""_start is shorter: its call of __libc_start_main returns within so many bytes."""

PYTHON = """
import json, re, sqlite3, sys, zlib
print("ready", flush=True)
sys.stdin.readline()
db = sqlite3.connect(":memory:")
db.execute("CREATE TABLE t (a INTEGER, b TEXT)")
n = 0
while True:
    n += 1
    text = json.dumps({str(i): [i] * 20 for i in range(200)})
    data = json.loads(text)
    kept = re.sub("[0-9]+", lambda match: match.group() * 2, text)
    db.executemany("INSERT INTO t VALUES (?, ?)", [(i, kept[:600]) for i in range(50)])
    db.execute("SELECT count(*), max(b) FROM t GROUP BY a % 7 ORDER BY b").fetchall()
    db.execute("DELETE FROM t")
    zlib.decompress(zlib.compress(text.encode()))
    sorted(data, key=lambda word: -int(word))
"""

PERL = r"""
$| = 1; print "ready\n"; <STDIN>;
while (1) {
    my %h = map { ("key $_" => "x" x ($_ % 700)) } 1 .. 500;
    my @sorted = sort { $h{$a} cmp $h{$b} } keys %h;
    my $text = join ",", map { sprintf "%s=%d", $_, length $h{$_} } @sorted;
    $text =~ s/(\d+)/$1$1/g;
    my @parts = split /,/, $text;
    eval { die { n => scalar @parts } };
    my $code = eval "sub { \$_[0] + " . scalar(@parts) . " }"; $code->(1);
}
"""


@dataclass
class Walked:
    """Allocations of a trace by what became of their stacks, and the roots of those that are whole."""

    n: int = 0
    n_whole: int = 0
    n_stacks: int = 0
    n_frames: int = 0
    roots: set[tuple[str | None, int]] = field(default_factory=set)
    marks: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        share = 100 * self.n_whole / max(1, self.n)
        depth = self.n_frames / max(1, self.n)
        return f"{self.n:,} allocations, {self.n_stacks} stacks {depth:.1f} deep, {share:.3f} % whole; {self.marks}"


def walked(recording: Path) -> Walked:
    """What is in a recording."""
    found = Walked()
    with open_recording(recording) as opened:
        for site in opened.sites:
            if site.key.kind is not Kind.HEAP or not site.allocated_count:
                continue
            stack = opened.stack(site.key.stack_key)
            assert stack is not None, "a stack was lost"
            n = site.allocated_count
            found.n += n
            found.n_stacks += 1
            found.n_frames += n * len(stack.frames)
            if is_marked(stack):
                kinds = {frame.found for frame in stack.frames} - {FrameSource.EXACT}
                mark = " ".join([stack.end, *sorted(kinds)])
                found.marks[mark] = found.marks.get(mark, 0) + n
            else:
                found.n_whole += n
                found.roots.add(place(stack.frames[-1]))
    return found


def place(frame: Frame) -> tuple[str | None, int]:
    return frame.module, frame.module_offset


def entry_of(program: Path) -> int:
    """Where an executable begins, by its header."""
    with program.open("rb") as file:
        header = file.read(32)
    entry: int = struct.unpack_from("<Q", header, 24)[0]
    return entry


def assert_roots(found: Walked, program: Path) -> None:
    """What is whole ends where programs and threads begin, and nowhere else: in _start, or in one place in libc."""
    name = program.resolve().name
    begins = [offset for module, offset in found.roots if module == name]
    assert all(0 < offset - entry_of(program) < MAX_ENTRY_BYTES for offset in begins), found.roots
    others = {(module, offset) for module, offset in found.roots if module != name}
    assert len(others) <= 1, found.roots
    assert {module for module, _ in others} <= {"libc.so.6"}


@contextmanager
def running(command: Sequence[str | Path]) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has said that it is ready, and waits for a line."""
    process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def under_load(command: Sequence[str | Path]) -> Walked:
    """Trace a program for some seconds while it works."""
    with running(command) as process, Trace(process.pid, options=["--interval", "0.5s"]) as trace:
        await_tables(trace)
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
        await_snapshots(trace, SNAPSHOTS_OF_LOAD)
        trace.stop()
        return walked(trace.recording)


@pytest.fixture(autouse=True)
def _tables() -> None:
    require(platform.machine() == "x86_64", "unwind tables are made for x86-64 only")


@pytest.mark.parametrize(
    ("program", "option", "code"), [("python3", "-c", PYTHON), ("perl", "-e", PERL)], ids=["python3", "perl"]
)
def test_program_under_load_all_stacks_reach_the_root(program, option, code, record_property):
    path = Path("/usr/bin") / program
    require(path.exists(), f"the distribution's {program} is not installed")
    found = under_load([path, option, code])
    print(f"{program}: {found}")
    record_property("walked", str(found))
    assert found.n > 10000
    assert found.n_whole >= 0.999 * found.n, found
    assert_roots(found, path)


def make_repository(folder: Path) -> None:
    """Two thousand commits, each of which changes every seventh line of three files."""
    commands = []
    for n in range(2000):
        lines = "".join(f"line {i} of {n if i % 7 == n % 7 else 0}, some words to fill it\n" for i in range(60))
        commands.append(
            f"commit refs/heads/main\ncommitter A <a@example.org> {1700000000 + n} +0000\ndata 8\nmessage\n\n"
        )
        commands += [
            f"M 100644 inline folder{n % 3}/file{(n + k) % 20}.txt\ndata {len(lines)}\n{lines}\n" for k in range(3)
        ]
    git = ["git", "-C", str(folder)]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    subprocess.run([*git, "fast-import", "--quiet"], input="".join(commands).encode(), check=True)


def test_git_log_with_patches_all_stacks_reach_the_root(tmp_path, record_property):
    path = Path("/usr/bin/git")
    require(path.exists(), "git is not installed")
    make_repository(tmp_path)
    command = [path, "-C", tmp_path, "--no-pager", "log", "-p", "-C", "--stat"]
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        # It stops at a full pipe until it is read.
        process.stdout.read(1)
        with Trace(process.pid, options=["--interval", "0.5s"]) as trace:
            await_tables(trace)
            while process.stdout.read(1 << 16):
                pass
            process.wait()
            trace.wait()
            found = walked(trace.recording)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    print(f"git: {found}")
    record_property("walked", str(found))
    assert found.n > 5000
    assert found.n_whole >= 0.999 * found.n, found
    assert_roots(found, path)
