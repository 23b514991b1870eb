"""Writes a report as one HTML file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from html import escape
from importlib.resources import files
from typing import BinaryIO, Final

from nativeleak.errors import NativeleakError
from nativeleak.reports.formats import WriteOptions
from nativeleak.reports.html import answer, sections
from nativeleak.reports.html.columns import encode
from nativeleak.reports.html.curve import chart_facts
from nativeleak.reports.html.markup import Content, Markup, render, tag
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
    title = ", ".join(redactor.text(process_name(each)) for each in report.trace.targets)
    data = encode(facts, profile.columns)
    for part in document(title, body, style=parts["page.css"], script=parts["page.js"], data=data):
        stream.write(encode_text(part))


def document(title: str, body: Content, *, style: str, script: str = "", data: str = "") -> Iterator[str]:
    """The parts of a page that loads nothing and runs nothing but its own script.

    Args:
        title: What the page is about.
        body: What stands in it.
        style: Of the page.
        script: Of the page; empty for one that runs none.
        data: Figures for the script, as ``columns.encode`` writes them.
    """
    scripts = f"'{_hash(script)}'" if script else "'none'"
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src '{_hash(style)}'; base-uri 'none'; form-action 'none'"
    )
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n'
    yield tag("meta", charset="utf-8")
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield tag("meta", name="viewport", content="width=device-width, initial-scale=1")
    yield tag("meta", name="color-scheme", content="light dark")
    yield tag("meta", name="referrer", content="no-referrer")
    yield tag("title", f"nativeleak: {title}")
    yield f"\n<style>{style}</style>\n</head>\n<body>\n{render(body)}\n"
    if script:
        yield f'<script id="data" type="application/octet-stream">{data}</script>\n<script>{script}</script>\n'
    yield "</body>\n</html>\n"


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
