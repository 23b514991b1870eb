"""HotSpot's packed numbers: UNSIGNED5, and the line number tables made of them.

Scope: bytes in, numbers out; every stream ends somewhere, whatever is in it. Two codes exist: since JDK 20 no byte of a
number is zero (``excluded`` is 1), before that any byte may be (0). Nothing in the JVM says which one it uses, so what
reads a stream tries both and keeps the one that makes sense.

Source: unsigned5.hpp (read_uint: a byte below the limit ends a number, each further byte weighs 64 times more, five
bytes at most), compressedStream.hpp before JDK 20, method.hpp (CompressedLineNumberReadStream).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final, NamedTuple

from nativeleak.runtimes.hotspot.memory import UnreadableError

CODES: Final = (1, 0)
"""Values of ``excluded``, the newer code first."""

_MAX_BYTES: Final = 5
_HIGH_CODES: Final = 64  # 1 << lg_H: first bytes that say that another one follows
_BITS: Final = 6
_ESCAPE: Final = 0xFF  # the pair does not fit one byte: two signed numbers follow
_BCI_SHIFT: Final = 3
_LINE_MASK: Final = 7
_MAX_LINE: Final = 65_535  # line_number in a class file is two bytes (JVMS 4.7.12)


def read_unsigned5(data: bytes, place: int, excluded: int) -> tuple[int, int]:
    """A number and the place after it.

    Raises:
        UnreadableError: The stream ends before the number does, or a byte occurs that this code excludes.
    """
    limit = 256 - _HIGH_CODES
    total = 0
    for index in range(_MAX_BYTES):
        if not 0 <= place < len(data):
            raise UnreadableError("reading a packed number failed: the stream ends")
        byte = data[place]
        place += 1
        if byte < excluded:
            raise UnreadableError("reading a packed number failed: a zero byte")
        total += byte - excluded << _BITS * index
        if byte < limit:
            break
    return total & 0xFFFF_FFFF, place


def read_signed5(data: bytes, place: int, excluded: int) -> tuple[int, int]:
    """A signed number, its sign in the lowest bit, and the place after it; raises as ``read_unsigned5``."""
    value, place = read_unsigned5(data, place, excluded)
    return value >> 1 ^ -(value & 1), place


class LineTable(NamedTuple):
    """Lines of a method's bytecodes, as pairs in the order of the class file: (bytecode index, line)."""

    pairs: tuple[tuple[int, int], ...]

    def line(self, bci: int) -> int | None:
        """Line of a bytecode: that of the last pair at or before it, None where there is none."""
        best = max((pair for pair in self.pairs if pair[0] <= bci), key=lambda pair: pair[0], default=None)
        return best[1] if best is not None else None


def read_line_table(data: bytes, code_bytes: int) -> LineTable:
    """The lines that a packed table holds.

    Args:
        data: From the start of the table on; it may reach beyond its end.
        code_bytes: Length of the method's bytecode; a table with an index beyond is damaged.

    Returns:
        An empty table where ``data`` makes no sense in either code.
    """
    best: tuple[int, LineTable] | None = None
    for excluded in CODES:
        pairs = _pairs(data, excluded, code_bytes)
        if pairs is None:
            continue
        # Compilers write tables in the order of the code: read in the wrong code, a step forward becomes one back.
        n_back = sum(after[0] < before[0] for before, after in pairwise(pairs))
        if best is None or n_back < best[0]:
            best = n_back, LineTable(tuple(pairs))
    return best[1] if best is not None else LineTable(())


def _pairs(data: bytes, excluded: int, code_bytes: int) -> list[tuple[int, int]] | None:
    bci = line = place = 0
    pairs = []
    try:
        while place < len(data) and data[place]:
            byte = data[place]
            place += 1
            if byte == _ESCAPE:
                bci_step, place = read_signed5(data, place, excluded)
                line_step, place = read_signed5(data, place, excluded)
            else:
                bci_step, line_step = byte >> _BCI_SHIFT, byte & _LINE_MASK
            bci, line = bci + bci_step, line + line_step
            if not 0 <= bci < code_bytes or not 0 <= line <= _MAX_LINE:
                return None
            pairs.append((bci, line))
    except UnreadableError:
        return None
    return pairs if place < len(data) else None
