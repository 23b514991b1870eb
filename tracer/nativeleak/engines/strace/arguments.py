"""What stands between a call's parentheses, and what it returned.

Scope: text in, numbers out. Flags come by name, as numbers (``-X raw``) or both (``-X verbose``); names that are not
known here matter to nothing and count 0.

Source: include/uapi/asm-generic/mman-common.h, mman.h and include/uapi/linux/{mman,sched}.h for the values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

PROT: Final = {
    "PROT_NONE": 0,
    "PROT_READ": 1,
    "PROT_WRITE": 2,
    "PROT_EXEC": 4,
    "PROT_SEM": 8,
    "PROT_GROWSDOWN": 0x1000000,
    "PROT_GROWSUP": 0x2000000,
}
MAP: Final = {
    "MAP_SHARED": 1,
    "MAP_PRIVATE": 2,
    "MAP_SHARED_VALIDATE": 3,
    "MAP_FIXED": 0x10,
    "MAP_ANONYMOUS": 0x20,
    "MAP_ANON": 0x20,
    "MAP_32BIT": 0x40,
    "MAP_GROWSDOWN": 0x100,
    "MAP_LOCKED": 0x2000,
    "MAP_NORESERVE": 0x4000,
    "MAP_POPULATE": 0x8000,
    "MAP_NONBLOCK": 0x10000,
    "MAP_STACK": 0x20000,
    "MAP_HUGETLB": 0x40000,
    "MAP_SYNC": 0x80000,
    "MAP_FIXED_NOREPLACE": 0x100000,
}
MREMAP: Final = {"MREMAP_MAYMOVE": 1, "MREMAP_FIXED": 2, "MREMAP_DONTUNMAP": 4}
CLONE: Final = {"CLONE_VM": 0x100, "CLONE_VFORK": 0x4000, "CLONE_THREAD": 0x10000}

UNFINISHED: Final = "<unfinished ...>"
_MAX_ARGUMENTS: Final = 16
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"?|\d<(?!<)(?:->|[^<>\\]|\\.)*>|/\*[^*]*\*/|[()\[\]{},]')
_NUMBER: Final = re.compile(r"-?(?:0x[0-9a-fA-F]{1,16}|\d{1,20})")
_RESULT: Final = re.compile(r"\s*= (?:(-?0x[0-9a-fA-F]{1,16}|-?\d{1,20})|\?)(?:\s+(E[A-Z0-9]{1,20})\b)?")
_HUGE_SHIFT: Final = re.compile(r"(\d{1,2})<<MAP_HUGE_SHIFT")
_MAP_HUGE_SHIFT: Final = 26


class Arguments(NamedTuple):
    """What a call was given; ``rest`` is what follows its closing parenthesis, None where it is not there yet."""

    values: tuple[str, ...]
    rest: str | None


class Result(NamedTuple):
    """What a call gave back.

    Attributes:
        value: None where it never came back: the thread was killed in it, or the call is to be made again.
        failed: An error came back, its name in ``error``.
    """

    value: int | None
    failed: bool
    error: str


def split_arguments(text: str) -> Arguments:
    """Take apart what follows a call's opening parenthesis."""
    values: list[str] = []
    depth = start = 0
    pieces: list[str] = []
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token.startswith("/*"):
            pieces.append(text[start : match.start()])
            start = match.end()
        elif token in ("(", "[", "{"):
            depth += 1
        elif token in (")", "]", "}"):
            if depth == 0:
                _take(values, "".join(pieces) + text[start : match.start()])
                return Arguments(tuple(values), text[match.end() :])
            depth -= 1
        elif token == "," and depth == 0 and len(values) < _MAX_ARGUMENTS:  # noqa: S105 (no password)
            _take(values, "".join(pieces) + text[start : match.start()])
            pieces.clear()
            start = match.end()
    _take(values, ("".join(pieces) + text[start:]).removesuffix(UNFINISHED))
    return Arguments(tuple(values), None)


def _take(values: list[str], text: str) -> None:
    if text.strip():
        values.append(text.strip())


def parse_number(text: str) -> int | None:
    """An address, a length, a descriptor: ``NULL``, ``0x7f…``, ``4096``, ``3</etc/passwd>``; None for anything else."""
    if text == "NULL":
        return 0
    match = _NUMBER.match(text)
    return int(match[0], 0) if match and not (len(match[0]) > 1 and match[0][0] == "0" and match[0][1] != "x") else None


def parse_flags(text: str, names: Mapping[str, int]) -> int:
    """The value of ``PROT_READ|PROT_WRITE``, also with numbers among them."""
    value = 0
    for word in text.split("|")[:64]:
        word = word.strip()
        shifted = _HUGE_SHIFT.match(word)
        if shifted:
            value |= int(shifted[1]) << _MAP_HUGE_SHIFT
        elif word in names:
            value |= names[word]
        else:
            value |= parse_number(word) or 0
    return value


def parse_result(rest: str) -> Result | None:
    """What stands behind a call's closing parenthesis; None where that is no result."""
    match = _RESULT.match(rest)
    if match is None:
        return None
    number, error = match.groups()
    # -1 without a name of an error is an address or a flag nobody asks for here.
    if number is None:
        return Result(None, failed=error is not None, error=error or "")
    return Result(int(number, 16 if "x" in number else 10), failed=error is not None, error=error or "")
