"""What the contents of a block look like: text, zeros, a known size."""

from __future__ import annotations

import re
from typing import Final

from nativeleak.heaps.known import known_as

HINT_WORDS: Final = 6
_TEXT: Final = re.compile(rb"[\x20-\x7e\t\r\n]{8,}")
_MAX_SHOWN: Final = 28
_GLIBC: Final = "glibc"


def hint(data: bytes, block_bytes: int, allocator: str) -> str:
    """A few words about a block; empty where nothing is known.

    Args:
        data: Its first bytes.
        block_bytes: As the allocator counts it, with its header.
        allocator: Kind of the allocator: sizes of other ones say nothing.
    """
    name = known_as(block_bytes) if allocator == _GLIBC else None
    if name is not None:
        return name
    text = _TEXT.search(data)
    if text is not None:
        shown = text[0].decode("ascii").split("\n")[0].strip()[:_MAX_SHOWN]
        return f'text "{shown}"' if shown else ""
    if data and not any(data):
        return "zeros at its start"
    return ""
