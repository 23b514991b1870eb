"""Blocks of memory with their secrets masked, joined so that a secret at the border of two blocks is seen whole.

Scope: at most a block and its carry are held at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from nativeleak.peek.reading import Block
from nativeleak.peek.secrets import MAX_SECRET_BYTES, find_secrets, mask

_CARRY_BYTES: Final = 4 << 10
_MAX_CARRY_BYTES: Final = 2 * MAX_SECRET_BYTES
_TEXT_BYTES: Final = bytes([9, 10, 13, *range(0x20, 0x7F), *range(0x80, 0x100)])


class Masked(NamedTuple):
    """Bytes that follow each other, without their secrets.

    Attributes:
        address: Of the first one.
        data: The bytes.
        n_secrets: Masked in it, without words at a cut.
    """

    address: int
    data: bytes
    n_secrets: int


def masked(blocks: Iterable[Block], *, raw: bool) -> Iterator[Masked]:
    """All bytes of the blocks, once and in order.

    Args:
        blocks: Of one range.
        raw: Mask nothing.
    """
    carry, carry_at, is_cut = b"", 0, False
    for block in blocks:
        if raw:
            yield Masked(block.address, block.data, 0)
            continue
        if carry and not block.follows:
            yield _last(carry_at, carry, is_cut=is_cut)
            carry = b""
        if not carry:
            carry_at, is_cut = block.address, block.is_cut
        data = carry + block.data
        secrets = find_secrets(data, is_cut=is_cut)
        end = _border(data, secrets)
        if end:
            done = [secret for secret in secrets if secret[0] < end]
            yield Masked(carry_at, mask(data, done)[:end], _n_secrets(done, is_cut=is_cut))
            is_cut = False
        carry, carry_at = data[end:], carry_at + end
    if carry:
        yield _last(carry_at, carry, is_cut=is_cut)


def _last(address: int, data: bytes, *, is_cut: bool) -> Masked:
    secrets = find_secrets(data, is_cut=is_cut)
    return Masked(address, mask(data, secrets), _n_secrets(secrets, is_cut=is_cut))


def _n_secrets(secrets: list[tuple[int, int]], *, is_cut: bool) -> int:
    """How many were found; a word that is masked only because its beginning was not read is none."""
    return len(secrets) - bool(is_cut and secrets and secrets[0][0] == 0)


def _border(data: bytes, secrets: list[tuple[int, int]]) -> int:
    """Where to cut: between texts, or far enough from the end that the name of a secret is on the side of its value."""
    border = max(0, len(data) - _CARRY_BYTES)
    tail = data[max(0, border - _MAX_CARRY_BYTES) : border]
    # Back to the last byte that is no text; within one long text to its last line, or just here.
    n_text = len(tail) - len(tail.rstrip(_TEXT_BYTES))
    if n_text < len(tail) or len(tail) == border:
        border -= n_text
    else:
        border -= len(tail) - 1 - tail.rfind(b"\n") if b"\n" in tail else 0
    for start, end in secrets:
        if start < border < end:
            border = start
    return border
