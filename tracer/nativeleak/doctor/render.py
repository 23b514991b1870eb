"""Results of the doctor as text and as JSON (schema ``nativeleak.doctor/1``)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from nativeleak import __version__, arch
from nativeleak.doctor.checks import Check, Outcome, State, Verdict, judge
from nativeleak.reports.names import printable

if TYPE_CHECKING:
    from rich.text import Text

SCHEMA: Final = "nativeleak.doctor/1"

_MARKS: Final = {State.OK: "ok", State.WARN: "warn", State.FAIL: "FAIL"}
_STYLES: Final = {State.OK: "green", State.WARN: "yellow", State.FAIL: "bold red"}
_VERDICT_STYLES: Final = {
    Outcome.WORKS: "bold green",
    Outcome.RESTRICTED: "bold yellow",
    Outcome.IMPOSSIBLE: "bold red",
}
_MARK_WIDTH: Final = 4


def render_text(checks: Sequence[Check]) -> str:
    """One line per check, its remedy indented below, the verdict last; no control characters."""
    width = _name_width(checks)
    lines = []
    for check in checks:
        lines.append(f"{_MARKS[check.state]:{_MARK_WIDTH}}  {_rest(check, width)}")
        if check.remedy:
            lines.append(f"{_indent(width)}{printable(check.remedy)}")
    lines.append(printable(judge(checks).text))
    return "\n".join(lines) + "\n"


def render_coloured(checks: Sequence[Check]) -> Text:
    """The same text with the marks and the verdict in colour, for rich to print on a terminal."""
    from rich.text import Text  # only on a terminal: 14 MB

    width = _name_width(checks)
    text = Text()
    for check in checks:
        text.append(f"{_MARKS[check.state]:{_MARK_WIDTH}}", _STYLES[check.state])
        text.append(f"  {_rest(check, width)}\n")
        if check.remedy:
            text.append(f"{_indent(width)}{printable(check.remedy)}\n", "cyan")
    verdict = judge(checks)
    return text.append(printable(verdict.text), _VERDICT_STYLES[verdict.outcome])


def render_json(checks: Sequence[Check], pid: int | None = None) -> str:
    """One JSON object; see the module docstring for its schema."""
    verdict: Verdict = judge(checks)
    document = {
        "schema": SCHEMA,
        "tool": {"version": __version__},
        "host": {"kernel": os.uname().release, "machine": arch.here().name},
        "pid": pid,
        "verdict": verdict.outcome.value,
        "summary": verdict.text,
        "checks": [
            {"name": c.name, "state": c.state.value, "detail": c.detail, "remedy": c.remedy or None} for c in checks
        ],
    }
    return json.dumps(document, indent=2) + "\n"


def _name_width(checks: Sequence[Check]) -> int:
    return max((len(printable(check.name)) for check in checks), default=0)


def _rest(check: Check, width: int) -> str:
    return f"{printable(check.name):{width}}  {printable(check.detail)}".rstrip()


def _indent(width: int) -> str:
    return " " * (_MARK_WIDTH + 2 + width + 2)
