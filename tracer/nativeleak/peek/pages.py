"""What pages are full of: zeros, one pattern, text, pointers, data without structure.

Scope: each page of 4 KiB is in exactly one class; numbers over arrays. Rules, in this order:

* ``zero``: nothing but zeros.
* ``pattern``: one word of 8 bytes over and over: memory filled on purpose, such as a freed block that was poisoned.
* ``dense``: at least 7.5 bits of entropy a byte: compressed or encrypted. (A page of random bytes has 7.95.)
* ``text``: at least 85 % printable ASCII, tabs and line ends.
* ``pointers``: at least a fifth of its words are addresses of this process: objects that point at each other.
* ``mixed``: the rest: structures, numbers, code, text in other encodings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

PAGE: Final = 4096
CLASSES: Final = {
    "zero": "zeros",
    "pattern": "one pattern, repeated",
    "dense": "compressed, encrypted or random",
    "text": "text",
    "pointers": "objects with pointers",
    "mixed": "other data",
}
"""Words for people by class, in the order in which they are tried."""

_DENSE_BITS: Final = 7.5
_TEXT_SHARE: Final = 0.85
_POINTER_SHARE: Final = 0.2
_IS_TEXT: Final = np.array([0x20 <= byte < 0x7F or byte in b"\t\n\r" for byte in range(256)])


class PageCounter:
    """Counts pages by class.

    Args:
        mapped: (start, end) of the process's mappings, in address order.
    """

    def __init__(self, mapped: Sequence[tuple[int, int]]) -> None:
        self._starts = np.array([start for start, _ in mapped], np.uint64)
        self._ends = np.array([end for _, end in mapped], np.uint64)
        self._bits = 0.0
        self._n_bytes = 0
        self.n_bytes: dict[str, int] = dict.fromkeys(CLASSES, 0)

    @property
    def entropy_bits(self) -> float:
        """Mean entropy of a page's bytes, in bits a byte, 0 to 8."""
        return self._bits / self._n_bytes if self._n_bytes else 0.0

    def add(self, address: int, data: bytes) -> list[int]:
        """Count bytes; a part of a page at either end counts as a page of its own.

        Returns:
            Addresses of those pages that are dense: what looks like text in them is chance.
        """
        head = min(len(data), -address % PAGE)
        whole = head + (len(data) - head) // PAGE * PAGE
        dense: list[int] = []
        for start, end in ((0, head), (head, whole), (whole, len(data))):
            if start < end:
                found = self._add(np.frombuffer(data, np.uint8, end - start, start).reshape(-1, min(PAGE, end - start)))
                dense += [address + start + PAGE * index for index in np.flatnonzero(found).tolist()]
        return dense

    def _add(self, pages: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        """Count rows that are pages; says which of them are dense."""
        n_pages, size = pages.shape
        rows = np.arange(n_pages)[:, None] * 256
        counts = np.bincount((pages + rows).ravel(), minlength=256 * n_pages).reshape(n_pages, 256)
        shares = counts / size
        with np.errstate(divide="ignore", invalid="ignore"):
            bits = -np.where(counts > 0, shares * np.log2(shares), 0.0).sum(axis=1)
        self._bits += float(bits.sum()) * size
        self._n_bytes += n_pages * size
        n_words = size // 8
        words = np.ascontiguousarray(pages[:, : n_words * 8]).view(np.uint64) if n_words else pages.astype(np.uint64)
        is_zero = counts[:, 0] == size
        is_pattern = (words == words[:, :1]).all(axis=1)
        is_dense: npt.NDArray[np.bool_] = bits >= _DENSE_BITS
        is_text = shares[:, _IS_TEXT].sum(axis=1) >= _TEXT_SHARE
        is_pointers = self._pointers(words) >= _POINTER_SHARE
        left = np.ones(n_pages, bool)
        for name, found in zip(CLASSES, (is_zero, is_pattern, is_dense, is_text, is_pointers, left), strict=True):
            self.n_bytes[name] += int((found & left).sum()) * size
            left &= ~found
        return is_dense

    def _pointers(self, words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
        """Share of the words of each row that are addresses of the process."""
        if not len(self._starts):
            return np.zeros(len(words))
        place = np.searchsorted(self._starts, words.ravel(), side="right") - 1
        inside = (place >= 0) & (words.ravel() < self._ends[np.maximum(place, 0)])
        shares: npt.NDArray[np.float64] = inside.reshape(words.shape).mean(axis=1)
        return shares
