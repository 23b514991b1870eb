"""What changed between two lists of address ranges: of one process at two moments, read or saved.

Scope: ranges of both moments that overlap are one row, so that a range that grew, was cut or joined its neighbour is
compared with what was there before; rows add up to the change of resident memory.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from nativeleak.errors import NativeleakError, UsageError
from nativeleak.triage.lines import LABELS, Ledger, Piece
from nativeleak.triage.listing import MAPS_SCHEMA, ordered
from nativeleak.units import excerpt, format_bytes, format_duration

SCHEMA: Final = "nativeleak.maps-diff/1"
_MAX_FILE_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Moment:
    """The ranges of a process at one moment.

    Attributes:
        pid: The process.
        comm: Its name.
        start_ticks: When it started; 0 where a file does not say.
        taken_s: When, seconds since the epoch; 0.0 where a file does not say.
        pieces: In address order.
    """

    pid: int
    comm: str
    start_ticks: int
    taken_s: float
    pieces: tuple[Piece, ...]


class Change(NamedTuple):
    """Ranges that overlap, before and after.

    Attributes:
        start: First address of all of them.
        end: First address behind them.
        line: Id of the line of the largest.
        name: What it is.
        state: ``new``, ``gone`` or ``changed``.
        size: Bytes of address space, before and after.
        resident: Bytes in memory, before and after.
        swap: Bytes swapped out, before and after.
    """

    start: int
    end: int
    line: str
    name: str
    state: str
    size: tuple[int, int]
    resident: tuple[int, int]
    swap: tuple[int, int]

    @property
    def growth(self) -> int:
        """Bytes in memory and swapped out, more than before."""
        return self.resident[1] - self.resident[0] + self.swap[1] - self.swap[0]


def moment_of(ledger: Ledger) -> Moment:
    """The ranges of a process that was read just now."""
    target = ledger.target
    return Moment(target.pid, target.comm, target.start_ticks, time.time(), tuple(ordered(ledger, "address")))


def read_moment(path: Path) -> Moment:
    """Ranges that ``maps --format json`` saved.

    Raises:
        NativeleakError: The file cannot be read.
        UsageError: It is none of these.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise UsageError(f"reading {path} failed: more than {format_bytes(_MAX_FILE_BYTES)}")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _strange(path, "not UTF-8") from error
    except OSError as error:
        raise NativeleakError(f"reading {path} failed: {error.strerror}") from error
    return parse_moment(text, path)


def parse_moment(text: str, path: Path) -> Moment:
    """The same from the text of a file.

    Raises:
        UsageError: It is none of these.
    """
    try:
        whole = json.loads(text)
        if not isinstance(whole, dict) or whole.get("schema") != MAPS_SCHEMA:
            raise _strange(path, f"its schema is not {MAPS_SCHEMA}")
        target = whole["target"]
        pieces = sorted(_piece(row) for row in whole["ranges"])
        return Moment(int(target["pid"]), str(target["comm"]), int(target.get("start_ticks", 0)),
                      float(whole.get("taken_s", 0.0)), tuple(pieces))  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise _strange(path, excerpt(str(error)) or type(error).__name__) from error


def _piece(row: Mapping[str, Any]) -> Piece:
    line = row["line"] if row["line"] in LABELS else "unexplained"
    start, end = int(row["start"], 16), int(row["end"], 16)
    if not 0 <= start < end:
        raise ValueError(f"no range: {row['start']}-{row['end']}")
    return Piece(start, end, line, str(row["name"]), int(row["resident_bytes"]), int(row["swap_bytes"]))


def differences(before: Sequence[Piece], after: Sequence[Piece]) -> list[Change]:
    """What changed, the largest growth first; ranges that did not change are left out."""
    changes = [change for group in _groups(before, after) if (change := _change(*group)) is not None]
    return sorted(changes, key=lambda change: (-change.growth, change.start))


def _groups(before: Sequence[Piece], after: Sequence[Piece]) -> Iterator[tuple[list[Piece], list[Piece]]]:
    """Ranges of both that overlap, directly or through others."""
    marked = sorted([(piece, False) for piece in before] + [(piece, True) for piece in after])
    old: list[Piece] = []
    new: list[Piece] = []
    end = 0
    for piece, is_new in marked:
        if (old or new) and piece.start >= end:
            yield old, new
            old, new = [], []
        (new if is_new else old).append(piece)
        end = max(end, piece.end)
    if old or new:
        yield old, new


def _change(old: list[Piece], new: list[Piece]) -> Change | None:
    both = old + new
    named = max(new or old, key=lambda piece: (piece.resident, piece.end - piece.start))
    size, resident, swap = (
        (sum(map(value, old)), sum(map(value, new)))
        for value in (lambda piece: piece.end - piece.start, lambda piece: piece.resident, lambda piece: piece.swap)
    )
    if size[0] == size[1] and resident[0] == resident[1] and swap[0] == swap[1]:
        return None
    state = "changed" if old and new else "new" if new else "gone"
    start, end = min(piece.start for piece in both), max(piece.end for piece in both)
    return Change(start, end, named.line, named.name, state, size, resident, swap)


def render_changes(before: Moment, after: Moment, changes: Sequence[Change]) -> str:
    """One line a range that changed, with the sum at the end; names in it may control a terminal."""
    lines = [f"{after.comm} (PID {after.pid}): {_between(before, after)}"]
    if before.pid != after.pid or (before.start_ticks and before.start_ticks != after.start_ticks):
        lines.append("note: these are two different processes: addresses that agree are chance")
    lines += ["", f"{'addresses':<29}{'size':>11}{'change':>12}{'resident':>11}{'change':>12}{'swap change':>13}  what"]
    for change in changes:
        what = LABELS[change.line] + (f": {change.name}" if change.name else "")
        what += "" if change.state == "changed" else f" ({change.state})"
        lines.append(_row(f"{change.start:x}-{change.end:x}", change.size, change.resident, change.swap, what))
    size, resident, swap = (
        (sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs))
        for pairs in (
            [change.size for change in changes], [change.resident for change in changes],
            [change.swap for change in changes],
        )
    )  # fmt: skip
    lines.append(_row("sum", size, resident, swap, f"{len(changes):,} ranges changed"))
    return "\n".join(lines) + "\n"


def render_changes_json(before: Moment, after: Moment, changes: Sequence[Change]) -> str:
    """One object: ``nativeleak.maps-diff/1``; addresses as hex strings, sizes in bytes."""
    whole = {
        "schema": SCHEMA,
        "target": {"pid": after.pid, "comm": after.comm},
        "same_process": (before.pid, before.start_ticks) == (after.pid, after.start_ticks),
        "interval_s": round(after.taken_s - before.taken_s, 3) if before.taken_s and after.taken_s else None,
        "rss_bytes": {"before": _resident(before), "after": _resident(after)},
        "ranges": [
            {
                "start": f"{change.start:#x}", "end": f"{change.end:#x}", "line": change.line, "name": change.name,
                "state": change.state,
                "virtual_bytes": {"before": change.size[0], "after": change.size[1]},
                "resident_bytes": {"before": change.resident[0], "after": change.resident[1]},
                "swap_bytes": {"before": change.swap[0], "after": change.swap[1]},
            }
            for change in changes
        ],
    }  # fmt: skip
    return json.dumps(whole, indent=2) + "\n"


def _between(before: Moment, after: Moment) -> str:
    said = f"{format_bytes(_resident(before))} resident, then {format_bytes(_resident(after))}"
    seconds = after.taken_s - before.taken_s
    return f"{said}, {format_duration(seconds)} later" if before.taken_s and seconds > 0 else said


def _resident(moment: Moment) -> int:
    return sum(piece.resident for piece in moment.pieces)


def _row(addresses: str, size: tuple[int, int], resident: tuple[int, int], swap: tuple[int, int], what: str) -> str:
    return (
        f"{addresses:<29}{format_bytes(size[1]):>11}{_signed(size):>12}{format_bytes(resident[1]):>11}"
        f"{_signed(resident):>12}{_signed(swap):>13}  {what}"
    )


def _signed(pair: tuple[int, int]) -> str:
    change = pair[1] - pair[0]
    return "" if not change else f"{'+' if change > 0 else ''}{format_bytes(change)}"


def _strange(path: Path, why: str) -> UsageError:
    return UsageError(
        f"reading {path} failed: not a list of ranges: {why}",
        "Save one with: nativeleak maps -p PID --format json -o FILE",
    )
