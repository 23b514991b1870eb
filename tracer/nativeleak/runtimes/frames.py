"""What the names on a stack tell, with the tables of all runtimes that are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nativeleak.frames import headline, owners
from nativeleak.model import Frame, Owner
from nativeleak.runtimes.registry import RUNTIMES

_TABLES: Final = tuple(spec.frames for spec in RUNTIMES)


def headline_frame(frames: Sequence[Frame]) -> Frame | None:
    """See ``headline.headline_frame``."""
    return headline.headline_frame(frames, _TABLES)


def owner_of_stack(frames: Sequence[Frame]) -> Owner:
    """See ``owners.owner_of_stack``."""
    return owners.owner_of_stack(frames, _TABLES)


def unmapper_of_stack(frames: Sequence[Frame]) -> Owner:
    """See ``owners.unmapper_of_stack``."""
    return owners.unmapper_of_stack(frames, _TABLES)


def purpose_of_stack(frames: Sequence[Frame]) -> str:
    """See ``owners.purpose_of_stack``."""
    return owners.purpose_of_stack(frames, _TABLES)
