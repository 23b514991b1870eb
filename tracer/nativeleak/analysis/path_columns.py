"""Path, owner and purpose of each site, as the names of its frames tell them."""

from __future__ import annotations

from typing import Final

import pandas as pd

from nativeleak.analysis.paths import Paths
from nativeleak.model import Owner
from nativeleak.runtimes.frames import owner_of_stack, purpose_of_stack

_MAX_FRAMES: Final = 48


def add_paths(table: pd.DataFrame, paths: Paths) -> pd.DataFrame:
    """The table with the columns path_id and purpose, and owners as the names of the frames tell them today.

    The purpose is what a runtime uses its memory for; it is empty for the program's memory.
    """
    keys = [int(key) for key in table["stack_key"]]
    paths.load(set(keys))
    ids = [paths.path_id(key) for key in keys]
    known: dict[tuple[int, str], tuple[str, str]] = {}
    rows = []
    for path_id, owner in zip(ids, table["owner"], strict=True):
        told = known.get((path_id, owner))
        if told is None:
            told = known[path_id, owner] = _owner_and_purpose(paths, path_id, owner)
        rows.append(told)
    return table.assign(
        path_id=pd.Series(ids, index=table.index, dtype="int64"),
        owner=pd.Series([owner for owner, _ in rows], index=table.index, dtype=object),
        purpose=pd.Series([purpose for _, purpose in rows], index=table.index, dtype=object),
    )


def _owner_and_purpose(paths: Paths, path_id: int, owner: str) -> tuple[str, str]:
    path = paths.path(path_id)
    if not any(paths.steps[step].in_runtime for step in path[:_MAX_FRAMES]):
        return owner, "other" if owner == Owner.RUNTIME.value else ""
    frames = [paths.steps[step].frame for step in path]
    owner = owner_of_stack(frames).value
    return owner, purpose_of_stack(frames) if owner == Owner.RUNTIME.value else ""
