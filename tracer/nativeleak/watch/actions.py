"""What an alarm starts: a command of the user's, or a trace. At most one of each runs at a time.

The command is the caller's own: it runs by the shell, in the folder and with the environment that the watch was started
in. Its output goes to standard error, since standard output belongs to the watch.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Final

from nativeleak import children
from nativeleak.closing import Closing
from nativeleak.units import format_duration
from nativeleak.watch.alarms import Alarm
from nativeleak.watch.moments import Status
from nativeleak.watch.options import WatchOptions

_SHELL: Final = "/bin/sh"
_IN_FOLDER: Final = 'cd -- "$1" && exec /bin/sh -c "$2"'
_TRACE_ENDS_S: Final = 30.0
"""A trace ends with its target, and resolves names first."""


class Actions(Closing):
    """Starts what is asked for, and looks after it; a context manager.

    Args:
        options: Of the watch.
    """

    def __init__(self, options: WatchOptions) -> None:
        self._options = options
        self._command: children.Process[bytes] | None = None
        self._trace: children.Process[bytes] | None = None
        self._recording = ""

    def start(self, alarm: Alarm, status: Status) -> list[str]:
        """Start what an alarm starts; says what was done, a sentence each."""
        said = []
        if self._options.command:
            said.append(self._start_command(alarm, status))
        if self._options.trace_s is not None:
            said.append(self._start_trace())
        return said

    def look(self) -> list[str]:
        """What has ended since the last look, a sentence each."""
        said = []
        if self._command is not None and (code := self._command.poll()) is not None:
            self._command = None
            if code:
                said.append(f"the command of --run ended with status {code}")
        if self._trace is not None and (code := self._trace.poll()) is not None:
            self._trace = None
            said.append(
                f"the trace has ended: nativeleak report {self._recording}"
                if code == 0
                else f"the trace failed with status {code}"
            )
        return said

    def finish(self) -> list[str]:
        """End the trace, so that its recording is whole; a command goes on."""
        said = []
        if self._trace is not None:
            self._end_trace()
            said = self.look()
        if self._command is not None and self._command.poll() is None:
            said.append(f"the command of --run goes on: PID {self._command.pid}")
        return said

    def close(self) -> None:
        """End the trace."""
        if self._trace is not None:
            self._end_trace()

    def _end_trace(self) -> None:
        """Let it end with its target, or ask it to as Ctrl-C does."""
        trace = self._trace
        if trace is None:
            return
        if trace.poll() is None:
            trace.send_signal(signal.SIGINT)
        try:
            trace.wait(_TRACE_ENDS_S)
        except subprocess.TimeoutExpired:
            trace.kill()
            trace.wait()

    def _start_command(self, alarm: Alarm, status: Status) -> str:
        if self._command is not None and self._command.poll() is None:
            return f"the command of --run is not started: that of the last alarm still runs, PID {self._command.pid}"
        options = self._options
        env = {
            **os.environ,
            "NATIVELEAK_ALARM": alarm.name,
            "NATIVELEAK_PID": str(options.pid),
            "NATIVELEAK_TEXT": alarm.text,
            "NATIVELEAK_RSS_BYTES": str(status.rss_bytes),
        }
        try:
            self._command = children.start(
                [_SHELL, "-c", _IN_FOLDER, "sh", str(options.folder), options.command],
                env=env, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(),
            )  # fmt: skip
        except OSError as error:
            return f"the command of --run could not be started: {error.strerror}"
        return f"started: {options.command}"

    def _start_trace(self) -> str:
        if self._trace is not None and self._trace.poll() is None:
            return f"no trace is started: the one into {self._recording} still runs"
        pid, trace_s = self._options.pid, self._options.trace_s or 0.0
        self._recording = str(self._options.folder / f"nativeleak-{pid}-{time.strftime('%Y%m%d-%H%M%S')}.nlk")
        command = children.python_module(
            "nativeleak", "trace", "-p", str(pid), "--duration", f"{trace_s:g}s", "-o", self._recording, "--format",
            "none", *(["--quiet"] if self._options.is_quiet else []),
        )  # fmt: skip
        try:
            self._trace = children.start(command, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno())
        except OSError as error:
            return f"a trace could not be started: {error.strerror}"
        return f"tracing PID {pid} for {format_duration(trace_s)} into {self._recording}"
