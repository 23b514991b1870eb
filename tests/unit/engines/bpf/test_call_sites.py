"""Which call sites are watched by themselves: the rarest, as far as the budget pays, and none where none may be."""

from __future__ import annotations

import array
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nativeleak import arch
from nativeleak.engines.bpf import call_sites
from nativeleak.engines.bpf.budget.load import Costs
from nativeleak.engines.bpf.call_sites import CallSites
from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.groups import Group
from nativeleak.probes.call_sites import MAKERS, CallSite, find_call_sites
from nativeleak.probes.emulation import CONSERVATIVE
from nativeleak.process.mapped import executable_objects, open_object
from nativeleak.process.procfs import read_maps
from nativeleak.symbols.elf import ElfFile
from support import require

pytestmark = pytest.mark.skipif(arch.here() is not arch.X86_64, reason="call sites are found in code of x86-64")

COSTS = Costs(call_ns=400, free_ns=400, return_ns=300, run_ns=100, light_run_ns=50)
HIT_S = 2 * (COSTS.call_ns + COSTS.run_ns) / 1e9
INCOME = 1e-3
PAID_A_SECOND = 0.5 * INCOME / HIT_S
"""Calls that half of the income pays for."""
SLOT = 3


class Probes:
    """What is attached, and how often each number was reached."""

    def __init__(self) -> None:
        self.sites: dict[int, CallSite] = {}
        self.hits = array.array("Q", bytes(8 * abi.MAX_CALL_SITES))

    def attach(self, slot: int, pid: int, path: str, name: str, sites: dict[int, CallSite]) -> None:
        assert (slot, pid) == (SLOT, os.getpid())
        assert Path(path).samefile(name)
        assert not self.sites.keys() & sites.keys()
        self.sites |= sites

    def detach(self) -> None:
        self.sites.clear()

    def read_hits(self) -> array.array[int]:
        return self.hits[:]


class Groups:
    """Groups of probes that are attached."""

    wanted = frozenset({Group.SITES})

    def __init__(self) -> None:
        self.moves: list[bool] = []

    def want(self, groups: frozenset[Group]) -> None:
        self.wanted = groups
        self.moves.append(Group.SITES in groups)


class Watch:
    """A watch of six call sites of our own C library."""

    def __init__(self) -> None:
        libraries = executable_objects(os.getpid(), read_maps(os.getpid()))
        libc = next((each for each in libraries if each.name.startswith("libc.so")), None)
        require(libc, "no C library of its own")
        assert libc is not None
        self.on = self.is_between = True
        self.spent_s, self.notes, self.probes, self.groups = 0.0, [], Probes(), Groups()
        self.state = SimpleNamespace(
            slot=SLOT,
            facts=SimpleNamespace(pid=os.getpid()),
            is_over=False,
            leaf_names={},
            returns=SimpleNamespace(originals={}),
        )
        self.calls: list[tuple[Any, int]] = []
        collector = SimpleNamespace(
            audits=SimpleNamespace(alone=None),
            namer=SimpleNamespace(callers=None),
            engine=SimpleNamespace(groups=self.groups),
            heap=SimpleNamespace(calls=lambda: self.calls),
            read_heap=lambda: None,
        )
        self.collector = collector
        made: Any = CallSites(self.probes, collector, self, CONSERVATIVE, COSTS, 15_000.0, self.note)  # type: ignore[arg-type]
        self.watch: CallSites = made
        home = call_sites._Object(self.state, libc, open_object(os.getpid(), libc))  # type: ignore[arg-type]
        with ElfFile.open(home.path) as elf:
            found = find_call_sites(elf, CONSERVATIVE, MAKERS)
        whole = call_sites._in_memory(home, [list(site) for site in found if not site.n_stepped][:6])
        self.addresses = list(whole)
        self.sites = home.sites = whole
        made._objects.append(home)
        made._search_s = float("inf")
        made._choose_s = 0.0

    income = INCOME

    def note(self, what: str, text: str) -> None:
        assert what in ("level", "call sites")
        self.notes.append(text)

    def watched_s(self) -> float:
        return 1.0

    def watch_sites(self, is_on: bool) -> None:
        self.on = is_on

    def spend(self, seconds: float) -> None:
        self.spent_s += seconds

    def saw(self, index: int, n_calls: int) -> None:
        """Windows saw so many calls at a call site, in a second."""
        address = self.addresses[index]
        self.collector.namer.callers[index] = (address + self.sites[address].n_bytes,)
        self.calls.append((SimpleNamespace(slot=SLOT, stack_key=index), n_calls))

    def work(self, now_s: float) -> set[int]:
        """Go on; returns which call sites are probed then."""
        self.watch.work(now_s, [self.state])  # type: ignore[list-item]
        offsets = {site.offset for site in self.probes.sites.values()}
        return {i for i, address in enumerate(self.addresses) if self.sites[address].offset in offsets}


@pytest.fixture
def watch() -> Iterator[Watch]:
    made = Watch()
    yield made
    made.watch.close()


def test_hot_call_sites_are_left_to_windows(watch: Watch):
    watch.saw(2, round(0.3 * PAID_A_SECOND))
    watch.saw(4, round(2 * PAID_A_SECOND))
    assert watch.work(3.0) == {0, 1, 2, 3, 5}
    assert watch.on
    assert watch.notes == ["from here on 5 of 6 call sites are watched all the time, the others in windows"]
    assert set(watch.state.leaf_names.values()) <= set(MAKERS)


def test_rarest_come_first(watch: Watch):
    for index, share in enumerate((0.5, 0.1, 0.2, 0.3, 0.4, 0.6)):
        watch.saw(index, round(share * PAID_A_SECOND))
    # Four fifths of what may be spent.
    assert watch.work(3.0) == {1, 2, 3}


def test_call_site_that_becomes_hot_is_given_up(watch: Watch):
    assert watch.work(3.0) == {0, 1, 2, 3, 4, 5}
    number = next(n for n, site in watch.probes.sites.items() if site == watch.sites[watch.addresses[1]])
    watch.probes.hits[number] += round(1.5 * PAID_A_SECOND)
    assert watch.work(4.0) == {0, 2, 3, 4, 5}
    assert watch.on


def test_a_single_stepped_place_costs_what_it_costs(watch: Watch):
    address = watch.addresses[0]
    watch.sites[address] = watch.sites[address]._replace(n_stepped=1)
    watch.saw(0, round(0.5 * PAID_A_SECOND))
    assert watch.work(3.0) == {1, 2, 3, 4, 5}


def test_nothing_changes_while_probes_may_not_come_or_go(watch: Watch):
    watch.is_between = False
    assert watch.work(3.0) == set()
    assert watch.notes == []


def test_nothing_is_recorded_at_call_sites_once_memory_is_short(watch: Watch):
    assert watch.work(3.0)
    watch.watch.stop()
    assert not watch.probes.sites
    assert not watch.on


def test_probes_step_aside_while_blocks_are_taken_out(watch: Watch):
    watch.work(3.0)
    with watch.collector.audits.alone():
        assert Group.SITES not in watch.groups.wanted
        assert not watch.on
    assert watch.groups.moves == [False, True]
    assert watch.on


def test_code_that_was_changed_in_memory_is_not_probed(watch: Watch, monkeypatch: pytest.MonkeyPatch):
    changed = watch.addresses[3]
    read_code = call_sites.read_code
    detour = b"\xff\x25" + bytes(14)
    monkeypatch.setattr(call_sites, "read_code", lambda pid, at, n: detour if at == changed else read_code(pid, at, n))
    assert watch.work(3.0) == {0, 1, 2, 4, 5}
