"""The figures of the page's script: stacks, threads, the course of every site, and the rows of the table.

Columns, all in the order of their numbers (``n`` sites, ``t`` moments, ``s`` stacks, ``f`` steps, ``r`` rows):

===================  ====================================================================================
moments              ``t`` seconds since the start of the trace; nothing is outstanding at second 0
bytes, blocks        ``t`` by ``n``: outstanding bytes and allocations, each moment less the one before
added, calls         ``t`` by ``n``: allocated bytes and allocations, likewise
resident             ``t`` by ``n``: resident bytes of mappings, likewise; not there if none was measured
site_stack           ``n`` numbers of stacks
site_thread          ``n`` numbers of ``facts.threads``
site_row             ``n`` numbers of rows; the number of rows for a site that no row shows
stack_length         ``s`` lengths; ``stack_steps`` has the steps of all stacks one after another, leaf first
stack_head           ``s`` steps that head the stacks; -1 for none
step_*               ``f`` by step: name and place as numbers of ``facts.strings``, group of ``GROUPS``
row_*                ``r`` by row, largest first; ``row_growth`` has slope and interval in bytes a second; -1: unknown
===================  ====================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from nativeleak.analysis.growth import Growth, Verdict
from nativeleak.analysis.paths import Paths, Step
from nativeleak.analysis.select import pool_of
from nativeleak.frames.display import JAVA
from nativeleak.frames.roles import Role
from nativeleak.model import FrameKind, Kind, Owner
from nativeleak.recording import Recording
from nativeleak.reports.detail import Detail
from nativeleak.reports.html.redact import Redactor
from nativeleak.reports.names import place, printable
from nativeleak.reports.text_answer import short_name

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

GROUPS: Final = ("program", "java", "library", "runtime", "plumbing", "unnamed", "kernel")
"""Colours of frames. From the third on, without "unnamed", they are what "hide plumbing" hides."""

_MAX_MOMENTS: Final = 120
_MIN_MOMENTS: Final = 16
_MAX_VALUES: Final = 1_200_000
"""Most values of one course of all sites: 24 moments of 50,000 sites."""
_KINDS: Final = tuple(kind.value for kind in Kind)
_VERDICTS: Final = tuple(verdict.value for verdict in Verdict)


class Strings:
    """Texts by number, each once."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """The number of a text."""
        number = self._numbers.setdefault(text, len(self.all))
        if number == len(self.all):
            self.all.append(text)
        return number


class Profile:
    """Facts and columns of the sites of a report.

    Attributes:
        facts: Threads, strings, and the words of the numbers in the columns.
        columns: See the module.
        moments: Seconds since the start of the trace.
        positions: The sites' positions in ``Recording.sites``.
        n_bytes: Outstanding bytes, one row a moment, one column a site.
    """

    def __init__(self, detail: Detail, redactor: Redactor) -> None:
        sites, recording = detail.sites, detail.recording
        sites = sites[(sites["outstanding_bytes"] > 0) | (sites["allocated_count"] > 0)]
        self.positions: Ints = sites.index.to_numpy()
        strings = Strings()
        numbers = pick_moments([snapshot.elapsed_s for snapshot in recording.snapshots], len(sites))
        self.moments: Floats = np.array([recording.snapshots[i].elapsed_s for i in numbers])
        courses = _courses(recording, numbers, self.positions)
        self.n_bytes = courses["bytes"]
        of_stack, stacks = _stacks(recording, detail.paths, sites)
        threads, of_site = _threads(sites, redactor)
        number_of_row = np.full(len(detail.labels) + 1, len(detail.rows), dtype=np.int64)
        number_of_row[detail.rows.index.to_numpy()] = np.arange(len(detail.rows))
        labels = detail.labels[self.positions]
        steps = [_step(step, strings, redactor) for step in detail.paths.steps]
        step_columns = np.array(steps, dtype=np.int64).reshape(len(steps), 3).T
        self.columns: dict[str, npt.NDArray[Any]] = {
            "moments": self.moments,
            **{name: np.diff(course, axis=0, prepend=0.0).astype(np.int64) for name, course in courses.items()},
            "site_stack": of_stack,
            "site_thread": of_site,
            "site_row": np.where(labels >= 0, number_of_row[labels], len(detail.rows)),
            **stacks,
            **dict(zip(("step_name", "step_place", "step_group"), step_columns, strict=True)),
            **_rows(detail, strings, redactor),
        }
        self.facts: dict[str, Any] = {
            "threads": threads,
            "strings": strings.all,
            "groups": GROUPS,
            "kinds": _KINDS,
            "owners": [owner.value for owner in Owner],
            "verdicts": _VERDICTS,
        }

    def course(self, positions: Iterable[int]) -> Floats:
        """Outstanding bytes of some sites together at every moment."""
        chosen = np.isin(self.positions, np.fromiter(positions, dtype=np.int64))
        summed: Floats = self.n_bytes[:, chosen].sum(axis=1)
        return summed

    def numbers(self, positions: Iterable[int]) -> list[int]:
        """The page's numbers of some sites."""
        found: list[int] = np.flatnonzero(np.isin(self.positions, np.fromiter(positions, dtype=np.int64))).tolist()
        return found


def pick_moments(times: list[float], n_sites: int) -> list[int]:
    """Numbers of the snapshots that the page keeps: the last, and others at about equal times."""
    if not times:
        return []
    most = max(_MIN_MOMENTS, min(_MAX_MOMENTS, _MAX_VALUES // max(1, n_sites)))
    if len(times) <= most:
        return list(range(len(times)))
    wanted = np.linspace(times[0], times[-1], most)
    nearest = np.abs(np.array(times)[None, :] - wanted[:, None]).argmin(axis=1)
    return sorted({*nearest.tolist(), len(times) - 1})


def _courses(recording: Recording, numbers: list[int], positions: Ints) -> dict[str, Floats]:
    """Outstanding, allocated and resident bytes and allocations of the sites: one row a moment, one column a site."""
    names = ("bytes", "blocks", "added", "calls", "resident")
    now = np.zeros((len(names), len(recording.site_columns)))
    kept = {name: np.zeros((len(numbers), len(positions))) for name in names}
    row_of = {number: row for row, number in enumerate(numbers)}
    for number, samples in enumerate(recording.samples()):
        ids = np.asarray(samples.site_id)
        now[0, ids] = np.asarray(samples.outstanding_bytes)
        now[1, ids] = np.asarray(samples.outstanding_count)
        now[2, ids] = np.asarray(samples.allocated_bytes)
        now[3, ids] = np.asarray(samples.allocated_count)
        now[4, ids] = np.maximum(np.asarray(samples.resident_bytes), 0)
        if number in row_of:
            for course, values in zip(kept.values(), now, strict=True):
                course[row_of[number]] = values[positions]
    if not kept["resident"].any():
        del kept["resident"]
    return kept


def _stacks(recording: Recording, paths: Paths, sites: pd.DataFrame) -> tuple[Ints, dict[str, npt.NDArray[Any]]]:
    """The number of each site's stack, and the stacks as steps; stacks of the same steps are one."""
    frame_ids, step_ids = paths.step_ids()
    step_of = np.full(max(frame_ids, default=-1) + 1, -1, dtype=np.int64)
    step_of[frame_ids] = step_ids
    keys = set(sites["stack_key"].tolist())
    number_of: dict[int, int] = {}
    distinct: dict[bytes, int] = {b"": 0}
    lengths, heads, parts = [0], [-1], []
    recorded = recording.stack_columns(keys)
    steps = step_of[np.asarray(recorded.frames)]
    there = steps >= 0
    packed = steps[there].astype(np.uint32).tobytes()
    bounds = 4 * np.concatenate(([0], np.cumsum(there)))[recorded.bounds]
    for key, (start, stop) in zip(recorded.keys, pairwise(bounds.tolist()), strict=True):
        part = packed[start:stop]
        number = distinct.setdefault(part, len(lengths))
        if number == len(lengths):
            lengths.append(len(part) // 4)
            heads.append(_head(paths, key))
            parts.append(part)
        number_of[key] = number
    of_site = np.array([number_of.get(key, 0) for key in sites["stack_key"].tolist()], dtype=np.int64)
    steps = np.frombuffer(b"".join(parts), dtype=np.uint32)
    return of_site, {"stack_length": np.array(lengths), "stack_head": np.array(heads), "stack_steps": steps}


def _threads(sites: pd.DataFrame, redactor: Redactor) -> tuple[list[list[Any]], Ints]:
    """Threads as ``[name, TID, pool]``, and the number of each site's thread."""
    codes, _ = pd.factorize(sites["thread_uid"])
    first = sites.drop_duplicates("thread_uid")
    threads: list[list[Any]] = []
    for name, tid in zip(first["thread"].tolist(), first["tid"].tolist(), strict=True):
        shown = redactor.text(printable(name))
        threads.append([shown, int(tid), pool_of(shown)])
    return threads, np.asarray(codes, dtype=np.int64)


def _step(step: Step, strings: Strings, redactor: Redactor) -> tuple[int, int, int]:
    name = redactor.name(printable(step.name) or "[no name]")
    where = redactor.name(place(step.frame))
    return strings.number(name), strings.number(where), GROUPS.index(group_of(step))


def group_of(step: Step) -> str:
    """The group of ``GROUPS`` that a step is drawn in."""
    frame = step.frame
    if frame.kind is FrameKind.KERNEL:
        return "kernel"
    if step.in_runtime or step.role is Role.RUNTIME:
        return "runtime"
    if step.role is Role.LIBRARY:
        return "library"
    if step.role in (Role.ALLOCATOR, Role.PASSTHROUGH):
        return "plumbing"
    if step.role is Role.UNNAMED:
        return "unnamed"
    return "java" if frame.kind in JAVA else "program"


def _rows(detail: Detail, strings: Strings, redactor: Redactor) -> dict[str, npt.NDArray[Any]]:
    rows, paths = detail.rows, detail.paths
    growths: list[Growth] = rows["growth"].tolist()
    slopes = np.array([(each.slope_bytes_per_s, each.low_bytes_per_s, each.high_bytes_per_s) for each in growths])
    heads = [_head(paths, key) for key in rows["stack_key"].tolist()]
    threads = rows["thread"].tolist()
    return {
        "row_head": np.array(heads, dtype=np.int64),
        "row_thread": np.array([strings.number(redactor.text(printable(name))) for name in threads], dtype=np.int64),
        "row_threads": rows["n_threads"].to_numpy(),
        "row_kind": np.array([_KINDS.index(kind) for kind in rows["kind"]], dtype=np.int64),
        "row_owner": np.array([list(Owner).index(Owner(owner)) for owner in rows["owner"]], dtype=np.int64),
        "row_functions": np.array(
            [strings.number(", ".join(map(printable, names))) for names in rows["functions"]], dtype=np.int64
        ),
        "row_bytes": rows["outstanding_bytes"].to_numpy(),
        "row_blocks": rows["outstanding_count"].to_numpy(),
        "row_added": rows["allocated_bytes"].to_numpy(),
        "row_freed": rows["freed_bytes"].to_numpy(),
        "row_resident": rows["resident_bytes"].fillna(-1).to_numpy().astype(np.int64),
        "row_oldest": np.round(rows["oldest_s"].fillna(-1).to_numpy(), 1),
        "row_growth": slopes.reshape(len(rows), 3),
        "row_verdict": np.array([_VERDICTS.index(each.verdict.value) for each in growths], dtype=np.int64),
    }


def _head(paths: Paths, stack_key: int) -> int:
    """The step that heads a stack; -1 where there is none, as in rows of threads."""
    if not stack_key:
        return -1
    path_id = paths.path_id(stack_key)
    path = paths.path(path_id)
    return path[paths.head_index(path_id)] if path else -1


def learn_names(detail: Detail, redactor: Redactor) -> None:
    """Tell the redactor the short names of every function of the sites' paths."""
    for step in detail.paths.steps:
        frame = step.frame
        redactor.learn(frame.function, (printable(step.name), short_name(step), place(frame), frame.file or ""))
