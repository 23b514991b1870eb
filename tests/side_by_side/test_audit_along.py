"""Audits while a trace goes on: real heaps are asked by real children, and the live set is a table of this test."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from nativeleak.engines.bpf.audit import HeapAudit
from nativeleak.engines.bpf.kernel import abi
from nativeleak.heaps.blocks import BlockList
from nativeleak.heaps.glibc.walk import walk_glibc
from nativeleak.heaps.memory import HeapMemory
from nativeleak.ledger.heap import HeapLedger
from nativeleak.process.procfs import read_exe, read_maps
from support import Target, eventually

N_BLOCKS = 2003
N_FREED = 1002
BLOCK_BYTES = 1009
SLOT = 3
_VALUE = struct.Struct("=QQIIII")


def value(born: int) -> bytes:
    """A block as the kernel side keeps it."""
    return _VALUE.pack(BLOCK_BYTES, 11, 13, born, 1, 0)


class Table:
    """The live set."""

    def __init__(self, addresses: list[int]) -> None:
        self.blocks = {SLOT << abi.SLOT_SHIFT | address: value(17) for address in addresses}
        self.n_reads = 0

    def batches(self) -> Iterator[tuple[memoryview, memoryview, int]]:
        keys = np.array(list(self.blocks), np.uint64).tobytes()
        yield memoryview(keys), memoryview(b"".join(self.blocks.values())), len(self.blocks)

    def find(self, key: int) -> bytes | None:
        return self.blocks.get(key)

    def remove(self, keys: list[int]) -> None:
        for key in keys:
            del self.blocks[key]

    def read_heap(self) -> None:
        self.n_reads += 1


def addresses_of(target: Target) -> list[int]:
    """The program's blocks; without those that have a mapping of their own."""
    blocks = BlockList()
    with HeapMemory(target.pid) as memory:
        walk_glibc(memory, read_maps(target.pid), read_exe(target.pid), blocks=blocks)
    return blocks.take()[0].astype(np.int64).tolist()


def test_blocks_freed_unseen_leave_the_account_while_the_trace_goes_on():
    with Target("heap_states", "live", N_BLOCKS) as target:
        table = Table(addresses_of(target))
        audit = HeapAudit(table, HeapLedger(), table.read_heap)
        pids = {SLOT: target.pid}
        audit.work(1.0, pids, 0)  # too early
        target.ask("half")
        before = dict(table.blocks)
        gone = before.keys() - {SLOT << abi.SLOT_SHIFT | address for address in addresses_of(target)}
        assert len(gone) == N_FREED
        audit.work(5.5, pids, 0)
        # One of them is recorded anew while the child walks: it was born later, and is another block.
        anew = min(gone)
        table.blocks[anew] = value(19)

        def is_answered() -> bool:
            audit.work(6.0, pids, 0)
            return audit.found.n_walks == 1

        eventually(is_answered, "answer of the audit")
        audit.close()
    assert before.keys() - table.blocks.keys() == gone - {anew}
    assert (audit.found.n_asked, audit.found.n_gone) == (len(before), N_FREED - 1)
    assert audit.found.n_bytes == (N_FREED - 1) * BLOCK_BYTES
    assert table.n_reads == 1


def test_target_that_has_ended_is_asked_in_vain_and_nothing_leaves():
    with Target("heap_states", "live", 11) as target:
        table = Table(addresses_of(target))
        pid = target.pid
    audit = HeapAudit(table, HeapLedger(), table.read_heap)
    n_blocks = len(table.blocks)
    assert audit.run({SLOT: pid}, 0) is None
    assert (len(table.blocks), audit.found.n_walks) == (n_blocks, 0)
