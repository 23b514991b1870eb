"""The report at the end of a trace: made by a child, so that the recorder never loads pandas, where there is memory.

The recording is whole before. Where the report does not fit, into ``--max-memory`` or into a memory group that a target
shares, it is left to ``nativeleak report``.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nativeleak import children
from nativeleak.engines.options import TraceOptions
from nativeleak.errors import NativeleakError
from nativeleak.process.cgroups import tightest_shared_group
from nativeleak.process.shortage import describe_room
from nativeleak.session.session import Recorded
from nativeleak.units import format_bytes

_CHARGED_BYTES: Final = 52 << 20
"""What a report of a small recording is charged for in a memory group: measured 45 MiB, without pages of libraries."""
_LEAST_BYTES: Final = 80 << 20
"""What its process takes at least: measured 74 MiB resident, 79 MiB of data (RLIMIT_DATA)."""
_BYTES_PER_RECORDED: Final = 8
"""What each byte of the recording adds: measured 6.6 to 7.4, at 20,000 and 2,000 sites."""
_BYTES_PER_RECORDED_OF_PAGE: Final = 12
"""The same for a page, which keeps the course of every site: measured 1.2 times as much as text, at 50,000 sites."""
_ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1"}
"""numpy's threads, of which a report makes no use, would take 40 MiB of data."""


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What the report shows.

    Attributes:
        format: A name of ``reports.formats``.
        top: Rows; None: as many as the format has by default.
        by: A value of ``--by``; None: the format's own.
        flags: Options of ``report`` without a value.
        libraries: Values of ``--library``.
        opens: Whether the report is a page that goes beside the recording and is shown in a browser.
    """

    format: str
    top: object
    by: object
    flags: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    opens: bool = False


def report_on(recorded: Recorded, options: TraceOptions, wanted: ReportOptions) -> int:
    """Make the report of a trace; returns the exit status of its process.

    Args:
        recorded: What was recorded.
        options: Of the trace.
        wanted: What the report shows.

    Raises:
        NativeleakError: There is no memory for it, or its process was killed.
    """
    arguments = ["report", "--format", wanted.format, *wanted.flags]
    if wanted.by is not None:
        arguments += ["--by", str(wanted.by)]
    if wanted.top is not None:
        arguments += ["--top", str(wanted.top)]
    arguments += [f"--library={pattern}" for pattern in wanted.libraries]
    if wanted.opens:
        arguments += ["--open", "--output", str(page_beside(recorded.path))]
    if recorded.content is None:
        bound_bytes = options.budget.max_memory_bytes
        again = f"nativeleak report {recorded.path}"
        _check_bound(bound_bytes, again)
        per_recorded = _BYTES_PER_RECORDED_OF_PAGE if wanted.format == "html" else _BYTES_PER_RECORDED
        _check_group(options.pids, _CHARGED_BYTES + per_recorded * recorded.path.stat().st_size, again)
        return _run([*arguments, str(recorded.path.absolute())], again, bound_bytes)
    # This recording goes with this process: the report is tried whatever memory there is.
    fd = os.memfd_create("nativeleak")
    with open(fd, "wb") as memory:
        memory.write(recorded.content)
        memory.flush()
        return _run([*arguments, f"/proc/self/fd/{fd}"], "", pass_fds=[fd])


def page_beside(recording: Path) -> Path:
    """Where the page of a recording goes: its name with .html for .nlk, or after any other ending."""
    stem = recording.stem if recording.suffix == ".nlk" else recording.name
    return recording.absolute().with_name(f"{stem}.html")


def _check_bound(bound_bytes: int, again: str) -> None:
    """Refuse to start a report under a ``--max-memory`` in which not even its libraries fit."""
    if bound_bytes and bound_bytes < _LEAST_BYTES:
        raise NativeleakError(
            f"no report was made: it takes at least {format_bytes(_LEAST_BYTES)}, more than --max-memory"
            f" {format_bytes(bound_bytes)}",
            _elsewhere(again),
        )


def _check_group(pids: Sequence[int], needed_bytes: int, again: str) -> None:
    """Refuse to make a report in a memory group that a living target shares and that has no room for it."""
    group = tightest_shared_group(pids)
    if group is not None and group.room_bytes < needed_bytes:
        raise NativeleakError(
            f"no report was made: it takes some {format_bytes(needed_bytes)}, and {describe_room(group)}, which the"
            " target shares",
            _elsewhere(again),
        )


def _elsewhere(again: str) -> str:
    return f"the recording is whole; make the report from it outside of these limits, here or elsewhere: {again}"


def _run(arguments: Sequence[str], again: str, bound_bytes: int = 0, pass_fds: Sequence[int] = ()) -> int:
    """Run the report in a process of its own.

    Args:
        arguments: Arguments of nativeleak.
        again: The command that makes the report later; empty if the recording ends with this process.
        bound_bytes: Most memory of the process; 0: as much as it wants.
        pass_fds: Descriptors that the process inherits.

    Returns:
        The exit status of the process.

    Raises:
        NativeleakError: A signal killed the process, such as that of the OOM killer.
    """
    status: int = children.run(
        children.python_module("nativeleak", *arguments),
        env=children.environment(**_ENVIRONMENT),
        pass_fds=pass_fds,
        preexec_fn=limiting(bound_bytes) if bound_bytes else None,
    ).returncode
    if status >= 0:
        return status
    name = signal.strsignal(-status) or f"signal {-status}"
    memory = "; it needs some 100 MiB of memory" if -status == signal.SIGKILL else ""
    if bound_bytes:
        memory = f"; it may take no more than --max-memory {format_bytes(bound_bytes)}"
    remedy = f"the recording is whole; make the report from it, here or on another machine: {again}" if again else ""
    raise NativeleakError(f"the report failed: its process was ended by {name}{memory}", remedy)


def limiting(bound_bytes: int) -> Callable[[], None]:
    """A function that limits the memory of the process that calls it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [limit for limit in (bound_bytes, soft, hard) if limit != resource.RLIM_INFINITY]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))

    return limit
