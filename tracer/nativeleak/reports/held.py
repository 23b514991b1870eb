"""Who holds the blocks of a finding, by a look at the process after the trace, and which are lost."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from nativeleak.analysis.finding import Finding
from nativeleak.model import BlockFate, Kind, Look, SiteFate, TargetInfo, sum_of_fates
from nativeleak.recording import Recording
from nativeleak.reports.names import printable
from nativeleak.units import format_bytes

Json = dict[str, Any]

PROVEN: Final = "proven"
LIKELY: Final = "likely"
_MAX_NAMES: Final = 3


@dataclass(frozen=True, slots=True)
class Held:
    """What is known of the blocks of a recording.

    Attributes:
        looks: By target; none where nobody looked.
        fates: By position in ``Recording.sites``.
    """

    looks: tuple[Look, ...] = ()
    fates: Mapping[int, BlockFate] = field(default_factory=dict)

    @classmethod
    def read(cls, recording: Recording) -> Self:
        """What a recording has of it.

        Raises:
            RecordingError: It is damaged.
        """
        return cls.of_fates(recording, recording.fates(), recording.looks) if recording.looks else cls()

    @classmethod
    def of_fates(cls, recording: Recording, fates: Iterable[SiteFate], looks: tuple[Look, ...] = ()) -> Self:
        """What a look found of the sites of a recording."""
        by_key = {(each.slot, each.thread_uid, each.stack_key): each.fate for each in fates}
        columns = recording.site_columns
        keys = zip(columns.kind, columns.slot, columns.thread_uid, columns.stack_key, strict=True)
        found = {
            position: by_key[key] for position, (kind, *names) in enumerate(keys)
            if kind == Kind.HEAP.value and (key := (names[0], names[1], names[2])) in by_key
        }  # fmt: skip
        return cls(looks, found)

    def of(self, finding: Finding) -> BlockFate | None:
        """What became of a finding's blocks; None where nothing is known of any."""
        fates = [self.fates[each] for each in finding.positions if each in self.fates]
        return sum_of_fates(fates) if fates else None

    def certainty(self, finding: Finding) -> str:
        """How certain it is that its lost blocks are: the least certain look of its targets."""
        return self.certainty_of(finding.slots)

    def certainty_of(self, slots: Collection[int]) -> str:
        """The least certain of what the looks at some targets say of lost blocks."""
        return least_certain(look for look in self.looks if look.slot in slots)

    def is_lost(self, finding: Finding) -> bool:
        """Whether it is proven that all of its blocks are lost: no cache, then."""
        fate = self.of(finding)
        return fate is not None and 0 < fate.n_in_use == fate.n_lost and self.certainty(finding) == PROVEN


def least_certain(looks: Iterable[Look]) -> str:
    """The least certain of what some looks say of lost blocks; empty where none found any."""
    return max({look.certainty for look in looks if look.certainty}, key=_doubt, default="")


def _doubt(certainty: str) -> tuple[bool, str]:
    return certainty != PROVEN, certainty


def fate_json(fate: BlockFate, certainty: str) -> Json:
    """What became of some blocks; source: docs/holders.md."""
    return {
        "recorded_blocks": fate.n_recorded,
        "blocks_in_use": fate.n_in_use,
        "lost_blocks": fate.n_lost,
        "lost_bytes": fate.lost_bytes,
        "lost_pct": round(fate.lost_pct, 1),
        "certainty": certainty if fate.n_lost else None,
        "held_by": [{"holder": name, "blocks": count} for name, count in fate.held_by],
    }


def looks_json(looks: Iterable[Look], targets: Iterable[TargetInfo]) -> list[Json]:
    """The looks, one a target."""
    pids = {target.slot: target.pid for target in targets}
    return [
        {
            "process": pids.get(look.slot, 0),
            "after_s": round(look.after_s, 1),
            "certainty": look.certainty or None,
            "blocks_unlisted": look.n_unlisted,
            "why_not": look.why_not or None,
        }
        for look in looks
    ]


def fate_text(held: Held, finding: Finding) -> str:
    """What became of a finding's blocks, in few words; empty where nothing is known."""
    return fate_words(held.of(finding), held.certainty(finding))


def fate_words(fate: BlockFate | None, certainty: str) -> str:
    """What became of some blocks, in few words; empty where nothing is known."""
    if fate is None:
        return ""
    if not fate.n_in_use:
        return "all freed since the trace"
    parts = []
    if fate.n_lost:
        parts.append(f"leak, {printable(certainty)}: {fate.lost_pct:.0f} % of its blocks unreachable")
    if fate.held_by:
        more = " and others" if len(fate.held_by) > 1 else ""
        parts.append(f"{'the others ' if fate.n_lost else ''}held by {printable(fate.held_by[0][0])}{more}")
    return ", ".join(parts)


def lost_text(held: Held, findings: Iterable[Finding], least_bytes: float) -> str:
    """The lost blocks of some findings in one line; empty where they are fewer bytes than count."""
    lost = [(each, fate) for each in findings if (fate := held.of(each)) is not None and fate.n_lost]
    n_bytes, n_blocks = (sum(getattr(fate, name) for _, fate in lost) for name in ("lost_bytes", "n_lost"))
    if not lost or n_bytes < least_bytes:
        return ""
    lost.sort(key=lambda each: -each[1].lost_bytes)
    certainty = max((held.certainty(finding) for finding, _ in lost), key=_doubt)
    names = ", ".join(printable(finding.name) for finding, _ in lost[:_MAX_NAMES])
    more = f" and {len(lost) - _MAX_NAMES} more" if len(lost) > _MAX_NAMES else ""
    blocks = f"{n_blocks:,} block{'s' if n_blocks != 1 else ''}, {format_bytes(n_bytes)},"
    return f"LEAK, {printable(certainty)}: no pointer leads to {blocks} of {names}{more}"


def why_not_held(held: Held) -> str:
    """Why it is not known who holds the blocks; empty where it is known, or nobody asked."""
    return "; ".join(dict.fromkeys(printable(look.why_not) for look in held.looks if look.why_not))
