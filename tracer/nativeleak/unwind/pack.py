"""Packs rows into the words that the BPF side searches; ``lookup`` is the same search in Python.

An array of 32-bit little-endian words, in chunks of 4,096 bytes, each of which is one element of a BPF array:

====================  =================================================================================================
word                  meaning
====================  =================================================================================================
0                     number of pages
1                     number of the first page: its address >> word 2
2                     page shift
3                     index of the word where the rules begin, even
4                     number of rules
5                     ``FORMAT_VERSION``
6 ...                 directory, a word a page: index of its first row << 10 | number of its rows
rules                 two words each, low first, see ``rules.py``; none straddles a chunk; rule 0 is ``rules.NONE``
rows                  address within the page | rule's number << 16; a page's rows never straddle a chunk
====================  =================================================================================================

A page begins with the rule in force at its beginning, so that a search never leaves it. The pages reach from the first
row to the end of the text. An address outside of them has no rule.
"""

from __future__ import annotations

import array
import sys
from bisect import bisect_left
from typing import Final, NamedTuple

from nativeleak.symbols.source import ElfError
from nativeleak.unwind import rules
from nativeleak.unwind.rows import RowList

FORMAT_VERSION: Final = 3
CHUNK_WORDS: Final = 1024
HEADER_WORDS: Final = 6
PAGE_SHIFTS: Final = (16, 14, 12, 10)
"""Page sizes to try, until no page has too many rows."""
MAX_PAGE_ROWS: Final = 1000
MAX_RULES: Final = 1 << 16
MAX_PAGES: Final = 1 << 19
MAX_START_WORD: Final = 1 << 22

_COUNT_BITS: Final = 10
_COUNT_MASK: Final = (1 << _COUNT_BITS) - 1
_WORD_BYTES: Final = 4
_SEARCH_STEPS: Final = tuple(1 << bit for bit in reversed(range(_COUNT_BITS)))


class PackError(ElfError):
    """The rows do not fit the format."""


class Packed(NamedTuple):
    """A packed table.

    Attributes:
        words: The array, a multiple of 4,096 bytes.
        n_rows: Packed rows, without those repeated at the beginning of pages.
        n_rules: Distinct rules, ``rules.NONE`` included.
    """

    words: bytes
    n_rows: int
    n_rules: int


def pack(rows: RowList, text_end: int) -> Packed:
    """Pack rows.

    Args:
        rows: At least one.
        text_end: First address after the code.

    Raises:
        PackError: They do not fit the format.
    """
    shift = _page_shift(rows)
    first, last = rows.starts[0] >> shift, max(rows.starts[-1], text_end - 1) >> shift
    n_pages = last - first + 1
    if n_pages > MAX_PAGES or last >> 32:
        raise PackError(f"its code spans {n_pages} pages, at most {MAX_PAGES} fit")
    numbers = _number(rows)
    rules_at = HEADER_WORDS + n_pages + 1 & ~1
    words = array.array("I", (n_pages, first, shift, rules_at, len(numbers), FORMAT_VERSION))
    words.extend([0] * (rules_at - HEADER_WORDS))
    for word in numbers:
        words.extend((word & 0xFFFF_FFFF, word >> 32))
    _put_pages(words, rows, numbers, (first, n_pages, shift))
    words.extend([0] * (-len(words) % CHUNK_WORDS))
    return Packed(to_bytes(words), len(rows), len(numbers))


def lookup(words: bytes, vaddr: int) -> int:
    """The rule at an address, as the BPF side finds it; ``rules.NONE`` if no rule covers it.

    Args:
        words: A packed table.
        vaddr: Address as the file counts them.
    """
    chunk = _chunk(words, 0)
    n_pages, first, shift, rules_at = chunk[0], chunk[1], chunk[2], chunk[3]
    page, low = vaddr >> shift, vaddr & (1 << shift) - 1
    if page < first or page - first >= n_pages:
        return rules.NONE
    place = HEADER_WORDS + page - first
    entry = _chunk(words, place // CHUNK_WORDS)[place % CHUNK_WORDS]
    start, n_rows = entry >> _COUNT_BITS, entry & _COUNT_MASK
    chunk = _chunk(words, start // CHUNK_WORDS)
    start %= CHUNK_WORDS
    position = 0
    for step in _SEARCH_STEPS:
        at = position + step
        position += step * (at < n_rows and chunk[(start + at) % CHUNK_WORDS] & 0xFFFF <= low)
    place = rules_at + 2 * (chunk[start + position] >> 16)
    chunk = _chunk(words, place // CHUNK_WORDS)
    return chunk[place % CHUNK_WORDS] | chunk[place % CHUNK_WORDS + 1] << 32


def to_bytes(words: array.array[int]) -> bytes:
    """The words in little-endian order."""
    if sys.byteorder == "big":
        words = words[:]
        words.byteswap()
    return words.tobytes()


def _chunk(words: bytes, index: int) -> memoryview:
    size = CHUNK_WORDS * _WORD_BYTES
    return memoryview(words)[index * size : (index + 1) * size].cast("I")


def _page_shift(rows: RowList) -> int:
    """The largest page in which no more than ``MAX_PAGE_ROWS`` rows begin."""
    starts = rows.starts
    for shift in PAGE_SHIFTS:
        if not any(
            starts[index] >> shift == starts[index + MAX_PAGE_ROWS] >> shift
            for index in range(len(starts) - MAX_PAGE_ROWS)
        ):
            return shift
    raise PackError(f"more than {MAX_PAGE_ROWS} rows in {1 << PAGE_SHIFTS[-1]} bytes of code")


def _number(rows: RowList) -> dict[int, int]:
    """Rules and their numbers, from 0."""
    numbers = {word: number for number, word in enumerate(dict.fromkeys([rules.NONE, *rows.words]))}
    if len(numbers) > MAX_RULES:
        raise PackError(f"{len(numbers)} distinct rules, at most {MAX_RULES} fit")
    return numbers


def _put_pages(words: array.array[int], rows: RowList, numbers: dict[int, int], pages: tuple[int, int, int]) -> None:
    """Append the rows of each page and fill the directory.

    Args:
        words: Header, directory and rules.
        rows: The rows.
        numbers: The numbers of their rules.
        pages: First page, how many there are, page shift.
    """
    first, n_pages, shift = pages
    starts, rule_words, mask = rows.starts, rows.words, (1 << shift) - 1
    in_force = begin = 0
    for index in range(n_pages):
        end = bisect_left(starts, first + index + 1 << shift, begin)
        page = [starts[row] & mask | numbers[rule_words[row]] << 16 for row in range(begin, end)]
        if not page or page[0] & 0xFFFF:
            page.insert(0, in_force << 16)
        in_force = page[-1] >> 16
        begin = end
        if len(words) % CHUNK_WORDS + len(page) > CHUNK_WORDS:
            words.extend([0] * (-len(words) % CHUNK_WORDS))
        if len(words) >= MAX_START_WORD:
            raise PackError(f"{len(starts)} rows are more than a table can hold")
        words[HEADER_WORDS + index] = len(words) << _COUNT_BITS | len(page)
        words.extend(page)
