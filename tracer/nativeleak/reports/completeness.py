"""Gaps of a trace in words, each with its remedy. Used by every format that people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nativeleak.model import Level, TargetEnd, TargetInfo
from nativeleak.reports.names import printable
from nativeleak.reports.report import Report, TraceFacts
from nativeleak.reports.text_windows import price_text, share_text
from nativeleak.units import format_bytes, format_duration


@dataclass(frozen=True, slots=True)
class Gap:
    """One way in which the report is incomplete.

    Attributes:
        text: The missing part and its size.
        remedy: What the user can do; empty where nothing can or need be done.
        is_loss: Totals are too low or a part of the window is missing; such a gap is shown at the top.
    """

    text: str
    remedy: str = ""
    is_loss: bool = False


_LOSSES: Final = {
    "lost_stacks": ("{} stacks were dropped (map full); shown as [stack lost]", "trace with a larger --max-new-stacks"),
    "unnamed_stacks": ("{} stacks had no names yet when the trace ended; shown as [stack lost]", ""),
    "lost_events": (
        "{} mapping events were dropped (ring buffer full); the mappings were then read again from the kernel",
        "trace with a larger --ring-size than 2 MiB, the default",
    ),
    "sites_full": (
        "{} allocations are counted at one shared call site (map full)",
        "trace with a larger --max-sites",
    ),
    "unmap_sites_full": (
        "{} unmap calls are counted at one shared call site (map full)",
        "trace with a larger --max-sites",
    ),
    "threads_full": (
        "the thread map was full {} times; those threads share one row",
        "trace with a larger --max-threads",
    ),
    "stack_collisions": ("{} stacks have the key of another stack and are counted there", ""),
}


_LOSSES_OF_INPUT: Final = {
    "lost_events": (
        "{} calls in the file have no other half, or arguments that make no sense; what they mapped is missing",
        "record to a file (strace -o FILE), from before the first call of interest to after the last",
    ),
}

_UNWATCHED: Final = (Level.BIG, Level.SYSCALLS, Level.HOT)
_MAX_BLIND: Final = 5


def gaps(report: Report) -> list[Gap]:
    """All gaps of a report, worst first."""
    return [
        *_unread(report),
        *_ends(report),
        *_blind(report),
        *_lost(report.counters, is_input=is_from_input(report)),
        *_unseen(report),
        *_unwatched(report),
        *_imprecise(report),
    ]


def _ends(report: Report) -> list[Gap]:
    found = [Gap(text, is_loss=True) for target in report.trace.targets if (text := _end_of(target))]
    if report.trace.recording_error is not None:
        found.append(
            Gap(
                f"the end of the recording was kept in memory only: {printable(report.trace.recording_error)}",
                is_loss=True,
            )
        )
    if report.trace.end_reason is None:
        found.append(
            Gap(
                "the recorder was stopped before it could finish; this is the state at the last snapshot, "
                f"{format_duration(report.trace.duration_s)} after the start",
                is_loss=True,
            )
        )
    return found


def _unread(report: Report) -> list[Gap]:
    """Parts of recorded output that were not understood."""
    return [Gap(printable(event.text), is_loss=True) for event in report.trace.events if event.what == "unread"]


def _blind(report: Report) -> list[Gap]:
    """Times when probes were gone from the target."""
    n_lost = report.counters.get("probes_lost", 0)
    found = [Gap(printable(event.text), is_loss=True) for event in report.trace.events if event.what == "blind"]
    if len(found) > _MAX_BLIND:
        rest = len(found) - _MAX_BLIND
        text = f"probes were gone from the target {rest:,} more times, {n_lost:,} probes in all; see `notes` in JSON"
        found[_MAX_BLIND:] = [Gap(text, is_loss=True)]
    elif n_lost and not found:
        found.append(Gap(f"{n_lost:,} probes were gone from the target for a time: calls are missing", is_loss=True))
    return found


def _end_of(target: TargetInfo) -> str:
    who = f"{printable(target.comm)} (PID {target.pid})"
    match target.end:
        case TargetEnd.OOM_KILLED:
            return f"{who} was killed by the kernel's OOM killer during the trace (out of memory)"
        case TargetEnd.KILLED:
            return f"{who} was killed during the trace" + (
                f" by signal {target.end_signal}" if target.end_signal else ""
            )
        case TargetEnd.EXITED:
            return f"{who} exited during the trace"
        case TargetEnd.EXEC:
            return f"{who} replaced itself with another program (exec); the report ends there"
        case _:
            return ""


def is_from_input(report: Report) -> bool:
    """Whether the report is of output that another program recorded (``--input``)."""
    return bool(report.trace.info.options.get("inputs"))


def _lost(counters: Mapping[str, int], *, is_input: bool = False) -> list[Gap]:
    found = []
    if n_lost := counters["lost_allocations"]:
        found.append(
            Gap(
                f"{n_lost:,} allocations ({format_bytes(counters['lost_bytes'])}) were dropped (map full) and are "
                "missing from the totals",
                "trace with a larger --max-allocations, or ignore small blocks with --min-size",
                is_loss=True,
            )
        )
    for name, (text, remedy) in (_LOSSES | (_LOSSES_OF_INPUT if is_input else {})).items():
        if n_lost := counters.get(name, 0):
            found.append(Gap(text.format(f"{n_lost:,}"), remedy, is_loss=True))
    return found


def _unseen(report: Report) -> list[Gap]:
    """Functions that could not be probed without harm."""
    return [
        Gap(f"{printable(event.text)}: what it allocates is in no total", is_loss=True)
        for event in report.trace.events
        if event.what == "unseen"
    ]


def _unwatched(report: Report) -> list[Gap]:
    """Parts of the trace without heap allocations, left out to stay within the budget."""
    trace, found = report.trace, []
    if "malloc" in trace.info.probes and any(window.level in _UNWATCHED for window in trace.windows):
        unwatched_s = sum(window.to_s - window.from_s for window in trace.windows if window.level in _UNWATCHED)
        watched_s = max(0.0, trace.duration_s - unwatched_s)
        if report.sums.in_windows:
            text = f"malloc was watched {share_text(report)}, to stay within --max-overhead; growth is estimated from"
            return [Gap(f"{text} what is left of the blocks of all windows", price_text(report)), *_uncertain(report)]
        found.append(
            Gap(
                f"malloc was watched for {format_duration(watched_s)} of {format_duration(trace.duration_s)}, to stay "
                "within --max-overhead or --max-memory",
                price_text(report),
                is_loss=True,
            )
        )
    return [*found, *_uncertain(report)]


def _uncertain(report: Report) -> list[Gap]:
    """Outstanding blocks whose frees may have gone unseen."""
    if n_uncertain := report.counters.get("uncertain_allocations", 0):
        n_bytes = format_bytes(report.counters.get("uncertain_bytes", 0))
        return [
            Gap(
                f"{n_bytes} in {n_uncertain:,} outstanding heap blocks may have been freed while frees were not watched"
            )
        ]
    return []


def _cut_stacks(counters: Mapping[str, int]) -> list[Gap]:
    n_cut = counters["truncated_stacks"]
    if not n_cut:
        return []
    prefix = "stacks_ended_"
    causes = {name.removeprefix(prefix).replace("_", " "): n for name, n in counters.items() if name.startswith(prefix)}
    n_deep = n_cut - sum(causes.values())
    if n_deep > 0:
        causes["middle frames left out"] = n_deep
    listed = ", ".join(f"{cause}: {n:,}" for cause, n in sorted(causes.items(), key=lambda item: -item[1]))
    remedy = "trace with --max-depth 512 to keep more frames" if n_deep > 0 else ""
    if "no frame pointer" in causes:
        remedy = "trace with --unwind tables, which needs no frame pointers"
    return [Gap(f"{n_cut:,} distinct stacks are incomplete ({listed})", remedy)]


def _guesses(report: Report) -> list[Gap]:
    whole = report.sums.outstanding_bytes
    without = [event.text for event in report.trace.events if event.what == "unwind"]
    return [
        Gap(
            f"callers above {printable(module)} are guesses (marked [?]) or missing, because "
            f"{_why_guessed(module, without)}; {100 * n_bytes / whole:.1f} % of the outstanding bytes have such a stack"
        )
        for module, n_bytes in sorted(report.guessed.items(), key=lambda item: -item[1])
        if whole
    ]


def _why_guessed(module: str, without: Sequence[str]) -> str:
    if any(text.startswith(f"{module} ") for text in without) or " " in module:
        return "it has no unwind information"
    return "that code has no unwind information or its table was not ready yet"


def _distances(trace: TraceFacts) -> str:
    """Mean bytes from one sample to the next, or their range where the budget changed them."""
    least = min((window.sample_bytes for window in trace.windows if window.sample_bytes), default=trace.sample_bytes)
    most = format_bytes(trace.sample_bytes)
    return most if least == trace.sample_bytes else f"{format_bytes(least)} to {most}"


def _how_certain(report: Report) -> str:
    certainty = report.sums.certainty
    if certainty is None:
        return ""
    return (
        f"; the outstanding bytes are accurate to \N{PLUS-MINUS SIGN} {certainty.error_pct:.2g} % (95 % confidence, "
        f"from {certainty.n_sampled:,} blocks)"
    )


def _imprecise(report: Report) -> list[Gap]:
    counters, info = report.counters, report.trace.info
    found = []
    if lost := info.coverage.not_available:
        found.append(
            Gap(
                f"recorded with {printable(info.backend)}; not available: {printable(lost)}",
                "" if is_from_input(report) else "nativeleak doctor says which engines work here",
            )
        )
    if report.trace.sample_bytes:
        found.append(
            Gap(
                f"heap totals are estimates from samples, one block per {_distances(report.trace)} on average; "
                f"larger blocks are all recorded{_how_certain(report)}",
                "for exact totals trace without --sample and with --max-overhead off",
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
                f"{n_unresolved:,} of {n_all:,} frames have no name and are shown as an address",
                "install debug symbols for the module in the brackets after the address",
            )
        )
    if n_frees := counters.get("unsampled_frees", 0):
        found.append(Gap(f"{n_frees:,} frees were of blocks that were not sampled or are older than the trace"))
    if n_frees := counters["unmatched_frees"]:
        found.append(Gap(f"{n_frees:,} frees were of blocks older than the trace; they do not change the totals"))
    return found
