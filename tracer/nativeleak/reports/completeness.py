"""What a trace did not see, in words, each with what to do about it. Used by every format made for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nativeleak.engines.names import LOST_BY_BACKEND
from nativeleak.model import Level, TargetEnd, TargetInfo, Window
from nativeleak.reports.build import Report
from nativeleak.reports.names import printable
from nativeleak.units import format_bytes, format_duration


@dataclass(frozen=True, slots=True)
class Gap:
    """One way in which the report is incomplete.

    Attributes:
        text: What is missing, and how much of it.
        remedy: What to do; empty where nothing can be done or needs to be.
        is_loss: Whether totals are too low or a part of the window is missing; such a gap belongs at the top.
    """

    text: str
    remedy: str = ""
    is_loss: bool = False


_LOSSES: Final = {
    "lost_stacks": ("{} stacks found no room and show as [stack lost]", "trace with a larger --max-new-stacks"),
    "unnamed_stacks": ("{} stacks were too new to have names when the trace ended and show as [stack lost]", ""),
    "lost_events": (
        "{} events of mapped memory were lost; the map was read again from the kernel afterwards",
        "trace with a larger --ring-size, 4 MiB without one",
    ),
    "sites_full": ("{} allocations found no room for their call site", "trace with a larger --max-sites"),
    "unmap_sites_full": (
        "{} calls that gave address space back found no room for their call site",
        "trace with a larger --max-sites",
    ),
    "threads_full": ("{} times a thread found no room", "trace with a larger --max-threads"),
    "stack_collisions": ("{} stacks had the key of another one and are counted there", ""),
}


_UNWATCHED: Final = (Level.BIG, Level.SYSCALLS)
_LEVELS: Final = {
    Level.EXACT: "every block",
    Level.SAMPLED: "sampled",
    Level.BIG: "frees and big blocks only",
    Level.SYSCALLS: "mapped memory only",
}
_MAX_WINDOWS: Final = 8


def gaps(report: Report) -> list[Gap]:
    """Everything the report lacks, worst first."""
    return [*_ends(report), *_lost(report.counters), *_unseen(report), *_unwatched(report), *_imprecise(report)]


def _ends(report: Report) -> list[Gap]:
    found = [Gap(text, is_loss=True) for target in report.targets if (text := _end_of(target))]
    if report.recording_error is not None:
        found.append(Gap(f"the recording went on in memory: {printable(report.recording_error)}", is_loss=True))
    if report.end_reason is None:
        found.append(
            Gap(
                "the recorder was stopped before it could finish; this is the state at the last snapshot, "
                f"{format_duration(report.duration_s)} after the start",
                is_loss=True,
            )
        )
    return found


def _end_of(target: TargetInfo) -> str:
    who = f"{printable(target.comm)} (PID {target.pid})"
    match target.end:
        case TargetEnd.OOM_KILLED:
            return f"{who} was killed by the kernel's OOM killer during the trace: memory had run out"
        case TargetEnd.KILLED:
            return f"{who} was killed during the trace" + (
                f" by signal {target.end_signal}" if target.end_signal else ""
            )
        case TargetEnd.EXITED:
            return f"{who} exited during the trace"
        case TargetEnd.EXEC:
            return f"{who} replaced itself by another program (exec); what it held until then is shown"
        case _:
            return ""


def _lost(counters: Mapping[str, int]) -> list[Gap]:
    found = []
    if n_lost := counters["lost_allocations"]:
        found.append(
            Gap(
                f"{n_lost:,} allocations ({format_bytes(counters['lost_bytes'])}) found no room and are in no total: "
                "the totals are too low",
                "trace with a larger --max-allocations, or only large blocks with --min-size",
                is_loss=True,
            )
        )
    for name, (text, remedy) in _LOSSES.items():
        if n_lost := counters.get(name, 0):
            found.append(Gap(text.format(f"{n_lost:,}"), remedy, is_loss=True))
    return found


def _unseen(report: Report) -> list[Gap]:
    """Functions that could not be probed without harm."""
    return [
        Gap(f"{printable(event.text)}: what it allocates is in no total", is_loss=True)
        for event in report.events
        if event.what == "unseen"
    ]


def _unwatched(report: Report) -> list[Gap]:
    """What the heap's figures do not cover, because all of it would have cost more than the budget."""
    found = []
    if "malloc" in report.info.probes and any(window.level in _UNWATCHED for window in report.windows):
        unwatched_s = sum(window.to_s - window.from_s for window in report.windows if window.level in _UNWATCHED)
        found.append(
            Gap(
                f"for {format_duration(unwatched_s)} of {format_duration(report.duration_s)} heap allocations were not "
                "recorded, to stay inside --max-overhead or --max-memory: "
                f"{_windows_in_words(report.windows)}. What allocators mapped meanwhile is counted as mapped memory",
                "trace with larger ones, or --max-overhead off",
                is_loss=True,
            )
        )
    if n_uncertain := report.counters.get("uncertain_allocations", 0):
        n_bytes = format_bytes(report.counters.get("uncertain_bytes", 0))
        found.append(
            Gap(
                f"{n_bytes} in {n_uncertain:,} heap blocks were outstanding when frees were no longer watched: whether "
                "they still are is not known; they count as freed",
                is_loss=True,
            )
        )
    return found


def _windows_in_words(windows: Sequence[Window]) -> str:
    shown = windows if len(windows) <= _MAX_WINDOWS else windows[:_MAX_WINDOWS]
    words = [
        f"{format_duration(window.from_s)} to {format_duration(window.to_s)} {_LEVELS[window.level]}"
        for window in shown
    ]
    if len(shown) < len(windows):
        words.append(f"{len(windows) - len(shown):,} more parts in the JSON report")
    return ", ".join(words)


def _cut_stacks(counters: Mapping[str, int]) -> list[Gap]:
    n_cut = counters["truncated_stacks"]
    if not n_cut:
        return []
    prefix = "stacks_ended_"
    causes = {name.removeprefix(prefix).replace("_", " "): n for name, n in counters.items() if name.startswith(prefix)}
    n_deep = n_cut - sum(causes.values())
    if n_deep > 0:
        causes["middle left out"] = n_deep
    listed = ", ".join(f"{cause}: {n:,}" for cause, n in sorted(causes.items(), key=lambda item: -item[1]))
    remedy = "--max-depth 512 keeps more of deep ones" if n_deep > 0 else ""
    if "no frame pointer" in causes:
        remedy = "--unwind tables needs no frame pointers"
    return [Gap(f"{n_cut:,} distinct stacks are not whole ({listed})", remedy)]


def _guesses(report: Report) -> list[Gap]:
    whole = sum(totals.outstanding_bytes for totals in report.totals.values())
    without = [event.text for event in report.events if event.what == "unwind"]
    return [
        Gap(
            f"callers above {printable(module)} are guesses, marked [?], or missing: {_why_guessed(module, without)}; "
            f"{100 * n_bytes / whole:.1f} % of the outstanding bytes have such a stack"
        )
        for module, n_bytes in sorted(report.guessed.items(), key=lambda item: -item[1])
        if whole
    ]


def _why_guessed(module: str, without: Sequence[str]) -> str:
    if any(text.startswith(f"{module} ") for text in without) or " " in module:
        return "it has no unwind information"
    return "that code has no unwind information, or its table was not ready yet"


def _how_certain(report: Report) -> str:
    certainty = report.certainty
    if certainty is None:
        return ""
    return (
        f"; the outstanding bytes are right to \N{PLUS-MINUS SIGN} {certainty.error_pct:.2g} % (95 % sure, from "
        f"{certainty.n_sampled:,} blocks)"
    )


def _imprecise(report: Report) -> list[Gap]:
    counters, info = report.counters, report.info
    found = []
    if lost := LOST_BY_BACKEND.get(info.backend):
        found.append(Gap(f"made by {info.backend}: {lost}", "the engine libbpf sees more: nativeleak doctor"))
    if report.sample_bytes:
        found.append(
            Gap(
                f"sampled, one block in about {format_bytes(report.sample_bytes)} of them, larger ones all: "
                f"heap figures are estimates{_how_certain(report)}",
                "trace without --sample, and with --max-overhead off, for exact ones",
            )
        )
    if info.min_size or info.max_size:
        limits = [f"smaller than {format_bytes(info.min_size)}"] if info.min_size else []
        limits += [f"larger than {format_bytes(info.max_size)}"] if info.max_size else []
        found.append(Gap(f"blocks {' or '.join(limits)} were not recorded", "trace without --min-size and --max-size"))
    found.extend(_cut_stacks(counters))
    found.extend(_guesses(report))
    if n_unresolved := counters["unresolved_frames"]:
        n_all = n_unresolved + counters["resolved_frames"]
        found.append(
            Gap(
                f"{n_unresolved:,} of {n_all:,} frames have no name and show as an address",
                "install the debug symbols of the module named behind the address",
            )
        )
    if n_frees := counters.get("unsampled_frees", 0):
        found.append(Gap(f"{n_frees:,} frees were of blocks that were not sampled or older than the trace"))
    if n_frees := counters["unmatched_frees"]:
        found.append(Gap(f"{n_frees:,} frees were of blocks older than the trace; they change no total"))
    return found
