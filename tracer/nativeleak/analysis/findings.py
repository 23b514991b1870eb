"""Findings: what grows and what holds much, each named by the frame where its paths meet.

The search begins at the frames that head the paths. A frame is the answer where what it allocates grows whoever calls
it. Where some of its callers keep nothing, the search goes on with those that do. A frame that everything passes
through is never the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np

from nativeleak.analysis.class_leaks import bound_of, following, leaks_classes, may_leak_classes, with_links
from nativeleak.analysis.curves import (
    MIN_WATCHED_PCT,
    Floats,
    Ints,
    Labelled,
    Span,
    median_ages,
    read_curves,
)
from nativeleak.analysis.finding import Finding, Findings, growth_of_all
from nativeleak.analysis.growth import Growth, Verdict, measure, watch_s
from nativeleak.analysis.joining import MEETING_SHARE, OF_THREADS, Joiner
from nativeleak.analysis.naming import Head, is_malloc
from nativeleak.analysis.part_rates import (
    About,
    about_part,
    curves_apart,
    holds_mappings,
    is_minor,
    rates_of_parts,
)
from nativeleak.analysis.parts import Part, merged
from nativeleak.analysis.paths import Paths, Step
from nativeleak.analysis.rows import Table, sums_by
from nativeleak.analysis.select import pool_of
from nativeleak.analysis.tree import Key, Node, Tree
from nativeleak.frames.display import JAVA
from nativeleak.frames.pools import is_pool
from nativeleak.model import Kind, Owner
from nativeleak.recording import Recording

_LEAST_HELD_SHARE: Final = 0.005
_LEAST_ALLOCATED_SHARE: Final = 0.02
_MAX_FRAMES: Final = 48
_MAX_FINDINGS: Final = 60
_CHURNED: Final = 1000.0
"""Bytes allocated and freed that count as much as one that is held, in the choice of findings."""

_MIN_EXPECTED: Final = 6.0
_CLEAN_SHARE: Final = 0.25
_HOLDING_SHARE: Final = 0.20
_NO_FRAME: Final = "many small call paths"
_NO_STACK: Final = "[stack lost]"
_MAX_APART: Final = 4
_MIN_GATHERED: Final = 8
_MAX_MET: Final = 1000
"""Most paths that a meeting point is looked for on: the largest."""
_LARGEST_GATHERED: Final = 0.30
_APART_SHARE: Final = 0.10
_APART_SIZES: Final = 1.2


def find(recording: Recording, table: Table, paths: Paths, span: Span) -> Findings:
    """The findings among the sites of a table.

    Args:
        recording: Where their courses come from.
        table: As ``table.site_table``: sites of the program and its runtime, with columns path_id and purpose.
        paths: With the paths of all their stacks.
        span: The snapshots to look at.

    Raises:
        RecordingError: The recording is damaged.
    """
    if not len(table):
        return Findings()
    found = _found(recording, table, paths, span)
    if not may_leak_classes(found):
        return found
    with_all = _found(recording, with_links(table), paths, span)
    return following(with_all) if leaks_classes(with_all) else found


def _found(recording: Recording, table: Table, paths: Paths, span: Span) -> Findings:
    search = _Search(recording, table, paths, span)
    parts = search.gathered(search.joined(merged(search.parts())))
    parts.sort(key=lambda part: -max(search.held(part), search.allocated(part) / _CHURNED))
    del parts[_MAX_FINDINGS:]
    return search.count(parts)


class _Search:
    def __init__(self, recording: Recording, table: Table, paths: Paths, span: Span) -> None:
        self._recording, self._table, self._paths, self._span = recording, table, paths, span
        self._classes: dict[tuple[str, str, int, str], int] = {}
        self._of_runtime: set[int] = set()
        self._held: Ints = table["outstanding_bytes"]
        held = self._held.astype(np.float64)
        allocated = table["allocated_bytes"].astype(np.float64)
        least = max(1.0, _LEAST_HELD_SHARE * held.sum()), max(1.0, _LEAST_ALLOCATED_SHARE * allocated.sum())
        weights = np.stack((held / least[0], allocated / least[1]), axis=1)
        self._tree = Tree(table.index, self._keys(), weights)
        self._row_of: Ints = np.full(len(recording.site_columns), -1, dtype=np.int64)
        self._row_of[table.index] = np.arange(len(table))
        self._join = Joiner(table, paths, self._row_of)
        tree = self._tree
        self._curves = read_curves(recording, [tree.ranges()], span, courses=True)[0]
        self._growths = measure(self._curves)
        self._node_of = {(int(tree.positions(node)[0]), node.stop - node.first): node for node in reversed(tree.nodes)}
        columns = ["allocated_count", "allocated_bytes", "freed_count"]
        whole = np.zeros((len(recording.site_columns), len(columns)))
        whole[table.index] = np.stack([table[name] for name in columns], axis=1)
        self._made = tree.ranges().sums(whole)

    def _keys(self) -> list[Key]:
        table = self._table
        known: dict[tuple[int, int], Key] = {}
        keys = []
        columns = ("kind", "owner", "slot", "path_id", "purpose")
        rows = zip(*(table[name].tolist() for name in columns), strict=True)
        for kind, owner, slot, path_id, purpose in rows:
            class_id = self._classes.setdefault((kind, owner, slot, purpose), len(self._classes))
            if purpose:
                self._of_runtime.add(class_id)
            key = known.get((class_id, path_id))
            if key is None:
                outwards = () if purpose else self._paths.outwards(path_id, _MAX_FRAMES)
                key = known[class_id, path_id] = (class_id, *outwards)
            keys.append(key)
        return keys

    def parts(self) -> Iterable[Part]:
        for root in self._tree.roots:
            key = self._tree.prefix(root)
            if key[0] in self._of_runtime:
                yield Part(self._tree.positions(root), key, None, None)
                continue
            rest = np.setdiff1d(self._tree.positions(root), self._covered(root))
            if len(rest):
                yield Part(rest, key, None, self._meeting(rest))
            for head in root.children:
                yield from self._resolve(head, self._step_of(head), None)

    def _covered(self, root: Node) -> Ints:
        """The sites of a root's children."""
        parts = [self._tree.positions(child) for child in root.children]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def _meeting(self, positions: Ints) -> Step | None:
        """The frame nearest to the heads that nearly all of these sites' bytes go through; None if there is none."""
        weights: Counter[int] = Counter()
        distances: Counter[int] = Counter()
        nearest: dict[int, Step] = {}
        rows = self._row_of[positions]
        path_ids, (sums,) = sums_by(self._table["path_id"][rows], self._held[rows])
        largest = np.argsort(-sums, kind="stable")[:_MAX_MET]
        whole = 0
        for path_id, n_bytes in zip(path_ids[largest].tolist(), sums[largest].tolist(), strict=True):
            whole += n_bytes
            seen: set[int] = set()
            for distance, number in enumerate(self._paths.path(path_id)[self._paths.head_index(path_id) :]):
                step = self._paths.steps[number]
                if step.function_id not in seen and step.may_be_named:
                    seen.add(step.function_id)
                    weights[step.function_id] += n_bytes
                    distances[step.function_id] += distance * n_bytes
                    nearest.setdefault(step.function_id, step)
        meeting = [number for number, n_bytes in weights.items() if n_bytes >= MEETING_SHARE * whole > 0]
        return nearest[min(meeting, key=lambda number: distances[number])] if meeting else None

    def joined(self, parts: Sequence[Part]) -> list[Part]:
        """The parts; those of one cause are one."""
        join = self._join
        return join.pools_joined(join.loaders_joined(join.threads_joined(parts)))

    def gathered(self, parts: Sequence[Part]) -> list[Part]:
        """The parts; many small ones that grow and meet in one frame further out are one."""
        growing = [part for part in parts if part.step and self._join.weight(part) > 0 and self._grows(part)]
        if len(growing) < _MIN_GATHERED:
            return list(parts)
        together = np.concatenate([part.positions for part in growing])
        largest = max(self._join.weight(part) for part in growing)
        step = self._meeting(together)
        if step is None or largest > _LARGEST_GATHERED * sum(self._join.weight(part) for part in growing):
            return list(parts)
        return [*(part for part in parts if part not in growing), Part(together, growing[0].depth_key, None, step)]

    def _grows(self, part: Part) -> bool:
        node = self._node_of.get((int(part.positions[0]), len(part.positions)))
        return (
            node is not None and self._slope(node) > 0 and self._made[node.number, 2] < self._made[node.number, 0] / 2
        )

    def held(self, part: Part) -> float:
        """Bytes that are outstanding."""
        return self._join.weight(part)

    def allocated(self, part: Part) -> float:
        """Bytes allocated, freed or not."""
        return float(self._table["allocated_bytes"][self._row_of[part.positions]].sum())

    def _step_of(self, node: Node) -> Step:
        """The frame that sets a node apart."""
        depth = node.depth + 1 if node.depth % 2 else node.depth
        return self._paths.steps[self._tree.keys[node.first][depth]]

    def _resolve(self, node: Node, step: Step, called_by: str | None) -> Iterable[Part]:
        """The causes among a node's sites; ``step`` is the frame that names it so far."""
        children = node.children
        clean = [child for child in children if self._is_clean(child, node)]
        dirty = [child for child in children if child not in clean and self._slope(child) > 0]
        if clean and dirty:
            for child in children:
                here = self._step_of(child)
                yield from self._resolve(child, here if here.may_be_named else step, called_by)
            return
        apart = [] if clean else self._apart(node, children)
        if apart:
            for child in apart:
                yield from self._resolve(child, step, self._step_of(child).name)
            return
        if not clean and len(children) == 1 and node.depth % 2 and self._slope(node) > 0:
            yield from self._resolve(children[0], step, called_by)
            return
        yield Part(self._tree.positions(node), self._tree.prefix(node), called_by, step)

    def _slope(self, node: Node) -> float:
        return self._growths[node.number].slope_bytes_per_s

    def _is_clean(self, child: Node, node: Node) -> bool:
        """Whether a child keeps nothing, although it would if it were like the rest of its node.

        Either it allocated so much that some of it had to be left by now, or it holds much and did not grow.
        """
        grown, grown_of_all = self._late_growth(child), self._late_growth(node)
        made, of_all = self._made[child.number], self._made[node.number]
        shares = made[:2] / np.maximum(of_all[:2], 1)
        few_blocks = grown[0] < _CLEAN_SHARE * shares[0] * grown_of_all[0]
        if grown_of_all[0] * shares[0] >= _MIN_EXPECTED and few_blocks and made[2] > 0:
            return True
        verdict = self._growths[child.number].verdict
        if verdict is Verdict.GROWING:
            return False
        if shares[1] >= _APART_SHARE and grown[1] < _CLEAN_SHARE * shares[1] * grown_of_all[1] and made[2] > 0:
            return bool(made[0] >= _MIN_EXPECTED)
        held, held_of_all = (self._curves.n_bytes[each.number, -1] for each in (child, node))
        return bool(held >= _HOLDING_SHARE * held_of_all and grown[1] < 0.1 * max(0.0, grown_of_all[1]))

    def _late_growth(self, node: Node) -> tuple[float, float]:
        """Blocks and bytes gained after the first quarter."""
        values = self._curves.n_blocks[node.number], self._curves.n_bytes[node.number]
        quarter = len(values[0]) // 4
        return float(values[0][-1] - values[0][quarter]), float(values[1][-1] - values[1][quarter])

    def _apart(self, node: Node, children: Sequence[Node]) -> list[Node]:
        """Callers of a helper that leak each in their own way: few, all growing, with blocks of different sizes."""
        of_lines = bool(children) and children[0].depth % 2 == 0
        large = [child for child in children if self._slope(child) >= _APART_SHARE * self._slope(node) > 0]
        if of_lines or not 2 <= len(large) <= _MAX_APART:
            return []
        if any(self._growths[child.number].verdict is not Verdict.GROWING for child in large):
            return []
        if not all(self._step_of(child).may_be_named for child in large):
            return []
        sizes = sorted(
            float(self._curves.n_bytes[child.number, -1] / max(self._curves.n_blocks[child.number, -1], 1))
            for child in large
        )
        return large if all(b >= _APART_SIZES * a for a, b in pairwise(sizes)) else []

    def count(self, parts: Sequence[Part]) -> Findings:
        """The parts as findings."""
        n_sites = len(self._recording.site_columns)
        labels = np.full(n_sites, -1, dtype=np.int64)
        for number, part in enumerate(parts):
            labels[part.positions] = number
        everything = np.full(n_sites, -1, dtype=np.int64)
        everything[self._table.index] = 0
        groupings = [Labelled(everything, 1), Labelled(labels, len(parts))]
        total, curves = read_curves(self._recording, groupings, self._span, courses=True)
        about = [self._about(part) for part in parts]
        apart = curves_apart(self._recording, labels, len(parts), self._span)
        rates = rates_of_parts(self._recording, self._span, total, curves, about, apart)
        ages = median_ages(curves)
        found = [
            replace(
                self._finding(part, rates.growths[i], rates.resident[i], rates.wholes[i], curves.peaks[i]),
                median_age_s=ages[i],
            )
            for i, part in enumerate(parts)
        ]
        suspects = [each for each in found if each.is_suspect]
        others = [each for each in found if not each.is_suspect and (each.outstanding_bytes > 0 or each.churns)]
        suspects.sort(key=lambda each: -each.growth.slope_bytes_per_s)
        others.sort(key=lambda each: -(each.resident_bytes or each.outstanding_bytes))
        return Findings(tuple(suspects), tuple(others), growth_of_all(measure(total)[0], suspects))

    def _about(self, part: Part) -> About:
        rows = self._table.take(self._row_of[part.positions])
        return about_part(rows, self._paths.head(int(rows["path_id"][0])).what)

    def _finding(self, part: Part, growth: Growth, resident: Growth, of: float, peak: Floats) -> Finding:
        order = self._row_of[part.positions]
        is_map = holds_mappings(self._table.take(order))
        is_other = (self._table["kind"][order] == Kind.HEAP.value) == is_map
        rows = self._table.take(order[np.lexsort((-self._held[order], is_other))])
        first = {name: column[0] for name, column in rows.columns.items()}
        # With the stacks of threads comes what malloc gave for them: the stacks are counted, all memory is summed.
        of_heap = rows.where(rows["kind"] == Kind.HEAP.value) if is_map else rows
        # Sites whose stacks were lost may be of many causes.
        is_lost = growth.verdict is Verdict.GROWING and not self._paths.path(int(first["path_id"]))
        if is_lost or (self._is_blind(rows, is_map) and growth.verdict is not Verdict.UNDECIDED):
            growth = replace(growth, verdict=Verdict.UNDECIDED, enough_s=watch_s(self._recording.elapsed_s))
        of_runtime = first["owner"] == Owner.RUNTIME.value and bool(first["purpose"])
        allocated_bytes, freed_bytes = int(rows["allocated_bytes"].sum()), int(rows["freed_bytes"].sum())
        if is_map:
            growth = replace(resident, verdict=growth.verdict, enough_s=growth.enough_s)
        pools: Counter[str] = Counter()
        threads: Counter[str] = Counter()
        for name, n_bytes in zip(rows["thread"].tolist(), rows["outstanding_bytes"].tolist(), strict=True):
            threads[name] += n_bytes
        for name, n_bytes in sorted(threads.items()):
            pools[pool_of(name)] += n_bytes + 1
        path_id = int(first["path_id"])
        head = self._paths.head(path_id)
        called_by = part.called_by
        if called_by is None and head.caller is not None and part.step is not None:
            caller = self._paths.steps[self._paths.path(path_id)[head.caller]]
            called_by = caller.name if caller is not part.step else None
        oldest = rows["oldest_s"][~np.isnan(rows["oldest_s"])]
        return Finding(
            name=str(first["purpose"]) if of_runtime else self._name(part, path_id),
            called_by=None if of_runtime else called_by,
            step=None if of_runtime else part.step,
            kind="jvm" if of_runtime else _kind(part.step, head, is_map),
            what=None if of_runtime else head.what,
            pool=head.pool,
            switch=head.switch,
            fillers=part.fillers,
            note=head.note,
            threads=next(iter(threads))
            if len(threads) == 1
            else pools.most_common(1)[0][0]
            if len(pools) == 1
            else "*",
            n_threads=len(np.unique(rows["thread_uid"])),
            slots=tuple(sorted(set(rows["slot"].tolist()))),
            n_stacks=len(np.unique(rows["stack_key"])),
            outstanding_bytes=int(rows["outstanding_bytes"].sum()),
            outstanding_count=int(rows["outstanding_count"].sum() - is_map * of_heap["outstanding_count"].sum()),
            allocated_bytes=allocated_bytes,
            freed_bytes=freed_bytes,
            resident_bytes=int(np.nansum(rows["resident_bytes"]) + of_heap["outstanding_bytes"].sum())
            if is_map
            else None,
            oldest_s=float(oldest.max()) if len(oldest) else None,
            is_sampled=bool((rows["n_sampled"] > 0).any()),
            growth=growth,
            share_pct=max(0.0, 100 * growth.slope_bytes_per_s / of) if of > 0 else 0.0,
            peak_bytes=int(peak[0]),
            peak_s=float(peak[1]),
            path=self._telling(path_id, part),
            stack_keys=tuple(dict.fromkeys(rows["stack_key"].tolist())),
            positions=tuple(part.positions.tolist()),
            bounded_by=bound_of(first["purpose"]) if of_runtime else None,
            is_minor=of_runtime and is_minor(self._recording, growth, freed_bytes / max(1, allocated_bytes)),
        )

    def _name(self, part: Part, path_id: int) -> str:
        pool = self._paths.head(path_id).pool
        if part.step is not None and not (pool and is_pool(part.step.name)):
            return part.step.name
        if pool:
            return pool
        return _NO_FRAME if self._paths.path(path_id) else _NO_STACK

    def _is_blind(self, rows: Table, is_map: bool) -> bool:
        """Whether too little of the heap was watched for a verdict on these sites.

        Of mappings only those are judged then that no allocator made: who makes an allocator take a chunk from the
        kernel is not who keeps the blocks.
        """
        if self._span.watched_pct >= MIN_WATCHED_PCT or "malloc" not in self._recording.info.probes:
            return False
        if self._span.in_windows and not is_map:
            return False
        path_id = int(rows["path_id"][0])
        below = self._paths.path(path_id)[1 : self._paths.head(path_id).index]
        return not is_map or any(is_malloc(self._paths.steps[step].frame) for step in below)

    def _telling(self, path_id: int, part: Part, most: int = 6) -> tuple[Step, ...]:
        """The frames from the one that allocates outwards, without those that everything passes through."""
        path, head = self._paths.path(path_id), self._paths.head(path_id)
        steps = [self._paths.steps[step] for step in path]
        if part.step is None:
            return tuple(steps[:most])
        shown = [steps[head.index - 1]] if head.index else []
        named = next((i for i, step in enumerate(steps) if i >= head.index and step is part.step), head.index)
        for i, step in enumerate(steps[head.index :], head.index):
            if i > named and (step.is_passed_through or step.in_runtime or len(shown) >= most):
                break
            if len(shown) < most - 1 or i == named:
                shown.append(step)
        return tuple(shown)


def _kind(step: Step | None, head: Head, is_map: bool) -> str:
    if head.pool:
        return "pool"
    if head.what in OF_THREADS:
        return "threads"
    if is_map:
        return "mapping"
    return "java" if step is not None and step.frame.kind in JAVA else "native"
