"""The kernel's store of new stacks: taken out as they come, so that it stays small."""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.loaders.libbpf import BpfMap
from nativeleak.engines.bpf.raw import RawStack, raw_stack

_U64: Final = struct.Struct("=Q")
_U32: Final = struct.Struct("=I")
_CHUNK_KEY: Final = struct.Struct("=QII")


class DroppedStack(NamedTuple):
    """A stack that was taken out without being looked at.

    Attributes:
        facts: ``struct nl_stack``.
        frames: ``struct nl_frame``, one after the other; more than are used.
    """

    key: int
    facts: bytes
    frames: bytes

    def parsed(self) -> RawStack:
        """The stack itself."""
        facts = abi.StackStruct.from_buffer_copy(self.facts)
        words = struct.unpack(f"={len(self.frames) // 8}Q", self.frames)
        return raw_stack(self.key, facts, words[: 2 * min(facts.n, facts.depth)])


class StackStore:
    """Stacks that the kernel side has seen for the first time.

    Args:
        stacks: Key -> ``struct nl_stack``.
        frames: (key, chunk) -> ``struct nl_chunk``.
        known: Key -> second hash, of the stacks that were taken.
    """

    def __init__(self, stacks: BpfMap, frames: BpfMap, known: BpfMap) -> None:
        self._stacks, self._frames, self._known = stacks, frames, known

    def fetch(self, key: int) -> RawStack | None:
        """Take one new stack out of the kernel's store; None when it was taken before."""
        value = self._stacks.lookup(_U64.pack(key))
        if value is None:
            return None
        facts = abi.StackStruct.from_buffer_copy(value)
        self._know(key, facts.check)
        self._stacks.delete(_U64.pack(key))
        n_kept = min(facts.n, facts.depth)
        words: list[int] = []
        for chunk in range(-(-n_kept // abi.CHUNK_FRAMES)):
            chunk_key = _CHUNK_KEY.pack(key, chunk, 0)
            frames = self._frames.lookup(chunk_key)
            if frames is None:
                return None  # taken before: a thread put the stack in again meanwhile
            words.extend(struct.unpack(f"={len(frames) // 8}Q", frames))
            self._frames.delete(chunk_key)
        return raw_stack(key, facts, words[: 2 * n_kept])

    def drop(self, keys: Sequence[int]) -> dict[int, DroppedStack]:
        """Take new stacks out, and let each come again as a new one with the next site that has it."""
        dropped: dict[int, DroppedStack] = {}
        chunk_keys: list[bytes] = []
        for key in keys:
            value = self._stacks.lookup(_U64.pack(key))
            if value is None:
                continue
            facts = abi.StackStruct.from_buffer_copy(value)
            n_chunks = -(-min(facts.n, facts.depth) // abi.CHUNK_FRAMES)
            its_keys = [_CHUNK_KEY.pack(key, chunk, 0) for chunk in range(n_chunks)]
            frames = [each for each in map(self._frames.lookup, its_keys) if each is not None]
            chunk_keys += its_keys
            if len(frames) == n_chunks:
                dropped[key] = DroppedStack(key, value, b"".join(frames))
        # Frames first: whoever finds the stack gone stores all of it again.
        self._frames.delete_many(chunk_keys)
        self._stacks.delete_many([_U64.pack(key) for key in dropped])
        return dropped

    def peek(self, key: int) -> tuple[int, list[int]] | None:
        """Slot and frame words of a new stack, which stays in the store; None when it was taken before."""
        value = self._stacks.lookup(_U64.pack(key))
        if value is None:
            return None
        facts = abi.StackStruct.from_buffer_copy(value)
        n_kept = min(facts.n, facts.depth)
        words: list[int] = []
        for chunk in range(-(-n_kept // abi.CHUNK_FRAMES)):
            frames = self._frames.lookup(_CHUNK_KEY.pack(key, chunk, 0))
            if frames is None:
                return None
            words.extend(struct.unpack(f"={len(frames) // 8}Q", frames))
        return facts.slot, words[: 2 * n_kept]

    def new_keys(self) -> list[int]:
        """Keys of all stacks that are in the store, those whose event was lost too."""
        keys: list[int] = []
        for key_view, _, n in self._stacks.batches():
            keys.extend(key for (key,) in _U64.iter_unpack(key_view[: n * 8]))
        return keys

    def fetch_all(self) -> list[RawStack]:
        """Take all new stacks out of the store."""
        stacks = (self.fetch(key) for key in self.new_keys())
        return [stack for stack in stacks if stack is not None]

    def _know(self, key: int, check: int) -> None:
        try:
            self._known.update(_U64.pack(key), _U32.pack(check))
        except OSError as error:
            if error.errno != errno.E2BIG:
                raise  # a full table only means that the stack may come again

    def forget(self, key: int) -> None:
        """Let a stack come again as a new one."""
        self._known.delete(_U64.pack(key))
