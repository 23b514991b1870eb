"""A look at a Java heap as text for people: the answer first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nativeleak.runtimes.hotspot.heap.graph import State
from nativeleak.runtimes.hotspot.heap.result import HolderGroup, JavaHolders, Pool
from nativeleak.units import format_bytes

_MAX_GROUPS: Final = 12
_MIN_SHARE: Final = 0.01
_FIRST_STEPS: Final = 2
_COLUMN: Final = 14

STATE_WORDS: Final = {
    State.CLEANER: "CLEANER ONLY",
    State.NONE: "NO REFERRER",
    State.WEAK: "weak reference only",
    State.SOFT: "soft reference only",
    State.OPEN: "held, not followed to the end",
    State.MOVING: "young, moved while it was looked at",
}
_ADVICE: Final = {
    State.CLEANER: (
        "Java dropped these objects; their memory is freed after the next collection that sees them.",
        "Next: free them in the program (close(), end()), or collect more often: a smaller -Xmx, or once"
        " jcmd PID GC.run. For direct buffers -XX:MaxDirectMemorySize forces a collection at its limit.",
    ),
    State.NONE: (
        "Nothing refers to these objects, and no cleaner was seen that frees their memory: likely leaked.",
        "Next: find where the program drops them without close(), release() or free().",
    ),
}


def holders_java_text(result: JavaHolders, *, show_all: bool = False, n_most: int = _MAX_GROUPS) -> str:
    """The page, with a newline at its end; empty where there is nothing to say.

    Args:
        result: Of the look.
        show_all: Every group with all of its path.
        n_most: Groups without it.
    """
    if result.not_read is not None:
        return f"Java heap   not read: {result.not_read}\n"
    lines = [_header(result), *_groups(result, n_most, show_all=show_all)]
    lines += [line for pool in result.pools for line in _pool(pool, whole=result.completeness.cut_short is None)]
    lines += _completeness(result)
    return "\n".join(lines) + "\n"


def way_text(group: HolderGroup, *, show_all: bool = False) -> str:
    """How a group is held, in a line: ``A.address <- B.memory <- ... <- Gateway.pending (java.util.ArrayList)``.

    Args:
        group: Of holders.
        show_all: No step is left out.
    """
    text = group.holder + (" (inside)" if group.is_inside else "")
    own = group.owner.partition(" (")[0]
    steps = list(group.path)
    above: list[str] = []
    if own in steps:
        at = steps.index(own)
        steps, above = steps[:at], steps[at + 1 :]
    if len(steps) > _FIRST_STEPS and not show_all:
        steps = [steps[0], "..."]
    if len(above) > 1 and not show_all:
        above = ["...", above[-1]]
    text = " <- ".join([text, *steps, *([group.owner] if own else []), *above])
    is_said = group.root.removeprefix("static ") == own or group.root == group.holder
    return text if not group.root or is_said else f"{text} <- {group.root}"


def _header(result: JavaHolders) -> str:
    return (
        f"Java objects hold {format_bytes(result.n_bytes)} in {result.n_blocks:,} of {result.n_given:,} native blocks"
        f" ({result.collector})"
    )


def _groups(result: JavaHolders, n_most: int, *, show_all: bool) -> Iterator[str]:
    groups = result.groups
    shown = [
        group
        for number, group in enumerate(groups)
        if show_all or (number < n_most and group.n_bytes >= _MIN_SHARE * result.n_bytes)
    ]
    said: set[State] = set()
    for group in shown:
        yield f"{format_bytes(group.n_bytes):>{_COLUMN}}  {_count(group)}: {way_text(group, show_all=show_all)}"
        if group.state in STATE_WORDS:
            yield f"{'':>{_COLUMN}}  {STATE_WORDS[group.state]}"
        if group.state in _ADVICE and group.state not in said:
            said.add(group.state)
            yield from (f"{'':>{_COLUMN}}  {line}" for line in _ADVICE[group.state])
    rest = sum(group.n_bytes for group in groups) - sum(group.n_bytes for group in shown)
    if rest:
        yield f"{format_bytes(rest):>{_COLUMN}}  {len(groups) - len(shown)} more groups"


def _count(group: HolderGroup) -> str:
    """``147 x 16 MiB``."""
    if group.n_sizes == 1:
        return f"{group.n_blocks:,} x {format_bytes(group.sizes[0][0])}"
    return f"{group.n_blocks:,} blocks"


def _pool(pool: Pool, *, whole: bool) -> Iterator[str]:
    yield (
        f"Netty's {pool.kind} allocator: {pool.n_chunks:,} chunks, {format_bytes(pool.chunk_bytes)};"
        f" in use {format_bytes(pool.in_use_bytes)}"
    )
    yield (f"{format_bytes(pool.buffer_bytes):>{_COLUMN}}  {pool.n_buffers:,} buffers that the program can reach")
    if pool.cached_bytes:
        yield f"{format_bytes(pool.cached_bytes):>{_COLUMN}}  caches of threads"
    if pool.lost_bytes:
        bound = "" if pool.kind == "pooled" and whole else "at most; "
        garbage = f", {pool.n_garbage:,} of them not collected yet" if pool.n_garbage else ""
        said = f"dropped without release() ({bound}no buffer has it{garbage})"
        yield f"{format_bytes(pool.lost_bytes):>{_COLUMN}}  {said}"
        yield f"{'':>{_COLUMN}}  Next: -Dio.netty.leakDetection.level=paranoid names where such buffers were last used."


def _completeness(result: JavaHolders) -> Iterator[str]:
    whole = result.completeness
    if whole.absent_bytes:
        yield f"note: {format_bytes(whole.absent_bytes)} of the Java heap are in use but not in memory: not read"
    if whole.cut_short is not None:
        yield f"note: ended early: {whole.cut_short}; {whole.n_unfollowed:,} objects were not followed to the end"
    if whole.n_sampled:
        yield f"note: {whole.n_sampled:,} of the holders were followed upwards; the others count like their neighbours"
    if whole.n_collections:
        moved = f"{whole.n_young:,} holders were moved or are young"
        yield f"note: {whole.n_collections:,} collections ran meanwhile; {moved}"
    yield from (f"note: not read: {note}" for note in whole.notes)
