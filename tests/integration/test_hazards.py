"""Targets that a careless tracer would harm, or lose sight of: each lives on, and the report says what is missing."""

from __future__ import annotations

import re

from nativeleak.process.procfs import read_maps
from nativeleak.symbols.functions import find_function_offsets
from support import Target, Trace, nativeleak
from tools.check_report import check


def test_library_that_is_unmapped_while_it_is_probed_ends_nothing():
    with Target("reloads") as target, Trace(target, options=["--interval", "0.2s"]) as trace:
        target.send("go")
        assert target.readline() == "RELOADED"
        report = trace.stop()
        assert target.process.poll() is None
        target.process.stdin.close()
        assert target.wait() == 0
    assert check(report) == []
    assert report["target"]["allocators"][0] == "libc.so.6"
    assert report["totals"]["heap"]["allocated_count"] > 0


def probed_addresses(pid: int) -> dict[int, bytes]:
    """Addresses in a process's libc where its memory has a breakpoint, with the byte of the file there."""
    found = {}
    for entry in read_maps(pid, executable_only=True):
        if "/libc.so" not in entry.path:
            continue
        n_bytes = entry.end - entry.start
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory, open(entry.path, "rb") as file:
            memory.seek(entry.start)
            file.seek(entry.offset)
            ours, theirs = memory.read(n_bytes), file.read(n_bytes)
        found |= {entry.start + i: theirs[i : i + 1] for i in range(len(ours)) if ours[i] == 0xCC != theirs[i]}
    return found


def malloc_probe(pid: int) -> int:
    """The address of the probe in malloc."""
    (entry,) = (entry for entry in read_maps(pid, executable_only=True) if "/libc.so" in entry.path)
    start = entry.start + find_function_offsets(entry.path, ["malloc"])["malloc"] - entry.offset
    return min(address for address in probed_addresses(pid) if address >= start)


def assert_alive(target: Target) -> None:
    """It still runs, and ends with status 0: all its blocks are as it left them."""
    target.send("steps")
    assert target.readline().startswith("STEPS ")
    target.process.stdin.close()
    assert target.wait() == 0


def test_probe_that_is_overwritten_is_put_back_and_the_report_says_so():
    with Target("checked") as target, Trace(target, options=["--interval", "0.2s"]) as trace:
        probes = probed_addresses(target.pid)
        address = malloc_probe(target.pid)
        with open(f"/proc/{target.pid}/mem", "wb", buffering=0) as memory:
            memory.seek(address)
            memory.write(probes[address])
        trace.wait_line("1 probe of malloc in libc.so.6 was gone from the target")
        assert probed_addresses(target.pid) == probes
        report = trace.stop()
        text = nativeleak("report", trace.recording).stdout
        assert_alive(target)
    assert check(report) == []
    assert report["completeness"]["probes_lost"] == 1
    (note,) = [note["text"] for note in report["notes"] if note["what"] == "blind"]
    assert re.search(r" between \d\.\d s and \d\.\d s: calls meanwhile are missing; they were put back$", note)
    assert "was gone from the target" in text.partition("Threads that hold")[0]
    assert "Nothing was lost" not in text


def test_code_that_is_replaced_by_a_copy_is_told():
    with Target("checked") as target, Trace(target, options=["--interval", "0.2s"]) as trace:
        n_probes = len(probed_addresses(target.pid))
        target.send("remap")
        assert target.readline() == "REMAPPED"
        trace.wait_line(f"{n_probes} probes of ")
        report = trace.stop()
        text = nativeleak("report", trace.recording).stdout
        assert_alive(target)
    assert check(report) == []
    assert report["completeness"]["probes_lost"] == n_probes
    (note,) = [note["text"] for note in report["notes"] if note["what"] == "blind"]
    assert "they cannot be put back: the code was replaced by a copy" in note
    assert "cannot be put back" in " ".join(text.partition("Threads that hold")[0].split())
    assert "Nothing was lost" not in text
