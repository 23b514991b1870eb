r"""Lines of strace: the thread, the time, and what follows.

Scope: text in, named tuples out; a line that makes no sense gives None, never an error. All forms of the beginning are
taken: ``[pid 12]``, ``12``, with ``<comm>`` behind it (``-Y``), every kind of time stamp (``-t``, ``-tt``, ``-ttt``,
``-r``), instruction pointers (``-i``) and call numbers (``-n``).

Source: strace 6.1, ``printleader`` in src/strace.c and ``print_quoted_string_in_angle_brackets`` in src/util.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

MAX_LINE: Final = 1 << 16
"""Characters of a line beyond which it is not looked at: the calls that are read take some hundred."""
STACK_MARK: Final = " > "
_COMM: Final = r"<((?:[^<>\\]|\\.){0,64})>"
_MAX_TID: Final = 1 << 22
"""Greatest process id of the kernel (PID_MAX_LIMIT); a greater number is a time stamp."""
_DAY_S: Final = 86_400.0
_RELATIVE_BELOW_S: Final = 1e8
"""Stamps of ``-ttt`` are seconds since 1970, those of ``-r`` since the last line."""

_LEADER: Final = re.compile(
    rf"""\s*
    (?: \[pid\s+(\d{{1,10}})(?:{_COMM})?\]\s+ | (\d{{1,10}})(?:{_COMM})?(?=\s)\s+ )?
    (?: \[[\w.-]{{1,64}}(?::[\w.,-]{{1,64}}){{2,8}}\]\s+ )?
    (?: (\d\d:\d\d:\d\d(?:\.\d{{1,9}})?)\s+ | (\d{{1,11}}(?:\.\d{{1,9}}))\s+ | (\d{{9,11}})\s+ )?
    (?: \(\+\s*\d+\.\d+\)\s+ )?
    (?: \[\s*[0-9a-f?]{{1,16}}\]\s+ ){{0,2}}""",
    re.VERBOSE,
)
_CALL: Final = re.compile(r"([a-z_][a-z0-9_]{0,63})\(")
_RESUMED: Final = re.compile(r"<\.\.\. ([a-z_][a-z0-9_]{0,63}) resumed>\s?")
_EXITED: Final = re.compile(r"\+\+\+ exited with (\d{1,10}) \+\+\+")
_KILLED: Final = re.compile(r"\+\+\+ killed by (SIG[A-Z0-9_+]{1,20})(?: \(core dumped\))? \+\+\+")
_SUPERSEDED: Final = re.compile(r"\+\+\+ superseded by execve in pid (\d{1,10}) \+\+\+")
_MODE: Final = re.compile(r"(?:strace: )?\[ Process PID=(\d{1,10}) runs in (\S{1,8})(?: bit)? mode\. \]")
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "v": "\v", "f": "\f", "a": "\a", "b": "\b"}
_ESCAPE: Final = re.compile(r"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_ATTACHED: Final = re.compile(
    r"(?:strace: )?Process (\d{1,10}) attached((?: with \d{1,10} threads)?(?: - interrupt to quit)?)"
)
_REMARK: Final = "strace: Process "
_ATTACHED_INSIDE: Final = re.compile(rf"{_REMARK}\d{{1,10}} attached")
_MARKS: Final = ("--- ", "+++ ", "strace: ", "[ Process ", "Process ", "```", "$ ", "# ", "^C", "<detached")


class Leader(NamedTuple):
    """What stands before the call.

    Attributes:
        tid: 0 where strace prints none: one thread only.
        comm: Name of the thread; empty where strace prints none.
        stamp: The time as printed; empty for none.
        text: The rest of the line.
    """

    tid: int
    comm: str
    stamp: str
    text: str


class Ending(NamedTuple):
    """A thread has ended; ``signal`` is empty unless one has killed it."""

    status: int
    signal: str


def parse_leader(line: str) -> Leader:
    """Take the beginning off a line."""
    match = _LEADER.match(line)
    if match is None:
        return Leader(0, "", "", line)
    bracketed, bracketed_comm, plain, plain_comm, clock, fraction, whole = match.groups()
    number = bracketed or plain or "0"
    tid, stamp = int(number), clock or fraction or whole or ""
    if plain and tid > _MAX_TID:
        tid, stamp = 0, plain
    return Leader(tid, unescape(bracketed_comm or plain_comm or ""), stamp, line[match.end() :])


def parse_call_name(text: str) -> str | None:
    """Name of the call that begins here, None for anything else."""
    match = _CALL.match(text)
    return match[1] if match else None


def parse_resumed(text: str) -> tuple[str, str] | None:
    """(name, rest) of ``<... mmap resumed>) = 0x7f…``, None for anything else."""
    match = _RESUMED.match(text)
    return (match[1], text[match.end() :]) if match else None


def parse_ending(text: str) -> Ending | None:
    """How a thread ended, None for anything else."""
    match = _EXITED.match(text)
    if match:
        return Ending(int(match[1]), "")
    match = _KILLED.match(text)
    return Ending(0, match[1]) if match else None


def parse_superseded(text: str) -> int:
    """The thread whose execve has taken the place of this one; 0 for any other text."""
    match = _SUPERSEDED.match(text)
    return int(match[1]) if match else 0


def parse_mode(text: str) -> tuple[int, str] | None:
    """(tid, mode) of ``[ Process PID=12 runs in 32 bit mode. ]``, the mode in one word; None for anything else."""
    match = _MODE.match(text)
    return (int(match[1]), match[2]) if match else None


def parse_attached(text: str) -> tuple[int, bool] | None:
    """(number, whether it is a process for certain) of ``Process 12 attached``, None for anything else.

    strace before 4.9 prints the line for each thread, with ``- interrupt to quit`` behind it.
    """
    match = _ATTACHED.fullmatch(text.strip())
    return (int(match[1]), not match[2].endswith("quit")) if match else None


def without_remarks_inside(lines: Iterable[str]) -> Iterator[str]:
    """The lines; a call that strace's remark on a new thread broke in two is whole again, behind the remark.

    Where strace writes its calls to stderr, as it does without -o, it may attach to a thread while it prints the call
    that made it: ``clone3({flags=...}strace: Process 12 attached`` and in the next line ``=> {...}) = 12``.
    """
    begun = ""
    for line in lines:
        text = line.rstrip("\r\n")
        place = text.rfind(_REMARK)
        is_broken = "(" in text[: max(0, place)] and _ATTACHED_INSIDE.fullmatch(text, place) is not None
        if is_broken and not begun:
            begun = text[:place]
            yield text[place:]
        elif begun and parse_attached(line) is None:
            yield begun + line
            begun = ""
        else:
            yield line
    if begun:
        yield begun


def is_remark(text: str) -> bool:
    """Whether a line tells of a signal, or is strace's own: nothing that matters here."""
    return text.startswith(_MARKS)


def unescape(text: str) -> str:
    """A string as the program gave it, from C's way of writing it; bytes beyond ASCII by their code."""
    if "\\" not in text:
        return text

    def character(match: re.Match[str]) -> str:
        octal, hexadecimal, letter = match.groups()
        if octal:
            return chr(int(octal, 8) & 0xFF)
        return chr(int(hexadecimal, 16)) if hexadecimal else _ESCAPES.get(letter, letter)

    raw = _ESCAPE.sub(character, text)
    return raw.encode("latin-1", "replace").decode("utf-8", "replace")


class Clock:
    """Time stamps of one output as seconds that never run backwards.

    Args:
        origin_s: The moment to count from, seconds since 1970; None: the first stamp.

    Attributes:
        first_epoch_s: Seconds since 1970 of the first stamp, 0.0 where the stamps do not say.
    """

    def __init__(self, origin_s: float | None = None) -> None:
        self.first_epoch_s = 0.0
        self._now_s = 0.0
        self._days_s = 0.0
        self._origin_s = origin_s

    def seconds(self, stamp: str) -> float:
        """Seconds since the origin; where a line has none, those of the line before."""
        if not stamp:
            return self._now_s
        value_s, is_relative = self._value(stamp)
        if is_relative:
            self._now_s += value_s
            return self._now_s
        if self._origin_s is None:
            self._origin_s = value_s
        self._now_s = max(self._now_s, value_s - self._origin_s)
        return self._now_s

    def _value(self, stamp: str) -> tuple[float, bool]:
        if ":" not in stamp:
            value_s = float(stamp)
            if value_s >= _RELATIVE_BELOW_S:
                self.first_epoch_s = self.first_epoch_s or value_s
            return value_s, value_s < _RELATIVE_BELOW_S
        hours, minutes, seconds = stamp.split(":")
        value_s = int(hours) * 3600 + int(minutes) * 60 + float(seconds) + self._days_s
        # Past midnight the clock begins anew.
        if self._origin_s is not None and value_s + _DAY_S / 2 < self._origin_s + self._now_s:
            self._days_s += _DAY_S
            value_s += _DAY_S
        return value_s, False
