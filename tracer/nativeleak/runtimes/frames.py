"""What the names on a stack tell, with the tables of all runtimes that are known."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from nativeleak.frames import owners, roles
from nativeleak.frames.libraries import BUILT_IN, Libraries
from nativeleak.frames.roles import Role
from nativeleak.model import Frame, Owner
from nativeleak.runtimes.registry import RUNTIMES

if TYPE_CHECKING:
    from nativeleak.frames.headline import Headline

_TABLES: Final = tuple(spec.frames for spec in RUNTIMES)
_IN_USE: Final[ContextVar[Libraries]] = ContextVar("libraries", default=BUILT_IN)


RUNTIME_LIBRARIES: Final = frozenset(table.library for table in _TABLES)
"""File names of the runtimes' own libraries."""


@contextlib.contextmanager
def use_libraries(libraries: Libraries) -> Iterator[None]:
    """While it lasts, the functions of this module know these libraries."""
    token = _IN_USE.set(libraries)
    try:
        yield
    finally:
        _IN_USE.reset(token)


def headline_of_stack(frames: Sequence[Frame]) -> Headline | None:
    """See ``headline.headline``."""
    from nativeleak.frames import headline  # here, because a recorder with no one to show lines to does without

    return headline.headline(frames, _TABLES, _IN_USE.get())


def headline_frame(frames: Sequence[Frame]) -> Frame | None:
    """See ``headline.headline_frame``."""
    from nativeleak.frames import headline

    return headline.headline_frame(frames, _TABLES, _IN_USE.get())


def role_of_frame(frame: Frame) -> Role:
    """See ``roles.role``."""
    return roles.role(frame, _TABLES, _IN_USE.get())


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


def loading_of_stack(frames: Sequence[Frame]) -> str | None:
    """See ``owners.loading_of_stack``."""
    return owners.loading_of_stack(frames, _TABLES, _IN_USE.get())


BOUNDS: Final = {purpose: bound for table in _TABLES for purpose, bound in table.bounded.items()}
"""Purposes of all runtimes whose memory has a bound, and what bounds it: ``code`` for the code that is loaded."""
LINKING_PURPOSES: Final = frozenset(purpose for table in _TABLES for purpose in table.linking)
"""Those of them that code of a class needs again, where it is loaded again."""
