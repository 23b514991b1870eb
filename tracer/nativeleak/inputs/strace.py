"""Recorded output of strace: what was mapped and not unmapped, by thread; and files of ``-ff``, one a thread."""

from __future__ import annotations

import heapq
import re
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Final

from nativeleak.engines.strace.lines import Clock, parse_leader
from nativeleak.engines.strace.recorded import RecordedStrace, looks_like_strace
from nativeleak.inputs.reading import Reading, size
from nativeleak.inputs.source import InputFile
from nativeleak.model import Frame, Kind, Snapshot, Stack, TargetEnd, ThreadInfo

_HEAD_BYTES: Final = 1 << 18
_TID_SUFFIX: Final = re.compile(r"\.(\d{1,10})(?:\.\w{1,4})?")
_MAX_ROWS: Final = 8
_ENDS: Final = {TargetEnd.EXITED: "exited", TargetEnd.EXEC: "exec"}


def is_strace(file: InputFile) -> bool:
    """Whether a file begins as strace's output does."""
    head = file.head(_HEAD_BYTES).decode("utf-8", "replace")
    return looks_like_strace(head.split("\n"))


def thread_of_file(file: InputFile) -> int:
    """The thread that the name of a file of ``-ff -o`` says, 0 for none."""
    found = _TID_SUFFIX.search(file.path.name)
    return int(found[1]) if found and found.end() == len(file.path.name) else 0


def open_strace(files: Sequence[InputFile], pid: int = 0) -> RecordedStrace:
    """Output of strace, one file, or one a thread (``-ff``).

    Raises:
        NativeleakError: The process is not in it.
    """
    numbers = [thread_of_file(file) for file in files]
    heads = [file.head().decode("utf-8", "replace").split("\n", 400)[:400] for file in files]
    is_numbered = any(parse_leader(line).tid for head in heads for line in head)
    if len(files) == 1 and (not numbers[0] or is_numbered):
        return RecordedStrace(files[0].path, pid=pid, read_lines=files[0].lines)
    return RecordedStrace(files[0].path, pid=pid, read_lines=lambda: _merged(files, numbers))


def _merged(files: Sequence[InputFile], numbers: Sequence[int]) -> Iterator[str]:
    """The lines of all files by their time stamps, each with its thread in front; stacks stay with their call."""
    groups = [_groups(file, number) for file, number in zip(files, numbers, strict=True)]
    for _, _, lines in heapq.merge(*groups, key=lambda group: group[:2]):
        yield from lines


def _groups(file: InputFile, number: int) -> Iterator[tuple[float, int, list[str]]]:
    """(moment, thread, lines): a call with the lines of its stack."""
    clock = Clock(0.0)
    group: list[str] = []
    moment = 0.0
    for line in file.lines():
        if line.startswith(" > "):
            group.append(line)
            continue
        if group:
            yield moment, number, group
        group = [f"{number} {line}" if number else line]
        moment = clock.seconds(parse_leader(line).stamp)
    if group:
        yield moment, number, group


def parse_strace(files: Sequence[InputFile], pid: int = 0) -> Reading:
    """What one output of strace adds up to.

    Raises:
        NativeleakError: The process is not in it.
    """
    with closing(open_strace(files, pid)) as source:
        snapshot, threads, notes, stacks = _play(source)
        values = _values(snapshot, threads, source)
        reading = Reading("strace", "output of strace", values)
        values["stack"] = _largest_stack(snapshot, stacks)
        reading.n_unread = snapshot.counters["unread_lines"]
        for what, text in notes:
            if what == "unread":
                reading.first_unread = text.rpartition("first: ")[2]
            else:
                reading.notes.append(text)
    if len(files) > 1 and not reading.values["duration_s"]:
        reading.notes.append("no time stamps: calls of different threads may be in the wrong order")
    if orphans := snapshot.counters["lost_events"]:
        reading.notes.append(f"{orphans:,} calls have no other half in the file, or made no sense")
    _tell(reading)
    return reading


def _play(
    source: RecordedStrace,
) -> tuple[Snapshot, dict[int, ThreadInfo], list[tuple[str, str]], dict[int, Stack]]:
    stacks: dict[int, Stack] = {}
    threads: dict[int, ThreadInfo] = {}
    notes: list[tuple[str, str]] = []
    snapshot: Snapshot | None = None
    for snapshot in source.snapshots(float("inf")):
        threads |= {thread.uid: thread for thread in snapshot.threads}
        notes += source.take_notes()
        stacks |= {stack.key: stack for stack in source.take_stacks()}
    assert snapshot is not None  # noqa: S101 - there is at least one
    return snapshot, threads, notes, stacks


def _largest_stack(snapshot: Snapshot, stacks: dict[int, Stack]) -> list[str] | None:
    """``FUNCTION MODULE [FILE:LINE]``, leaf first, of the site that holds most among those with a stack."""
    for site in sorted(snapshot.sites, key=lambda site: -site.outstanding_bytes):
        stack = stacks.get(site.key.stack_key)
        frames = [frame for frame in stack.frames if frame.module] if stack is not None else []
        if frames:
            return [
                f"{frame.function} {frame.module}"
                + (f" {frame.file}:{frame.line}" if frame.file and not _is_c_library(frame) else "")
                for frame in frames
            ]
    return None


def _values(snapshot: Snapshot, threads: dict[int, ThreadInfo], source: RecordedStrace) -> dict[str, Any]:
    sums, by_thread = Counter[str](), Counter[str]()
    for site in snapshot.sites:
        sums[f"{site.key.kind}"] += site.outstanding_bytes
        sums["no_access"] += site.reserved_bytes
        sums["freed"] += site.freed_bytes
        thread = threads.get(site.key.thread_uid)
        if thread is not None and site.outstanding_bytes:
            by_thread[str(thread.tid)] += site.outstanding_bytes
    target = snapshot.targets[0]
    end = _ENDS.get(target.end, "")
    if target.end is TargetEnd.KILLED:
        end = f"killed by {_signal_name(target.end_signal)}"
    return {
        "pid": target.pid or None,
        "mapped_outstanding": sums[Kind.MAP],
        "no_access_bytes": sums["no_access"],
        "brk_growth": sums[Kind.BRK],
        "threads": dict(by_thread.most_common()),
        "names": {str(thread.tid): thread.name for thread in threads.values() if _is_name(thread.name)},
        "freed": sums["freed"],
        "duration_s": round(source.duration_s, 6),
        "end": end or None,
    }


def _is_c_library(frame: Frame) -> bool:
    return re.match(r"(?:libc|ld-linux|ld-musl)\b", frame.module or "") is not None


def _is_name(name: str) -> bool:
    """Whether the file itself says it: unknown ones have a name made of their number."""
    return bool(name) and not name.startswith("[thread ")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _tell(reading: Reading) -> None:
    values, names = reading.values, reading.values["names"]
    who = f"PID {values['pid']}" if values["pid"] else "a process that no line names"
    lines = reading.lines
    lines.append(
        f"{who}: {size(values['mapped_outstanding'])} mapped and not unmapped, {size(values['brk_growth'])} growth of "
        f"the program break, {size(values['no_access_bytes'])} mapped without access"
    )
    for tid, n_bytes in list(values["threads"].items())[:_MAX_ROWS]:
        lines.append(f"{size(n_bytes):>12}  thread {tid} {names.get(tid, '')}".rstrip())
    if values["end"]:
        lines.append(f"it was {values['end']}" if values["end"].startswith("killed") else f"it ended: {values['end']}")
    if values["stack"]:
        lines.append(f"the largest site: {' < '.join(values['stack'][:3])}")
    lines.append("by call site and over time: nativeleak trace --input FILE")
