"""What a look at the holders of a process found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nativeleak.holders.attribution import ClassCensus, Holder
from nativeleak.model import SiteFate
from nativeleak.process.check import TargetFacts
from nativeleak.runtimes.hotspot.heap.result import JavaHolders

if TYPE_CHECKING:
    from nativeleak.holders.recorded import RecordedBlocks, TracedCause

PROVEN, LIKELY, POSSIBLE = "proven", "likely", "possible"


@dataclass(frozen=True, slots=True)
class LostGroup:
    """Lost blocks that look alike.

    Attributes:
        block_bytes: Size as the allocator counts it.
        n_blocks: How many.
        n_bytes: Together.
        class_name: Dynamic type; empty for none.
        hint: What their contents look like; empty for nothing.
        example: Address of one.
    """

    block_bytes: int
    n_blocks: int
    n_bytes: int
    class_name: str
    hint: str
    example: int


@dataclass(frozen=True, slots=True)
class LostBlocks:
    """Blocks of one grade.

    Attributes:
        grade: ``lost``, ``leftover``, ``hidden``; see ``lost``.
        certainty: ``proven``, ``likely``, ``possible``.
        why: What makes it less than proven, or what the grade means.
        n_blocks: How many.
        n_bytes: Together, as the allocator counts them.
        groups: By class, size and contents, the largest first.
        starts: Addresses, ascending.
    """

    grade: str
    certainty: str
    why: str
    n_blocks: int
    n_bytes: int
    groups: tuple[LostGroup, ...]
    starts: Sequence[int] = ()


@dataclass(slots=True)
class Completeness:
    """What was seen of the process, and what was not.

    Attributes:
        n_scans: Whole scans.
        wanted_scans: Scans that were to be made.
        n_blocks: Live blocks in the last scan.
        n_bytes: Their bytes.
        read_bytes: Read in all scans.
        missed_bytes: Gone when they were to be read.
        unwalked_bytes: Of the allocators' memory, not read as blocks.
        swapped_bytes: Swapped out, not read.
        sees_registers: Registers of all threads were read.
        n_edges: Pointers from block to block, in the last scan.
        n_roots: Pointers from elsewhere.
        refuted: Blocks that one scan called lost and that were written to later, by size.
        n_freed: Blocks that one scan called lost and that were freed later.
        n_unsettled: Blocks that the last scan took back, after all scans that the limits allow.
        helper: ``C`` or ``numpy``.
        seconds: Of the whole look.
        last_scan_s: Of the last scan.
    """

    n_scans: int = 0
    wanted_scans: int = 0
    n_blocks: int = 0
    n_bytes: int = 0
    read_bytes: int = 0
    missed_bytes: int = 0
    unwalked_bytes: int = 0
    swapped_bytes: int = 0
    sees_registers: bool = False
    n_edges: int = 0
    n_roots: int = 0
    refuted: dict[int, int] = field(default_factory=dict)
    n_freed: int = 0
    n_unsettled: int = 0
    helper: str = ""
    seconds: float = 0.0
    last_scan_s: float = 0.0


@dataclass(slots=True)
class HoldersReport:
    """Who holds the native memory of a process.

    Attributes:
        target: The process.
        allocators: Kind and file of each allocator that was walked.
        lost: By grade; None where the scans do not allow to say.
        why_not_lost: Why nothing is said about lost blocks.
        holders: The largest first.
        classes: The largest first.
        unreached_bytes: Of the last scan, blocks that no holder reaches.
        completeness: What was seen.
        notes: What could not be read, for people.
        recorded: Blocks of a recording that the look was joined with; None without one.
        fates: What became of them, by site.
        traced: The same by cause, where that was asked for.
        java: Which Java objects hold blocks; None where there is no JVM, or it could not be read.
    """

    target: TargetFacts
    allocators: list[tuple[str, str]] = field(default_factory=list)
    lost: list[LostBlocks] | None = None
    why_not_lost: str = ""
    holders: list[Holder] = field(default_factory=list)
    classes: list[ClassCensus] = field(default_factory=list)
    unreached_bytes: int = 0
    completeness: Completeness = field(default_factory=Completeness)
    notes: list[str] = field(default_factory=list)
    java: JavaHolders | None = None
    recorded: RecordedBlocks | None = None
    fates: list[SiteFate] = field(default_factory=list)
    traced: list[TracedCause] = field(default_factory=list)

    def grade(self, name: str) -> LostBlocks | None:
        """The blocks of one grade; None for none."""
        return next((each for each in self.lost or () if each.grade == name), None)
