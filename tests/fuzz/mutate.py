"""Damages inputs at random: what bit rot, a cut-off copy or a person with bad intentions makes of a file."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from typing import Final

MAX_BYTES: Final = 1 << 20
"""Of a mutated input; a parser's own limits on larger ones are tested where they are set."""

_BYTES: Final = (0x00, 0x01, 0x7F, 0x80, 0xFF)
_WORDS: Final = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 48)
_LONG_WORDS: Final = (*_WORDS, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_HEAD_BYTES: Final = 1024
_TEXT_TOKENS: Final = (
    b"\0", b"\n", b"\n\n", b"\r", b" ", b"\t", b";", b"\x1b[2J", b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"-1",
    b"0x",
    b"0" * 40, b"9" * 400, b"f" * 16, b"%s%n", b"<script>", b"\\012", b" (deleted)", b"[heap]", b"\xe2\x80\xae", b"nan",
)  # fmt: skip

Change = Callable[[bytearray, random.Random], None]


def mutated(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """One of the inputs with a few changes, or two of them joined."""
    data = bytearray(chance.choice(seeds))
    if chance.random() < 0.05:
        other = chance.choice(seeds)
        data[_place(data, chance) :] = other[_place(bytearray(other), chance) :]
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        chance.choice(_CHANGES)(data, chance)
    return bytes(data[:MAX_BYTES])


def _place(data: bytearray, chance: random.Random) -> int:
    """Somewhere in the input; every second time near one of its ends, where headers are."""
    if not data:
        return 0
    if chance.random() < 0.5:
        return chance.randrange(len(data))
    near = chance.randrange(min(len(data), _HEAD_BYTES))
    return near if chance.random() < 0.6 else len(data) - 1 - near


def _set_byte(data: bytearray, chance: random.Random) -> None:
    if data:
        data[_place(data, chance)] = chance.choice((*_BYTES, chance.randrange(256)))


def _flip_bit(data: bytearray, chance: random.Random) -> None:
    if data:
        data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _set_word(data: bytearray, chance: random.Random) -> None:
    """A number in its natural place: headers are made of them."""
    size, form, words = chance.choice(((2, "<H", _WORDS), (4, "<I", _WORDS), (8, "<Q", _LONG_WORDS)))
    place = _place(data, chance) // size * size
    if place + size <= len(data):
        value = chance.choice((*words, len(data), chance.randrange(len(data))))
        data[place : place + size] = struct.pack(form, value & (1 << 8 * size) - 1)


def _add_to_word(data: bytearray, chance: random.Random) -> None:
    size, form = chance.choice(((2, "<H"), (4, "<I"), (8, "<Q")))
    place = _place(data, chance) // size * size
    if place + size <= len(data):
        (value,) = struct.unpack_from(form, data, place)
        value = value + chance.choice((-4096, -8, -1, 1, 8, 4096)) & (1 << 8 * size) - 1
        data[place : place + size] = struct.pack(form, value)


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[_place(data, chance) :]


def _remove(data: bytearray, chance: random.Random) -> None:
    place = _place(data, chance)
    del data[place : place + chance.choice((1, 2, 8, 100))]


def _repeat(data: bytearray, chance: random.Random) -> None:
    place = _place(data, chance)
    piece = bytes(data[place : place + chance.choice((1, 8, 64, 500))])
    data[place:place] = piece * min(chance.choice((1, 2, 50, 2000)), 1 + (MAX_BYTES >> 2) // max(1, len(piece)))


def _insert_token(data: bytearray, chance: random.Random) -> None:
    place = _place(data, chance)
    data[place:place] = chance.choice(_TEXT_TOKENS)


_CHANGES: Final[tuple[Change, ...]] = (
    _set_byte, _flip_bit, _set_word, _set_word, _add_to_word, _cut, _remove, _repeat, _insert_token,
)  # fmt: skip
