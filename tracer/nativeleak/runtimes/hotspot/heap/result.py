"""What a look at a Java heap finds, and its JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nativeleak.runtimes.hotspot.heap.graph import State
from nativeleak.runtimes.hotspot.heap.pages import Numbers


@dataclass(frozen=True, slots=True)
class HolderGroup:
    """Objects of one class that hold native blocks by one field and are held in one way.

    A block that several objects point into counts in one group alone: that of the strongest, an exact address before
    one inside of the block.

    Attributes:
        holder: Class and field, ``java.nio.DirectByteBuffer.address``; ``long[]`` for an array.
        state: How the objects are held.
        path: Class and field of each reference upwards, as it is for most of them. Arrays and the inner classes of
            collections are left out.
        root: The end of the path: ``static Gateway.PENDING``, ``thread main``, ``stack of thread main``, a handle;
            empty where none was reached.
        owner: The first field of the program on the path, with the type of what it refers to:
            ``Gateway.pending (java.util.ArrayList)``; empty where there is none.
        n_objects: How many.
        blocks: Indices of the blocks, ascending.
        n_bytes: Of the blocks.
        sizes: (bytes, number) of the blocks, those with the most bytes first; at most eight.
        n_sizes: How many sizes there are.
        is_inside: The addresses are inside of the blocks, not at their starts.
    """

    holder: str
    state: State
    path: tuple[str, ...]
    root: str
    owner: str
    n_objects: int
    blocks: Numbers
    n_bytes: int
    sizes: tuple[tuple[int, int], ...]
    n_sizes: int
    is_inside: bool = False

    @property
    def n_blocks(self) -> int:
        """How many blocks."""
        return len(self.blocks)


@dataclass(frozen=True, slots=True)
class Pool:
    """One allocator of Netty.

    Attributes:
        kind: ``pooled`` or ``adaptive``.
        n_chunks: Chunks with native memory.
        chunk_bytes: Their sizes.
        in_use_bytes: Of this, what the pool counts as given out.
        n_buffers: Buffers that the program can still reach.
        buffer_bytes: What they take of the pool.
        n_garbage: Buffers that were dropped without release() and not collected yet.
        garbage_bytes: What they take of the pool.
        cached_bytes: What threads' caches keep; it counts as in use.
        unaccounted_bytes: In use, but no buffer's: dropped without release(), at most; caches are taken off.
    """

    kind: str
    n_chunks: int
    chunk_bytes: int
    in_use_bytes: int
    n_buffers: int
    buffer_bytes: int
    n_garbage: int
    garbage_bytes: int
    cached_bytes: int
    unaccounted_bytes: int

    @property
    def lost_bytes(self) -> int:
        """Dropped without release(): garbage buffers, and what no buffer accounts for."""
        return self.garbage_bytes + self.unaccounted_bytes


@dataclass(frozen=True, slots=True)
class Completeness:
    """What a look at a heap has read, and what it has not.

    Attributes:
        heap_bytes: Of the heap in use and in memory: read in each pass.
        absent_bytes: Of the heap in use, but not in memory (swapped out, or never touched).
        n_passes: Over the heap.
        n_tries: Looks from the beginning: one more each time that many holders were moved.
        n_collections: During the passes; None if unknown.
        n_rejected: Words that point into a block and are no ``long`` of an object: by chance, or of an unknown class.
        n_unresolved: References whose object was not found.
        n_unfollowed: Objects whose referrers were not all looked for.
        n_sampled: Of the holders: followed upwards; the others count as held like their neighbours. 0: all were.
        n_young: Objects that were moved or collected meanwhile.
        cut_short: Which bound ended it early; None if none did.
        notes: What else could not be read, for people.
    """

    heap_bytes: int = 0
    absent_bytes: int = 0
    n_passes: int = 0
    n_tries: int = 1
    n_collections: int | None = None
    n_rejected: int = 0
    n_unresolved: int = 0
    n_unfollowed: int = 0
    n_sampled: int = 0
    n_young: int = 0
    cut_short: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JavaHolders:
    """Which Java objects hold native blocks.

    Attributes:
        collector: ``G1``, ``Serial``, ``Parallel``, or another; empty if unknown.
        not_read: Why the heap was not read, for people; None where it was.
        groups: Those with the most bytes first.
        pools: Netty's.
        n_blocks: Blocks that Java objects point into.
        n_bytes: Of these.
        n_given: Blocks that were looked for.
        completeness: What was read.
    """

    collector: str
    not_read: str | None = None
    groups: tuple[HolderGroup, ...] = ()
    pools: tuple[Pool, ...] = ()
    n_blocks: int = 0
    n_bytes: int = 0
    n_given: int = 0
    completeness: Completeness = field(default_factory=Completeness)


def holders_java_json(result: JavaHolders) -> dict[str, Any]:
    """The object ``java_holders`` of JSON reports.

    Returns:
        ``collector``, ``not_read`` (null or a text), ``blocks``, ``bytes``, ``blocks_looked_for``;
        ``holders``: ``[{"holder", "state", "objects", "blocks", "bytes", "sizes": [{"bytes", "count"}], "inside",
        "owner", "root", "path": []}]``, where ``state`` is a value of ``State``;
        ``pools``: ``[{"kind", "chunks", "chunk_bytes", "in_use_bytes", "buffers", "buffer_bytes", "garbage_buffers",
        "garbage_bytes", "cached_bytes", "unaccounted_bytes", "lost_bytes"}]``;
        ``completeness``: the attributes of ``Completeness``, and ``read`` (false where ``not_read`` says why).
    """
    whole = result.completeness
    return {
        "collector": result.collector,
        "not_read": result.not_read,
        "blocks": result.n_blocks,
        "bytes": result.n_bytes,
        "blocks_looked_for": result.n_given,
        "holders": [_group(group) for group in result.groups],
        "pools": [_pool(pool) for pool in result.pools],
        "completeness": {
            "read": result.not_read is None,
            "heap_bytes": whole.heap_bytes,
            "absent_bytes": whole.absent_bytes,
            "passes": whole.n_passes,
            "tries": whole.n_tries,
            "collections": whole.n_collections,
            "rejected_words": whole.n_rejected,
            "unresolved_references": whole.n_unresolved,
            "unfollowed_objects": whole.n_unfollowed,
            "sampled_holders": whole.n_sampled,
            "young_objects": whole.n_young,
            "cut_short": whole.cut_short,
            "notes": list(whole.notes),
        },
    }


def _group(group: HolderGroup) -> dict[str, Any]:
    return {
        "holder": group.holder,
        "state": group.state.value,
        "objects": group.n_objects,
        "blocks": group.n_blocks,
        "bytes": group.n_bytes,
        "sizes": [{"bytes": size, "count": count} for size, count in group.sizes],
        "inside": group.is_inside,
        "owner": group.owner or None,
        "root": group.root or None,
        "path": list(group.path),
    }


def _pool(pool: Pool) -> dict[str, Any]:
    return {
        "kind": pool.kind,
        "chunks": pool.n_chunks,
        "chunk_bytes": pool.chunk_bytes,
        "in_use_bytes": pool.in_use_bytes,
        "buffers": pool.n_buffers,
        "buffer_bytes": pool.buffer_bytes,
        "garbage_buffers": pool.n_garbage,
        "garbage_bytes": pool.garbage_bytes,
        "cached_bytes": pool.cached_bytes,
        "unaccounted_bytes": pool.unaccounted_bytes,
        "lost_bytes": pool.lost_bytes,
    }
