"""Where logs come from: files with their rotated ages, the journal, the kernel's own buffer."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from nativeleak import children
from nativeleak.errors import CannotTraceError, NativeleakError
from nativeleak.inputs.source import InputFile
from nativeleak.process.kernel_log import KMSG, LogRecords
from nativeleak.units import excerpt

_RECORD_BYTES: Final = 8192
"""Longest record of the log. Source: CONSOLE_EXT_LOG_MAX in kernel/printk/internal.h."""
_ROTATED: Final = re.compile(r"\.(\d{1,4})(?:\.(?:gz|bz2|xz))?|-(\d{8})(?:-?\d+)?(?:\.(?:gz|bz2|xz))?")
_USUAL: Final = ("/var/log/kern.log", "/var/log/messages", "/var/log/syslog")
_JOURNAL: Final = (
    "--no-pager", "--quiet", "--output=json",
    "_TRANSPORT=kernel", "+", "_PID=1", "+", "_COMM=systemd-oomd", "+", "_COMM=earlyoom", "+", "_COMM=nohang", "+",
    "SYSLOG_IDENTIFIER=kubelet",
)  # fmt: skip


def rotated(path: Path) -> list[Path]:
    """A log with its rotated ages, oldest first: ``syslog.2.gz``, ``syslog.1``, ``syslog``."""
    found: list[tuple[int, int, Path]] = []
    try:
        siblings = list(path.parent.iterdir())
    except OSError:
        return [path]
    for sibling in siblings:
        if not sibling.name.startswith(path.name):
            continue
        age = _ROTATED.fullmatch(sibling.name[len(path.name) :])
        if age and age[1]:
            found.append((1, -int(age[1]), sibling))
        elif age:
            found.append((0, int(age[2]), sibling))
    return [sibling for *_, sibling in sorted(found)] + [path]


def read_logs(paths: Sequence[Path]) -> Iterator[str]:
    """Lines of all files, in the order given.

    Raises:
        NativeleakError: One cannot be read.
    """
    for path in paths:
        yield from InputFile(path).lines()


def read_kmsg(path: Path = KMSG) -> Iterator[str]:
    """Lines of the kernel's buffer as ``dmesg`` prints them, with the wall clock in front.

    Raises:
        CannotTraceError: It may not be read.
    """
    try:
        log = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise CannotTraceError(
            f"reading {path} failed: {error.strerror}",
            "run as root, or with CAP_SYSLOG; or give a log: nativeleak oom --log FILE",
        ) from error
    # printk counts time that the machine was not suspended.
    start_s = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
    try:
        while True:
            try:
                record = os.read(log, _RECORD_BYTES)
            except BlockingIOError:
                return
            except BrokenPipeError:
                continue  # records were overwritten meanwhile: the next read goes on after them
            if not record:
                return
            yield _as_line(record, start_s)
    except OSError as error:
        raise CannotTraceError(f"reading {path} failed: {error.strerror}", "run as root") from error
    finally:
        os.close(log)


class KernelLogTail(LogRecords):
    """What the kernel logs from now on, as lines; nothing where its buffer may not be read."""

    def lines(self) -> Iterator[str]:
        """Lines since the last call, as ``read_kmsg`` gives them."""
        start_s = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
        yield from (_as_line(record, start_s) for record in self.records())


def _as_line(record: bytes, start_s: float) -> str:
    head, _, text = record.decode("utf-8", "replace").partition(";")
    fields = head.split(",")
    text = _unescaped(text.split("\n")[0])
    try:
        uptime_s = int(fields[2]) / 1e6
        when = datetime.fromtimestamp(start_s + uptime_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (IndexError, ValueError, OverflowError):
        return text
    return f"{when} here kernel: [{uptime_s:.6f}] {text}"


def _unescaped(text: str) -> str:
    r"""The kernel writes bytes that are no printable ASCII as ``\x1b``."""
    if "\\x" not in text:
        return text
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), text.encode("utf-8", "replace"))
    return raw.decode("utf-8", "replace")


def read_journal() -> Iterator[str]:
    """The journal's entries of the kernel, systemd and the killers in user space, as JSON.

    Raises:
        CannotTraceError: There is no journal here, or it may not be read.
    """
    program = children.find_program("journalctl")
    if program is None:
        raise CannotTraceError(
            "reading the journal failed: there is no journalctl", "read a log: nativeleak oom --log FILE; or --kmsg"
        )
    process = children.start([program, *_JOURNAL], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None  # noqa: S101
    assert process.stderr is not None  # noqa: S101
    with process:
        for line in process.stdout:
            yield line.decode("utf-8", "replace").rstrip("\n")
        said = process.stderr.read().decode("utf-8", "replace").strip()
    if process.returncode:
        raise CannotTraceError(
            f"journalctl failed with status {process.returncode}: {excerpt(said)}",
            "read a log: nativeleak oom --log FILE; or the kernel's buffer: --kmsg",
        )


def read_whatever_is_here() -> tuple[str, Iterator[str]]:
    """(name of the source, lines): the journal, a usual log, the kernel's buffer; the first that can be read.

    Raises:
        NativeleakError: None of them can be read.
    """
    failures = []
    if Path("/run/log/journal").is_dir() or Path("/var/log/journal").is_dir():
        try:
            entries = list(read_journal())
            if entries:  # a container may have a journal without the kernel's lines
                return "journal", iter(entries)
            failures.append("the journal is empty")
        except NativeleakError as error:
            failures.append(error.what)
    for name in _USUAL:
        if os.access(name, os.R_OK):
            return name, read_logs(rotated(Path(name)))
    try:
        return str(KMSG), iter(list(read_kmsg()))
    except NativeleakError as error:
        failures.append(error.what)
    raise CannotTraceError(
        f"no log can be read here: {'; '.join(failures)}", "run as root, or give a log: nativeleak oom --log FILE"
    )
