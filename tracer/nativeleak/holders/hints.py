"""What the contents of a block look like: text, zeros, a known size."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias

HINT_WORDS: Final = 6
_TEXT: Final = re.compile(rb"[\x20-\x7e\t\r\n]{8,}")
_MAX_SHOWN: Final = 28

KnownSizes: TypeAlias = Callable[[int], str | None]
"""What blocks of a size often are, with their header; None where nothing is known."""


def hint(data: bytes, block_bytes: int, known_sizes: KnownSizes) -> str:
    """A few words about a block; empty where nothing is known.

    Args:
        data: Its first bytes.
        block_bytes: As the allocator counts it, with its header.
        known_sizes: Says what a size is known for.
    """
    name = known_sizes(block_bytes)
    if name is not None:
        return name
    text = _TEXT.search(data)
    if text is not None:
        shown = text[0].decode("ascii").split("\n")[0].strip()[:_MAX_SHOWN]
        return f'text "{shown}"' if shown else ""
    if data and not any(data):
        return "zeros at its start"
    return ""
