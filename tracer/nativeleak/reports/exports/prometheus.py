"""Metrics in the text format of Prometheus, for the textfile collector of node_exporter or a push gateway.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/

Every value is of the end of the trace: totals since its start are gauges, because the next trace begins at 0 again.
Sites are call paths, the largest 100 unless ``--top`` says otherwise: each is one time series in a database.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO

from nativeleak import __version__
from nativeleak.analysis.growth import Growth, Verdict
from nativeleak.analysis.naming import head_of, shown_name
from nativeleak.model import Kind
from nativeleak.reports.formats import WriteOptions
from nativeleak.reports.names import printable
from nativeleak.reports.output import encode_text
from nativeleak.reports.report import Report, SiteReport

Row = tuple[Mapping[str, str], float]


def write(report: Report, stream: BinaryIO, options: WriteOptions) -> None:
    """Each metric with its help and type; what is not known has no sample."""
    del options
    pids = ",".join(str(target.pid) for target in report.trace.targets)
    comms = ",".join(dict.fromkeys(printable(target.comm) for target in report.trace.targets))
    of_trace = {"pid": pids, "comm": comms}
    for name, text, rows in _metrics(report):
        lines = [_line(name, of_trace | dict(labels), value) for labels, value in rows]
        if lines:
            stream.write(encode_text(f"# HELP {name} {text}\n# TYPE {name} gauge\n{''.join(lines)}"))


def _metrics(report: Report) -> Iterator[tuple[str, str, Iterable[Row]]]:
    trace, sums = report.trace, report.sums
    yield "nativeleak_info", "The trace.", [({"version": __version__, "engine": trace.info.backend}, 1)]
    yield "nativeleak_start_time_seconds", "Start of the trace, since 1970.", [({}, trace.info.started)]
    yield "nativeleak_trace_seconds", "Length of the trace.", [({}, trace.duration_s)]
    if trace.info.coverage.has_blocks:
        yield "nativeleak_watched_ratio", "Part of the trace with heap calls watched.", [({}, sums.watched_pct / 100)]
    for column, name, text in (
        ("outstanding_bytes", "outstanding_bytes", "Bytes allocated during the trace and not freed."),
        ("outstanding_count", "outstanding_blocks", "Blocks allocated during the trace and not freed."),
        ("allocated_bytes", "allocated_bytes", "Bytes allocated during the trace."),
        ("freed_bytes", "freed_bytes", "Bytes of them that were freed."),
    ):
        kinds = [({"kind": kind.value}, getattr(sums.by_kind[kind], column)) for kind in Kind if kind in sums.by_kind]
        yield f"nativeleak_{name}", text, kinds
    yield "nativeleak_growth_bytes_per_second", "Growth, with its 95 % interval.", _growth(sums.growth, {})
    if report.resident is not None:
        yield "nativeleak_resident_bytes", "Resident memory of the process.", [({}, report.resident.last_bytes)]
        yield (
            "nativeleak_resident_growth_bytes_per_second",
            "Growth of resident memory, with its 95 % interval.",
            _growth(report.resident.growth, {}),
        )
    counters = [({"counter": name}, float(count)) for name, count in sorted(report.counters.items())]
    yield "nativeleak_completeness", "What was lost or not seen, by the tracer's own count.", counters
    yield (
        "nativeleak_probe_cpu_seconds",
        "CPU time of the process that the probes took.",
        [({}, report.overhead.cost_s)],
    )
    rows = [(_labels(site, number), site) for number, site in enumerate(report.rows.sites.rows, 1)]
    sites = [(labels, site.totals.outstanding_bytes) for labels, site in rows]
    yield "nativeleak_site_outstanding_bytes", "The same of the largest call paths.", sites
    yield (
        "nativeleak_site_growth_bytes_per_second",
        "Growth of the largest call paths, with its 95 % interval.",
        [row for labels, site in rows for row in _growth(site.growth, labels)],
    )


def _growth(growth: Growth, labels: Mapping[str, str]) -> list[Row]:
    if growth.verdict is Verdict.UNKNOWN:
        return []
    values = (("mean", growth.slope_bytes_per_s), ("low", growth.low_bytes_per_s), ("high", growth.high_bytes_per_s))
    return [({**labels, "bound": bound, "verdict": growth.verdict.value}, value) for bound, value in values]


def _labels(site: SiteReport, number: int) -> dict[str, str]:
    """Labels of a site; its rank tells apart those of one path whose owner or thread differ in no label."""
    frames = site.stack.frames
    return {
        "rank": str(number),
        "site": site.id,
        "kind": site.kind.value,
        "owner": site.owner.value,
        "thread": printable(site.thread),
        "function": printable(shown_name(frames[head_of(frames).index])) if frames else "",
    }


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    shown = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
    return f"{name}{{{shown}}} {float(value)!r}\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
