"""How large the kernel maps are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nativeleak.engines.bpf import live_set, site_store
from nativeleak.engines.bpf.kernel import abi


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes of the kernel maps; memory is taken as it is used, but for some bytes an entry of hash table.

    Attributes:
        n_targets: Processes to trace.
        n_allocations: Outstanding allocations (``--max-allocations``).
        n_sites: Call sites.
        n_threads: Threads alive at one time; a few more where a direct-mapped cache is in front.
        n_stacks: Distinct stacks.
        n_new_stacks: Stacks that user space has not fetched yet.
        ring_bytes: Events that user space has not fetched yet; a power of two. The ring is mapped twice over: each MiB
            is two of the recorder's resident memory.
    """

    n_targets: int = 1
    n_allocations: int = 1 << 20
    n_sites: int = 1 << 16
    n_threads: int = 1 << 15
    n_stacks: int = 1 << 17
    n_new_stacks: int = 1 << 14
    ring_bytes: int = 2 << 20


_N_PARKED: Final = 1 << 10
_N_PARKED_PER_CPU: Final = 1 << 8
"""Older kernels set 128 elements of an LRU map aside for each CPU, and drop others to do so."""


def map_sizes(limits: Limits, n_cpus: int, *, has_atomics: bool, has_exchange: bool) -> dict[str, int]:
    """Elements of each map whose size is not fixed.

    Args:
        n_cpus: Processors that the machine may have.
        has_atomics: The kernel has atomic operations that return the old value.
        has_exchange: And the programs use them for blocks and sites; without, a cache of those is off: one element.
    """
    n_threads = abi.THREAD_CACHE_SIZE if has_atomics and limits.n_threads >= 2 * abi.THREAD_CACHE_SIZE else 0
    return {
        "live": limits.n_allocations,
        "sites": limits.n_sites,
        **dict.fromkeys(live_set.MAP_NAMES, live_set.cache_entries(limits.n_allocations if has_exchange else 0)),
        **dict.fromkeys(site_store.MAP_NAMES, site_store.cache_entries(limits.n_sites if has_exchange else 0)),
        "thread_cache": 1 + n_threads,
        "threads": limits.n_threads,
        "stacks": limits.n_new_stacks,
        "known_stacks": limits.n_stacks,
        "events": limits.ring_bytes,
        "stack_frames": 2 * limits.n_new_stacks,
        "scratch": n_cpus * abi.SCRATCH_PER_CPU,
        "mappings": 2 * limits.n_targets,
        "parked": max(_N_PARKED, _N_PARKED_PER_CPU * n_cpus),
    }
