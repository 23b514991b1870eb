"""What walks of the heap before and after a trace say, beside what its call sites hold: the sum that must come out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nativeleak.model import HeapCensus, InUse, Kind
from nativeleak.recording import Recording
from nativeleak.reports.names import printable
from nativeleak.units import format_bytes, format_duration

Json = dict[str, Any]

_NOISE_SHARE: Final = 0.001
"""Of all blocks in use: what a walk of a heap in motion may be off by."""
_NOISE_BLOCKS: Final = 8
_UNEVEN: Final = 3.0
_LEAST_S: Final = 1e-3


@dataclass(frozen=True, slots=True)
class CensusSum:
    """The walks of one target, and what the call sites of its heap hold at the end.

    Attributes:
        pid: The target.
        walks: Both.
        n_blocks: Blocks outstanding.
        n_bytes: Their requested bytes.
        traced_s: How long the trace lasted.
        apart_s: Time between the walks that was not traced.
    """

    pid: int
    walks: HeapCensus
    n_blocks: int
    n_bytes: int
    traced_s: float = 0.0
    apart_s: float = 0.0


def read_sums(recording: Recording) -> tuple[CensusSum, ...]:
    """One for each target whose heap was to be walked.

    Raises:
        RecordingError: The recording is damaged.
    """
    if not recording.census:
        return ()
    blocks: dict[int, int] = {}
    n_bytes: dict[int, int] = {}
    for site in recording.sites:
        if site.key.kind is Kind.HEAP:
            blocks[site.key.slot] = blocks.get(site.key.slot, 0) + site.outstanding_count
            n_bytes[site.key.slot] = n_bytes.get(site.key.slot, 0) + site.outstanding_bytes
    pids = {target.slot: target.pid for target in recording.targets}
    made = []
    for each in recording.census:
        apart_s = max(0.0, each.after_at - each.before_at - recording.elapsed_s)
        held = blocks.get(each.slot, 0), n_bytes.get(each.slot, 0)
        made.append(CensusSum(pids.get(each.slot, 0), each, *held, recording.elapsed_s, apart_s))
    return tuple(made)


def census_lines(sums: Sequence[CensusSum], *, is_exact: bool) -> Iterator[str]:
    """The sums in words.

    Args:
        sums: One for each target.
        is_exact: Every allocation of the whole trace was watched: then the call sites must explain the growth.
    """
    for each in sums:
        before, after, why_not = each.walks.before, each.walks.after, each.walks.why_not
        of = f"PID {each.pid}: " if len(sums) > 1 else ""
        if before is None or after is None:
            yield f"{of}not known: {printable(why_not)}"
            continue
        n = after.n_blocks - before.n_blocks
        grown = f"{of}{n:+,} blocks in use, {_signed(after.n_bytes - before.n_bytes)}, by walks before and after"
        yield f"{grown}; {_explained(each, before, after) if is_exact else _held(each)}"


def _held(each: CensusSum) -> str:
    return f"call sites hold {each.n_blocks:,} blocks, {format_bytes(each.n_bytes)}"


def _explained(each: CensusSum, before: InUse, after: InUse) -> str:
    noise = max(_NOISE_BLOCKS, _NOISE_SHARE * max(before.n_blocks, after.n_blocks))
    missing = after.n_blocks - before.n_blocks - each.n_blocks
    if missing < -noise:
        return f"{_held(each)}; {-missing:,} from before the trace were freed"
    if missing <= noise:
        return f"{_held(each)}: all of it"
    # In the moments that were not traced as much may have come as in the trace, and some more.
    if missing <= noise + _UNEVEN * each.n_blocks * each.apart_s / max(each.traced_s, _LEAST_S):
        apart = format_duration(each.apart_s)
        return f"{_held(each)}, and the others fit into the {apart} that the walks lie further apart"
    return f"{_held(each)}: {missing:,} blocks were allocated unseen"


def _signed(n_bytes: int) -> str:
    return f"{'+' if n_bytes >= 0 else '-'}{format_bytes(abs(n_bytes))}"


def census_json(sums: Sequence[CensusSum]) -> list[Json]:
    """The sums, one a target."""
    return [
        {
            "process": each.pid,
            "before": _in_use(each.walks.before),
            "after": _in_use(each.walks.after),
            "outstanding_blocks": each.n_blocks,
            "outstanding_bytes": each.n_bytes,
            "why_not": each.walks.why_not or None,
        }
        for each in sums
    ]


def _in_use(counted: InUse | None) -> Json | None:
    return None if counted is None else dict(zip(("blocks", "bytes", "unread_bytes"), counted, strict=True))
