"""Feeds damaged inputs to a parser and holds it to its contract: only the errors it documents, bounded time and memory.

To add a parser, add one ``Parser`` to ``parsers.PARSERS``; inputs that once broke it go to ``corpus/NAME/``, where
every run tries them first.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fuzz.mutate import mutated

CORPUS: Final = Path(__file__).resolve().parent / "corpus"
MAX_INPUT_S: Final = 2.0
"""CPU time that one input may take; they are of 1 MiB at most."""
MAX_MEMORY_BYTES: Final = 1 << 30
"""What a parser may allocate beyond what the process has; more raises MemoryError in it, which it may not document."""


class BrokenContractError(AssertionError):
    """A parser raised what it does not document, or took too long."""


@dataclass(frozen=True, slots=True)
class Parser:
    """A parser and what it is fed with.

    Attributes:
        name: Of its folder in the corpus too.
        parse: Parses an input, and uses the result as the tool does; asserts what must hold of it.
        seeds: Sound inputs, which are then damaged.
        raises: The errors it documents.
        n_inputs: Damaged inputs in a short run.
        damage: Makes a damaged input from sound ones.
    """

    name: str
    parse: Callable[[bytes], object]
    seeds: Callable[[], Sequence[bytes]]
    raises: tuple[type[Exception], ...] = ()
    n_inputs: int = 1000
    damage: Callable[[Sequence[bytes], random.Random], bytes] = mutated


def kept_inputs(parser: Parser) -> list[bytes]:
    """Its corpus, in the order of the names."""
    return [path.read_bytes() for path in sorted((CORPUS / parser.name).glob("*"))]


def try_input(parser: Parser, data: bytes, room: Path, max_s: float = MAX_INPUT_S) -> None:
    """Parse one input.

    Args:
        parser: What to try.
        data: The input.
        room: Where an input that breaks the contract is kept for the corpus.
        max_s: CPU time that it may take.

    Raises:
        BrokenContractError: It broke the contract; the text says how, and where the input is.
    """
    begin_s = time.thread_time()
    try:
        parser.parse(data)
    except parser.raises:
        pass
    except Exception as error:
        raise BrokenContractError(f"{parser.name}: {_keep(data, room)}: {type(error).__name__}: {error}") from error
    took_s = time.thread_time() - begin_s
    if took_s > max_s:
        raise BrokenContractError(f"{parser.name}: {_keep(data, room)}: took {took_s:.1f} s")


def fuzz(parser: Parser, room: Path, *, seconds: float = 0.0, seed: int = 1) -> int:
    """Try the corpus, the sound inputs and damaged ones; see ``try_input``.

    Args:
        parser: What to try.
        room: Where an input that breaks the contract is kept.
        seconds: How long; 0 for ``n_inputs`` inputs, always the same ones.
        seed: Of the random numbers.

    Returns:
        Inputs tried.
    """
    inputs = [*kept_inputs(parser), *parser.seeds()]
    chance = random.Random(seed)
    until_s = time.monotonic() + seconds
    n = 0
    with limited_memory():
        for data in (b"", *inputs):
            try_input(parser, data, room)
        while time.monotonic() < until_s if seconds else n < parser.n_inputs:
            try_input(parser, parser.damage(inputs, chance), room)
            n += 1
    return n + 1 + len(inputs)


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Within it, this process can allocate ``MAX_MEMORY_BYTES`` more than it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    n_pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = n_pages * os.sysconf("SC_PAGE_SIZE") + MAX_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _keep(data: bytes, room: Path) -> Path:
    path = room / "broken"
    path.write_bytes(data)
    return path
