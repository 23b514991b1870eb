"""A comparison as one HTML page: the change in words, a differential flame graph, and tables of the differences.

The page's script is that of the report: its profile has two moments, before and after (``profile.py``). A frame is as
wide as the larger of the two, red where it grew and blue where it shrank, with the sign before its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nativeleak import __version__
from nativeleak.reports.diff import Diff, DiffMetric, Pair, Path, Side, ranked
from nativeleak.reports.diff_formats import UNITS, changed, fates_table, names_of, signed, top_rows
from nativeleak.reports.html.columns import encode
from nativeleak.reports.html.markup import Content, Markup, cell, table, tag
from nativeleak.reports.html.page import document, read_parts
from nativeleak.reports.html.profile import GROUPS, Strings
from nativeleak.reports.html.redact import Redactor
from nativeleak.reports.names import printable
from nativeleak.units import format_bytes, format_duration

_MAX_ROWS: Final = 500
_LINKS: Final = {"answer": "Change", "flame": "Flame graph", "paths": "Call paths", "pools": "Thread pools"}
_FIGURES: Final = {"bytes": DiffMetric.OUTSTANDING, "blocks": DiffMetric.COUNT, "added": DiffMetric.ALLOCATED}
"""Courses of the page's profile."""

Ints = npt.NDArray[np.int64]


def render_html(diff: Diff, metric: DiffMetric, top: int | None, redactor: Redactor) -> str:
    """The page.

    Args:
        diff: The comparison.
        metric: The figure that is shown first, and that the tables have.
        top: Rows of each table; None: at most 500.
        redactor: Hides what the page must not show.

    Raises:
        NativeleakError: The package was built without the page's script.
    """
    parts = read_parts()
    for path in diff.paths():
        for name in path.names:
            redactor.learn(name, ())
    total = diff.total
    change = total.change(metric)
    verdict = f"{changed(total, metric)}: {UNITS[metric]}"
    title = f"{_program(diff.before, redactor)} and {_program(diff.after, redactor)}"
    notes = [tag("li", redactor.text(note)) for note in diff.notes]
    rows = top or _MAX_ROWS
    links = "".join(f'<a href="#{target}">{name}</a>' for target, name in _LINKS.items())
    body = [
        tag(
            "header",
            tag("h1", f"Difference: {title}"),
            tag("p", [tag("span", _side(name, side, redactor)) for name, side in _sides(diff)], class_="facts"),
        ),
        tag("nav", Markup(links), aria_label="Parts of the page"),
        tag(
            "main",
            tag(
                "section",
                tag("h2", verdict, class_="verdict bad" if change > 0 else "verdict"),
                tag("ul", notes) if notes else None,
                id="answer",
            ),
            tag("noscript", tag("p", "The flame graph needs JavaScript. All else is below.", class_="warning")),
            tag("section", id="flame", hidden=True),
            _table("paths", "call path", ranked(diff.paths(), metric), metric, rows, redactor),
            _table("pools", "thread pool", ranked(diff.pools(), metric), metric, rows, redactor),
            _table("purposes", "purpose", ranked(diff.purposes, metric), metric, rows, redactor),
            _fates(diff, rows, redactor),
            tag(
                "section",
                tag("p", f"Page by nativeleak {__version__}.", class_="dim"),
                tag(
                    "details",
                    tag("summary", "Licences of the libraries in this page"),
                    Markup(f"<pre>{escape(parts['licences.txt'])}</pre>"),
                ),
                id="made",
            ),
        ),
    ]
    data = encode(*_profile(diff, metric, redactor))
    return "".join(document(title, body, style=parts["page.css"], script=parts["page.js"], data=data))


def _sides(diff: Diff) -> Iterator[tuple[str, Side]]:
    yield "before", diff.before
    yield "after", diff.after


def _program(side: Side, redactor: Redactor) -> str:
    redactor.learn_title(side.comm)
    return redactor.text(f"{printable(side.comm)} (PID {', '.join(map(str, side.pids))})")


def _side(name: str, side: Side, redactor: Redactor) -> str:
    recording = "" if redactor.is_on else f"{printable(side.name.rsplit('/', 1)[-1])} "
    return redactor.text(f"{name}: {recording}at {format_duration(side.moment_s)}")


def _table(
    anchor: str,
    heading: str,
    rows: list[tuple[Any, Pair]],
    metric: DiffMetric,
    top: int,
    redactor: Redactor,
) -> Markup:
    shown = top_rows(rows, top, metric)
    of = f": {len(shown):,} of {len(rows):,}, by size of change" if len(shown) < len(rows) else ""
    cells = [
        _row(name, pair, metric, redactor)
        for name, (_, pair) in zip(names_of([key for key, _ in shown]), shown, strict=True)
    ]
    heads = [("change", "number"), ("before", "number"), ("after", "number"), (heading, "")]
    return tag("section", tag("h2", f"By {heading}{of}"), table(heads, cells), id=anchor)


def _fates(diff: Diff, top: int, redactor: Redactor) -> Markup | None:
    heading, found = fates_table(diff, top)
    if not found:
        return None
    heads = [("unreachable before", "number"), ("after", "number"), ("held by", ""), ("call path", "")]
    rows: list[list[Content]] = [
        [tag("td", each.before, class_="number"), tag("td", each.after, class_="number"), redactor.text(each.holders),
         redactor.text(each.name)]
        for each in found
    ]  # fmt: skip
    return tag("section", tag("h2", heading), table(heads, rows), id="fates")


def _row(name: str, pair: Pair, metric: DiffMetric, redactor: Redactor) -> list[Content]:
    change = pair.change(metric)
    error = f" ± {format_bytes(pair.error_bytes)}" if metric is DiffMetric.OUTSTANDING and pair.error_bytes else ""
    kind = "grows" if change > 0 else "shrinks" if change < 0 else ""
    shown = tag("td", f"{signed(change, metric)}{error}", class_=f"number {kind}", data_value=str(change))
    sides = [pair.before.of(metric), pair.after.of(metric)]
    return [shown, *(cell(signed(value, metric).lstrip("+"), value) for value in sides), redactor.text(name)]


def _profile(diff: Diff, metric: DiffMetric, redactor: Redactor) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Facts and columns for the script, as ``profile.Profile`` has them: a site is a pool and a call path."""
    strings, steps, stacks = Strings(), _Steps(), _Stacks()
    pools: dict[str, int] = {}
    of_site = []
    for pool, path in diff.stacks:
        ids = [steps.number(name, group) for name, group in zip(path.names, path.groups, strict=True)]
        of_site.append((stacks.number(ids, path), pools.setdefault(redactor.text(printable(pool)), len(pools))))
    courses = {}
    for name, figure in _FIGURES.items():
        sides = [[pair.before.of(figure), pair.after.of(figure)] for pair in diff.stacks.values()]
        courses[name] = np.diff(np.array(sides, dtype=np.int64).reshape(len(sides), 2).T, axis=0, prepend=0)
    numbers: Ints = np.array(of_site, dtype=np.int64).reshape(len(of_site), 2).T
    nowhere = strings.number("")
    names = [strings.number(redactor.name(printable(name) or "[no name]")) for name, _ in steps.all]
    columns: dict[str, npt.NDArray[Any]] = {
        "moments": np.array([1.0, 2.0]),
        **courses,
        "site_stack": numbers[0],
        "site_thread": numbers[1],
        **stacks.columns(),
        "step_name": np.array(names, dtype=np.int64),
        "step_place": np.full(len(names), nowhere, dtype=np.int64),
        "step_group": np.array([GROUPS.index(group) for _, group in steps.all], dtype=np.int64),
        "row_bytes": np.zeros(0, dtype=np.int64),
    }
    facts = {
        "threads": [[pool, 0, pool] for pool in pools],
        "strings": strings.all,
        "groups": GROUPS,
        "chart": {"times": []},
        "compared": {"metric": metric.value},
    }
    return facts, columns


class _Steps:
    """Functions by number."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []
        self._numbers: dict[tuple[str, str], int] = {}

    def number(self, name: str, group: str) -> int:
        number = self._numbers.setdefault((name, group), len(self.all))
        if number == len(self.all):
            self.all.append((name, group))
        return number


class _Stacks:
    """Call paths by number, leaf first."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, ...], int] = {}
        self._heads: list[int] = []

    def number(self, ids: list[int], path: Path) -> int:
        number = self._numbers.setdefault(tuple(ids), len(self._heads))
        if number == len(self._heads):
            self._heads.append(ids[path.head])
        return number

    def columns(self) -> dict[str, Ints]:
        steps = [step for ids in self._numbers for step in ids]
        return {
            "stack_length": np.array([len(ids) for ids in self._numbers], dtype=np.int64),
            "stack_head": np.array(self._heads, dtype=np.int64),
            "stack_steps": np.array(steps, dtype=np.int64),
        }
