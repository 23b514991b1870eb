"""The top of the page: what was traced, the answer in words, suspects with their courses, and what was not seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from nativeleak.analysis.finding import Finding
from nativeleak.analysis.growth import Growth
from nativeleak.reports.census import census_lines
from nativeleak.reports.completeness import gaps, is_from_input
from nativeleak.reports.held import why_not_held
from nativeleak.reports.html.markup import Content, Markup, cell, table, tag
from nativeleak.reports.html.profile import Profile
from nativeleak.reports.html.redact import Redactor
from nativeleak.reports.numbers import held_bytes, interval_text, per_minute, percent, signed
from nativeleak.reports.report import Report
from nativeleak.reports.text import how_watched, memory_text
from nativeleak.reports.text_answer import details_text, leak_lines, sentence, short_name, title_text, verdict_text
from nativeleak.reports.text_resident import resident_lines
from nativeleak.reports.text_seen import process_name, saw_everything, watched_lines
from nativeleak.reports.text_sites import filter_text
from nativeleak.units import format_bytes, format_duration

_WIDE: Final = 100_000
_SPARK: Final = (120, 32)
_MAX_OTHERS: Final = 50
_TONES: Final = {"bold red": "bad", "bold yellow": "unsure", "bold green": "good"}


def header(report: Report, redactor: Redactor) -> Markup:
    """What was traced, and for how long."""
    trace = report.trace
    targets = [redactor.text(process_name(target)) for target in trace.targets]
    source = f"recorded output of {trace.info.backend}" if is_from_input(report) else "traced"
    facts = [f"{source} {format_duration(trace.duration_s)}{how_watched(report)}"]
    if memory := memory_text(report):
        facts.append(redactor.text(memory))
    if filters := filter_text(report.selection):
        facts.append(f"only {redactor.text(filters)}")
    return tag(
        "header",
        tag("h1", ", ".join(targets) or "no process"),
        tag("p", [tag("span", fact) for fact in facts], class_="facts"),
    )


def answer(report: Report, profile: Profile, redactor: Redactor) -> Markup:
    """The answer: losses first, then whether something leaks, then each suspect."""
    words, style = next(iter(leak_lines(report, _WIDE)), ("", ""))
    notes = [text.strip() for text, _ in leak_lines(report, _WIDE)][1:] if not report.suspects else []
    notes += [f"Holders: {why}"] if (why := why_not_held(report.held)) else []
    cards = [_card(report, number, each, profile, redactor) for number, each in enumerate(report.suspects, 1)]
    unless = f"A cache that takes longer than {format_duration(report.trace.duration_s)} to fill looks the same."
    return tag(
        "section",
        tag("h2", redactor.text(words.strip()), class_=f"verdict {_TONES.get(style, 'unsure')}"),
        [tag("p", redactor.text(note)) for note in notes],
        list(_warnings(report, redactor)),
        tag("ol", cards, class_="suspects") if cards else None,
        tag("p", unless, class_="dim") if not all(report.held.is_lost(each) for each in report.suspects) else None,
        [tag("p", redactor.text(line), class_="sum") for line in _sums(report)],
        id="answer",
    )


def _sums(report: Report) -> Iterator[str]:
    for number, line in enumerate(resident_lines(report.memory)):
        yield line if number else f"Resident memory {line}"
    for line in census_lines(report.census, is_exact=saw_everything(report)):
        yield f"Heap walk: {line}"


def _warnings(report: Report, redactor: Redactor) -> Iterator[Markup]:
    for gap in gaps(report):
        if gap.is_loss:
            yield _warning("Attention", redactor.text(sentence(gap)))
    for label, text, _ in watched_lines(report):
        if label != "Watched":
            yield _warning(label.capitalize(), redactor.text(text))


def _warning(label: str, text: str) -> Markup:
    return tag("p", tag("b", label), " ", text, class_="warning")


def _card(report: Report, number: int, finding: Finding, profile: Profile, redactor: Redactor) -> Markup:
    growth = finding.growth
    path = [redactor.name(short_name(step)) for step in finding.path]
    figures = (
        ("holds", format_bytes(held_bytes(finding)), ""),
        ("growth a minute", per_minute(growth), _sure(growth)),
        ("share of growth", percent(finding.share_pct), ""),
        ("oldest", "-" if finding.oldest_s is None else format_duration(finding.oldest_s), ""),
    )
    return tag(
        "li",
        tag(
            "div",
            tag("h3", _title(finding, redactor)),
            tag("p", redactor.text(details_text(report, finding)), class_="dim"),
            tag("p", " \N{LEFTWARDS ARROW} ".join(path), class_="path") if path else None,
            tag(
                "button",
                "Show in flame graph",
                type="button",
                class_="needs-script",
                data_sites=" ".join(map(str, _ranges(profile.numbers(finding.positions)))),
                data_label=f"suspect {number}",
            ),
            class_="what",
        ),
        tag("dl", [tag("div", tag("dt", name), tag("dd", value, tag("small", sure))) for name, value, sure in figures]),
        spark(profile.course(finding.positions).tolist(), profile.moments.tolist()),
        class_="suspect",
    )


def _title(finding: Finding, redactor: Redactor) -> list[Content]:
    """The name of a finding, and beside it its place."""
    name, _, where = redactor.text(title_text(finding)).partition("  ")
    return [name, tag("span", " ", where, class_="where") if where else None]


def _sure(growth: Growth) -> str:
    interval = interval_text(growth)
    return f" 95 % sure: {interval.strip('()')}" if interval else ""


def _ranges(numbers: Sequence[int]) -> Iterator[str]:
    """Numbers in rising order as ``first-last``, for attributes."""
    start = before = None
    for number in numbers:
        if before is not None and number == before + 1:
            before = number
            continue
        if start is not None:
            yield f"{start}-{before}"
        start = before = number
    if start is not None:
        yield f"{start}-{before}"


def spark(values: Sequence[float], times: Sequence[float]) -> Markup:
    """The course of a total as a small picture, from zero to its peak; nothing without a course."""
    width, height = _SPARK
    highest, last_s = max(values, default=0), times[-1] if times else 0
    if not highest or not last_s:
        return Markup()
    points = [(0.0, float(height))]
    points += [
        (width * at_s / last_s, height - (height - 2) * value / highest)
        for at_s, value in zip(times, values, strict=True)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    label = f"outstanding over time, at most {format_bytes(highest)}"
    return tag(
        "svg",
        tag("polygon", points=f"{line} {width},{height}"),
        tag("polyline", points=line),
        viewBox=f"0 0 {width} {height}",
        preserveAspectRatio="none",
        class_="spark",
        role="img",
        aria_label=label,
    )


def others(report: Report, profile: Profile, redactor: Redactor) -> Markup:
    """Findings that do not grow for certain, largest first."""
    rows = [each for each in report.findings if held_bytes(each) or each.share_pct >= 1][:_MAX_OTHERS]
    if not rows:
        return Markup()
    heads = [
        ("holds", "number"),
        ("peak", "number"),
        ("a minute", "number"),
        ("verdict", ""),
        ("what", ""),
        ("course", ""),
    ]
    body = [
        [
            cell(format_bytes(held_bytes(each)), held_bytes(each)),
            cell(format_bytes(each.peak_bytes), each.peak_bytes),
            cell(signed(each.growth.slope_bytes_per_s * 60), each.growth.slope_bytes_per_s),
            verdict_text(each),
            [tag("b", _title(each, redactor)), tag("br"), redactor.text(details_text(report, each))],
            spark(profile.course(each.positions).tolist(), profile.moments.tolist()),
        ]
        for each in rows
    ]
    return tag("section", tag("h2", "Not growing for certain"), table(heads, body), id="others")
