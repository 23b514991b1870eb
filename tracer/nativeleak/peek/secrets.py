"""Passwords, tokens and keys in a process's memory: found by what stands before them, or by their form.

Scope: bytes of text, in ASCII, UTF-8 or UTF-16 (little-endian). A secret that looks like any other word, without a name
before it, is not found: masking lowers the risk of a glance, it does not make a dump fit for publication.

Source of forms: RFC 7515 (JWT begins with ``eyJ``), RFC 7468 (PEM), RFC 9110 (Authorization, Cookie), the documented
prefixes of AWS (AKIA, ASIA), GitHub (ghp_, github_pat_), GitLab (glpat-), Slack (xox), Stripe (sk_live_),
Google (AIza).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

MAX_SECRET_BYTES: Final = 16 << 10

_VALUE: Final = (
    rb"[\"']?[ \t]{0,4}(?:=>|[=:])[ \t]{0,4}"
    rb"(?:\"(?P<double>[^\"\x00-\x1f]{1,4096})|'(?P<single>[^'\x00-\x1f]{1,4096})"
    rb"|(?P<plain>[^\s\x00-\x1f\"',;&<>(){}\[\]]{1,4096}))"
)
_KEY: Final = rb"(?:(?<=api)|(?<=api.)|(?<=access)|(?<=access.)|(?<=private)|(?<=private.)|(?<=account))key"
_HEADER: Final = rb"[\"']?[ \t]{0,4}:[ \t]{0,4}[\"']?(?P<header>[^\r\n\x00\"]{1,8192})"
# A word in small letters -> what follows it where it names or begins a secret; in the bytes as they are.
_FORMS: Final[dict[bytes, bytes]] = {
    b"pass": rb"(?i:pass(?:word|wd|phrase|code)?)" + _VALUE,
    b"pwd": rb"(?i:pwd)" + _VALUE,
    b"secret": rb"(?i:secret(?:[_-]?(?:access)?[_-]?key)?)" + _VALUE,
    b"credential": rb"(?i:credentials?)" + _VALUE,
    b"token": rb"(?i:token)" + _VALUE,
    b"key": rb"(?i:" + _KEY + rb")" + _VALUE,
    b"sess": rb"(?i:sess(?:ion)?[_-]?id)" + _VALUE,
    b"cvv": rb"(?i:cvv)" + _VALUE,
    b"authorization": rb"(?i:authorization)" + _HEADER,
    b"cookie": rb"(?i:cookie)" + _HEADER,
    b"bearer ": rb"(?i:bearer) (?P<scheme>[A-Za-z0-9._~+/=-]{8,8192})",
    b"basic ": rb"(?i:basic) (?P<scheme>[A-Za-z0-9._~+/=-]{8,8192})",
    b"://": rb"://[^\s/:@\x00]{0,128}:(?P<url>[^\s/@\x00]{1,256})@",
    b"private key-----": rb"PRIVATE KEY-----(?P<pem>(?:(?!-----)[A-Za-z0-9+/=\s:,.-]){1,16000})",
    b"eyj": rb"(?<![A-Za-z0-9_-])(?P<jwt>eyJ[A-Za-z0-9_-]{10,8192}\.[A-Za-z0-9_-]{4,8192}(?:\.[A-Za-z0-9_-]{0,8192})?)",
    b"akia": rb"(?P<known>AKIA[A-Z0-9]{16})",
    b"asia": rb"(?P<known>ASIA[A-Z0-9]{16})",
    b"_pat_": rb"_pat_(?P<known>[A-Za-z0-9_]{22,255})",
    b"gh": rb"(?P<known>gh[pousr]_[A-Za-z0-9]{30,255})",
    b"glpat-": rb"(?P<known>glpat-[A-Za-z0-9_-]{20,64})",
    b"xox": rb"(?P<known>xox[abeoprs]-[A-Za-z0-9-]{10,255})",
    b"k_live_": rb"k_live_(?P<known>[A-Za-z0-9]{16,255})",
    b"k_test_": rb"k_test_(?P<known>[A-Za-z0-9]{16,255})",
    b"aiza": rb"(?P<known>AIza[A-Za-z0-9_-]{35})",
    b"npm_": rb"(?P<known>npm_[A-Za-z0-9]{36})",
}
_PATTERNS: Final = {word: re.compile(pattern) for word, pattern in _FORMS.items()}
_WORD: Final = re.compile(b"|".join(re.escape(word) for word in sorted(_FORMS, key=len, reverse=True)))
_DIGITS: Final = bytes(ord("0") if chr(byte).isascii() and chr(byte).isdigit() else byte for byte in range(256))
_CARDS: Final = (b"0" * 13, b"0000 0000 0000", b"0000-0000-0000")
_CARD: Final = re.compile(rb"(?<!\d)(?<!\d\.)[3-6]\d{3}[ -]?\d{4}[ -]?\d{4}[ -]?\d{1,7}(?!\.?\d)")
_CARD_BYTES: Final = 24
_TOKEN: Final = re.compile(rb"[^\s\x00-\x1f\"'<>]{3,4096}")
_WIDE: Final = re.compile(rb"(?:[\t\n\r\x20-\x7e]\x00){8,}")
# Text in UTF-16 as bytes of two kinds: searching for this first is ten times as fast as for the pattern.
_KINDS: Final = bytes(0 if byte == 0 else 1 if 0x20 <= byte < 0x7F or byte in b"\t\n\r" else 2 for byte in range(256))
_WIDE_KINDS: Final = b"\1\0" * 8
_MASKED: Final = re.compile(r"\*{4,}")


def find_secrets(data: bytes, *, is_cut: bool = False) -> list[tuple[int, int]]:
    """(start, end) of each secret in some bytes, in order, without overlaps.

    Args:
        data: Of memory.
        is_cut: The first byte may lie inside a word whose beginning was not read: the word is taken for a secret.
    """
    found: list[tuple[int, int]] = []
    if is_cut and (first := _TOKEN.match(data)) is not None:
        found.append(first.span())
    found += _in_text(data)
    if _WIDE_KINDS in data.translate(_KINDS):
        for wide in _WIDE.finditer(data):
            found += ((wide.start() + 2 * low, wide.start() + 2 * high) for low, high in _in_text(wide[0][::2]))
    return _joined(found)


def mask(data: bytes, secrets: list[tuple[int, int]]) -> bytes:
    """The same bytes with an asterisk in place of each byte of a secret."""
    if not secrets:
        return data
    masked = bytearray(data)
    for start, end in secrets:
        masked[start:end] = b"*" * (end - start)
    return bytes(masked)


def shorten(text: str) -> str:
    """A masked text with four asterisks for each secret, so that its length is not told."""
    return _MASKED.sub("****", text)


def _in_text(text: bytes) -> Iterator[tuple[int, int]]:
    lowered = text.lower()
    behind = 0
    for word in _WORD.finditer(lowered):
        if word.start() < behind:
            continue
        match = _PATTERNS[word[0]].match(text, word.start())
        if match is not None and match.lastgroup is not None:
            yield match.span(match.lastgroup)
            behind = match.end()
    digits = text.translate(_DIGITS)
    for form in _CARDS:
        place = digits.find(form)
        while place >= 0:
            match = _CARD.search(text, max(0, place - 1), place + _CARD_BYTES)
            if match is not None and _is_card(match[0]):
                yield match.span()
            place = digits.find(form, place + len(form))


def _is_card(text: bytes) -> bool:
    """Whether the digits are those of a payment card: 13 to 19 of them, with the check digit of ISO/IEC 7812."""
    digits = [digit - ord("0") for digit in text if digit not in b" -"]
    if not 13 <= len(digits) <= 19:
        return False
    total = sum(
        digit if place % 2 == 0 else 2 * digit - 9 * (digit > 4) for place, digit in enumerate(reversed(digits))
    )
    return total % 10 == 0


def _joined(found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if joined and start < joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined
