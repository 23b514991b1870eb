"""Stacks of real programs: the head is the function that the program's source says.

The rules were written with ``stacks.jsonl``: a C program on eleven libraries, C++ on five, Rust, Java with Netty and
Jetty on JDK 17, Python. ``set_aside.jsonl`` has other programs, run when the rules were done: Rust with the older
mangling, JDK 25, foreign memory, Ruby. Each line has the program's name, the function (or the module of an extension)
that allocates, and the frames, leaf first.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from nativeleak.frames.display import bare, display_name
from nativeleak.frames.headline import headline
from nativeleak.frames.owners import owner_of_stack
from nativeleak.model import Frame, FrameKind, Owner
from nativeleak.runtimes.hotspot.spec import HOTSPOT

DATA = Path(__file__).parent / "data"
TABLES = (HOTSPOT.frames,)


def read(name):
    rows = [json.loads(line) for line in (DATA / name).read_text().splitlines()]
    return [(f"{row['program']}-{i}", row["head"], to_frames(row["frames"])) for i, row in enumerate(rows)]


def to_frames(rows):
    frames = []
    for function, module, kind in rows:
        if kind == "unresolved":
            offset = int(function, 16)
            frames.append(Frame(f"{offset:#x} [{module}+{offset:#x}]", module, 0x7F00, offset, FrameKind(kind)))
        else:
            frames.append(Frame(function, module, 0x7F00, 0, FrameKind(kind)))
    return frames


STACKS = read("stacks.jsonl")
SET_ASIDE = read("set_aside.jsonl")


def head_of(frames):
    found = headline(frames, TABLES)
    assert found is not None
    return frames[found.index]


def is_head(frame, head):
    if head.startswith("module "):
        return frame.module == head.removeprefix("module ")
    return head in (frame.function, bare(frame.function))


@pytest.mark.parametrize(("head", "frames"), [each[1:] for each in STACKS], ids=[each[0] for each in STACKS])
def test_headline_of_a_recorded_stack_is_the_programs_function(head, frames):
    assert is_head(head_of(frames), head)


def test_headline_of_stacks_set_aside_is_the_programs_function():
    wrong = [
        (name, head, head_of(frames).function) for name, head, frames in SET_ASIDE if not is_head(head_of(frames), head)
    ]
    assert not wrong


def test_headline_of_a_recorded_stack_has_no_noise():
    for _, _, frames in STACKS + SET_ASIDE:
        head = head_of(frames)
        name = display_name(head.function, head.kind)
        assert "__cxx11" not in name
        assert "std::allocator" not in name
        assert "(" not in name.replace("(anonymous namespace)", "")


def test_headline_needs_little_time_for_many_stacks():
    stacks = [frames for _, _, frames in STACKS] * 20
    headline(stacks[0], TABLES)
    for frames in stacks:
        headline(frames, TABLES)
    start = time.process_time()
    for frames in stacks:
        headline(frames, TABLES)
    assert (time.process_time() - start) / len(stacks) < 1e-3


@pytest.mark.parametrize("program", ["nety", "nety25", "ffm"])
def test_owner_of_direct_memory_is_the_program(program):
    direct = [
        frames
        for name, _, frames in STACKS + SET_ASIDE
        if name.startswith(f"{program}-") and any("allocateMemory0" in frame.function for frame in frames)
    ]
    assert direct
    assert all(owner_of_stack(frames, TABLES) is Owner.PROGRAM for frames in direct if not is_chore(frames))


def is_chore(frames):
    """Compiling or profiling a method happens to begin in whatever method runs."""
    return any(frame.function.startswith(("CompileBroker::", "CompilationPolicy::")) for frame in frames)
