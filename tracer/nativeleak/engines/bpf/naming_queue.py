"""New stacks that wait for their names: which come next, and for how long."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

_NAMED_TOGETHER: Final = 64


class NamingQueue:
    """Keys of stacks, oldest first.

    Args:
        clock: Seconds, never backwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._keys: dict[int, None] = {}
        self._unseen_code: deque[int] = deque()

    def __len__(self) -> int:
        """Stacks that wait."""
        return len(self._keys)

    def add(self, key: int, *, has_runtime: bool) -> None:
        """A stack is new.

        Args:
            key: The stack.
            has_runtime: Its target's runtime may throw code away before the stack has its turn.
        """
        self._keys[key] = None
        if has_runtime:
            self._unseen_code.append(key)

    def add_all(self, keys: Iterable[int]) -> None:
        """Stacks that were found without an event; those that wait already keep their place."""
        self._keys.update(dict.fromkeys(keys))

    def discard(self, key: int) -> bool:
        """Take a stack out that needs no name any more; returns whether it was waiting."""
        if key not in self._keys:
            return False
        del self._keys[key]
        return True

    def keep_only(self, keys: Collection[int]) -> None:
        """Take all others out."""
        self._keys = {key: None for key in self._keys if key in keys}

    def put_first(self, keys: Iterable[int]) -> None:
        """Let some of those that wait have their turn before the others."""
        first = {key: None for key in keys if key in self._keys}
        self._keys = first | self._keys

    def batches(self, within_s: float) -> Iterator[Sequence[int]]:
        """Stacks to name together, until none waits or the time is over; the rest waits for the next call.

        Args:
            within_s: A process that loads its code makes thousands of new stacks, deep ones, and nothing else may wait
                for all of their names.
        """
        end_s = self._clock() + within_s
        while self._keys and self._clock() < end_s:
            keys = list(itertools.islice(self._keys, _NAMED_TOGETHER))
            yield keys
            for key in keys:
                self._keys.pop(key, None)
        if not self._keys:
            self._unseen_code.clear()

    def unseen_code(self, within_s: float) -> Iterator[int]:
        """Waiting stacks whose code nobody has looked at yet, each once, until the time is over."""
        end_s = self._clock() + within_s
        while self._unseen_code and self._clock() < end_s:
            key = self._unseen_code.popleft()
            if key in self._keys:
                yield key
