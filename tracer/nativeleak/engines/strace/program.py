"""The program strace: what this build of it can do, started so that it ends with us, ended so that the target runs on.

strace attaches by PTRACE_SEIZE: no signal is sent to the target, and when strace is gone, however it went, the kernel
lets the target's threads go. What remains to be done here is that strace does go: it gets SIGTERM when we die.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Final

from nativeleak import children
from nativeleak.errors import CannotTraceError, NativeleakError
from nativeleak.process import procfs
from nativeleak.units import format_duration

TRACED: Final = (
    "trace=?brk,?mmap,?mmap2,?munmap,?mremap,?madvise,?mprotect,?pkey_mprotect,?shmget,?shmat,?shmdt,"
    "?clone,?clone2,?clone3,?fork,?vfork,?execve,?execveat,?prctl"
)
"""``?``: a call that this architecture does not have is no error."""
INSTALL: Final = "apt-get install strace (RHEL: dnf install strace)"
_PR_SET_PDEATHSIG: Final = 1
_PIPE_BYTES: Final = 1 << 20
_F_SETPIPE_SZ: Final = 1031
_TRY_TIMEOUT_S: Final = 10.0
_ATTACH_TIMEOUT_S: Final = 30.0
_END_TIMEOUT_S: Final = 10.0
_READ_BYTES: Final = 1 << 18
_STOPPED: Final = ("T", "t")
_libc = ctypes.CDLL(None)


def find_strace() -> str:
    """Path of the program.

    Raises:
        CannotTraceError: It is not installed.
    """
    path = children.find_program("strace")
    if path is None:
        raise CannotTraceError("tracing by strace failed: strace is not installed", INSTALL)
    return path


def choose_options(path: str) -> list[str]:
    """Those of our options that this build of strace takes, found by trying: stacks, thread names.

    Raises:
        CannotTraceError: It cannot trace even a child of its own.
    """
    why = ""
    for options in (["-k", "-Y"], ["-k"], ["-Y"], []):
        command = [
            path,
            "-f",
            "-ttt",
            *options,
            "-o",
            os.devnull,
            "-e",
            TRACED,
            "--",
            children.find_program("true") or path,
            "-V",
        ]
        try:
            done = children.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TRY_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            why = str(error)
            continue
        if done.returncode == 0:
            return options
        why = _last_line(done.stderr)
    raise CannotTraceError(
        f"tracing by strace failed: {path} cannot trace a child of its own: {why}",
        "a container or a seccomp filter may forbid ptrace: --cap-add SYS_PTRACE, --security-opt seccomp=unconfined",
    )


class Strace:
    """One strace at work; a context manager, after which it is gone and the targets run.

    Args:
        path: The program.
        options: As ``choose_options`` gives them.
        pids: The processes to attach to.

    Raises:
        CannotTraceError: It cannot be started.
    """

    def __init__(self, path: str, options: Sequence[str], pids: Sequence[int]) -> None:
        self._pids = tuple(pids)
        self._stopped_before = {pid for pid in pids if _is_stopped(pid)}
        self.output_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):
                fcntl.fcntl(write_fd, _F_SETPIPE_SZ, _PIPE_BYTES)
            command = [path, "-f", "-ttt", *options, "-o", f"/proc/self/fd/{write_fd}", "-e", TRACED]
            for pid in pids:
                command += ["-p", str(pid)]
            self._process = children.start(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[write_fd],
                start_new_session=True,  # Ctrl-C is for us: we end it in order
                preexec_fn=_die_with(os.getpid()),
                env=children.environment(LC_ALL="C"),
            )
        except OSError as error:
            os.close(self.output_fd)
            raise CannotTraceError(f"tracing by strace failed: {path}: {error.strerror}", INSTALL) from error
        finally:
            os.close(write_fd)
        os.set_blocking(self.output_fd, False)
        assert self._process.stderr is not None  # noqa: S101
        self.error_fd = self._process.stderr.fileno()
        os.set_blocking(self.error_fd, False)
        self._errors = b""
        self.status: int | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_attached(self) -> None:
        """Wait until it holds all targets.

        Raises:
            NativeleakError: It could not, or says nothing.
        """
        missing = {f"Process {pid} attached".encode() for pid in self._pids}
        deadline_s = time.monotonic() + _ATTACH_TIMEOUT_S
        while missing:
            ready, _, _ = select.select([self.error_fd], [], [], max(0.0, deadline_s - time.monotonic()))
            if not ready:
                raise NativeleakError(
                    f"tracing by strace failed: it has not attached in {format_duration(_ATTACH_TIMEOUT_S)}",
                    "a thread in an uninterruptible wait (state D) keeps it: see ps -L",
                )
            if not self.read_errors():
                raise self._refusal()
            missing = {text for text in missing if text not in self._errors}
        self._errors = b""

    def _refusal(self) -> NativeleakError:
        self._process.wait()
        self.status = self._process.returncode
        why = _last_line(self._errors).removeprefix("strace: ")
        who = ", ".join(str(pid) for pid in self._pids)
        return CannotTraceError(
            f"tracing PID {who} by strace failed: {why or 'it ended at once'}",
            "run as root, or with CAP_SYS_PTRACE; where another tracer or debugger is attached, end it;"
            " /proc/sys/kernel/yama/ptrace_scope may forbid it to users",
        )

    def read_errors(self) -> bool:
        """Take what it says of itself; False at the end of that, which is its own end."""
        try:
            text = os.read(self.error_fd, _READ_BYTES)
        except BlockingIOError:
            return True
        self._errors = (self._errors + text)[-_READ_BYTES:]
        return bool(text)

    def read_output(self) -> bytes | None:
        """What it has printed since; None at the end of all."""
        try:
            return os.read(self.output_fd, _READ_BYTES) or None
        except BlockingIOError:
            return b""

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        if self.status is None:
            self.status = self._process.poll()
        return self.status

    def end(self, on_output: Callable[[bytes], None]) -> None:
        """Let it detach from all threads and end; what it prints meanwhile goes to ``on_output``."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self.poll() is None:
                self._process.send_signal(number)
            if self._drain(on_output):
                break
        self._process.wait()
        self.status = self._process.returncode
        self.free_targets()

    def _drain(self, on_output: Callable[[bytes], None]) -> bool:
        """Read to the end of its output; False where that does not come in time."""
        deadline_s = time.monotonic() + _END_TIMEOUT_S
        open_fds = {self.output_fd, self.error_fd}
        while open_fds and time.monotonic() < deadline_s:
            ready, _, _ = select.select(list(open_fds), [], [], max(0.0, deadline_s - time.monotonic()))
            for fd in ready:
                if fd == self.error_fd:
                    if not self.read_errors():
                        open_fds.discard(fd)
                    continue
                output = self.read_output()
                if output is None:
                    open_fds.discard(fd)
                elif output:
                    on_output(output)
        return not open_fds

    def free_targets(self) -> None:
        """Wake up a target that is stopped now and was not before: no such case is known, but none may remain."""
        for pid in self._pids:
            if pid not in self._stopped_before and _is_stopped(pid):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        """End it by force where it still runs, and close its pipes."""
        if self._process.poll() is None:
            self.end(lambda _output: None)
        if self.output_fd >= 0:
            os.close(self.output_fd)
            self.output_fd = -1
        if self._process.stderr is not None:
            self._process.stderr.close()


def _die_with(parent: int) -> Callable[[], None]:
    """What the child does before it becomes strace: ask for SIGTERM when we die, and look whether we have already."""

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def _is_stopped(pid: int) -> bool:
    try:
        status = procfs.read_status(pid)
    except NativeleakError:
        return False
    return status.get("State", "")[:1] in _STOPPED and status.get("TracerPid", "0") == "0"


def _last_line(text: bytes) -> str:
    lines = [line.strip() for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
