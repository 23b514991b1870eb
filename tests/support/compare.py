"""A report held against a target's truth, to the byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from support.target import Truth
from support.trace import Report

COMPARED = ("outstanding_bytes", "outstanding_count", "allocated_bytes", "allocated_count")


def site_totals(report: Report, site: Mapping[str, Any]) -> dict[str, int]:
    """Add up the report's sites that are one site of a truth: its kind, its thread, and its function in the stack.

    Args:
        report: ``--format json``.
        site: One of the ``sites`` of a truth; a ``method`` stands for a Java target's function.
    """
    wanted = site.get("function") or site.get("method")
    found = dict.fromkeys(COMPARED, 0)
    for row in report["sites"]:
        if row["kind"] != site["kind"] or row["thread"]["tid"] != site["tid"]:
            continue
        if any(_is_function(frame["function"], wanted) for frame in row["frames"]):
            for key in COMPARED:
                found[key] += row[key]
    return found


def _is_function(name: str, wanted: str | None) -> bool:
    """Tell whether a frame's name is the function, with or without its parameters."""
    return wanted is not None and (name == wanted or name.startswith(wanted + "("))


def mismatches(report: Report, truth: Truth, kinds: Sequence[str] = ("heap", "map", "brk")) -> list[str]:
    """Compare a report with a truth, site by site; an empty list says that they agree.

    Names of threads are compared where the site has anything outstanding. A site that the report does not have counts
    as zeros: that is right for one that only failed. What a site has allocated is compared where a report has all of
    it (``Trace.all_sites``). For a truth that is ``complete`` see ``strangers`` too.
    """
    found = []
    for site in truth["sites"]:
        if site["kind"] not in kinds:
            continue
        where = f"{site['kind']} {site['function']} in {site['thread']}/{site['tid']}"
        reported = site_totals(report, site)
        found += [
            f"{where}: {key} {reported[key]}, truth {site[key]}"
            for key in COMPARED
            if key in site and reported[key] != site[key] and not _is_absent(report, key)
        ]
        names = {row["thread"]["name"] for row in report["sites"] if row["thread"]["tid"] == site["tid"]}
        if site.get("outstanding_count") and names != {site["thread"]}:
            found.append(f"{where}: thread is called {sorted(names)}")
    return found


def _is_absent(report: Report, key: str) -> bool:
    """Most reports leave out stacks of which nothing is outstanding, and with them what was allocated there."""
    return key.startswith("allocated_") and report["metric"] != "allocated"


def strangers(report: Report, truth: Truth) -> list[str]:
    """Name the report's sites with memory outstanding that no site of a truth explains, each by its inner frames."""
    known = {(site["kind"], site["tid"], site["function"]) for site in truth["sites"]}
    return [
        f"{row['kind']} {row['outstanding_bytes']} bytes in {row['thread']['name']}: "
        + " < ".join(frame["function"] for frame in row["frames"][:8])
        for row in report["sites"]
        if row["outstanding_count"]
        and not any(
            row["kind"] == kind
            and row["thread"]["tid"] == tid
            and any(_is_function(frame["function"], function) for frame in row["frames"])
            for kind, tid, function in known
        )
    ]


def seen_as(truth: Truth, hidden: Mapping[str, str]) -> Truth:
    """The truth with sites named by the library function that they call, which then stands for all of them in a thread.

    For a library function without a frame pointer: of its stacks a walk by frame pointers finds that function, but not
    its caller, who is the site.

    Args:
        truth: What a target says.
        hidden: Function of a site -> the function of a library that hides it, as a report calls it.
    """
    merged: dict[tuple[str, int, str], dict[str, Any]] = {}
    for site in truth["sites"]:
        function = hidden.get(site["function"], site["function"])
        known = merged.setdefault((site["kind"], site["tid"], function), {**site, "function": function})
        if known["name"] != site["name"]:
            known.update({key: known[key] + site[key] for key in COMPARED if key in known})
    return {**truth, "sites": list(merged.values())}


def sums(truth: Truth, kind: str) -> dict[str, int]:
    """What all sites of a kind in a truth add up to, for the ``totals`` of a report; amounts it leaves open count 0."""
    return {key: sum(site.get(key, 0) for site in truth["sites"] if site["kind"] == kind) for key in COMPARED}


def totals(report: Report, kind: str) -> dict[str, int]:
    """The ``totals`` of a kind in a report, as ``sums`` gives those of a truth."""
    return {key: report["totals"][kind][key] for key in COMPARED}
