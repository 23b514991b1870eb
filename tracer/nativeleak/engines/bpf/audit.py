"""Asks the targets' heaps which recorded blocks are gone, where frees may have gone unseen.

A child process walks the heap (``heaps/audit.py``): what it imports is too much for the recorder. Blocks that are gone
leave the account as freed. That is done while no probe is attached, so that no program changes the live set meanwhile.
"""

from __future__ import annotations

import array
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from nativeleak import children
from nativeleak.engines.bpf.kernel import abi
from nativeleak.ledger.heap import HeapLedger
from nativeleak.model import Kind, SiteKey

_MAX_BLOCKS: Final = 300_000
"""More are not asked for: it would take the recorder too long to read them."""
_WORDS: Final = 4
_TIMEOUT_S: Final = 20.0


class Block(NamedTuple):
    """A recorded block: its key in the live set, and what it was booked with."""

    key: int
    n_bytes: int
    stack: int
    thread: int
    born: int
    n_blocks: int


class LiveBlocks(Protocol):
    """What the audit asks of the loaded programs."""

    def read_live(self) -> Iterator[tuple[memoryview, memoryview, int]]:
        """Chunks of the live set: keys, values, how many."""

    def remove_live(self, keys: list[int]) -> None:
        """Take blocks out of the live set, while no allocator probe is attached."""


@dataclass(frozen=True, slots=True)
class Audited:
    """What an audit found.

    Attributes:
        n_asked: Blocks that were asked for.
        n_gone: Blocks that were gone.
        n_bytes: Their bytes.
    """

    n_asked: int
    n_gone: int
    n_bytes: int


class HeapAudit:
    """Audits of one trace.

    Args:
        kernel: The loaded programs.
        heap: Totals of the sites.
    """

    def __init__(self, kernel: LiveBlocks, heap: HeapLedger) -> None:
        self._kernel, self._heap = kernel, heap

    def run(self, pids: dict[int, int], generation: int) -> Audited | None:
        """Ask, and take out what is gone; None where some heap could not be walked.

        To be called while no allocator probe is attached.

        Args:
            pids: Slot -> PID of the targets that live.
            generation: Of the birth slices.
        """
        by_slot: dict[int, list[Block]] = {}
        n_blocks = 0
        for block in self._read():
            by_slot.setdefault(block.key >> abi.SLOT_SHIFT, []).append(block)
            n_blocks += 1
            if n_blocks > _MAX_BLOCKS:
                return None
        gone: list[Block] = []
        for slot, blocks in by_slot.items():
            answers = _ask(pids[slot], blocks) if slot in pids else None
            if answers is None:
                return None
            gone += [block for block, is_gone in zip(blocks, answers, strict=True) if is_gone]
        self._kernel.remove_live([block.key for block in gone])
        for block in gone:
            key = SiteKey(Kind.HEAP, block.key >> abi.SLOT_SHIFT, block.thread, block.stack)
            self._heap.take_out(key, block.born, block.n_bytes, block.n_blocks, generation)
        return Audited(n_blocks, len(gone), sum(block.n_bytes for block in gone))

    def _read(self) -> Iterator[Block]:
        for keys, values, n in self._kernel.read_live():
            addresses = keys[: n * 8].cast("Q")
            words = values[: n * 8 * _WORDS].cast("Q")
            for i in range(n):
                n_bytes, stack, thread_born, count_kept = words[_WORDS * i : _WORDS * (i + 1)].tolist()
                yield Block(
                    addresses[i], n_bytes, stack, thread_born & 0xFFFF_FFFF, thread_born >> 32, count_kept & 0xFFFF_FFFF
                )


def _ask(pid: int, blocks: list[Block]) -> bytes | None:
    """One byte a block, 1 where it is gone; None where nobody knows."""
    addresses = array.array("Q", [block.key & (1 << abi.SLOT_SHIFT) - 1 for block in blocks])
    command = children.python_module("nativeleak.heaps.audit", str(pid))
    until_s = time.monotonic() + _TIMEOUT_S
    try:
        done = children.run(
            command,
            input=addresses.tobytes(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=max(0.1, until_s - time.monotonic()),
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    answers: bytes = done.stdout
    return answers if done.returncode == 0 and len(answers) == len(blocks) else None
