"""What the names on a stack tell, with the tables of all runtimes that are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nativeleak.frames import headline, owners, roles
from nativeleak.frames.headline import Headline
from nativeleak.frames.libraries import BUILT_IN, Libraries
from nativeleak.frames.roles import Role
from nativeleak.model import Frame, Owner
from nativeleak.runtimes.registry import RUNTIMES

_TABLES: Final = tuple(spec.frames for spec in RUNTIMES)


RUNTIME_LIBRARIES: Final = frozenset(table.library for table in _TABLES)
"""File names of the runtimes' own libraries."""


def headline_of_stack(frames: Sequence[Frame], libraries: Libraries = BUILT_IN) -> Headline | None:
    """See ``headline.headline``."""
    return headline.headline(frames, _TABLES, libraries)


def headline_frame(frames: Sequence[Frame], libraries: Libraries = BUILT_IN) -> Frame | None:
    """See ``headline.headline_frame``."""
    return headline.headline_frame(frames, _TABLES, libraries)


def role_of_frame(frame: Frame, libraries: Libraries = BUILT_IN) -> Role:
    """See ``roles.role``."""
    return roles.role(frame, _TABLES, libraries)


def request_of_stack(frames: Sequence[Frame]) -> str | None:
    """See ``owners.request_of_stack``."""
    return owners.request_of_stack(frames, _TABLES)


def owner_of_stack(frames: Sequence[Frame]) -> Owner:
    """See ``owners.owner_of_stack``."""
    return owners.owner_of_stack(frames, _TABLES)


def unmapper_of_stack(frames: Sequence[Frame]) -> Owner:
    """See ``owners.unmapper_of_stack``."""
    return owners.unmapper_of_stack(frames, _TABLES)


def purpose_of_stack(frames: Sequence[Frame]) -> str:
    """See ``owners.purpose_of_stack``."""
    return owners.purpose_of_stack(frames, _TABLES)
