"""Compares the cost of nativeleak for the target with other tools, on the same work in one run.

    benchmarks/peers.py [--rounds 5] [--only TRACER]... [--plot docs/overhead.png] [pairs] [rates]

``pairs``: one thread makes malloc/free pairs of 16 to 1,024 bytes and does nothing else. Prints the CPU time added to a
pair.

``rates``: four threads on all cores, with work between their pairs, 1,000 to 100,000 pairs a second. Prints the time
added to the median pair, the target's CPU time added to a pair, and the lost throughput, to which the recorder's own
work adds. At the lowest rate only the first figure is more than noise: the work beside a pair is a thousand times its
cost.

Each round runs all tracers in turn, each on a new process, untraced and traced. Figures are medians of the differences.
The target has its own copy of the C library: bcc's tools leave a reference counter on a probed address, and the kernel
refuses other probes there. Another tool counts as attached once the target's cost shows it.

Run as root in a checkout after scripts/setup --tests. Packages: bpfcc-tools bpftrace heaptrack; for --plot the Python
package matplotlib.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import empty_probes

from nativeleak import arch
from nativeleak.engines.bpf.kernel.loaders.bcc_compiler import write_stubs
from stacks import await_snapshots
from support import Target, Trace, Truth, eventually

LIBC = "libc.so.6"
WARM_PAIRS = 2_000
PAIRS = 50_000
RATES = (1_000, 10_000, 100_000)
"""Pairs a second of all threads together, untraced."""
THREADS = 4
RATE_SECONDS = 2.0

BPFTRACE = """
uprobe:{libc}:malloc {{ @size[tid] = arg0; }}
uretprobe:{libc}:malloc /@size[tid]/ {{
  @bytes[retval] = @size[tid]; @stack[retval] = ustack(); delete(@size[tid]);
}}
uprobe:{libc}:free /@bytes[arg0]/ {{ delete(@bytes[arg0]); delete(@stack[arg0]); }}
"""
"""Keeps blocks with their sizes and stacks, as memleak does."""

Attach = Callable[[Target, Path], contextlib.AbstractContextManager[None]]


PTRACE_H = """
struct pt_regs {
  unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
"""
"""The part of the kernel headers that memleak needs besides the stubs of nativeleak's BCC loader."""


@dataclass(frozen=True)
class Tracer:
    """A tool that is measured.

    Attributes:
        attach: Traces the target while the context is open.
        preload: Library that the target loads at its start; it is then compared with another process without it.
        programs: Programs that must be installed.
    """

    name: str
    attach: Attach
    preload: str = ""
    programs: tuple[str, ...] = ()


def ours(*options: str) -> Attach:
    """nativeleak with these options. After three snapshots everything is ready, unwind tables too."""

    @contextlib.contextmanager
    def attach(target: Target, _libc: Path) -> Iterator[None]:
        with Trace(target, options=["--interval", "0.5s", *options]) as trace:
            await_snapshots(trace, 3)
            yield
            trace.stop()

    return attach


@contextlib.contextmanager
def nothing(_target: Target, _libc: Path) -> Iterator[None]:
    """No tracer."""
    yield


def empty(*, declined: bool) -> Attach:
    """Empty probes."""
    return lambda target, _libc: empty_probes.attached(target.pid, declined=declined)


def peer(make_command: Callable[[Target, Path], list[str]]) -> Attach:
    """Another program."""

    @contextlib.contextmanager
    def attach(target: Target, libc: Path) -> Iterator[None]:
        usual_ns = cpu_ns(target.ask(f"1 {WARM_PAIRS} 0"))
        headers = libc.parent / "headers"
        if not headers.exists():
            write_stubs(headers, arch.X86_64)
            (headers / "include/uapi/linux/ptrace.h").write_text(PTRACE_H)
        # A new process group: some tools start further processes.
        process = subprocess.Popen(
            make_command(target, libc),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "BCC_KERNEL_SOURCE": str(headers)},
            start_new_session=True,
        )
        try:
            eventually(lambda: cpu_ns(target.ask(f"1 {WARM_PAIRS} 0")) > 10 * usual_ns, "the other tool's probes")
            # Entry and return are attached one after the other.
            eventually(lambda: is_steady(target), "a steady cost")
            yield
        finally:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    return attach


def is_steady(target: Target) -> bool:
    """Whether three turns cost the same within a tenth."""
    costs = [cpu_ns(target.ask(f"1 {WARM_PAIRS} 0")) for _ in range(3)]
    return max(costs) < 1.1 * min(costs)


def memleak(target: Target, libc: Path) -> list[str]:
    """bcc's memleak, as Debian packages it."""
    return ["memleak-bpfcc", "-p", str(target.pid), "-O", str(libc), "3600"]


def bpftrace(target: Target, libc: Path) -> list[str]:
    """A bpftrace script that keeps the same as memleak."""
    return ["bpftrace", "-p", str(target.pid), "-e", BPFTRACE.format(libc=libc)]


TRACERS = (
    Tracer("empty probes", empty(declined=False)),
    Tracer("empty probes, declined", empty(declined=True)),
    Tracer("nativeleak", ours()),
    Tracer("nativeleak --unwind fp", ours("--unwind", "fp")),
    Tracer("nativeleak --sample 512K", ours("--sample", "512K")),
    Tracer("nativeleak --returns exits", ours("--returns", "exits")),
    Tracer("exits, --sample 512K", ours("--returns", "exits", "--sample", "512K")),
    Tracer("nativeleak governed", ours("--max-overhead", "5%")),
    Tracer("memleak-bpfcc", peer(memleak), programs=("memleak-bpfcc",)),
    Tracer("bpftrace", peer(bpftrace), programs=("bpftrace",)),
    Tracer("heaptrack", nothing, "/usr/lib/heaptrack/libheaptrack_preload.so", ("heaptrack",)),
)
RATED = ("empty probes", "nativeleak", "nativeleak governed", "memleak-bpfcc", "bpftrace", "heaptrack")


def cpu_ns(answer: Truth) -> float:
    """CPU time of a pair, nanoseconds."""
    return float(answer["cpu_ns"]) / float(answer["n_pairs"])


@contextlib.contextmanager
def private_target(preload: str = "") -> Iterator[tuple[Target, Path]]:
    """The target with its own copy of the C library."""
    with tempfile.TemporaryDirectory(prefix="nativeleak-peers-") as room:
        libc = Path(room) / LIBC
        shutil.copy(next(Path("/lib").glob(f"*-linux-gnu/{LIBC}")), libc)
        env = {"LD_LIBRARY_PATH": room, "LD_PRELOAD": preload, "DUMP_HEAPTRACK_OUTPUT": "/dev/null"}
        with Target("rate", env=env) as target:
            yield target, libc


def compare(tracer: Tracer, command: str) -> tuple[Truth, Truth]:
    """Run the same work untraced, traced, and untraced again, because the machine may have become slower meanwhile."""
    with private_target() as (target, libc):
        target.ask(f"1 {WARM_PAIRS} 0")
        before = target.ask(command, 600)
        if tracer.preload:
            with private_target(tracer.preload) as (injected, _):
                injected.ask(f"1 {WARM_PAIRS} 0")
                traced = injected.ask(command, 600)
        else:
            with tracer.attach(target, libc):
                target.ask(f"1 {WARM_PAIRS} 0")
                traced = target.ask(command, 600)
        after = target.ask(command, 600)
    return {name: (before[name] + after[name]) / 2 for name in before}, traced


def missing(tracer: Tracer) -> bool:
    """Whether a tool is not installed; prints its missing programs."""
    lacking = [name for name in tracer.programs if shutil.which(name) is None]
    if lacking:
        print(f"# {tracer.name}: not installed: {' '.join(lacking)}")
    return bool(lacking)


def pairs(rounds: int, tracers: list[Tracer]) -> dict[str, float]:
    """Print and return the CPU time added to a pair, in ns, with one thread that does nothing else."""
    added: dict[str, list[float]] = {tracer.name: [] for tracer in tracers}
    base: list[float] = []
    for _ in range(rounds):
        for tracer in tracers:
            untraced, traced = compare(tracer, f"1 {PAIRS} 0")
            base.append(cpu_ns(untraced))
            added[tracer.name].append(cpu_ns(traced) - cpu_ns(untraced))
    medians = {name: statistics.median(values) for name, values in added.items()}
    floor = medians.get("empty probes")
    peer_ns = medians.get("memleak-bpfcc")
    print(
        f"one thread, pairs of 16 to 1,024 bytes; untraced {statistics.median(base):.1f} ns; {rounds} rounds, medians"
    )
    print(f"{'':<26}{'added ns a pair':>16}{'of empty probes':>17}{'of memleak':>12}")
    for name, value in medians.items():
        share = f"{value / peer_ns:>11.3f}x" if peer_ns else f"{'':>12}"
        of_empty = f"{value / floor:>16.2f}x" if floor else f"{'':>17}"
        print(f"{name:<26}{value:>16,.0f}{of_empty}{share}", flush=True)
    return medians


def work_for(rate: int) -> tuple[int, int]:
    """Rounds of work before each pair for a rate, and pairs per thread for the measured time."""
    with private_target() as (target, _):
        n_rounds, n_pairs = 1_000, 2_000
        for _ in range(4):
            answer = target.ask(f"{THREADS} {n_pairs} {n_rounds}", 600)
            reached = answer["n_pairs"] / (answer["elapsed_ns"] / 1e9)
            n_rounds = max(1, round(n_rounds * reached / rate))
            n_pairs = max(50, round(0.25 * rate / THREADS))
    return n_rounds, max(50, round(RATE_SECONDS * rate / THREADS))


Rated = dict[tuple[str, int], float]
"""(tracer, rate) -> % of throughput lost."""


def rates(rounds: int, tracers: list[Tracer]) -> Rated:
    """Run four threads with work between their pairs; print and return the lost throughput."""
    figures: Rated = {}
    print(f"\n{THREADS} threads with work between; {rounds} rounds, medians")
    print(f"{'':<26}{'pairs/s':>9}{'median pair, ns':>17}{'CPU ns a pair':>15}{'throughput lost':>17}")
    for rate in RATES:
        n_rounds, n_pairs = work_for(rate)
        found: dict[str, list[tuple[float, float, float]]] = {tracer.name: [] for tracer in tracers}
        for _ in range(rounds):
            for tracer in tracers:
                untraced, traced = compare(tracer, f"{THREADS} {n_pairs} {n_rounds}")
                lost_pct = 100 * (1 - untraced["elapsed_ns"] / traced["elapsed_ns"])
                added_ns = traced["pair_ns"] - untraced["pair_ns"]
                found[tracer.name].append((added_ns, cpu_ns(traced) - cpu_ns(untraced), lost_pct))
        for name, values in found.items():
            pair_ns, added_ns, lost_pct = (statistics.median(column) for column in zip(*values, strict=True))
            figures[name, rate] = lost_pct
            print(f"{name:<26}{rate:>9,}{pair_ns:>17,.0f}{added_ns:>15,.0f}{lost_pct:>16.1f}%", flush=True)
    return figures


def plot(figures: Rated, path: Path) -> None:
    """Throughput lost by rate, one line a tracer."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name in dict.fromkeys(name for name, _ in figures):
        line = [max(0.05, figures[name, rate]) for rate in RATES]
        axes.plot(RATES, line, marker="o", label=name, linewidth=2.5 if "nativeleak" in name else 1.2)
    axes.set(xscale="log", yscale="log", xlabel="malloc/free pairs a second", ylabel="throughput lost (%)")
    axes.set_title(f"{THREADS} threads with work between, {os.cpu_count()} cores")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run the given parts, or both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="pairs, rates")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=[tracer.name for tracer in TRACERS], metavar="TRACER")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    wanted = [tracer for tracer in TRACERS if not given.only or tracer.name in given.only]
    tracers = [tracer for tracer in wanted if not missing(tracer)]
    print(f"load average {os.getloadavg()[0]:.1f}")
    if not given.what or "pairs" in given.what:
        pairs(given.rounds, tracers)
    if not given.what or "rates" in given.what:
        figures = rates(given.rounds, [tracer for tracer in tracers if tracer.name in RATED])
        if given.plot:
            plot(figures, given.plot)
            print(f"plot: {given.plot}")


if __name__ == "__main__":
    main()
