"""Facts of a trace as rows of the ``trace`` table and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from nativeleak.engines.registry import coverage_of
from nativeleak.model import Coverage, Level, StackCoverage, TraceInfo, Window
from nativeleak.recording.columns import parse_moment, parse_number, parse_seconds, parse_texts


def trace_values(trace: TraceInfo) -> dict[str, str]:
    """Rows of the ``trace`` table: name to text."""
    return {
        "version": trace.version,
        "started": repr(trace.started),
        "backend": trace.backend,
        "kernel": trace.kernel,
        "machine": trace.machine,
        "boot_id": trace.boot_id,
        "host": trace.host,
        "probes": json.dumps(list(trace.probes)),
        "min_size": str(trace.min_size),
        "max_size": str(trace.max_size),
        "sample_bytes": str(trace.sample_bytes),
        "slice_s": repr(trace.slice_s),
        "options": json.dumps(dict(trace.options)),
        "coverage": json.dumps(asdict(trace.coverage)),
    }


def pack_windows(windows: Iterable[Window]) -> str:
    """Windows as one row of the ``trace`` table, which each snapshot replaces."""
    return json.dumps([list(window) for window in windows])


def parse_windows(text: str) -> tuple[Window, ...]:
    """Inverse of ``pack_windows``.

    Raises:
        ValueError: The text is damaged.
    """
    return tuple(
        Window(
            parse_seconds(row[0]),
            parse_seconds(row[1]),
            Level(row[2]),
            parse_number(row[3]),
            parse_number(row[4]),
            parse_seconds(row[5]),
            parse_seconds(row[6]),
        )
        for row in json.loads(text)
    )


def parse_trace_values(values: Mapping[str, str]) -> TraceInfo:
    """Inverse of ``trace_values``.

    Raises:
        KeyError: A row is missing.
        ValueError: A row is damaged.
    """
    return TraceInfo(
        version=values["version"],
        started=parse_moment(values["started"]),
        backend=values["backend"],
        kernel=values["kernel"],
        machine=values["machine"],
        boot_id=values["boot_id"],
        probes=parse_texts(values["probes"]),
        min_size=parse_number(values["min_size"]),
        max_size=parse_number(values["max_size"]),
        sample_bytes=parse_number(values["sample_bytes"]),
        slice_s=parse_seconds(values["slice_s"]),
        options={str(name): str(value) for name, value in json.loads(values["options"]).items()},
        host=values.get("host", ""),
        coverage=_parse_coverage(values["coverage"]) if "coverage" in values else coverage_of(values["backend"]),
    )


def _parse_coverage(text: str) -> Coverage:
    """Inverse of ``trace_values`` for this row, which older recordings do not have."""
    facts = json.loads(text)
    return Coverage(
        stacks=StackCoverage(facts["stacks"]),
        has_threads=bool(facts["has_threads"]),
        has_blocks=bool(facts["has_blocks"]),
        has_unmappers=bool(facts["has_unmappers"]),
        not_available=str(facts["not_available"]),
        hits=str(facts["hits"]),
    )
