"""Writes a report as one HTML file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import BinaryIO, Final

from nativeleak.errors import NativeleakError
from nativeleak.reports.formats import WriteOptions
from nativeleak.reports.html import answer, sections
from nativeleak.reports.html.columns import encode
from nativeleak.reports.html.curve import chart_facts
from nativeleak.reports.html.markup import Markup, tag
from nativeleak.reports.html.profile import Profile, learn_names
from nativeleak.reports.html.redact import Redactor
from nativeleak.reports.output import encode_text
from nativeleak.reports.report import Report
from nativeleak.reports.stages import begin
from nativeleak.reports.text_seen import process_name

_PARTS: Final = ("page.js", "page.css", "licences.txt")
_NEEDS_SCRIPT: Final = "The curve, the flame graph and the call sites need JavaScript. All else is below."


def write(report: Report, stream: BinaryIO, options: WriteOptions) -> None:
    """The page: header, answer, curve, flame graph, call sites, tables, completeness, how it was made.

    Raises:
        NativeleakError: The package was built without the page's script.
    """
    parts = read_parts()
    redactor = Redactor(is_on=options.redact, patterns=options.hide)
    for target in report.trace.targets:
        for child in target.children:
            redactor.learn_title(child.comm)
    learn_names(report.detail, redactor)
    begin("reading the courses", 0.77)
    profile = Profile(report.detail, redactor)
    begin("writing the page", 0.97)
    facts = profile.facts | {"chart": chart_facts(report, redactor), "by": report.selection.key.value}
    body = [
        answer.header(report, redactor),
        tag("nav", Markup("".join(_links())), aria_label="Parts of the report"),
        tag(
            "main",
            answer.answer(report, profile, redactor),
            tag("noscript", tag("p", _NEEDS_SCRIPT, class_="warning")),
            tag("section", id="memory", hidden=True),
            tag("section", id="flame", hidden=True),
            tag("section", id="sites", hidden=True),
            answer.others(report, profile, redactor),
            sections.threads(report, redactor),
            sections.jvm(report),
            sections.address_space(report, redactor),
            sections.completeness(report, redactor),
            sections.made(report, redactor, escape(parts["licences.txt"])),
        ),
    ]
    title = f"nativeleak: {', '.join(redactor.text(process_name(each)) for each in report.trace.targets)}"
    stream.write(encode_text(f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{_head(title, parts)}</head>\n<body>\n'))
    stream.write(encode_text("\n".join(body)))
    stream.write(b'\n<script id="data" type="application/octet-stream">')
    stream.write(encode(facts, profile.columns).encode("ascii"))
    stream.write(encode_text(f"</script>\n<script>{parts['page.js']}</script>\n</body>\n</html>\n"))


def read_parts() -> Mapping[str, str]:
    """Script, style and licences of the page, as they were built.

    Raises:
        NativeleakError: The package was built without them.
    """
    folder = files("nativeleak.reports.html") / "built"
    try:
        return {name: (folder / name).read_text("utf-8") for name in _PARTS}
    except OSError as error:
        raise NativeleakError(
            "writing the HTML report failed: this installation lacks the page's script",
            "In a checkout run scripts/setup, which builds it with npm; else install nativeleak again.",
        ) from error


def _head(title: str, parts: Mapping[str, str]) -> str:
    policy = (
        f"default-src 'none'; script-src '{_hash(parts['page.js'])}'; style-src '{_hash(parts['page.css'])}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return "".join(
        (
            '<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            '<meta name="color-scheme" content="light dark">\n',
            '<meta name="referrer" content="no-referrer">\n',
            tag("title", title),
            f"\n<style>{parts['page.css']}</style>\n",
        )
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}"


def _links() -> list[str]:
    names = {
        "answer": "Answer",
        "memory": "Memory",
        "flame": "Flame graph",
        "sites": "Call sites",
        "threads": "Threads",
        "completeness": "Completeness",
    }
    return [f'<a href="#{target}">{name}</a>' for target, name in names.items()]
