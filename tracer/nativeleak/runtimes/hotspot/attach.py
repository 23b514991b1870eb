"""Asks a JVM in its own words: the attach protocol of HotSpot, spoken without a second JVM.

Only on request. The first question of a JVM's life starts its attach listener: a file and SIGQUIT make it open a socket
in its /tmp. It keeps a thread and some 200 KiB for that. SIGQUIT ends a JVM that does not catch it (-Xrs), and makes
others print a thread dump (-XX:+DisableAttachMechanism): it is sent only where the JVM catches it and its flags, read
from its memory, allow it. Everything is looked for in the target's own mount namespace and by its own PID.

Source: src/hotspot/os/posix/attachListener_posix.cpp (os/linux before 23): ``is_init_trigger``, ``init``, ``dequeue``,
which takes callers with its own effective user or root; VirtualMachineImpl.java of jdk.attach. A request is five
strings, each with a NUL: the version 1, the command, three arguments. An answer is a line with a number, then text.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import stat
import struct
import time
from collections.abc import Iterator
from typing import Final

from nativeleak.errors import CannotTraceError, NativeleakError, NoTargetError
from nativeleak.process import procfs
from nativeleak.process.check import read_ns_pid
from nativeleak.runtimes.hotspot.flags import read_flags
from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError
from nativeleak.runtimes.hotspot.version import find_libjvm

_REFUSING: Final = ("ReduceSignalUsage", "DisableAttachMechanism")
_OPTIONS: Final = {"ReduceSignalUsage": "-Xrs", "DisableAttachMechanism": "-XX:+DisableAttachMechanism"}
_OPENS_S: Final = 10.0
_STEP_S: Final = 0.01
_MAX_BYTES: Final = 64 << 20
_UNKNOWN: Final = "Unknown diagnostic command"


class AttachError(CannotTraceError):
    """The JVM cannot be asked, or does not answer."""


class UnknownCommandError(AttachError):
    """This JVM does not know the command."""


class Attached:
    """A JVM that may be asked.

    Args:
        pid: The process, as we see it.

    Raises:
        AttachError: It may not be asked; the text says why.
        NoTargetError: It is gone.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ns_pid = read_ns_pid(pid)
        self._euid = _effective_uid(procfs.read_status(pid))
        if os.geteuid() not in (0, self._euid):
            raise AttachError(
                f"asking the JVM {pid} failed: it answers its own user (uid {self._euid}) and root",
                "Run as that user or as root.",
            )
        if find_libjvm(procfs.read_maps(pid)) is None:
            raise AttachError(f"asking the JVM of PID {pid} failed: it runs none", "Leave out --jcmd.")
        self._check_flags()
        if not self._is_open():
            self._open()

    def ask(self, command: str, timeout_s: float = 30.0) -> str:
        """The answer to a diagnostic command, as jcmd prints it.

        Args:
            command: With its arguments, ``VM.native_memory summary``.
            timeout_s: How long the JVM may be silent.

        Raises:
            UnknownCommandError: This JVM does not have it.
            AttachError: It failed, or there was no answer in time.
        """
        request = b"".join(word.encode() + b"\0" for word in ("1", "jcmd", command, "", ""))
        what = f"asking the JVM {self.pid} for {command} failed"
        try:
            with self._connected(timeout_s) as connection:
                connection.sendall(request)
                answer = _read_all(connection)
        except TimeoutError as error:
            raise AttachError(f"{what}: no answer in {timeout_s:g} s", "It may be stopped, or collecting.") from error
        except OSError as error:
            raise AttachError(f"{what}: {error.strerror or error}") from error
        status, _, text = answer.decode("utf-8", "replace").partition("\n")
        if status.strip() == "0" and _UNKNOWN not in text[:200]:
            return text
        if not status.strip():
            raise AttachError(f"{what}: it closed the connection", f"It answers uid {self._euid} and root only.")
        first = text.strip().split("\n")[0] or f"status {status.strip()}"
        kind = UnknownCommandError if _UNKNOWN in text else AttachError
        raise kind(f"{what}: {first[:200]}")

    def _check_flags(self) -> None:
        """Refuse a JVM that was told not to be asked.

        Raises:
            AttachError: It was, or its flags cannot be read.
        """
        try:
            with HotSpot.open(self.pid) as vm:
                flags = {name: value & 1 for name, value in read_flags(vm, _REFUSING).items()}
        except UnreadableError as error:
            raise AttachError(f"asking the JVM {self.pid} failed: its flags cannot be read: {error}") from error
        for name in _REFUSING:
            if flags.get(name):
                raise AttachError(
                    f"asking the JVM {self.pid} failed: it runs with {_OPTIONS[name]}",
                    "Such a JVM cannot be asked while it runs; leave out --jcmd.",
                )

    def _is_open(self) -> bool:
        with contextlib.suppress(OSError), self._socket_fd():
            return True
        return False

    def _open(self) -> None:
        """Make the JVM open its socket.

        Raises:
            AttachError: It does not catch SIGQUIT, or opens no socket.
        """
        what = f"asking the JVM {self.pid} failed"
        with contextlib.ExitStack() as stack:
            try:
                pidfd = os.pidfd_open(self.pid)
            except OSError as error:
                raise NoTargetError(f"{what}: no such process") from error
            stack.callback(os.close, pidfd)
            stack.enter_context(self._trigger_file())
            # As late as can be: a JVM that starts catches no signal yet.
            if not _catches_quit(procfs.read_status(self.pid)):
                raise AttachError(
                    f"{what}: it does not catch SIGQUIT, which would end it", "It still starts, or runs with -Xrs."
                )
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGQUIT)
            except OSError as error:
                raise AttachError(f"{what}: {error.strerror}") from error
            deadline_s = time.monotonic() + _OPENS_S
            while not self._is_open():
                if time.monotonic() > deadline_s:
                    raise AttachError(f"{what}: it opened no socket in {_OPENS_S:g} s", "It may be stopped.")
                time.sleep(_STEP_S)

    @contextlib.contextmanager
    def _trigger_file(self) -> Iterator[None]:
        """The file that tells the JVM that SIGQUIT is meant for its attach listener; in its /tmp, or where it works."""
        name = f".attach_pid{self._ns_pid}"
        failure: OSError | None = None
        for place in ("root/tmp", "cwd"):
            try:
                folder = self._folder(place)
            except OSError as error:
                failure = error
                continue
            try:
                fd = os.open(
                    name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder
                )
            except OSError as error:
                os.close(folder)
                failure = error
                continue
            os.close(fd)
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)
                os.close(folder)
            return
        reason = failure.strerror if failure is not None else "no folder"
        raise AttachError(f"asking the JVM {self.pid} failed: {name} cannot be made in its /tmp: {reason}")

    def _folder(self, place: str) -> int:
        """A folder of the target; its last part may be no symbolic link, which would lead into our own files."""
        above, _, last = place.rpartition("/")
        if not above:
            return os.open(f"/proc/{self.pid}/{last}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        root = os.open(f"/proc/{self.pid}/{above}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return os.open(last, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
        finally:
            os.close(root)

    @contextlib.contextmanager
    def _socket_fd(self) -> Iterator[int]:
        """The JVM's socket in its /tmp, checked to be its own."""
        folder = self._folder("root/tmp")
        try:
            fd = os.open(f".java_pid{self._ns_pid}", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)
        try:
            facts = os.fstat(fd)
            if not stat.S_ISSOCK(facts.st_mode) or facts.st_uid not in (0, self._euid):
                raise OSError(errno.EPERM, "the socket in its /tmp is not its own")
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _connected(self, timeout_s: float) -> Iterator[socket.socket]:
        """A connection to the JVM itself: a socket that another process listens at is refused."""
        with self._socket_fd() as fd, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(f"/proc/self/fd/{fd}")
            raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            if struct.unpack("3i", raw)[0] != self.pid:
                raise OSError(errno.EPERM, "another process listens at its socket")
            yield connection


def _read_all(connection: socket.socket) -> bytes:
    parts = []
    n_bytes = 0
    while part := connection.recv(1 << 16):
        parts.append(part)
        n_bytes += len(part)
        if n_bytes > _MAX_BYTES:
            raise NativeleakError(f"the JVM's answer is longer than {_MAX_BYTES:,} bytes")
    return b"".join(parts)


def _effective_uid(status: dict[str, str]) -> int:
    words = status.get("Uid", "").split()
    return int(words[1]) if len(words) > 1 else -1


def _catches_quit(status: dict[str, str]) -> bool:
    """Whether a process has a handler for SIGQUIT."""
    return bool(int(status.get("SigCgt", "0"), 16) >> (signal.SIGQUIT - 1) & 1)
