"""What became of the blocks of a trace, by a look at the process after it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

_MAX_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class BlockFate:
    """What became of some outstanding blocks.

    Attributes:
        n_recorded: Blocks that were outstanding at the end of the trace.
        n_in_use: Of these, in use at the look.
        n_lost: Of these, lost: no pointer leads to them in any scan.
        lost_bytes: Requested bytes of these.
        held_by: Nearest holders of the others with their numbers of blocks, most first.
    """

    n_recorded: int = 0
    n_in_use: int = 0
    n_lost: int = 0
    lost_bytes: int = 0
    held_by: tuple[tuple[str, int], ...] = ()

    @property
    def lost_pct(self) -> float:
        """Of the blocks in use, those that are lost, in percent."""
        return 100.0 * self.n_lost / self.n_in_use if self.n_in_use else 0.0


class SiteFate(NamedTuple):
    """What became of the heap blocks of one site; the first three name it as in ``SiteKey``."""

    slot: int
    thread_uid: int
    stack_key: int
    fate: BlockFate


class Look(NamedTuple):
    """A look at one target after the trace.

    Attributes:
        slot: The target.
        after_s: Seconds between the end of the trace and the look.
        certainty: Of lost blocks: ``proven`` or ``likely``; empty where none was found.
        why_not: Why nothing is known of its blocks; empty where it is.
        n_unlisted: Outstanding blocks whose addresses the recording leaves out.
    """

    slot: int
    after_s: float
    certainty: str = ""
    why_not: str = ""
    n_unlisted: int = 0


def sum_of_fates(fates: Iterable[BlockFate], n_holders: int = _MAX_SHOWN) -> BlockFate:
    """What became of all of them together.

    Args:
        fates: Of different blocks.
        n_holders: Most holders that are named.
    """
    n_recorded = n_in_use = n_lost = lost_bytes = 0
    holders: dict[str, int] = {}
    for fate in fates:
        n_recorded += fate.n_recorded
        n_in_use += fate.n_in_use
        n_lost += fate.n_lost
        lost_bytes += fate.lost_bytes
        for name, count in fate.held_by:
            holders[name] = holders.get(name, 0) + count
    most = sorted(holders.items(), key=lambda item: -item[1])[:n_holders]
    return BlockFate(n_recorded, n_in_use, n_lost, lost_bytes, tuple(most))
