"""The kernel's store of new stacks: taken out as they come, so that it stays small."""

from __future__ import annotations

import errno
import struct
from typing import Final

from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.loaders.libbpf import BpfMap
from nativeleak.engines.bpf.raw import RawStack, raw_stack

_U64: Final = struct.Struct("=Q")
_U32: Final = struct.Struct("=I")
_CHUNK_KEY: Final = struct.Struct("=QII")


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
        return self._take(key, is_kept=True)

    def drop(self, key: int) -> RawStack | None:
        """Take one new stack out as ``fetch`` does, but let it come again with the next site that has it."""
        return self._take(key, is_kept=False)

    def _take(self, key: int, *, is_kept: bool) -> RawStack | None:
        value = self._stacks.lookup(_U64.pack(key))
        if value is None:
            return None
        facts = abi.StackStruct.from_buffer_copy(value)
        if is_kept:
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
