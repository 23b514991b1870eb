"""Random sequences of all calls over several threads: after each, the whole ledger and the interval map are true.

One trace for all sequences, in this process: its collector is asked after every sequence, and what changed since the
sequence began is held against a model that computes it from the calls alone; the interval map is held against
/proc/PID/maps. What a failed sequence leaves behind does not make the next one fail.

NATIVELEAK_TEST_SEQUENCES=5000 for a long run, NATIVELEAK_TEST_SEED=7 for other sequences.
"""

from __future__ import annotations

import os
from collections import defaultdict
from itertools import takewhile

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from nativeleak.engines.bpf.kernel.programs import Limits
from nativeleak.engines.options import TraceOptions
from nativeleak.engines.registry import by_name
from nativeleak.model import Kind, Owner
from nativeleak.process import procfs
from nativeleak.session.session import Session
from support import Target

N_SEQUENCES = int(os.environ.get("NATIVELEAK_TEST_SEQUENCES", "60"))
SEED = int(os.environ.get("NATIVELEAK_TEST_SEED", "3"))

PAGE = 4096
N_PAGES = 64
ARENA = 0x200000000000
IMPOSSIBLE = (1 << 63) - 1
MOST = 1 << 40
"""Requests are far below or far above it."""
NONE, READ, RW = 0, 1, 3
KERNELS = ("[stack]", "[uprobes]", "[uprobes-trampoline]", "[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]")
"""What the kernel maps by itself, or lets grow, with no call."""

FUNCTIONS = {
    "m": "malloc",
    "c": "calloc",
    "r": "realloc",
    "R": "reallocarray",
    "f": "free",
    "a": "memalign",
    "p": "posix_memalign",
    "v": "valloc",
    "d": "strdup",
    "M": "mmap",
    "N": "noreplace",
    "U": "munmap",
    "P": "mprotect",
    "X": "move",
    "D": "dontunmap",
    "S": "resize",
    "B": "sbrk",
}

threads = st.integers(0, 3)
slots = st.integers(0, 11)
sizes = st.one_of(
    st.sampled_from([0, 1, 24, 25, 4096, 131072, 135000, 1 << 20, IMPOSSIBLE]),
    st.integers(0, 3000),
    st.integers(0, 300000),
)
factors = st.sampled_from([0, 1, 3, 17, 101, 1 << 62, IMPOSSIBLE])
alignments = st.sampled_from([8, 16, 64, 256, 4096, 65536])
pages = st.integers(0, N_PAGES - 1)
lengths = st.integers(1, 20)
prots = st.sampled_from([NONE, READ, RW, RW])

calls = st.one_of(
    st.tuples(threads, st.just("m"), slots, sizes),
    st.tuples(threads, st.just("c"), slots, factors, factors),
    st.tuples(threads, st.just("r"), slots, sizes),
    st.tuples(threads, st.just("R"), slots, factors, factors),
    st.tuples(threads, st.just("f"), slots),
    st.tuples(threads, st.just("a"), slots, alignments, sizes),
    st.tuples(threads, st.just("p"), slots, st.one_of(alignments, st.sampled_from([0, 3, 24])), sizes),
    st.tuples(threads, st.just("v"), slots, sizes),
    st.tuples(threads, st.just("d"), slots, st.integers(0, 4000)),
    st.tuples(threads, st.just("M"), pages, lengths, prots),
    st.tuples(threads, st.just("N"), pages, lengths, prots),
    st.tuples(threads, st.just("U"), pages, lengths),
    st.tuples(threads, st.just("P"), pages, lengths, prots),
    st.tuples(threads, st.just("X"), pages, lengths, pages, lengths),
    st.tuples(threads, st.just("D"), pages, lengths, pages),
    st.tuples(threads, st.just("S"), pages, lengths, lengths),
    st.tuples(threads, st.just("B"), st.integers(-20000, 30000)),
)
HEAP_CALLS = "mcrRapvd"


class Model:
    """What the calls mean: blocks by slot, pages by number, the break by its bytes; totals by (kind, thread, function).

    ``totals`` are [outstanding bytes, outstanding count, allocated bytes, allocated count] for the heap;
    [outstanding bytes, outstanding count, reserved bytes] for pages and the break.
    """

    def __init__(self):
        self.blocks = {}
        self.pages = {}
        self.brk = []
        self.heap = defaultdict(lambda: [0, 0, 0, 0])
        self.n_calls = 0

    # What a call becomes, so that what comes of it is certain

    def prepared(self, call):
        """The calls to make in its place: none, one or two."""
        thread, letter, *rest = call
        if letter in "mcapvd" and rest[0] in self.blocks:
            yield (thread, "f", rest[0])
        elif letter == "f" and rest[0] not in self.blocks:
            return
        elif letter in "MNUPXDS":
            rest[1] = min(rest[1], N_PAGES - rest[0])
            if letter == "P":
                # Half of it would be done at a hole: that is the one thing not exact.
                rest[1] = len(list(takewhile(self.pages.__contains__, range(rest[0], rest[0] + rest[1])))) or 1
            elif letter in "XDS":
                rest[1] = self._same(rest[0], rest[1])
                if not rest[1]:
                    return
            if letter == "X":
                rest[3] = min(rest[3], N_PAGES - rest[2])
            elif letter == "D" and rest[2] + rest[1] > N_PAGES:
                return
            elif letter == "S":
                rest[2] = min(rest[2], N_PAGES - rest[0])
        elif letter == "B" and (not rest[0] or -rest[0] > sum(n for _, n in self.brk)):
            return
        yield (thread, letter, *rest)

    def _same(self, page, n):
        """How many pages from here on are of one call and one protection."""
        if page not in self.pages:
            return 0
        return len(list(takewhile(lambda at: self.pages.get(at) == self.pages[page], range(page, page + n))))

    # What a call does; returns whether it is known to succeed (None: the kernel knows)

    def expected(self, call):
        _, letter, a, *rest = (*call, 0, 0, 0)
        if letter in HEAP_CALLS:
            if letter == "p" and (rest[0] % 8 or not rest[0] or rest[0] & (rest[0] - 1)):
                return False
            size = self._size(letter, rest)
            return size < MOST and not (letter in "rR" and a in self.blocks and not size)
        if letter == "N":
            return not any(at in self.pages for at in range(a, a + rest[0]))
        if letter == "P":
            return a in self.pages
        if letter in "XD":
            n, to = rest[0], rest[1]
            m = rest[2] if letter == "X" else n
            return to >= a + n or a >= to + m
        if letter == "S":
            return True if rest[1] <= rest[0] else None
        return True

    @staticmethod
    def _size(letter, rest):
        if letter in "cR":
            return min(rest[0] * rest[1], IMPOSSIBLE)
        if letter == "d":
            return rest[0] + 1
        return min(rest[1] if letter in "ap" else rest[0], IMPOSSIBLE)

    def apply(self, call, succeeded):
        thread, letter, a, *rest = (*call, 0, 0, 0)
        site = (thread, FUNCTIONS[letter])
        if letter in HEAP_CALLS or letter == "f":
            self._apply_heap(site, letter, a, rest, succeeded)
        elif letter == "B":
            self._apply_brk(site, a)
        elif succeeded:
            self._apply_pages(site, letter, a, rest)

    def _apply_heap(self, site, letter, slot, rest, succeeded):
        size = 0 if letter == "f" else self._size(letter, rest)
        frees = letter == "f" or (letter in "rR" and (succeeded or not size))
        if frees and slot in self.blocks:
            old_site, old_size = self.blocks.pop(slot)
            self.heap[old_site][0] -= old_size
            self.heap[old_site][1] -= 1
        if succeeded and letter != "f":
            self.blocks[slot] = (site, size)
            self.heap[site] = [x + y for x, y in zip(self.heap[site], (size, 1, size, 1), strict=True)]

    def _apply_brk(self, site, n):
        if n > 0:
            self.brk.append((site, n))
        while n < 0:
            top, room = self.brk.pop()
            if room > -n:
                self.brk.append((top, room + n))
            n = min(0, n + room)

    def _apply_pages(self, site, letter, page, rest):
        n, first, second = rest[:3]
        self.n_calls += 1
        call = (self.n_calls, site)
        if letter in "MN":
            self.pages.update(dict.fromkeys(range(page, page + n), (call, first)))
        elif letter == "U":
            for at in range(page, page + n):
                self.pages.pop(at, None)
        elif letter == "P":
            self.pages.update({at: (self.pages[at][0], first) for at in range(page, page + n)})
        else:
            prot = self.pages[page][1]
            to, m = (page, first) if letter == "S" else (first, second if letter == "X" else n)
            if letter != "D":
                for at in range(page, page + n):
                    self.pages.pop(at)
            self.pages.update(dict.fromkeys(range(to, to + m), (call, prot)))

    def mapped(self):
        totals = defaultdict(lambda: [0, 0, 0])
        seen = set()
        for call, prot in self.pages.values():
            totals[call[1]][0 if prot else 2] += PAGE
            if prot and call not in seen:
                seen.add(call)
                totals[call[1]][1] += 1
        return dict(totals)

    def broken(self):
        totals = defaultdict(lambda: [0, 0, 0])
        for site, n in self.brk:
            totals[site][0] += n
            totals[site][1] += 1
        return dict(totals)


class Comparison:
    """One trace, asked from inside: it stands still while a sequence is made and compared."""

    def __init__(self, target, collector):
        self.target, self.collector = target, collector
        self.functions = {}
        self.n_sequences = self.n_calls = self.n_sites = 0
        write = self.collector._on_stacks
        self.collector._on_stacks = lambda stacks: (write(stacks), self.learn(stacks))
        self.thread_of = {
            tid: int(name.rpartition("-")[2])
            for tid, name in procfs.read_threads(target.pid).items()
            if name.startswith("script-")
        }
        self.model = Model()

    def learn(self, stacks):
        for stack in stacks:
            names = [frame.function for frame in stack.frames if frame.function.startswith("script_")]
            self.functions[stack.key] = names[0].removeprefix("script_") if names else None

    def ledger(self):
        """Totals by kind and (thread, function) as the tracer has them now; what is of nobody else, by None."""
        self.collector.engine.consume()
        self.collector.name_new_stacks()
        self.collector.keep_slices()
        found = {kind: defaultdict(lambda: [0, 0, 0, 0, 0]) for kind in Kind}
        for site in self.collector.snapshot().sites:
            if site.owner is Owner.ALLOCATOR:
                continue
            thread = self.collector._threads.get(site.key.thread_uid)
            where = (self.thread_of.get(thread.tid), self.functions.get(site.key.stack_key))
            sums = found[site.key.kind][where]
            for i, name in enumerate(("outstanding_bytes", "outstanding_count")):
                sums[i] += getattr(site, name)
            sums[2] += site.allocated_bytes
            sums[3] += site.allocated_count
            sums[4] += site.reserved_bytes or 0
        return found

    def make(self, sequence):
        """Make calls and book them; the calls that were really made."""
        made = []
        for call in sequence:
            for prepared in self.model.prepared(call):
                made.append(prepared)
                succeeded = self.model.expected(prepared)
                line = " ".join(map(str, (*prepared, 0, 0, 0)[:6]))
                self.target.send(f"{line};")
                answer = self.target.readline() == "1"
                assert succeeded in (answer, None), f"{prepared}: expected {succeeded}, came to {answer}"
                self.model.apply(prepared, answer)
        self.n_calls += len(made)
        return made

    def clear(self):
        """Give everything back."""
        self.make([(0, "f", slot) for slot in sorted(self.model.blocks)])
        self.make([(0, "U", 0, N_PAGES)])
        if self.model.brk:
            self.make([(0, "B", -sum(n for _, n in self.model.brk))])

    def run(self, sequence):
        self.clear()
        before = self.ledger()
        self.model.heap.clear()
        made = self.make(sequence)
        self.compare(before, made)
        self.clear()
        self.compare(before, [*made, "clear"])
        self.n_sequences += 1

    def compare(self, before, made):
        now = self.ledger()
        wanted = {
            Kind.HEAP: dict(self.model.heap),
            Kind.MAP: self.model.mapped(),
            Kind.BRK: self.model.broken(),
        }
        for kind in Kind:
            columns = (0, 1, 2, 3) if kind is Kind.HEAP else (0, 1, 4)
            gained = {}
            for where, sums in now[kind].items():
                old = before[kind][where]
                difference = [sums[i] - old[i] for i in columns]
                if any(difference):
                    gained[where] = difference
            self.n_sites += len(gained)
            assert gained == {where: sums for where, sums in wanted[kind].items() if any(sums)}, (kind, made)
        assert self.known() == self.mapped(), made
        counters = self.collector.snapshot().counters
        for name in ("lost_allocations", "lost_events", "unmatched_frees", "overwritten", "abandoned", "bad_pointer"):
            assert counters[name] == 0, (name, made)

    def known(self):
        """The tracer's map of the target: (start, end, accessible), neighbours merged."""
        space = self.collector.targets[0].space
        pieces = [(p.start, -(-p.end // PAGE) * PAGE, p.accessible) for p in space.pieces()]
        for entry in self.maps():
            if entry.path in KERNELS:
                pieces = [part for piece in pieces for part in cut(piece, entry.start, entry.end)]
        return merged(pieces)

    def mapped(self):
        """The kernel's."""
        return merged((e.start, e.end, e.perms[:3] != "---") for e in self.maps() if e.path not in KERNELS)

    def maps(self):
        return procfs.read_maps(self.target.pid)


def cut(piece, start, end):
    """What is left of a piece without a range."""
    parts = ((piece[0], min(piece[1], start), piece[2]), (max(piece[0], end), piece[1], piece[2]))
    return [part for part in parts if part[0] < part[1]]


def merged(pieces):
    found = []
    for start, end, accessible in sorted(pieces):
        if found and start <= found[-1][1] and found[-1][2] == accessible:
            found[-1] = (found[-1][0], max(end, found[-1][1]), accessible)
        elif start < end:
            found.append((start, end, accessible))
    return found


class Reporter:
    """Does all of the test's work where the trace says that it is attached."""

    def __init__(self, body):
        self.body = body

    def attached(self, *_):
        self.body()

    def tick(self, elapsed_s, look):
        """Nothing to show."""

    def note(self, text):
        raise AssertionError(text)


# A sequence takes some 20 ms.
@pytest.mark.timeout(120 + N_SEQUENCES)
def test_random_sequences_over_four_threads_are_exact_after_each(tmp_path):
    with Target("script") as target:
        comparisons = []

        def body():
            comparison = Comparison(target, session.engine.collector)
            comparisons.append(comparison)

            @seed(SEED)
            @settings(
                max_examples=N_SEQUENCES,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                report_multiple_bugs=False,
            )
            @given(st.lists(calls, min_size=1, max_size=100))
            def sequence_is_exact(sequence):
                comparison.run(sequence)

            sequence_is_exact()

        options = TraceOptions(
            pids=(target.pid,), output=tmp_path / "property.nlk", duration_s=0.0, limits=Limits(n_allocations=1 << 16)
        )
        session = Session(options, by_name("libbpf"), Reporter(body))
        session.run()
    (comparison,) = comparisons
    print(f"{comparison.n_sequences} sequences, {comparison.n_calls} calls, {comparison.n_sites} sites compared")
    assert comparison.n_sequences >= N_SEQUENCES
