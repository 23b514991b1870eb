"""Errors that a user can act on, each with its exit status.

Scope: every expected failure. Anything else is a bug and keeps its traceback under ``-v``.
Source of the statuses: the interface contract (0 report made, 1 run time, 2 usage, 3 machine or rights, 4 no target).
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_CANNOT = 3
EXIT_NO_TARGET = 4


class NativeleakError(Exception):
    """A failure that is reported on one line, followed by its remedy.

    Args:
        what: What failed, with its operand, and why: ``"trace of PID 12 failed: no such process"``.
        remedy: What the user can do; empty if nothing can be done.
    """

    exit_status = EXIT_FAILURE

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[NativeleakError], tuple[str, str]]:
        """What a child process hands over: by default an exception keeps its first argument only."""
        return type(self), (self.what, self.remedy)


class UsageError(NativeleakError):
    """An option or argument is wrong."""

    exit_status = EXIT_USAGE


class CannotTraceError(NativeleakError):
    """This machine, this kernel or these rights cannot do what was asked."""

    exit_status = EXIT_CANNOT


class MendableError(CannotTraceError):
    """The user can remove the obstacle, so ``auto`` does not fall back to another engine."""


class OwnHeapError(MendableError):
    """The target has no malloc: its runtime has a heap of its own, which only shows in what it maps."""


class NoTargetError(NativeleakError):
    """The target does not exist, or was gone before the first snapshot."""

    exit_status = EXIT_NO_TARGET


class RecordingError(NativeleakError):
    """A recording cannot be read: it is damaged, written by a newer version, or no recording."""
