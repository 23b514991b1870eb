#!/usr/bin/env python3
"""Measures the cost of the engines without BPF for the target: time of system calls and of mappings.

usage: python benchmarks/fallback_engines.py [--seconds S]

Prints one line per engine: nanoseconds for a getppid (a call that no engine reads), and microseconds for a pair of mmap
and munmap (which strace reads). The target is one process with one thread, in Python's ctypes. Its own share is not
small: only the differences count.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = """
import ctypes, json, sys, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)

def pair():
    libc.munmap(libc.mmap(None, 1 << 20, 3, 0x22, -1, 0), 1 << 20)

def measure(call, seconds):
    end, n = time.monotonic() + seconds, 0
    started = time.monotonic()
    while time.monotonic() < end:
        for _ in range(16):
            call()
        n += 16
    return (time.monotonic() - started) / n * 1e9

print("READY", flush=True)
for line in sys.stdin:
    seconds = float(line)
    print(json.dumps({"call": measure(libc.getppid, seconds), "pair": measure(pair, seconds)}), flush=True)
"""


def measure(engine: str | None, seconds: float) -> dict[str, float]:
    """Nanoseconds per call and per pair in a new target under an engine; None: untraced."""
    with (
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as target,
        tempfile.TemporaryDirectory() as folder,
    ):
        assert target.stdin is not None
        assert target.stdout is not None
        target.stdout.readline()
        tracer = None
        if engine is not None:
            command = [sys.executable, "-m", "nativeleak", "trace", "-p", str(target.pid), "--engine", engine]
            command += ["-o", str(Path(folder) / "x.nlk"), "--format", "none", "--interval", "1s"]
            tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            assert tracer.stderr is not None
            while not tracer.stderr.readline().startswith("nativeleak: tracing"):
                assert tracer.poll() is None
        target.stdin.write(f"{seconds}\n")
        target.stdin.flush()
        result: dict[str, float] = json.loads(target.stdout.readline())
        if tracer is not None:
            tracer.terminate()
            tracer.communicate()
        target.stdin.close()
    return result


def main() -> None:
    """Measure each engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    seconds = parser.parse_args().seconds
    print(f"{'engine':10} {'getppid, ns':>14} {'mmap + munmap, us':>20}")
    for engine in (None, "pmap", "libbpf", "strace"):
        result = measure(engine, seconds)
        print(f"{engine or 'none':10} {result['call']:>14,.0f} {result['pair'] / 1e3:>20,.1f}", flush=True)


if __name__ == "__main__":
    main()
