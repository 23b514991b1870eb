"""Errors that a user can act on, with the exit status they end the program with.

Scope: every failure the tool foresees. Anything else is a bug and keeps its traceback under ``-v``.
Source of the statuses: the interface contract (0 report made, 1 run time, 2 usage, 3 machine or rights, 4 no target).
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_CANNOT = 3
EXIT_NO_TARGET = 4


class NativeleakError(Exception):
    """A failure that is reported in one line, followed by what to do about it.

    Args:
        what: What failed, with its operand, and why: ``"trace of PID 12 failed: no such process"``.
        remedy: What the user can do; empty when there is nothing to do.
    """

    exit_status = EXIT_FAILURE

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


class UsageError(NativeleakError):
    """An option or argument makes no sense."""

    exit_status = EXIT_USAGE


class CannotTraceError(NativeleakError):
    """This machine, kernel or these rights cannot do what was asked."""

    exit_status = EXIT_CANNOT


class MendableError(CannotTraceError):
    """What stands in the way can be taken away by the user: no reason to take a worse engine without being asked."""


class NoTargetError(NativeleakError):
    """The target does not exist, or was gone before the first snapshot."""

    exit_status = EXIT_NO_TARGET


class RecordingError(NativeleakError):
    """A recording cannot be read: not one of ours, damaged, or from a newer version."""
