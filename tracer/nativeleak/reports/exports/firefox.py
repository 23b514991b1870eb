"""A profile for https://profiler.firefox.com: the processed profile format, with sizes as the weights of its samples.

Source: https://github.com/firefox-devtools/profiler, docs-developer/processed-profile-format.md and
src/types/profile.ts. In this version of the format each thread has its own tables; the profiler brings every older
version up to its own.

Each figure (in use, growth a minute, ...) is a thread of the profile. Its samples are call sites, one millisecond after
the other: time in this profile means nothing. Growth has negative weights where memory shrinks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, BinaryIO, Final

from nativeleak import __version__
from nativeleak.analysis.select import Metric
from nativeleak.frames.display import JAVA
from nativeleak.model import Frame, FrameKind
from nativeleak.reports.folded import metric_value
from nativeleak.reports.formats import WriteOptions
from nativeleak.reports.names import printable
from nativeleak.reports.output import encode_text
from nativeleak.reports.report import SiteReport, SiteTable

Json = dict[str, Any]

_PROCESSED_VERSION: Final = 56
_GECKO_VERSION: Final = 30
_FIGURES: Final = (
    (Metric.OUTSTANDING, "in use", "bytes"),
    (Metric.GROWTH, "growth a minute", "bytes"),
    (Metric.ALLOCATED, "allocated", "bytes"),
    (Metric.RESIDENT, "resident part of mappings", "bytes"),
    (Metric.COUNT, "blocks in use", "samples"),
)
_CATEGORIES: Final = (("Other", "grey"), ("Native", "blue"), ("Java", "green"), ("Kernel", "orange"))
"""Names and colours; a grey one is needed as the default."""
_LIBRARY: Final = 1
"""Type of a resource that is a library."""


def write(report: SiteTable, stream: BinaryIO, options: WriteOptions) -> None:
    """One JSON object on one line, ASCII only. Figures that no site has are left out; the asked one is first."""
    del options
    rows = report.rows.sites.rows
    tables = _Tables()
    stacks = [tables.stack(site) for site in rows]
    asked = report.selection.metric
    threads: list[Json] = []
    for metric, name, weight_type in sorted(_FIGURES, key=lambda each: each[0] is not asked):
        weights = [metric_value(site, metric) for site in rows]
        if metric is asked or any(weights):
            chosen = [i for i, weight in enumerate(weights) if weight]
            samples = _samples([stacks[i] for i in chosen], [weights[i] for i in chosen], weight_type)
            threads.append(tables.thread(name, samples, len(threads)))
    profile: Json = {
        "meta": _meta(report),
        "libs": tables.libs,
        "threads": threads,
        "profilingLog": [],
        "shared": {"stringArray": tables.strings},
    }
    stream.write(encode_text(json.dumps(profile, allow_nan=False)))
    stream.write(b"\n")


def _samples(stacks: Sequence[int], weights: Sequence[int], weight_type: str) -> Json:
    return {
        "length": len(stacks),
        "stack": list(stacks),
        "timeDeltas": [1] * len(stacks),
        "weight": list(weights),
        "weightType": weight_type,
    }


def _meta(report: SiteTable) -> Json:
    trace = report.trace
    names = dict.fromkeys(PurePath(target.exe).name or target.comm for target in trace.targets)
    return {
        "version": _GECKO_VERSION,
        "preprocessedProfileVersion": _PROCESSED_VERSION,
        "product": printable(", ".join(names)) or "nativeleak",
        "importedFrom": f"nativeleak {__version__}",
        "startTime": round(trace.info.started * 1000),
        "interval": 1,
        "processType": 0,
        "stackwalk": 1,
        "debug": False,
        "markerSchema": [],
        "symbolicationNotSupported": True,
        "usesOnlyOneStackType": True,
        "doesNotUseFrameImplementation": True,
        "sourceCodeIsNotOnSearchfox": True,
        "keepProfileThreadOrder": True,
        "categories": [{"name": name, "color": color, "subcategories": ["Other"]} for name, color in _CATEGORIES],
    }


class _Tables:
    """Strings, libraries, functions, frames and stacks, which all threads of the profile share or repeat."""

    def __init__(self) -> None:
        self.strings: list[str] = []
        self.libs: list[Json] = []
        self._string_ids: dict[str, int] = {}
        self._resources: dict[str, int] = {}
        self._resource_names: list[int] = []
        self._funcs: dict[tuple[str, str | None, str | None], int] = {}
        self._func_rows: list[tuple[int, int, int | None]] = []
        self._frames: dict[tuple[int, int | None, int], int] = {}
        self._stacks: dict[tuple[int | None, int], int] = {}
        self._of_frame: dict[int, int] = {}

    def stack(self, site: SiteReport) -> int:
        """Number of the stack of a site; its root is the thread."""
        prefix = self._node(None, self._frame(f"[{printable(site.thread)}]", None, None, None, 0))
        for frame in reversed(site.stack.frames):
            number = self._of_frame.get(id(frame))
            if number is None:
                number = self._of_frame[id(frame)] = self._frame(
                    printable(frame.function) or "[no name]", frame.module, frame.file, frame.line, _category(frame)
                )
            prefix = self._node(prefix, number)
        return prefix

    def thread(self, name: str, samples: Json, number: int) -> Json:
        """A thread of the profile."""
        frames, funcs, stacks = list(self._frames), self._func_rows, list(self._stacks)
        n_frames, n_funcs, n_resources = len(frames), len(funcs), len(self._resource_names)
        return {
            "name": name,
            "processName": "nativeleak",
            "processType": "default",
            "processStartupTime": 0,
            "processShutdownTime": None,
            "registerTime": 0,
            "unregisterTime": None,
            "pausedRanges": [],
            "isMainThread": number == 0,
            "pid": "0",
            "tid": str(number),
            "samples": samples,
            "markers": {
                "length": 0, "category": [], "data": [], "endTime": [], "name": [], "phase": [], "startTime": [],
            },
            "stackTable": {
                "length": len(stacks),
                "prefix": [prefix for prefix, _ in stacks],
                "frame": [frame for _, frame in stacks],
            },
            "frameTable": {
                "length": n_frames,
                "address": [-1] * n_frames,
                "inlineDepth": [0] * n_frames,
                "category": [category for _, _, category in frames],
                "subcategory": [0] * n_frames,
                "func": [func for func, _, _ in frames],
                "nativeSymbol": [None] * n_frames,
                "innerWindowID": [0] * n_frames,
                "line": [line for _, line, _ in frames],
                "column": [None] * n_frames,
            },
            "funcTable": {
                "length": n_funcs,
                "name": [row[0] for row in funcs],
                "isJS": [False] * n_funcs,
                "relevantForJS": [False] * n_funcs,
                "resource": [row[1] for row in funcs],
                "fileName": [row[2] for row in funcs],
                "lineNumber": [None] * n_funcs,
                "columnNumber": [None] * n_funcs,
            },
            "resourceTable": {
                "length": n_resources,
                "lib": list(range(n_resources)),
                "name": self._resource_names,
                "host": [None] * n_resources,
                "type": [_LIBRARY] * n_resources,
            },
            "nativeSymbols": {"length": 0, "address": [], "functionSize": [], "libIndex": [], "name": []},
        }  # fmt: skip

    def _string(self, text: str) -> int:
        number = self._string_ids.setdefault(text, len(self.strings))
        if number == len(self.strings):
            self.strings.append(text)
        return number

    def _node(self, prefix: int | None, frame: int) -> int:
        return self._stacks.setdefault((prefix, frame), len(self._stacks))

    def _frame(self, name: str, module: str | None, file: str | None, line: int | None, category: int) -> int:
        func = self._funcs.setdefault((name, module, file), len(self._func_rows))
        if func == len(self._func_rows):
            resource = -1 if module is None else self._resource(printable(module))
            self._func_rows.append((self._string(name), resource, self._string(printable(file)) if file else None))
        return self._frames.setdefault((func, line or None, category), len(self._frames))

    def _resource(self, module: str) -> int:
        number = self._resources.setdefault(module, len(self.libs))
        if number == len(self.libs):
            self._resource_names.append(self._string(module))
            names = dict.fromkeys(("name", "path", "debugName", "debugPath"), module)
            self.libs.append({**names, "arch": "", "breakpadId": "", "codeId": None})
        return number


def _category(frame: Frame) -> int:
    if frame.kind in JAVA:
        return 2
    return 3 if frame.kind is FrameKind.KERNEL else 1
