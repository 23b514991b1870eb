"""A look into a range: what its pages are full of, what is recognised in it, which texts it holds.

Scope: one pass over the range, whole or sampled, in bounded memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from nativeleak.peek.kinds import KINDS, Kind
from nativeleak.peek.pages import PAGE, PageCounter
from nativeleak.peek.ranges import Span
from nativeleak.peek.reading import BLOCK_BYTES, Block, PresentMemory
from nativeleak.peek.secrets import shorten
from nativeleak.peek.stream import Masked, masked
from nativeleak.peek.strings import StringCounter, Text
from nativeleak.process.procfs import read_maps

SAMPLE_BYTES: Final = 16 << 20
"""Read of a range by default; analysing 16 MiB takes about a second."""

_MAX_CANDIDATES: Final = 4096


@dataclass(slots=True)
class Found:
    """Contents of one kind.

    Attributes:
        kind: Row of ``KINDS``.
        count: How often.
        address: Where it was found first.
        example: What it says.
    """

    kind: Kind
    count: int
    address: int
    example: str


@dataclass(slots=True)
class Contents:
    """What was found in a range.

    Attributes:
        span: The range.
        resident_bytes: Of it, in memory when the look began.
        swap_bytes: Of the mappings it lies in, swapped out; never read.
        read_bytes: Read.
        failed_bytes: In memory when asked for and gone a moment later.
        has_ended: The process ended before all was read.
        one_in: 1: all was read; n: one of n blocks.
        is_raw: Secrets are shown.
        n_secrets: Masked.
        page_bytes: Bytes of pages by class; they add up to ``read_bytes``.
        entropy_bits: Mean over pages, bits a byte.
        found: Recognised contents, the most frequent first.
        strings: Texts with their counts, the most frequent first.
        n_strings: Texts in all.
        max_missed: Counts of texts may be too low by as much.
        classes: Names of Java classes with their counts.
    """

    span: Span
    resident_bytes: int
    swap_bytes: int
    read_bytes: int
    failed_bytes: int
    has_ended: bool
    one_in: int
    is_raw: bool
    n_secrets: int
    page_bytes: dict[str, int]
    entropy_bits: float
    found: list[Found] = field(default_factory=list)
    strings: list[Text] = field(default_factory=list)
    n_strings: int = 0
    max_missed: int = 0
    classes: list[tuple[str, int]] = field(default_factory=list)

    @property
    def scale(self) -> float:
        """What a count is to be multiplied with to estimate the whole range."""
        return self.resident_bytes / self.read_bytes if self.read_bytes and self.one_in > 1 else 1.0


def look(
    pid: int,
    span: Span,
    *,
    sample_bytes: int = SAMPLE_BYTES,
    raw: bool = False,
    min_chars: int = 6,
    n_strings: int | None = 20,
    progress: Callable[[int, int], None] | None = None,
) -> Contents:
    """Read a range and say what it holds.

    Args:
        pid: The process.
        span: The range.
        sample_bytes: Read about as much, evenly spread; 0 for all.
        raw: Show secrets.
        min_chars: Shorter texts are passed over.
        n_strings: Texts to keep; None for all.
        progress: Called with the bytes done and the bytes to do.

    Raises:
        NativeleakError: There is no such process, or it may not be read.
    """
    mapped = [(entry.start, entry.end) for entry in read_maps(pid)]
    pages, strings, found = PageCounter(mapped), StringCounter(min_chars), dict[str, Found]()
    n_secrets = 0
    with PresentMemory(pid) as memory:
        resident = memory.resident_bytes(span.pieces())
        one_in = 1 if not sample_bytes else max(1, -(-resident // max(sample_bytes, BLOCK_BYTES)))
        blocks = memory.whole(span) if one_in == 1 else memory.sample(span, one_in)
        is_hidden = span.is_private and not raw
        done, dense = 0, set[int]()
        for part in masked(_counted(blocks, pages, dense), raw=raw):
            n_secrets += part.n_secrets
            done += len(part.data)
            if not is_hidden and part.data.strip(b"\0"):
                recognise(part, found)
                for address, data in _without(part, dense):
                    strings.add(address, data)
            dense -= {page for page in dense if page + PAGE <= part.address + len(part.data)}
            if progress is not None:
                progress(done, resident // one_in)
        return Contents(
            span=span,
            resident_bytes=resident,
            swap_bytes=sum(region.swap for region in span.regions),
            read_bytes=memory.read_bytes,
            failed_bytes=memory.failed_bytes,
            has_ended=memory.has_ended,
            one_in=one_in,
            is_raw=raw,
            n_secrets=n_secrets,
            page_bytes=pages.n_bytes,
            entropy_bits=pages.entropy_bits,
            found=sorted(found.values(), key=lambda each: -each.count),
            strings=strings.most(n_strings),
            n_strings=strings.n_strings,
            max_missed=strings.max_missed,
            classes=strings.classes.most_common(n_strings),
        )


def _counted(blocks: Iterable[Block], pages: PageCounter, dense: set[int]) -> Iterator[Block]:
    """The blocks, with their pages counted; adds the dense ones to a set."""
    for block in blocks:
        dense.update(pages.add(block.address, block.data))
        yield block


def _without(part: Masked, dense: set[int]) -> Iterator[tuple[int, bytes]]:
    """(address, bytes) of what lies between dense pages."""
    end = part.address + len(part.data)
    start = part.address
    for page in sorted(dense):
        if start < page < end:
            yield start, part.data[start - part.address : page - part.address]
        if page < end:
            start = max(start, page + PAGE)
    if start < end:
        yield start, part.data[start - part.address :]


def recognise(part: Masked, found: dict[str, Found]) -> None:
    """Add the known contents of some bytes to what was found so far, by the kind's id."""
    data = part.data
    for kind in KINDS:
        if kind.hints and not any(hint in data for hint in kind.hints):
            continue
        n_candidates = behind = 0
        for match in kind.pattern.finditer(data):
            if match.start() < behind:
                continue
            n_candidates += 1
            if n_candidates > _MAX_CANDIDATES and kind.check is not KINDS[0].check:
                break  # random data has a candidate in every few hundred bytes
            example = kind.check(data, match.start())
            if example is None:
                continue
            behind = match.end()
            known = found.get(kind.id)
            if known is None:
                found[kind.id] = Found(kind, 1, part.address + match.start(), shorten(example))
            else:
                known.count += 1
