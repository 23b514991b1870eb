"""Targets that a careless tracer would harm, or lose sight of: each lives on, and the report says what is missing."""

from __future__ import annotations

import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

from nativeleak.process.procfs import read_maps
from nativeleak.symbols.functions import find_function_offsets
from support import Target, Trace, eventually, nativeleak, target_path
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


def probed_during_doctor(pid: int) -> set[int]:
    """Addresses in a process's libc that had a breakpoint at any time while ``doctor -p`` looked at it."""
    seen: set[int] = set()
    command = [sys.executable, "-m", "nativeleak", "doctor", "-p", str(pid)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as doctor:
        while doctor.poll() is None:
            seen |= set(probed_addresses(pid))
    return seen


def test_doctor_counts_calls_for_a_moment_and_leaves_the_text_as_it_was():
    with Target("checked") as target:
        assert probed_during_doctor(target.pid)
        assert not probed_addresses(target.pid)
        assert_alive(target)


def test_doctor_puts_no_probe_into_a_process_that_probes_may_end():
    with Target("checked", "dispatch") as target:
        assert not probed_during_doctor(target.pid)
        assert_alive(target)


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


def assert_refused(trace: Trace, why: str) -> None:
    """The trace ends with status 3, a line that says why, and a line with what to do; nothing was attached."""
    assert trace.wait_end() == 3
    first, remedy = trace.stderr.splitlines()
    assert first.startswith("nativeleak: trace of PID ")
    assert why in first
    assert "--maps-only" in remedy
    assert not trace.recording.exists()


def child_of(target: Target) -> int:
    """The only child of a target."""
    return int(Path(f"/proc/{target.pid}/task/{target.pid}/children").read_text())


def test_process_in_a_ptrace_sandbox_is_refused_and_lives():
    with Target("sandbox", target_path("checked")) as sandbox:
        with Trace(child_of(sandbox), attaches=False) as trace:
            assert_refused(trace, f"process {sandbox.pid} (sandbox) traces it")
        with Trace(child_of(sandbox), options=["--maps-only"]) as trace:
            trace.stop()
        assert_alive(sandbox)


def test_process_with_syscall_user_dispatch_is_refused_and_lives():
    with Target("checked", "dispatch") as target:
        with Trace(target, attaches=False) as trace:
            assert_refused(trace, "syscall user dispatch")
        doctor = nativeleak("doctor", "-p", target.pid)
        assert_alive(target)
    assert "syscall user dispatch" in doctor.stdout
    assert "trace cannot work here: hazards, engine" in doctor.stdout


def test_process_under_a_seccomp_filter_is_traced_or_refused_and_lives():
    """Linux 6.11 to 6.13 let the filter deny return probes; all others trace."""
    release = tuple(int(number) for number in platform.release().split(".")[:2])
    is_denied = platform.machine() == "x86_64" and (6, 11) <= release < (6, 14)
    with Target("checked", "filtered") as target, Trace(target, attaches=not is_denied) as trace:
        if is_denied:
            assert_refused(trace, "seccomp filter")
        else:
            target.send("steps")
            assert target.readline().startswith("STEPS ")
            assert trace.stop()["totals"]["heap"]["allocated_count"] > 0
        doctor = nativeleak("doctor", "-p", target.pid).stdout
        assert_alive(target)
    assert "runs under a seccomp filter" in doctor
    assert ("on Linux 6.11 to 6.13 a return probe may end it" in " ".join(doctor.split())) is is_denied


def test_function_that_was_patched_in_memory_is_not_probed_and_the_report_says_so():
    with Target("checked", "patched") as target, Trace(target) as trace:
        target.send("steps")
        assert target.readline().startswith("STEPS ")
        report = trace.stop()
        text = nativeleak("report", trace.recording).stdout
        assert_alive(target)
    (note,) = [note["text"] for note in report["notes"] if note["what"] == "blind"]
    assert note.startswith("the code of calloc in libc.so.6 was changed in memory")
    assert "Nothing was lost" not in text
    assert report["totals"]["heap"]["allocated_count"] > 0


def test_process_with_a_debugger_is_refused_and_lives():
    with Target("checked") as target:
        (entry,) = (entry for entry in read_maps(target.pid, executable_only=True) if "/libc.so" in entry.path)
        address = entry.start + find_function_offsets(entry.path, ["malloc"])["malloc"] - entry.offset
        with Target("debugger", target.pid, address) as debugger:
            with Trace(target, attaches=False) as trace:
                assert_refused(trace, f"process {debugger.pid} (debugger) traces it")
            debugger.process.stdin.close()
            assert debugger.wait() == 0
        assert_alive(target)


def test_trace_waits_for_a_debugger_to_leave_before_its_probes_go():
    with Target("checked") as target, Trace(target) as trace:
        with Target("debugger", target.pid, malloc_probe(target.pid)) as debugger:
            trace.process.send_signal(signal.SIGINT)
            trace.wait_line("waiting up to 5 s for a debugger to leave")
            assert probed_addresses(target.pid)
            debugger.process.stdin.close()
            assert debugger.wait() == 0
        report = trace.wait()
        assert_alive(target)
    assert not any("keeps the probes" in note["text"] for note in report["notes"])


def test_debugger_that_stays_beyond_the_trace_harms_nothing():
    with Target("checked") as target, Trace(target) as trace:
        with Target("debugger", target.pid, malloc_probe(target.pid)) as debugger:
            report = trace.stop()
            (note,) = [note["text"] for note in report["notes"] if "keeps the probes" in note["text"]]
            keeper = Path("/proc", re.search(r"process (\d+) keeps the probes", note)[1])
            assert keeper.exists()
            assert probed_addresses(target.pid)
            debugger.process.stdin.close()
            assert debugger.wait() == 0
        eventually(lambda: not keeper.exists(), "the end of the process that keeps the probes")
        assert not probed_addresses(target.pid)
        assert_alive(target)


def test_target_lives_on_under_a_debugger_whose_tracer_is_killed_and_doctor_names_the_debugger():
    """The byte that the debugger puts back when it leaves is our breakpoint: docs/security.md, known harm."""
    with Target("checked") as target, Trace(target) as trace:
        address = malloc_probe(target.pid)
        with Target("debugger", target.pid, address) as debugger:
            trace.process.kill()
            trace.process.wait()
            eventually(lambda: set(probed_addresses(target.pid)) <= {address}, "no probe left but the debugger's")
            target.send("steps")
            assert target.readline().startswith("STEPS ")
            doctor = nativeleak("doctor", "-p", target.pid)
            assert f"process {debugger.pid} (debugger) traces it" in " ".join(doctor.stdout.split())
