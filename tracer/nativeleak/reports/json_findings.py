"""Suspects and findings in the JSON report, and the growth of the process.

Source: interfaces.md, "JSON report", keys suspects, findings and growth.
"""

from __future__ import annotations

from typing import Any

from nativeleak.analysis.calls import share_of_calls
from nativeleak.analysis.finding import Finding
from nativeleak.analysis.growth import Growth
from nativeleak.analysis.paths import Step
from nativeleak.model import Level
from nativeleak.reports.held import fate_json
from nativeleak.reports.report import Report

Json = dict[str, Any]


def growth_json(growth: Growth) -> Json:
    """Slope, interval and verdict of one total."""
    return {
        "slope_bytes_per_s": growth.slope_bytes_per_s,
        "ci95": [growth.low_bytes_per_s, growth.high_bytes_per_s],
        "verdict": growth.verdict.value,
        **({} if growth.enough_s is None else {"watch_for_s": growth.enough_s}),
    }


def process_growth_json(report: Report) -> Json:
    """Growth of the process, the shares of time and calls that its heap was watched, and what children gained."""
    more = {"watched_pct": round(report.sums.watched_pct, 1), "children_bytes": report.gained_by_children}
    known = growth_json(report.growth) | more
    calls = share_of_calls(report.trace.windows) if report.sums.in_windows else None
    if calls is not None:
        # An estimate: calls outside of windows are not seen.
        known["watched_calls_pct"] = round(calls.pct, 3)
        known["watched_calls_ci95"] = [round(calls.low_pct, 3), round(calls.high_pct, 3)]
    return known


def finding_json(report: Report, finding: Finding) -> Json:
    """One suspect or finding."""
    frame = finding.step.frame if finding.step else None
    pids = {target.slot: target.pid for target in report.trace.targets}
    fate = report.held.of(finding)
    return {
        "name": finding.name,
        "called_by": finding.called_by,
        "module": frame.module if frame else None,
        "file": frame.file if frame else None,
        "line": frame.line if frame else None,
        "kind": finding.kind,
        "what": finding.what,
        "pool": finding.pool,
        "filled_by": list(finding.fillers),
        "processes": [pids.get(slot, 0) for slot in finding.slots],
        "threads": finding.threads,
        "n_threads": finding.n_threads,
        "outstanding_bytes": finding.outstanding_bytes,
        "outstanding_count": finding.outstanding_count,
        "allocated_bytes": finding.allocated_bytes,
        "freed_bytes": finding.freed_bytes,
        "resident_bytes": finding.resident_bytes,
        "peak_bytes": finding.peak_bytes,
        "peak_at_s": finding.peak_s,
        "growth": growth_json(finding.growth),
        "bounded_by": finding.bounded_by,
        "share_of_growth_pct": round(finding.share_pct, 1),
        "oldest_s": finding.oldest_s,
        "median_age_s": None if finding.median_age_s is None else round(finding.median_age_s, 3),
        "evidence": evidence(report, finding),
        "path": [_step(step) for step in finding.path],
        "site_ids": list(dict.fromkeys(report.stacks.text_id(key) for key in finding.stack_keys)),
        **({} if fate is None else {"traced": fate_json(fate, report.held.certainty(finding))}),
    }


def evidence(report: Report, finding: Finding) -> str:
    """How the memory of a finding was watched: exact, sampled, windows or mapped-only."""
    if "malloc" not in report.trace.info.probes:
        return "mapped-only"
    if finding.is_sampled:
        return "sampled"
    levels = {window.level for window in report.trace.windows}
    return "windows" if levels & {Level.BIG, Level.SYSCALLS, Level.HOT} and finding.kind != "mapping" else "exact"


def _step(step: Step) -> Json:
    return {
        "function": step.name or "[no name]",
        "module": step.frame.module,
        "file": step.frame.file,
        "line": step.frame.line,
    }
