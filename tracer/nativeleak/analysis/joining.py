"""Parts that are one cause: stacks of threads with what else the threads take, the metadata of classes, pools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from nativeleak.analysis.curves import Ints
from nativeleak.analysis.part_rates import OF_CLASSES
from nativeleak.analysis.parts import LargestSite, Part
from nativeleak.analysis.paths import Paths
from nativeleak.analysis.rows import Table
from nativeleak.frames.pools import is_pool

MEETING_SHARE: Final = 0.90
OF_THREADS: Final = ("thread", "thread stack")
"""What the memory of a thread is called."""
_JOINED: Final = (*OF_THREADS, OF_CLASSES)
"""Kinds of which one function takes mappings and blocks for one thing."""


class Joiner:
    """Joins parts of one search.

    Args:
        table: The sites.
        paths: With the paths of all their stacks.
        row_of: Row of the table of each site.
    """

    def __init__(self, table: Table, paths: Paths, row_of: Ints) -> None:
        self._table, self._paths, self._row_of = table, paths, row_of
        self._held: Ints = table["outstanding_bytes"]

    def weight(self, part: Part) -> float:
        """Bytes of a part that are outstanding."""
        return float(self._held[self._row_of[part.positions]].sum())

    def _largest(self, part: Part) -> LargestSite:
        """The site of a part that holds most."""
        rows = self._row_of[part.positions]
        row = int(rows[np.argmax(self._held[rows])])
        path_id, kind, slot = (self._table[name][row] for name in ("path_id", "kind", "slot"))
        return LargestSite(int(path_id), str(kind), int(slot))

    def threads_joined(self, parts: Sequence[Part]) -> list[Part]:
        """The parts; stacks of threads and what else one function's threads take are one. So are classes."""
        alike: dict[tuple[int, int, bool], Part] = {}
        joined = []
        for part in parts:
            first = self._largest(part)
            what = self._paths.head(first.path_id).what
            if part.step is None or what not in _JOINED:
                joined.append(part)
                continue
            key = part.step.function_id, first.slot, what == OF_CLASSES
            if key in alike:
                part = replace(part, positions=np.concatenate((alike[key].positions, part.positions)))
            alike[key] = part
        return [*joined, *alike.values()]

    def loaders_joined(self, parts: Sequence[Part]) -> list[Part]:
        """The parts; what a class loader of the program takes is one with what its caller takes."""
        of_classes = {
            (part.step.name, self._largest(part).slot): part
            for part in parts
            if part.step is not None and self._paths.head(self._largest(part).path_id).what == OF_CLASSES
        }
        joined = list(parts)
        for (_, slot), part in of_classes.items():
            first = self._largest(part)
            caller = self._paths.head(first.path_id).caller
            name = None if caller is None else self._paths.steps[self._paths.path(first.path_id)[caller]].name
            other = of_classes.get((name or "", slot))
            if other is None or other is part or other not in joined:
                continue
            both = max(part, other, key=self.weight)
            joined = [each for each in joined if each is not part and each is not other]
            joined.append(replace(both, positions=np.concatenate((other.positions, part.positions))))
        return joined

    def pools_joined(self, parts: Sequence[Part]) -> list[Part]:
        """The parts; chunks of one pool are one, since whoever makes it take a chunk need not keep what is in it."""
        pools: dict[tuple[str, str, int], list[Part]] = {}
        joined = []
        for part in parts:
            first = self._largest(part)
            pool = self._paths.head(first.path_id).pool
            if pool is None:
                joined.append(part)
            else:
                pools.setdefault((pool, first.kind, first.slot), []).append(part)
        for group in pools.values():
            group.sort(key=lambda part: -self.weight(part))
            largest, positions = group[0], np.concatenate([part.positions for part in group])
            steps = [part.step for part in group if part.step is not None]
            names = tuple(dict.fromkeys(step.name for step in steps if not is_pool(step.name)))
            if self.weight(largest) < MEETING_SHARE * sum(map(self.weight, group)):
                joined.append(Part(positions, largest.depth_key, None, None, names))
            else:
                joined.append(replace(largest, positions=positions, fillers=names))
        return joined
