"""Names of new stacks come in portions: nothing else waits for all of them."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

from nativeleak.engines.bpf import collector as module
from nativeleak.engines.bpf.collector import Collector


class Store:
    """A kernel's store of new stacks; each has no frames and belongs to no target."""

    def __init__(self, n: int) -> None:
        self.keys = list(range(1, n + 1))
        self.fetched: list[int] = []

    def new_keys(self) -> list[int]:
        return [key for key in self.keys if key not in self.fetched]

    def fetch(self, key: int) -> None:
        self.fetched.append(key)


def make(n: int) -> tuple[Collector, Store]:
    store = Store(n)
    programs = SimpleNamespace(stacks=store)
    collector = Collector(programs, lambda _stacks: None, lambda _what, _text: None, lambda _frames: None)
    return collector, store


def test_name_new_stacks_out_of_time_leaves_the_rest_for_the_next_call(monkeypatch):
    collector, store = make(1009)
    clock = itertools.count()
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    collector.name_new_stacks(sweep=True, within_s=2.5)
    assert 0 < len(store.fetched) < 1009
    assert collector.n_unnamed == 1009 - len(store.fetched)
    collector.name_new_stacks()
    assert store.fetched == store.keys
    assert collector.n_unnamed == 0


def test_name_new_stacks_swept_while_they_wait_are_named_once():
    collector, store = make(17)
    collector.name_new_stacks(sweep=True, within_s=0.0)
    assert collector.n_unnamed == 17
    collector.name_new_stacks(sweep=True)
    assert store.fetched == store.keys
