"""The runtimes that are known: the one list of them, and which of them a process has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from nativeleak.errors import NativeleakError
from nativeleak.model import FrameKind, RuntimeInfo
from nativeleak.process.procfs import MapEntry
from nativeleak.runtimes.base import Runtime, RuntimeSpec
from nativeleak.runtimes.hotspot.spec import HOTSPOT

RUNTIMES: Final[tuple[RuntimeSpec, ...]] = (HOTSPOT,)
"""In the order in which they are looked for; a process has the first that is found."""


def find_runtime(maps: Iterable[MapEntry], runtimes: Sequence[RuntimeSpec] = RUNTIMES) -> RuntimeSpec | None:
    """The kind of runtime that a process with these mappings has, None where it has none."""
    entries = list(maps)
    return next((spec for spec in runtimes if spec.find_library(entries) is not None), None)


def identify(pid: int, maps: Sequence[MapEntry], runtimes: Sequence[RuntimeSpec] = RUNTIMES) -> RuntimeInfo | None:
    """The runtime of a process and its version, None where it has none."""
    spec = find_runtime(maps, runtimes)
    return None if spec is None else RuntimeInfo(spec.name, spec.read_version(pid, maps))


def spec_of(info: RuntimeInfo | None, runtimes: Sequence[RuntimeSpec] = RUNTIMES) -> RuntimeSpec | None:
    """The row of a runtime that was identified; None where there is none, also for one of another version of ours."""
    return None if info is None else next((spec for spec in runtimes if spec.name == info.name), None)


def open_runtime(pid: int, spec: RuntimeSpec) -> tuple[Runtime | None, str]:
    """The runtime of a process, or why its frames cannot be shown; with one, what of it cannot."""
    try:
        runtime = spec.open(pid)
    except NativeleakError as error:
        return None, str(error)
    return runtime, "; ".join(runtime.notes)


def jit_kind(maps: Iterable[MapEntry], runtimes: Sequence[RuntimeSpec] = RUNTIMES) -> FrameKind:
    """Kind of the frames that the perf map of a process with these mappings names."""
    spec = find_runtime(maps, runtimes)
    return FrameKind.NATIVE if spec is None else spec.jit_kind
