"""A comparison as text, as JSON (schema ``nativeleak.diff/1``) and as folded stacks with two columns."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from nativeleak.model import BlockFate
from nativeleak.reports.diff import Amount, Diff, DiffMetric, Pair, Path, Side, holder_of, ranked
from nativeleak.reports.held import fate_json, least_certain, looks_json
from nativeleak.reports.names import folded_text, printable
from nativeleak.units import format_bytes, format_duration

SCHEMA: Final = "nativeleak.diff/1"
DEFAULT_TOP: Final = 10

_WIDTH: Final = 70
"""Columns of a call path: more callers than one are shown as far as they fit."""
_MAX_TIMES: Final = 100
"""No percentage is shown of a change beyond so many times what was there."""
UNITS: Final = {
    DiffMetric.OUTSTANDING: "bytes not freed",
    DiffMetric.ALLOCATED: "bytes allocated since the trace began",
    DiffMetric.COUNT: "blocks not freed",
}
"""What each metric counts."""

Json = dict[str, Any]
_Key = TypeVar("_Key")
DiffWriter = Callable[[Diff, DiffMetric, int | None], str]


def text(diff: Diff, metric: DiffMetric, top: int | None) -> str:
    """One table for each of call paths, pools and purposes; ``top`` rows each, 10 without it."""
    return "\n".join(_text(diff, metric, top or DEFAULT_TOP)) + "\n"


def as_json(diff: Diff, metric: DiffMetric, top: int | None) -> str:
    """One JSON object on one line, ASCII only."""
    return (
        json.dumps(
            {
                "schema": SCHEMA,
                "metric": metric.value,
                "before": _side(diff.before),
                "after": _side(diff.after),
                "total": _pair(diff.total),
                "paths": [
                    {"kind": path.kind, "function": path.names[path.head], "frames": list(path.names), **_pair(pair)}
                    for path, pair in top_rows(ranked(diff.paths(), metric), top, metric)
                ],
                "pools": [
                    {"pool": name, **_pair(pair)} for name, pair in top_rows(ranked(diff.pools(), metric), top, metric)
                ],
                "purposes": [
                    {"purpose": name, **_pair(pair)}
                    for name, pair in top_rows(ranked(diff.purposes, metric), top, metric)
                ],
                **_fates_json(diff),
                "notes": list(diff.notes),
            },
            allow_nan=False,
        )
        + "\n"
    )


def _fates_json(diff: Diff) -> Json:
    """Call paths whose blocks have another fate, where both traces were looked at."""
    if not diff.before.looks or not diff.after.looks:
        return {}
    return {
        "traced_changes": [
            {
                "kind": path.kind,
                "function": path.names[path.head],
                "frames": list(path.names),
                "before": _fate_json(pair.before, diff.before),
                "after": _fate_json(pair.after, diff.after),
            }
            for path, pair in diff.fates()
        ]
    }


def _fate_json(amount: Amount, side: Side) -> Json | None:
    return None if amount.fate is None else fate_json(amount.fate, least_certain(side.looks))


def folded(diff: Diff, metric: DiffMetric, top: int | None) -> str:
    """Pool and functions, root first, joined by ``;``, then the figures before and after: as difffolded.pl writes."""
    lines: dict[str, tuple[int, int]] = {}
    for (pool, path), pair in top_rows(ranked(diff.stacks, metric), top, metric):
        stack = ";".join(map(folded_text, (pool, *reversed(path.names))))
        before, after = lines.get(stack, (0, 0))
        lines[stack] = before + pair.before.of(metric), after + pair.after.of(metric)
    return "".join(f"{stack} {before} {after}\n" for stack, (before, after) in lines.items())


WRITERS: Final[dict[str, DiffWriter]] = {"text": text, "json": as_json, "folded": folded}
"""By the values of ``--format``; the first is the default."""


def top_rows(rows: list[tuple[_Key, Pair]], top: int | None, metric: DiffMetric) -> list[tuple[_Key, Pair]]:
    """Rows with the largest changes, up or down, in the order of all rows."""
    if top is None or len(rows) <= top:
        return rows
    by_size = sorted(range(len(rows)), key=lambda i: (-abs(rows[i][1].change(metric)), i))
    return [rows[i] for i in sorted(by_size[:top])]


def _text(diff: Diff, metric: DiffMetric, top: int) -> Iterator[str]:
    for name, side in (("before", diff.before), ("after", diff.after)):
        pids = ", ".join(map(str, side.pids))
        target = f"{printable(side.comm)} (PID {pids})"
        yield f"{name:<7} {printable(side.name)}: {target} at {format_duration(side.moment_s)}"
    total = diff.total
    yield f"change  {changed(total, metric)}: {UNITS[metric]}"
    for note in diff.notes:
        yield f"note    {printable(note)}"
    for label, side in (("BEFORE", diff.before), ("AFTER", diff.after)):
        if metric is DiffMetric.ALLOCATED and side.dropped_bytes:
            dropped = format_bytes(side.dropped_bytes)
            yield f"note    {label}: {dropped} of sites that were dropped, because all is freed, are in no row."
    tables: tuple[tuple[str, list[tuple[Any, Pair]]], ...] = (
        ("call path", ranked(diff.paths(), metric)),
        ("thread pool", ranked(diff.pools(), metric)),
        ("purpose", ranked(diff.purposes, metric)),
    )
    for heading, rows in tables:
        shown = top_rows(rows, top, metric)
        of = f" ({len(shown):,} of {len(rows):,}, by size of change)" if len(shown) < len(rows) else ""
        yield ""
        yield f"By {heading}{of}"
        yield f"{'change':>12} {'before':>12} {'after':>12}  {heading}"
        names = names_of([key for key, _ in shown])
        for name, (_, pair) in zip(names, shown, strict=True):
            figures = signed(pair.change(metric), metric), _figure(pair.before, metric), _figure(pair.after, metric)
            yield " ".join(f"{figure:>12}" for figure in figures) + f"  {name}"
            if metric is DiffMetric.OUTSTANDING and pair.error_bytes:
                yield f"{'± ' + format_bytes(pair.error_bytes):>12}"
    yield from _fates_text(diff, top)


def _fates_text(diff: Diff, top: int) -> Iterator[str]:
    heading, rows = fates_table(diff, top)
    if not rows:
        return
    yield ""
    yield heading
    yield f"{'':>12} {'before':>12} {'after':>12}  call path"
    for row in rows:
        yield " ".join(f"{figure:>12}" for figure in ("unreachable", row.before, row.after)) + f"  {row.name}"
        if row.holders:
            yield f"{'held by':>12} {row.holders}"


class FateRow(NamedTuple):
    """A call path whose blocks have another fate: shares before and after, and holders where they changed."""

    name: str
    before: str
    after: str
    holders: str


def fates_table(diff: Diff, top: int) -> tuple[str, list[FateRow]]:
    """Heading and rows of the call paths whose blocks have another fate."""
    all_rows = diff.fates()
    shown = all_rows[:top]
    of = f" ({len(shown):,} of {len(all_rows):,}, by lost bytes)" if len(shown) < len(all_rows) else ""
    rows = []
    for name, (_, pair) in zip(names_of([path for path, _ in shown]), shown, strict=True):
        was, now = ("" if each.fate is None else holder_of(each.fate) for each in (pair.before, pair.after))
        holders = f"{printable(was) or 'nobody'} before, {printable(now) or 'nobody'} after" if was != now else ""
        rows.append(FateRow(name, _lost_text(pair.before.fate), _lost_text(pair.after.fate), holders))
    return f"Blocks that no pointer leads to, and holders, where they changed{of}", rows


def _lost_text(fate: BlockFate | None) -> str:
    return "-" if fate is None else f"{fate.lost_pct:.0f} %"


def changed(pair: Pair, metric: DiffMetric) -> str:
    """A change with the figures before and after, and its share."""
    before = pair.before.of(metric)
    share = f", {100 * pair.change(metric) / before:+.1f} %" if 0 < pair.after.of(metric) < _MAX_TIMES * before else ""
    error = pair.error_bytes if metric is DiffMetric.OUTSTANDING else 0
    interval = f" ± {format_bytes(error)}" if error else ""
    return (
        f"{signed(pair.change(metric), metric)}{interval} "
        f"(from {_figure(pair.before, metric)} to {_figure(pair.after, metric)}{share})"
    )


def names_of(keys: Sequence[Path | str]) -> list[str]:
    """A path begins with the function that heads it; paths that would look the same begin with their leaf."""
    names = [printable(key) if isinstance(key, str) else _path(key, key.head) for key in keys]
    seen = Counter(names)
    return [
        _path(key, 0) if isinstance(key, Path) and seen[name] > 1 else name
        for key, name in zip(keys, names, strict=True)
    ]


def _path(key: Path, first: int) -> str:
    callers = list(map(printable, key.names[first:]))
    shown = 1
    while shown < len(callers) and len(" < ".join(callers[: shown + 1])) <= _WIDTH:
        shown += 1
    return f"{key.kind:<4}  " + " < ".join(callers[:shown]) + (" < ..." if shown < len(callers) else "")


def _figure(amount: Amount, metric: DiffMetric) -> str:
    value = amount.of(metric)
    return f"{value:,}" if metric is DiffMetric.COUNT else format_bytes(value)


def signed(value: int, metric: DiffMetric) -> str:
    """A figure of a metric, with + where it is above zero."""
    shown = f"{abs(value):,}" if metric is DiffMetric.COUNT else format_bytes(abs(value))
    return f"{'+' if value > 0 else '-' if value < 0 else ''}{shown}"


def _side(side: Side) -> Json:
    return {
        "recording": side.name,
        "pids": list(side.pids),
        "comm": side.comm,
        "moment_s": side.moment_s,
        "engine": side.backend,
        "probes": list(side.probes),
        "min_size": side.min_size,
        "sample_bytes": side.sample_bytes,
        "watched_pct": round(side.watched_pct, 3),
        "losses": side.losses,
        "dropped_bytes": side.dropped_bytes,
        **({"looks": looks_json(side.looks, side.targets)} if side.looks else {}),
    }


def _pair(pair: Pair) -> Json:
    changes = {f"{name}_change": after - before for name, before, after in _columns(pair)}
    return {
        "before": {name: before for name, before, _ in _columns(pair)},
        "after": {name: after for name, _, after in _columns(pair)},
        **changes,
        "error_bytes": pair.error_bytes,
    }


def _columns(pair: Pair) -> Iterator[tuple[str, int, int]]:
    for name in ("outstanding_bytes", "outstanding_count", "allocated_bytes"):
        yield name, getattr(pair.before, name), getattr(pair.after, name)
