"""Asks the targets' heaps which recorded blocks are gone, where frees may have gone unseen.

A child process walks the heap (``heaps/audit.py``): what it imports is too much for the recorder. Blocks that are gone
leave the account as freed. They are taken out while no probe is attached, so that no program changes the live set
meanwhile; the child may work while windows come and go. A block that was freed and recorded anew since it was asked for
has another birth, and stays.
"""

from __future__ import annotations

import array
import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from nativeleak import children
from nativeleak.engines.bpf.kernel import abi
from nativeleak.ledger.heap import HeapLedger
from nativeleak.model import Kind, SiteKey
from nativeleak.units import format_bytes

_MAX_BLOCKS: Final = 300_000
"""More are not asked for at the end: it would take the recorder too long to read them."""
_MAX_ALONG: Final = 50_000
"""The same along the way."""
_WORDS: Final = 4
_BLOCK_BYTES: Final = 8 * _WORDS
_TIMEOUT_S: Final = 20.0
_FIRST_S: Final = 5.0
"""Blocks are asked for after so long for the first time; most that will ever be freed are free by then."""
_SHARE: Final = 0.02
"""Of a core, at most, that goes to audits along the way."""
_TIMES: Final = 60
"""Audits of a trace, at most about."""
_MASK: Final = (1 << abi.SLOT_SHIFT) - 1


class Block(NamedTuple):
    """A recorded block: its key in the live set, and what it was booked with."""

    key: int
    n_bytes: int
    stack: int
    thread: int
    born: int
    n_blocks: int


class LiveBlocks(Protocol):
    """What the audit asks of the live set."""

    def batches(self) -> Iterator[tuple[memoryview, memoryview, int]]:
        """Chunks of keys, values, how many."""

    def find(self, key: int) -> bytes | None:
        """The value of a block; None where it is not there."""

    def remove(self, keys: Sequence[int]) -> None:
        """Take blocks out, while no allocator probe is attached."""


@dataclass(slots=True)
class Audited:
    """What the audits of a trace found.

    Attributes:
        n_walks: Audits that were answered.
        n_asked: Blocks that were asked for in the last one, and those that earlier ones found gone.
        n_gone: Blocks that were gone, in all of them.
        n_bytes: Their bytes.
    """

    n_walks: int = 0
    n_asked: int = 0
    n_gone: int = 0
    n_bytes: int = 0

    def describe(self) -> str:
        """In words; empty where no audit was answered."""
        if not self.n_walks:
            return ""
        times = "" if self.n_walks == 1 else f" {self.n_walks:,} times"
        return (
            f"walked the heap{times}: of {self.n_asked:,} blocks that windows had recorded {self.n_gone:,} were gone"
            f" ({format_bytes(self.n_bytes)})"
        )


class _Asked:
    """Blocks of one target, and the child that is asked for them.

    Raises:
        OSError: No child can be started.
    """

    def __init__(self, pid: int, keys: array.array[int], values: bytearray) -> None:
        self.keys, self.values = keys, values
        self._answers = os.memfd_create("nativeleak-answers", os.MFD_CLOEXEC)
        questions = os.memfd_create("nativeleak-questions", os.MFD_CLOEXEC)
        try:
            os.write(questions, array.array("Q", [key & _MASK for key in keys]).tobytes())
            os.lseek(questions, 0, os.SEEK_SET)
            command = children.python_module("nativeleak.heaps.audit", str(pid))
            self._child = children.start(command, stdin=questions, stdout=self._answers, stderr=subprocess.DEVNULL)
        except OSError:
            os.close(self._answers)
            raise
        finally:
            os.close(questions)

    def is_over(self) -> bool:
        """Whether the child has ended."""
        return self._child.poll() is not None

    def wait(self, timeout_s: float) -> None:
        """Wait for its end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout_s)

    def answers(self) -> bytes | None:
        """One byte a block, 1 where it is gone; None where the heap does not tell."""
        if self._child.poll() != 0:
            return None
        answers = os.pread(self._answers, len(self.keys) + 1, 0)
        return answers if len(answers) == len(self.keys) else None

    def close(self) -> None:
        """End the child; once."""
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()
        os.close(self._answers)


class HeapAudit:
    """Audits of one trace.

    Args:
        live: The live set.
        heap: Totals of the sites.
        read_heap: Takes in the kernel's totals, so that each block has its site.

    Attributes:
        found: What all audits together found.
        alone: Entered while blocks are taken out along the way: no program may change the live set meanwhile.
    """

    def __init__(self, live: LiveBlocks, heap: HeapLedger, read_heap: Callable[[], None]) -> None:
        self._live, self._heap, self._read_heap = live, heap, read_heap
        self._asked: dict[int, _Asked] = {}
        self._began_s = 0.0
        self._next_s = _FIRST_S
        self._cpu_before_s = 0.0
        self.found = Audited()
        self.alone: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext

    def work(self, now_s: float, pids: dict[int, int], generation: int) -> None:
        """Along the way: ask when it is time, and take out what is gone once all have answered.

        To be called while no allocator probe is attached but those that ``alone`` takes away.

        Args:
            now_s: Seconds since the trace began.
            pids: Slot -> PID of the targets that live.
            generation: Of the birth slices.
        """
        if self._asked:
            if not all(asked.is_over() for asked in self._asked.values()):
                if now_s - self._began_s > _TIMEOUT_S:
                    self.close()
                return
            with self.alone():
                is_known = self._take(generation) is not None
            cpu_s = _children_cpu_s() - self._cpu_before_s
            # Where the heap cannot be walked it is asked rarely.
            rest_s = max(cpu_s / _SHARE, (1 if is_known else 10) * max(_FIRST_S, now_s / _TIMES))
            self._next_s = now_s + rest_s
        elif now_s >= self._next_s:
            self._cpu_before_s, self._began_s = _children_cpu_s(), now_s
            self._next_s = now_s + _FIRST_S
            self._ask(pids, _MAX_ALONG)

    def run(self, pids: dict[int, int], generation: int) -> Audited | None:
        """At the end: ask, wait, and take out what is gone; None where some heap could not be walked.

        To be called while no allocator probe is attached.

        Args:
            pids: Slot -> PID of the targets that live.
            generation: Of the birth slices.
        """
        self.close()
        if not self._ask(pids, _MAX_BLOCKS, is_last=True):
            return None
        until_s = time.monotonic() + _TIMEOUT_S
        for asked in self._asked.values():
            asked.wait(max(0.1, until_s - time.monotonic()))
        return self._take(generation)

    def close(self) -> None:
        """Ask no longer."""
        for asked in self._asked.values():
            asked.close()
        self._asked.clear()

    def _ask(self, pids: dict[int, int], n_most: int, *, is_last: bool = False) -> bool:
        """Start the children; False where there are too many blocks, or those of a target that is gone."""
        keys, values, n_blocks = {}, {}, 0
        for chunk, blocks, n in self._live.batches():
            for i, key in enumerate(chunk[: n * 8].cast("Q").tolist()):
                slot = key >> abi.SLOT_SHIFT
                if slot not in keys:
                    keys[slot], values[slot] = array.array("Q"), bytearray()
                keys[slot].append(key)
                values[slot] += blocks[_BLOCK_BYTES * i : _BLOCK_BYTES * (i + 1)]
            n_blocks += n
            if n_blocks > n_most:
                if is_last:
                    return False
                break
        if is_last and any(slot not in pids for slot in keys):
            return False
        try:
            for slot in keys.keys() & pids.keys():
                self._asked[slot] = _Asked(pids[slot], keys[slot], values[slot])
        except OSError:
            self.close()
            return False
        return True

    def _take(self, generation: int) -> Audited | None:
        """Take out what is gone by the answers; None where some are missing."""
        known = [(asked, asked.answers()) for asked in self._asked.values()]
        is_whole = all(answers is not None for _, answers in known)
        gone: list[Block] = []
        for asked, answers in known:
            if is_whole and answers is not None:
                gone += self._gone(asked, answers)
        self.close()
        if not is_whole:
            return None
        if gone:
            self._read_heap()
        self._live.remove([block.key for block in gone])
        for block in gone:
            key = SiteKey(Kind.HEAP, block.key >> abi.SLOT_SHIFT, block.thread, block.stack)
            self._heap.take_out(key, block.born, block.n_bytes, block.n_blocks, generation)
        found = self.found
        found.n_walks += 1
        found.n_asked = found.n_gone + sum(len(asked.keys) for asked, _ in known)
        found.n_gone += len(gone)
        found.n_bytes += sum(block.n_bytes for block in gone)
        return found

    def _gone(self, asked: _Asked, answers: bytes) -> Iterator[Block]:
        """Blocks that are gone and in the live set as they were when they were asked for."""
        for i, key in enumerate(asked.keys):
            if not answers[i]:
                continue
            value = bytes(asked.values[_BLOCK_BYTES * i : _BLOCK_BYTES * (i + 1)])
            if self._live.find(key) == value:
                n_bytes, stack, thread_born, count_kept = memoryview(value).cast("Q").tolist()
                yield Block(key, n_bytes, stack, thread_born & 0xFFFF_FFFF, thread_born >> 32, count_kept & 0xFFFF_FFFF)


def _children_cpu_s() -> float:
    """CPU seconds of children that have ended."""
    times = os.times()
    return times.children_user + times.children_system
