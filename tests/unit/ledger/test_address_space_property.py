"""Random sequences of events against a model that keeps one dict entry for each page and counts by comparing states."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nativeleak.model import Kind, Owner
from unit.ledger.spaces import DONTUNMAP, NONE, PAGE, RW, Pages, entry

N_PAGES = 64
BREAK = 9
BASELINE = (
    entry(4, 5, path="[heap]"),
    entry(20, 3, "---p"),
    entry(30, 5, "r-xp", "/lib/a"),
    entry(35, 2, "r--p", "/lib/a"),
    entry(50, 4),
)
NOBODY = (None, None, None, None)


class Naive:
    """``pages`` maps a page to (call, accessible); a call maps to (site, time, file); a site is a ``SiteId`` tuple."""

    def __init__(self):
        self.calls = {"before": (NOBODY, 0.0, False), "unknown": (NOBODY, 0.0, False)}
        self.pages = {}
        for number, line in enumerate(BASELINE):
            call = "before"
            if line.path and line.path.startswith("/"):
                call = f"file {number}"
                self.calls[call] = (NOBODY, 0.0, True)
            for page in range(line.start // PAGE, line.end // PAGE):
                self.pages[page] = (call, line.perms[0] != "-")
        self.sums = defaultdict(lambda: [0, 0, 0, 0])
        self.held = defaultdict(dict)
        self.layout = {}
        self.segments = {}
        self.brk = BREAK

    def change(self, new, restored=False):
        """Set pages (None: unmapped) and count by calls what came and what went."""
        before, after = defaultdict(int), defaultdict(int)
        for page in range(N_PAGES):
            old_cell = self.pages.get(page)
            new_cell = new.get(page, old_cell)
            for cell, tally in ((old_cell, before), (new_cell, after)):
                if cell and cell[1]:
                    tally[cell[0]] += 1
            if old_cell == new_cell:
                continue
            if old_cell and old_cell[1]:
                self.sums[self.calls[old_cell[0]][0]][2] += 1
            if new_cell and new_cell[1]:
                sums = self.sums[self.calls[new_cell[0]][0]]
                sums[2 if restored else 0] += -1 if restored else 1
        for call in before.keys() | after.keys():
            sums = self.sums[self.calls[call][0]]
            if before[call] and not after[call]:
                sums[3] += 1
            if after[call] and not before[call]:
                sums[3 if restored else 1] += -1 if restored else 1
        self.pages = {page: cell for page, cell in {**self.pages, **new}.items() if cell}

    def place(self, new):
        for held in self.held.values():
            for page in new:
                held.pop(page, None)
        self.change(new)

    def settle(self, uid):
        self.held.pop(uid, None)
        self.layout.pop(uid, None)

    def call(self, kind, uid, stack, born, now, file=False):
        site = (kind, uid, stack, born)
        self.sums[site]
        self.calls[now] = (site, now, file)
        return now

    def hold(self, uid, page, n_pages):
        taken = {at: self.pages[at] for at in range(page, page + n_pages) if at in self.pages}
        self.change(dict.fromkeys(taken))
        self.held[uid] = dict(taken)
        self.layout[uid] = {at - page: cell for at, cell in taken.items()}

    def restore(self, uid):
        self.change(self.held.pop(uid, {}), restored=True)
        self.layout.pop(uid, None)

    def mremap(self, uid, old, n_old, new, n_new, flags, stack, allocator, now):
        if n_old == 0:
            layout = {0: self.pages[old]} if old in self.pages else {}
            self.settle(uid)
        else:
            layout = self.layout.pop(uid)
        origin = layout[min(layout)][0] if layout else "unknown"
        site, _, file = self.calls[origin]
        born = Owner.ALLOCATOR if allocator else site[3] or Owner.PROGRAM
        if flags & DONTUNMAP:
            self.restore(uid)
        else:
            self.settle(uid)
        call = self.call(Kind.MAP, uid, stack, born, now, file)
        if n_old and not flags & DONTUNMAP and old in self.segments:
            del self.segments[old]
            self.segments[new] = (new + n_new, call)
        cells = {}
        for at in range(n_new):
            if layout and n_new <= n_old and at not in layout:
                continue
            near = min((offset for offset in layout if offset >= at), default=max(layout, default=None))
            cells[new + at] = (call, True if near is None else layout[near][1])
        self.place(cells)

    def resync(self, truth):
        self.held.clear()
        changes = {}
        for page in range(N_PAGES):
            if page not in truth:
                changes[page] = None
            elif page not in self.pages:
                changes[page] = ("unknown", truth[page])
            else:
                changes[page] = (self.pages[page][0], truth[page])
        self.change(changes)

    def pieces(self):
        found = []
        for page, (call, accessible) in sorted(self.pages.items()):
            if found and found[-1][1] == page and found[-1][2:] == (call, accessible):
                found[-1] = (found[-1][0], page + 1, call, accessible)
            else:
                found.append((page, page + 1, call, accessible))
        return [
            (start, end, self.calls[call][0], accessible, self.calls[call][2]) for start, end, call, accessible in found
        ]

    def sites(self, now):
        """By site: the four sums, pages reserved, calls with anything left, age of the oldest."""
        reserved, live = defaultdict(int), defaultdict(set)
        for call, accessible in self.pages.values():
            if accessible:
                live[self.calls[call][0]].add(call)
            else:
                reserved[self.calls[call][0]] += 1
        return {
            site: (
                *sums,
                reserved[site],
                len(live[site]),
                max((now - self.calls[call][1] for call in live[site]), default=None),
            )
            for site, sums in self.sums.items()
            if site != NOBODY
        }


uids = st.integers(1, 3)
stacks = st.integers(0, 2)
ranges = st.tuples(st.integers(0, N_PAGES - 1), st.integers(1, 20)).map(lambda r: (r[0], min(r[1], N_PAGES - r[0])))
prots = st.sampled_from([NONE, RW, RW])
EVENTS = st.one_of(
    st.tuples(st.just("mmap"), uids, ranges, prots, stacks, st.booleans(), st.booleans()),
    st.tuples(st.just("munmap"), uids, ranges),
    st.tuples(st.just("failed"), uids),
    st.tuples(st.just("mremap entry"), uids, ranges),
    st.tuples(st.just("mremap exit"), uids, ranges, st.sampled_from([1, 3, 5]), stacks, st.booleans()),
    st.tuples(st.just("mremap twice"), uids, st.integers(0, N_PAGES - 1), ranges, stacks),
    st.tuples(st.just("mprotect"), uids, ranges, prots),
    st.tuples(st.just("brk"), uids, st.integers(0, 24), stacks, st.booleans()),
    st.tuples(st.just("shmat"), uids, ranges, stacks),
    st.tuples(st.just("shmdt"), uids, st.integers(0, N_PAGES - 1)),
    st.tuples(st.just("resync"), st.lists(st.tuples(ranges, st.sampled_from([None, True, False])), max_size=2)),
)


class Both:
    """Applies each event to the address space and to the model."""

    def __init__(self):
        self.real, self.naive = Pages(*BASELINE), Naive()
        self.now = 0
        self.pending = {}

    def apply(self, name, *arguments):
        if name != "resync":
            self.uid, *arguments = arguments
        getattr(self, name.replace(" ", "_"))(*arguments)
        if name not in ("mremap entry", "resync"):
            self.pending.pop(self.uid, None)

    def mmap(self, where, prot, stack, file, allocator):
        self.now += 1
        self.real.mmap(*where, prot, uid=self.uid, stack=stack, file=file, allocator=allocator)
        self.naive.settle(self.uid)
        born = Owner.ALLOCATOR if allocator else Owner.PROGRAM
        call = self.naive.call(Kind.MAP, self.uid, stack, born, self.now, file)
        self.naive.place(dict.fromkeys(range(where[0], sum(where)), (call, prot != NONE)))

    def munmap(self, where):
        self.now += 1
        self.real.munmap(*where, uid=self.uid)
        self.naive.settle(self.uid)
        self.naive.hold(self.uid, *where)

    def failed(self):
        self.now += 1
        self.real.failed(uid=self.uid)
        self.naive.restore(self.uid)

    def mremap_entry(self, where):
        self.now += 1
        self.real.mremap_entry(*where, uid=self.uid)
        self.naive.settle(self.uid)
        self.naive.hold(self.uid, *where)
        self.pending[self.uid] = where

    def mremap_exit(self, to, flags, stack, allocator):
        if self.uid in self.pending:
            self._mremap(*self.pending[self.uid], *to, flags, stack, allocator)

    def mremap_twice(self, old, to, stack):
        self._mremap(old, 0, *to, 1, stack, False)

    def _mremap(self, old, n_old, new, n_new, flags, stack, allocator):
        self.now += 1
        self.real.mremap_exit(old, n_old, new, n_new, flags=flags, uid=self.uid, stack=stack, allocator=allocator)
        self.naive.mremap(self.uid, old, n_old, new, n_new, flags, stack, allocator, self.now)

    def mprotect(self, where, prot):
        self.now += 1
        self.real.mprotect(*where, prot, uid=self.uid)
        self.naive.settle(self.uid)
        known = {at: cell for at, cell in self.naive.pages.items() if where[0] <= at < sum(where)}
        self.naive.change({at: (call, prot != NONE) for at, (call, _) in known.items()})

    def brk(self, new, stack, allocator):
        self.now += 1
        self.real.brk(new * PAGE, uid=self.uid, stack=stack, allocator=allocator)
        self.naive.settle(self.uid)
        old, self.naive.brk = self.naive.brk, new
        if new > old:
            born = Owner.ALLOCATOR if allocator else Owner.PROGRAM
            call = self.naive.call(Kind.BRK, self.uid, stack, born, self.now)
            self.naive.place(dict.fromkeys(range(old, new), (call, True)))
        else:
            self.naive.change(dict.fromkeys(range(new, old)))

    def shmat(self, where, stack):
        self.now += 1
        self.real.shmat(*where, uid=self.uid, stack=stack)
        self.naive.settle(self.uid)
        call = self.naive.call(Kind.MAP, self.uid, stack, Owner.PROGRAM, self.now)
        self.naive.segments[where[0]] = (sum(where), call)
        self.naive.place(dict.fromkeys(range(where[0], sum(where)), (call, True)))

    def shmdt(self, page):
        self.now += 1
        self.real.shmdt(page, uid=self.uid)
        self.naive.settle(self.uid)
        end, segment = self.naive.segments.get(page, (0, None))
        taken = {at: self.naive.pages[at] for at in range(page, end) if self.naive.pages.get(at, (None,))[0] == segment}
        self.naive.change(dict.fromkeys(taken))
        self.naive.held[self.uid] = taken

    def resync(self, overrides):
        truth = {page: accessible for page, (_, accessible) in self.naive.pages.items()}
        for where, state in overrides:
            truth.update(dict.fromkeys(range(where[0], sum(where)), state))
        truth = {page: state for page, state in sorted(truth.items()) if state is not None}
        self.real.space.resync([entry(page, 1, "rw-p" if state else "---p") for page, state in truth.items()])
        self.naive.resync(truth)

    def compare(self):
        space = self.real.space
        assert [
            (piece.start // PAGE, piece.end // PAGE, piece.site_id or NOBODY, piece.accessible, piece.file_backed)
            for piece in space.pieces()
        ] == self.naive.pieces()
        found = {}
        for totals in space.site_totals(0, float(self.now)):
            key = (totals.key.kind, totals.key.thread_uid, totals.key.stack_key, totals.owner)
            assert key not in found
            found[key] = (
                totals.allocated_bytes // PAGE,
                totals.allocated_count,
                totals.freed_bytes // PAGE,
                totals.freed_count,
                totals.reserved_bytes // PAGE,
                totals.outstanding_count,
                totals.oldest_s,
            )
        assert found == self.naive.sites(self.now)
        by_range = defaultdict(int)
        for start, end, site_id in space.outstanding_ranges():
            by_range[site_id] += (end - start) // PAGE
        assert by_range == {
            site: sums[0] - sums[2]
            for site, sums in found.items()
            if sums[0] > sums[2] and site[3] is not Owner.ALLOCATOR
        }
        files = sum(
            end - start for start, end, site, accessible, file in self.naive.pieces() if file and accessible and site[0]
        )
        assert PAGE * files == sum(space.totals(kind, owner).file_bytes for kind in Kind for owner in Owner)
        assert space.resync_unknown_bytes == PAGE * sum(call == "unknown" for call, _ in self.naive.pages.values())


@settings(max_examples=400, deadline=None)
@given(st.lists(EVENTS, max_size=40))
def test_any_sequence_of_events_agrees_with_a_dict_of_pages(events):
    both = Both()
    for event in events:
        both.apply(*event)
        both.compare()


def likely_event(rng, both):
    """An event of a kind that has consequences now: threads fail and finish what they began, segments are detached."""
    uid, stack, prot = rng.randint(1, 3), rng.randint(0, 2), rng.choice([NONE, RW, RW])
    page = rng.randrange(N_PAGES)
    where = page, min(rng.choice([1, 2, 3, 5, 7, 23]), N_PAGES - page)
    if both.pending and rng.random() < 0.5:
        uid = rng.choice(list(both.pending))
        flags, (old, n_old) = rng.choice([1, 3, 5]), both.pending[uid]
        to = rng.choice([(old, max(1, n_old - 2)), where])
        return rng.choice([("failed", uid), ("mremap exit", uid, to, flags, stack, rng.random() < 0.2)])
    if both.naive.segments and rng.random() < 0.15:
        segment = rng.choice(list(both.naive.segments))
        segment_end = both.naive.segments[segment][0]
        return rng.choice(
            [("shmdt", uid, segment), ("mremap entry", uid, (segment, max(1, segment_end - segment - 1)))]
        )
    weighted = [
        (8, ("mmap", uid, where, prot, stack, rng.random() < 0.2, rng.random() < 0.2)),
        (6, ("munmap", uid, where)),
        (4, ("failed", uid)),
        (4, ("mremap entry", uid, where)),
        (1, ("mremap twice", uid, page, where, stack)),
        (4, ("mprotect", uid, where, prot)),
        (1, ("brk", uid, rng.randint(0, 24), stack, rng.random() < 0.3)),
        (2, ("shmat", uid, where, stack)),
        (0.2, ("resync", [(where, rng.choice([None, True, False]))])),
    ]
    return rng.choices([event for _, event in weighted], [weight for weight, _ in weighted])[0]


@pytest.mark.parametrize("seed", range(7))
def test_long_random_walk_agrees_with_a_dict_of_pages(seed):
    rng = random.Random(seed)
    both = Both()
    for _ in range(1009):
        both.apply(*likely_event(rng, both))
        both.compare()
