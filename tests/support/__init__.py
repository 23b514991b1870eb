"""What the tests share, parted by what it is for; tests import all of it from here."""

from __future__ import annotations

from support.compare import COMPARED, mismatches, seen_as, site_totals, strangers, sums, totals
from support.kernel import bpf_objects, bpf_objects_alive
from support.machine import (
    IS_LONG,
    NOBODY,
    PRELOADS,
    ROOT,
    as_nobody,
    is_everything_required,
    one_processor,
    preload,
    processors_of,
    require,
    require_program,
    require_root,
)
from support.surroundings import (
    TRACEFS,
    WITH_TRACEFS,
    WITHOUT_BTF,
    WITHOUT_PMU,
    WITHOUT_TRACEFS,
    hiding,
    own_libc,
    without_program,
)
from support.target import Target, Truth, java_launcher, leaker, target_path
from support.trace import Report, Trace, nativeleak
from support.uprobes import counted_probes, places_taken
from support.waiting import ANSWER_TIMEOUT_S, START_TIMEOUT_S, LineReader, TargetError, eventually, patient

__all__ = [
    "ANSWER_TIMEOUT_S",
    "COMPARED",
    "IS_LONG",
    "NOBODY",
    "PRELOADS",
    "ROOT",
    "START_TIMEOUT_S",
    "TRACEFS",
    "WITHOUT_BTF",
    "WITHOUT_PMU",
    "WITHOUT_TRACEFS",
    "WITH_TRACEFS",
    "LineReader",
    "Report",
    "Target",
    "TargetError",
    "Trace",
    "Truth",
    "as_nobody",
    "bpf_objects",
    "bpf_objects_alive",
    "counted_probes",
    "eventually",
    "hiding",
    "is_everything_required",
    "java_launcher",
    "leaker",
    "mismatches",
    "nativeleak",
    "one_processor",
    "own_libc",
    "patient",
    "places_taken",
    "preload",
    "processors_of",
    "require",
    "require_program",
    "require_root",
    "seen_as",
    "site_totals",
    "strangers",
    "sums",
    "target_path",
    "totals",
    "without_program",
]
