"""Room for new sites: those of which nothing is left give way before the kernel's table of sites is full.

Recursion by random paths makes call sites without end, and few of them hold anything for long. From three quarters of
the table on, or of the store of new stacks, each look at the sites retires those that are empty and have been quiet
since the look before. Nothing is lost: the kernel side books no block on a site that is marked, and a site is deleted
only when its totals have stood still between the mark and the end of all programs that ran then.
"""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.limits import Limits
from nativeleak.engines.bpf.naming_queue import NamingQueue
from nativeleak.engines.bpf.raw import RawStack
from nativeleak.engines.bpf.stack_store import DroppedStack
from nativeleak.ledger.heap import HeapLedger
from nativeleak.model import SiteKey

_FILLING: Final = 0.75
"""Share of a table from which on sites give way."""
_LOOKING_SHARE: Final = 0.25
"""Of the time, at most, that goes to looks between snapshots."""
MANY_NEW: Final = 8192
"""New sites that are read between snapshots: the first reading of a site takes 8 us, a later one 2 us."""
_AT_ONCE: Final = 2048
"""Sites that one look retires, at most: 40 ms of CPU time."""
_NAMED_FIRST: Final = 256
"""Stacks of the largest sites that come first when names are given."""


class NewStacks(Protocol):
    """The kernel's store of new stacks."""

    def drop(self, keys: Sequence[int]) -> Mapping[int, DroppedStack]:
        """Take new stacks out."""


class RetiringKernel(Protocol):
    """What the retirement asks of the loaded programs."""

    @property
    def stacks(self) -> NewStacks:
        """The kernel's store of new stacks."""

    def mark_sites(self, sites: Sequence[tuple[int, int, int, int]]) -> None:
        """Change ``check`` of sites: (slot, thread, stack, new value)."""

    def wait_for_programs(self) -> None:
        """Wait until every program that is running now has ended."""

    def delete_sites(self, sites: Sequence[tuple[int, int, int]]) -> None:
        """Drop sites: (slot, thread, stack)."""


class SiteRetirement:
    """Retires sites of one trace.

    Args:
        kernel: The loaded programs.
        heap: Totals of the sites.
        queue: Stacks that wait for their names.
        limits: Sizes of the tables.
        read: Reads the kernel's totals into ``heap``.
        clock: Seconds, never backwards.

    Attributes:
        is_pressed: A table was nearly full at any time.
    """

    def __init__(
        self,
        kernel: RetiringKernel,
        heap: HeapLedger,
        queue: NamingQueue,
        limits: Limits,
        read: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_pressed = False
        self._kernel, self._heap, self._queue, self._read, self._clock = kernel, heap, queue, read, clock
        self._many_sites = int(_FILLING * limits.n_sites)
        self._many_stacks = int(_FILLING * limits.n_new_stacks)
        self._n_new = 0
        self._look_from_s = 0.0
        self._can_wait = True
        self._doubtful: dict[int, DroppedStack] = {}

    def saw_new_stack(self) -> None:
        """The kernel side has stored a new stack, and so made a new site."""
        self._n_new += 1

    @property
    def is_filling(self) -> bool:
        """Whether a table is nearly full, as far as is known without reading it."""
        return self._heap.n_sites + self._n_new >= self._many_sites or len(self._queue) >= self._many_stacks

    def is_due(self) -> bool:
        """Whether a look is needed before the next snapshot."""
        return self._can_wait and self.is_filling and self._clock() >= self._look_from_s

    @property
    def has_many_new(self) -> bool:
        """Whether so many sites are new that the next snapshot would be long if it read them all."""
        return self._n_new >= MANY_NEW and self._clock() >= self._look_from_s

    def read_new(self) -> None:
        """Read the totals between snapshots."""
        started_s = self._clock()
        self.read()
        self._rest_after(started_s)

    def read(self) -> None:
        """Read the totals, and retire nothing: a snapshot is to be short."""
        self._n_new = 0
        self._read()

    def look(self) -> list[RawStack]:
        """Read the totals, and retire sites where their room is needed.

        Returns:
            Stacks that must be named after all, because they have a site again.
        """
        started_s = self._clock()
        marked: dict[SiteKey, int] = {}
        if self._can_wait and self.is_filling:
            self.is_pressed = self._heap.hides_empty = True
            marked = self._mark()
        self.read()
        again = self._stacks_with_a_site(has_waited=bool(marked))
        self._retire(marked)
        self._rest_after(started_s)
        return again

    def _rest_after(self, started_s: float) -> None:
        """Put the next look off, so that looks take a bounded share of the time."""
        ended_s = self._clock()
        self._look_from_s = ended_s + (ended_s - started_s) * (1 / _LOOKING_SHARE - 1)

    def look_last(self) -> list[RawStack]:
        """Read the totals once the probes are gone; where room was needed, stacks without a block get no names.

        Returns:
            As ``look``.
        """
        self.read()
        if not self.is_pressed:
            return []
        again = self._stacks_with_a_site(has_waited=True)
        self._queue.keep_only(self._heap.stacks_with_blocks())
        self._name_largest_first()
        return again

    def _name_largest_first(self) -> None:
        self._queue.put_first(key.stack_key for key, _, _ in self._heap.by_outstanding(_NAMED_FIRST))

    def _mark(self) -> dict[SiteKey, int]:
        """Mark what was empty when it was last read; returns it when nothing more is booked there."""
        checks = ((key, check) for key, check in self._heap.empty_sites().items() if check != abi.RETIRING)
        empty = dict(itertools.islice(checks, _AT_ONCE))
        if not empty:
            return {}
        self._kernel.mark_sites([(*_place(key), abi.RETIRING) for key in empty])
        try:
            self._kernel.wait_for_programs()
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EPERM):
                raise
            self._can_wait = False
            self._unmark(empty)
            return {}
        return empty

    def _unmark(self, checks: Mapping[SiteKey, int]) -> None:
        if checks:
            self._kernel.mark_sites([(*_place(key), check) for key, check in checks.items()])

    def _retire(self, marked: Mapping[SiteKey, int]) -> None:
        """Delete those of the marked sites that have stood still, with their stacks where those have no names yet."""
        if not marked:
            return
        gone = set(self._heap.retire_quiet(marked))
        self._unmark({key: check for key, check in marked.items() if key not in gone})
        unused = {key.stack_key for key in gone} - self._heap.stacks()
        self._doubtful.update(self._kernel.stacks.drop([key for key in unused if self._queue.discard(key)]))
        self._kernel.delete_sites([_place(key) for key in gone])
        self._name_largest_first()

    def _stacks_with_a_site(self, *, has_waited: bool) -> list[RawStack]:
        """Stacks that were taken out while a new site was made for them, which has not stored them again.

        Args:
            has_waited: All programs have ended that could have seen the stacks in the store; the others are forgotten.
        """
        if not self._doubtful:
            return []
        wanted = self._heap.stacks() & self._doubtful.keys()
        again = [self._doubtful.pop(key).parsed() for key in wanted]
        if has_waited:
            self._doubtful.clear()
        return again


def _place(key: SiteKey) -> tuple[int, int, int]:
    return key.slot, key.thread_uid, key.stack_key
