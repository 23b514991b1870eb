"""A kernel side that holds what a test puts into it: stacks, sites, counters."""

from __future__ import annotations

from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.raw import RawSite, raw_stack


class MadeUpStacks:
    """New stacks by key: slot and the words of their frames."""

    def __init__(self) -> None:
        self.new: dict[int, tuple[int, list[int]]] = {}

    def new_keys(self):
        return list(self.new)

    def peek(self, key):
        return self.new.get(key)

    def fetch(self, key):
        found = self.new.pop(key, None)
        if found is None:
            return None
        slot, words = found
        return raw_stack(key, abi.StackStruct(n=len(words) // 2, depth=127, end=abi.End.ROOT, slot=slot), words)


class MadeUpKernel:
    """What a collector asks of the loaded programs."""

    def __init__(self) -> None:
        self.stacks = MadeUpStacks()
        self.counters = dict.fromkeys(abi.Counter, 0)
        self.sites: dict[tuple[int, int, int], bytes] = {}
        self.live: list[tuple[memoryview, memoryview, int]] = []
        self.configs: list[tuple[int, str, bytes]] = []
        self.windows: dict[int, int] = {}

    def set_runtime(self, slot, config_map, config):
        self.configs.append((slot, config_map, config))

    def open_window(self, slot, start_ns):
        self.windows[slot] = start_ns

    def read_counters(self):
        return dict(self.counters)

    def n_missed_calls(self):
        return 0

    def read_sites(self):
        return [RawSite(*key, value) for key, value in self.sites.items()]

    def delete_sites(self, sites):
        for site in sites:
            del self.sites[site]

    def read_live(self):
        return self.live

    def map_memory_bytes(self):
        return 65537
