"""Measures what tracepoints at a few system calls cost all processes: every system call takes a longer way.

    benchmarks/syscall_tax.py [ROUNDS]

First it runs a loop of getppid, a system call that no trace reads, in an untraced process: without a tracepoint, with
one at the entry of mmap, with one at its exit, with both. Then it counts requests a second of the two servers of
java_servers.py, untraced, with both tracepoints and without in turns: the cost of a trace before it has seen an event.
The tracepoints run nativeleak's programs, with the window closed. Run as root in a checkout after scripts/setup
--tests.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from nativeleak.engines.bpf.kernel import perf
from nativeleak.engines.bpf.kernel.loaders.libbpf import BpfObject, Libbpf, object_path
from nativeleak.engines.bpf.kernel.mounts import Tracefs
from support import Target
from targets import servers
from targets.servers import JETTY, NETTY, Server

ENTRY, EXIT = ("on_mmap_entry", "syscalls/sys_enter_mmap"), ("on_syscall_exit", "syscalls/sys_exit_mmap")
KINDS = {"none": (), "at an entry": (ENTRY,), "at an exit": (EXIT,), "at both": (ENTRY, EXIT)}
CALLS, BLOCKS = 200_000, 20
NEVER = "1000000000"
"""The servers leak in one request of so many."""


@contextlib.contextmanager
def attached(bpf: BpfObject, events: Sequence[tuple[str, str]]) -> Iterator[None]:
    """Attach nativeleak's programs to tracepoints, as a trace does."""
    tracefs = Tracefs()
    fds = [perf.attach_tracepoint(bpf.program_fd(program), tracefs.event_id(event)) for program, event in events]
    try:
        yield
    finally:
        for fd in fds:
            os.close(fd)
        tracefs.close()


def call_ns() -> float:
    """Nanoseconds of a getppid, with ctypes: the minimum over several blocks."""
    getppid = ctypes.CDLL(None).getppid
    best = float("inf")
    for _ in range(BLOCKS):
        started_ns = time.process_time_ns()
        for _ in range(CALLS // BLOCKS):
            getppid()
        best = min(best, (time.process_time_ns() - started_ns) / (CALLS // BLOCKS))
    return best


def server_ratio(bpf: BpfObject, server: Server, n_rounds: int) -> tuple[float, list[float]]:
    """Median requests a second without tracepoints; the ratios of each run with them to the run before."""
    command = ["java", "-cp", server.class_path() or "", server.name, NEVER]
    without, ratios = [], []
    with Target(server.name, command=command) as target:
        port = int(target.readline())
        servers.load(port, 4)
        for _ in range(n_rounds):
            without.append(servers.load(port, 2))
            with attached(bpf, KINDS["at both"]):
                ratios.append(servers.load(port, 2) / without[-1])
    return statistics.median(without), ratios


def main() -> None:
    """Run the loop, then the servers."""
    n_rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    bpf = BpfObject(Libbpf(), object_path())
    with bpf:
        for name in bpf.program_names():
            bpf.set_autoload(name, load=name in (ENTRY[0], EXIT[0]))
        bpf.load()
        found: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(n_rounds):
            for kind, events in KINDS.items():
                with attached(bpf, events):
                    found[kind].append(call_ns())
        base = statistics.median(found["none"])
        for kind, costs in found.items():
            added = statistics.median(costs) - base
            print(f"tracepoints {kind}: {added:+.1f} ns a system call (of {base:.0f} with ctypes)")
        for server in (NETTY, JETTY):
            rate, ratios = server_ratio(bpf, server, n_rounds)
            with_pct = 100 * statistics.median(ratios)
            print(f"{server.name}: {rate:,.0f} requests/s without; with both {with_pct:.1f} % of that")
    print(f"load average {os.getloadavg()[0]:.1f}, {n_rounds} rounds, medians")


if __name__ == "__main__":
    main()
