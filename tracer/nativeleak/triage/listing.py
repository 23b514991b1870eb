"""All address ranges of a process with what each is: pmap and smaps in one."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Final

from nativeleak.triage.lines import LABELS, Ledger, Piece
from nativeleak.units import format_bytes

MAPS_SCHEMA: Final = "nativeleak.maps/1"
ORDERS: Final = ("address", "rss", "size", "swap")


def ordered(ledger: Ledger, order: str) -> list[Piece]:
    """The ranges of a process; neighbours of one owner as one.

    Args:
        ledger: Of the process.
        order: One of ``ORDERS``; the largest first but by address.
    """
    joined: list[Piece] = []
    for piece in ledger.pieces:
        last = joined[-1] if joined else None
        if last is not None and (last.end, last.line, last.name) == (piece.start, piece.line, piece.name):
            joined[-1] = last._replace(
                end=piece.end, resident=last.resident + piece.resident, swap=last.swap + piece.swap
            )
        else:
            joined.append(piece)
    if order == "rss":
        joined.sort(key=lambda piece: -piece.resident)
    elif order == "size":
        joined.sort(key=lambda piece: piece.start - piece.end)
    elif order == "swap":
        joined.sort(key=lambda piece: -piece.swap)
    return joined


def render_maps(ledger: Ledger, pieces: Sequence[Piece]) -> str:
    """One line a range, with their sums at the end."""
    lines = [f"{'addresses':<29}{'size':>11}{'resident':>11}{'swap':>11}  what"]
    for piece in pieces:
        what = LABELS[piece.line] + (f": {piece.name}" if piece.name else "")
        lines.append(_row(f"{piece.start:x}-{piece.end:x}", piece.end - piece.start, piece.resident, piece.swap, what))
    n_bytes = sum(piece.end - piece.start for piece in pieces)
    lines.append(_row("sum", n_bytes, ledger.rss, ledger.swap, f"{len(pieces):,} ranges"))
    return "\n".join(lines) + "\n"


def render_maps_json(ledger: Ledger, pieces: Sequence[Piece]) -> str:
    """One object: ``nativeleak.maps/1``; addresses as hex strings, sizes in bytes."""
    ranges = [
        {
            "start": f"{piece.start:#x}", "end": f"{piece.end:#x}", "line": piece.line, "name": piece.name,
            "resident_bytes": piece.resident, "swap_bytes": piece.swap,
        }
        for piece in pieces
    ]  # fmt: skip
    target = {"pid": ledger.target.pid, "comm": ledger.target.comm, "start_ticks": ledger.target.start_ticks}
    whole = {
        "schema": MAPS_SCHEMA, "target": target, "taken_s": round(time.time(), 3), "rss_bytes": ledger.rss,
        "swap_bytes": ledger.swap, "ranges": ranges,
    }  # fmt: skip
    return json.dumps(whole, indent=2) + "\n"


def _row(addresses: str, size: int, resident: int, swap: int, what: str) -> str:
    return f"{addresses:<29}{format_bytes(size):>11}{format_bytes(resident):>11}{format_bytes(swap):>11}  {what}"
