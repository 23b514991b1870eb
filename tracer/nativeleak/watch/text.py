"""A watch as text: one line at a time, and a page at its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from nativeleak.analysis.curves import MIN_SNAPSHOTS
from nativeleak.analysis.growth import Growth, Verdict
from nativeleak.analysis.limits import Forecast
from nativeleak.inputs.words import CATEGORIES
from nativeleak.triage.lines import LABELS
from nativeleak.units import format_bytes, format_duration, format_rate
from nativeleak.watch.courses import Row
from nativeleak.watch.moments import used_share
from nativeleak.watch.sizes import SizeRow

if TYPE_CHECKING:
    from nativeleak.watch.watcher import Watch

_MIN_SHARE: Final = 0.005
_MOST: Final = 0.5
"""Share of malloc's growth from which on one size is the one to trace."""
_WIDEST_PCT: Final = 100.0
_WIDTH: Final = 118
_NO_TIME: Final = 366 * 86400.0


def title(watch: Watch) -> str:
    """What is watched."""
    options = watch.options
    how_long = "until it ends or Ctrl-C" if options.duration_s is None else f"for {format_duration(options.duration_s)}"
    return (
        f"watching {watch.target.comm} (PID {options.pid}) {how_long}: a line every {format_duration(options.every_s)};"
        " a full reading as often as 1 % of a core allows"
    )


def heading() -> str:
    """Above the lines."""
    return f"{'time':>8}{'resident':>11}{'change':>11}{'growth':>15}{'threads':>9}  grows most"


def line(watch: Watch) -> str:
    """The process now."""
    now, held = watch.status, watch.held_row
    change = now.held_bytes - watch.first.held_bytes
    growth = format_rate(held.growth.slope_bytes_per_s) if held is not None and held.growth.slope_bytes_per_s else ""
    row = f"{format_duration(int(now.elapsed_s)):>8}{format_bytes(now.rss_bytes):>11}{signed(change):>11}{growth:>15}"
    return f"{row}{now.n_threads:>9,}  {_grows_most(watch)}".rstrip()[:_WIDTH]


def page(watch: Watch) -> str:
    """The end of a watch: how it ended, the lines with their growth, sizes that grow, what to do next."""
    parts = [list(_head(watch)), list(lines_table(watch)), list(sizes_table(watch)), list(_said_table(watch))]
    parts.append([f"-> {step}" for step in next_steps(watch)])
    parts.append([f"note: {note}" for note in watch.notes])
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _head(watch: Watch) -> Iterator[str]:
    seconds = format_duration(int(watch.elapsed_s))
    readings = f"{watch.n_readings:,} full reading{'s' if watch.n_readings != 1 else ''}"
    yield f"{watch.target.comm} (PID {watch.options.pid}), watched for {seconds}, {readings}"
    if watch.reason == "target ended":
        yield f"The process has ended: {watch.ending.text}"
        now = watch.status
        yield f"Last seen: {format_bytes(now.rss_bytes)} resident, {format_bytes(now.swap_bytes)} swapped out."
    if (limit := limit_line(watch)) is not None:
        yield limit
    if watch.options.output is not None:
        yield f"The last minutes are in {watch.options.output}"


def limit_line(watch: Watch) -> str | None:
    """The group whose limit is used most, and when the limit is reached; None without a group."""
    group = watch.status.tightest_group
    if group is None:
        return None
    text = f"{group.limit.name}: {used_share(group):.0%} of {format_bytes(group.limit.limit_bytes)} used"
    return text + _when(watch.forecast()) if watch.reason != "target ended" else text


def _when(found: Forecast | None) -> str:
    if found is None or found.soonest_s >= _NO_TIME:
        return ""
    soonest = format_duration(int(found.soonest_s))
    if found.latest_s is None:
        return f"; reached not before {soonest} at this growth"
    return f"; reached in {soonest} to {format_duration(int(found.latest_s))} at this growth"


def lines_table(watch: Watch, n_most: int = 20) -> Iterator[str]:
    """The lines of resident memory, the fastest growth first."""
    if watch.reading is None:
        yield "no full reading was made"
        return
    title = f"resident memory at {format_duration(int(watch.reading.elapsed_s))}"
    yield f"{title:<28}{'now':>11}{'change':>12}{'growth, 95 % interval':>30}"
    least = _MIN_SHARE * watch.reading.rss_bytes
    rows = [
        row for row in watch.line_rows if max(row.last_bytes, row.first_bytes) >= least or row.name == "unexplained"
    ]
    for row in rows[:n_most]:
        yield _row(LABELS.get(row.name, row.name), row)
    if (held := watch.held_row) is not None:
        yield _row("all, and swap, at the end" if watch.reason else "all, and swap, now", held)


def _row(label: str, row: Row) -> str:
    change = signed(row.last_bytes - row.first_bytes)
    return f"{label:<28}{format_bytes(row.last_bytes):>11}{change:>12}{growth_text(row.growth):>30}"


def growth_text(growth: Growth) -> str:
    """Verdict, rate, and half the width of its interval as a share of the rate."""
    if growth.verdict in (Verdict.STEADY, Verdict.PERIODIC) or not growth.slope_bytes_per_s:
        return growth.verdict.value
    half_pct = 100 * max(growth.high_bytes_per_s - growth.slope_bytes_per_s, 0.0) / abs(growth.slope_bytes_per_s)
    half = f"{half_pct:.0f} %" if half_pct <= _WIDEST_PCT else ">100 %"
    return f"{growth.verdict.value} {format_rate(growth.slope_bytes_per_s)} \u00b1{half}"


def sizes_table(watch: Watch, n_most: int = 5) -> Iterator[str]:
    """Sizes of blocks that grow with their interval; before four walks those that gained most."""
    is_early = watch.n_readings < MIN_SNAPSHOTS
    rows = [row for row in watch.size_rows if is_early or row.growth.low_bytes_per_s > 0][:n_most]
    if watch.sizes.n_skipped:
        yield f"{watch.sizes.n_skipped} walks of the heap read less than 95 % of it and are left out"
    if not rows:
        return
    yield f"{'size classes that grow':<28}{'blocks':>11}{'change':>12}{'growth, 95 % interval':>30}"
    for row in rows:
        name = f"{'/'.join(f'{size:,}' for size in row.sizes)} bytes"
        change = f"{row.n_last - row.n_first:+,}"
        known = f"  {row.known}" if row.known else ""
        yield f"{name:<28}{row.n_last:>11,}{change:>12}{growth_text(row.growth):>30}{known}"


def _said_table(watch: Watch, n_most: int = 5) -> Iterator[str]:
    rows = [row for row in watch.said_rows if row.growth.verdict is not Verdict.STEADY and row.grows][:n_most]
    if not rows:
        return
    yield f"{'NMT, committed':<28}{'now':>11}{'change':>12}{'growth, 95 % interval':>30}"
    yield from (f"{_row(row.name, row)}  {CATEGORIES.get(row.name, '')}".rstrip() for row in rows)


def next_steps(watch: Watch) -> Iterator[str]:
    """The exact line to run for what grows, and behind it what it shows."""
    pid = watch.options.pid if watch.reason != "target ended" else "PID"
    lines = {row.name: row.growth for row in watch.line_rows if row.growth.verdict is Verdict.GROWING}
    growing = next((row for row in watch.size_rows if row.growth.verdict is Verdict.GROWING), None)
    live = lines.get("malloc-live")
    whole = live.slope_bytes_per_s if live is not None else 0.0
    if growing is not None and growing.requests and growing.growth.slope_bytes_per_s >= _MOST * whole:
        low, high = growing.requests
        yield (
            f"nativeleak trace -p {pid} --duration 10m --min-size {low} --max-size {high}"
            "    shows who allocates these blocks"
        )
    elif lines.keys() - {"java-heap"}:
        yield f"nativeleak trace -p {pid} --duration 10m    shows who allocates it"
    elif lines:
        yield (
            f"nativeleak triage -p {pid} --jcmd-ask GC.class_histogram"
            "    shows the objects; it stops the JVM for a full collection"
        )


def size_line(row: SizeRow) -> str:
    """One size class in a few words."""
    return f"{row.sizes[0]:,}-byte blocks {format_rate(row.growth.slope_bytes_per_s)}"


def _grows_most(watch: Watch) -> str:
    row = next((row for row in watch.line_rows if row.grows), None)
    if row is None:
        return "" if watch.n_readings > 1 else f"(reading {watch.n_readings})"
    text = f"{LABELS.get(row.name, row.name)} {format_rate(row.growth.slope_bytes_per_s)}"
    size = next((each for each in watch.size_rows if each.growth.low_bytes_per_s > 0), None)
    return f"{text}; {size_line(size)}" if size is not None and row.name == "malloc-live" else text


def signed(n_bytes: float) -> str:
    """A size with its sign."""
    return ("+" if n_bytes > 0 else "") + format_bytes(n_bytes)
