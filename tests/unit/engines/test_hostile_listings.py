"""Output of strace, smaps and pmap made to be as slow as can be: a mebibyte each, within bounds of time and memory."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from fuzz.harness import Parser, limited_memory, try_input
from fuzz.parsers import in_pieces_as_whole, memory_file, read_pmap, record_replay, use_smaps
from nativeleak.engines.strace.recorded import RecordedStrace

SIZE = 1 << 20
MAX_S = 8.0
"""Three times what the slowest of them takes; without limits on sites and snapshots it was 97 s."""
PAGE = 4096
BASE = 0x7F00_0000_0000


def filled(lines):
    """As many of the lines as fit."""
    found, n_bytes = [], 0
    for line in lines:
        n_bytes += len(line) + 1
        if n_bytes > SIZE:
            break
        found.append(line)
    return "\n".join(found).encode()


def endless():
    return range(1, SIZE)


HOSTILE = {
    # Each thread is made by the one before: who is whose is asked for each line.
    "strace-chain-of-threads": (
        "strace",
        (f"{i} clone(flags=CLONE_THREAD) = {i + 1}" for i in endless()),
    ),
    "strace-circle-of-threads": (
        "strace",
        (f"{i} clone(flags=CLONE_THREAD) = {i % 20011 + 1}" for i in endless()),
    ),
    # A site for each call, and a moment for each snapshot that can be.
    "strace-a-site-and-a-second-each": (
        "strace",
        (
            f"{i} {i}.0 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = {BASE + 2 * PAGE * i:#x}"
            for i in endless()
        ),
    ),
    "strace-the-jvm-at-each-call": (
        "strace",
        (
            f"1 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = {BASE + 2 * PAGE * i:#x}\n"
            f" > /l/libjvm.so(f{i}+0x1) [0x{i:x}]"
            for i in endless()
        ),
    ),
    "strace-one-line": ("strace", iter(["1 mmap(" + "[" * (SIZE - 10)])),
    "strace-never-resumed": ("strace", (f"{i} munmap(0x1000, {i} <unfinished ...>" for i in endless())),
    "strace-holes": (
        "strace",
        (
            [f"1 mmap(NULL, {1 << 40}, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = {BASE:#x}"]
            + [f"1 mprotect({BASE + 2 * PAGE * i:#x}, 4096, PROT_NONE) = 0" for i in range(30000)]
            + [f"1 mprotect({BASE:#x}, {1 << 40}, PROT_NONE) = 0"]
        ),
    ),
    # Touching neighbours, none of them merged: the arena they might be part of begins far before.
    "smaps-neighbours": (
        "smaps",
        (f"{BASE + PAGE * i:x}-{BASE + PAGE * (i + 1):x} {'rw-p' if i % 2 else '---p'} 0 0:0 0" for i in endless()),
    ),
    "smaps-one-over-the-other": ("smaps", (f"{SIZE - i:x}-{SIZE:x} rw-p 0 0:0 0" for i in endless())),
    "pmap-neighbours": (
        "pmap",
        ["1:   x"]
        + [f"{BASE + PAGE * i:016x} 4 4 4 {'rw---' if i % 2 else '-----'} [ anon ]" for i in range(11000)]
        + ["1:   x"]
        + [f"{BASE + PAGE * i:016x} 4 4 4 {'-----' if i % 2 else 'rw---'} [ anon ]" for i in range(11000)],
    ),
    "pmap-many-files": (
        "pmap",
        ["1:   x", "1:   x"] + [f"{BASE + PAGE * i:016x} 4 4 4 rw--- f{i}" for i in range(25000)],
    ),
    "pmap-many-listings": ("pmap", (f"{BASE:016x} 4 4 4 rw--- f{i}" for i in endless())),
}


def use_strace(room, data):
    """To the recording: a report takes its time by the number of sites, and has tests of its own."""
    in_pieces_as_whole(data)
    with closing(RecordedStrace(Path("strace"), memory_file(data, "strace"))) as replay:
        record_replay(replay, room / "replay.nlk")


USES = {
    "strace": use_strace,
    "smaps": lambda _, data: use_smaps(data),
    "pmap": lambda room, data: record_replay(read_pmap(data), room / "replay.nlk"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_listing_made_to_be_slow_is_read_within_the_limits(name, tmp_path):
    which, lines = HOSTILE[name]
    data = filled(lines)
    assert len(data) > SIZE // 2
    with limited_memory():
        try_input(Parser(which, partial(USES[which], tmp_path), list), data, tmp_path, MAX_S)
