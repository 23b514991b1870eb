"""What the tests share: running targets, tracing them, and holding a report against a target's truth.

Everything here waits for a sign from another process, with a limit, and never for a time to pass. Only processes that
were started here are ended here.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import pytest

from targets import build, jdks

ROOT = Path(__file__).resolve().parent.parent

PATIENCE = float(os.environ.get("NATIVELEAK_TEST_PATIENCE", "1"))
"""How many times longer than usual everything may take: on an emulated machine."""

START_TIMEOUT_S = 30.0 * PATIENCE
"""Until a target is READY or a trace is attached; a JVM on a busy machine takes seconds."""

ANSWER_TIMEOUT_S = 120.0 * PATIENCE
"""Until a target has done its work; under a tracer the largest takes tens of seconds."""

MAX_LINES_SAID = 60
"""Of what a target said instead of an answer, shown at most."""

PRELOADS = {
    "jemalloc": "libjemalloc.so.2",
    "tcmalloc": "libtcmalloc_minimal.so.4",
    "mimalloc": "libmimalloc.so.2.0",
}
"""Allocator -> its library as Debian names it, in the folder of the machine's libraries."""

Truth = dict[str, Any]
Report = dict[str, Any]


class TargetError(AssertionError):
    """A target or a trace did not do what the tests count on; the text carries what it printed."""


def is_everything_required() -> bool:
    """Tell whether a test that cannot run here has failed, rather than been skipped."""
    return os.environ.get("NATIVELEAK_REQUIRE") == "all"


def require(condition: object, reason: str) -> None:
    """Skip the test unless ``condition`` holds; fail it where everything is required.

    Args:
        condition: Anything with a truth value.
        reason: What is missing, as a sentence without a full stop.
    """
    if condition:
        return
    if is_everything_required():
        pytest.fail(f"required: {reason}", pytrace=False)
    pytest.skip(reason)


def require_root() -> None:
    """Skip unless this process may load BPF programs and attach them to any process."""
    require(os.geteuid() == 0, "tracing needs root")


def require_program(*names: str) -> None:
    """Skip unless all these programs are on the path."""
    missing = [name for name in names if shutil.which(name) is None]
    require(not missing, f"not installed: {' '.join(missing)}")


def target_path(name: str) -> Path:
    """Build a target where needed; skip where its compiler is missing.

    Raises:
        BuildError: A compiler that is there refuses the source.
    """
    require_program(build.TARGETS[name].compiler)
    return build.build_target(name)


def preload(allocator: str) -> dict[str, str]:
    """Environment that puts an allocator (a key of ``PRELOADS``) under a target; skips where it is not installed."""
    found = sorted(Path("/usr/lib").glob(f"*-linux-gnu/{PRELOADS[allocator]}"))
    require(found, f"{allocator} is not installed")
    return {"LD_PRELOAD": str(found[0])}


@contextlib.contextmanager
def one_processor() -> Iterator[None]:
    """All that is started inside runs on one and the same processor, with all its threads and children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def processors_of(pid: int) -> set[int]:
    """The processors that any thread of a process may run on."""
    return set().union(*(os.sched_getaffinity(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()))


NOBODY = 65534


def as_nobody(*capabilities: str) -> tuple[list[str], dict[str, str]]:
    """How to run Python as a user without rights but for these capabilities; skips where that cannot be.

    Args:
        capabilities: As setpriv(1) writes them: ``bpf``, ``sys_ptrace``.

    Returns:
        The beginning of a command line, up to and with the interpreter, and the environment it takes.
    """
    require_root()
    require_program("setpriv")
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    if capabilities:
        wanted = ",".join(f"+{name}" for name in capabilities)
        command += [f"--inh-caps=-all,{wanted}", f"--ambient-caps=-all,{wanted}", f"--bounding-set=-all,{wanted}"]
    # An interpreter in root's home cannot be run by others: the system's, with our path, can.
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    require(python, "no python3 in /usr/bin for other users")
    path = [str(ROOT / "tracer"), *(entry for entry in sys.path if "site-packages" in entry)]
    environment = {
        "PYTHONPATH": ":".join(path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
    }
    probe = [*command, str(python), "-c", "import sys, nativeleak, click; assert sys.version_info >= (3, 11)"]
    usable = subprocess.run(probe, env=environment, capture_output=True, check=False, cwd="/")
    require(usable.returncode == 0, "the package cannot be imported by other users")
    return [*command, str(python)], environment


class LineReader:
    """Lines from a pipe, each with a limit on how long it may take."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(fd, selectors.EVENT_READ)

    def readline(self, timeout_s: float) -> str | None:
        """Return the next line without its newline, None at the end of the stream.

        Raises:
            TimeoutError: No whole line came in ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"no line in {timeout_s} s")
            chunk = os.read(self._fd, 1 << 20)
            if not chunk:
                return None
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace")

    def close(self) -> None:
        """Stop watching; the pipe itself is its owner's."""
        self._selector.close()


class Target:
    """A target program, from READY to its end; a context manager.

    Args:
        name: Of a target in ``targets/build.py``; it is built where needed.
        arguments: Of the program; numbers are taken as text.
        env: Added to the environment, ``preload("jemalloc")`` for one.
        command: Run this instead: a program that speaks the protocol under another way of starting it.

    Attributes:
        pid: As the test sees it.
        process: The child; its stdin, stdout and stderr belong to this object.
    """

    def __init__(
        self,
        name: str,
        *arguments: object,
        env: Mapping[str, str] | None = None,
        command: Sequence[str | Path] | None = None,
        timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self.name = name
        words = [str(word) for word in command or [target_path(name)]] + [str(word) for word in arguments]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close())
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **(env or {})},
        )
        assert self.process.stdout is not None
        self._lines = LineReader(self.process.stdout.fileno())
        self.pid = self.process.pid
        try:
            self.wait_ready(timeout_s)
        except BaseException:
            self.close()
            raise

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait for a READY: once at the start, and again after an exec."""
        line = self.readline(timeout_s)
        if not line.startswith("READY "):
            self._fail(f"said {line!r} instead of READY")

    def readline(self, timeout_s: float = ANSWER_TIMEOUT_S) -> str:
        """Return the next line of its stdout.

        Raises:
            TargetError: It ended, or said nothing in time.
        """
        try:
            line = self._lines.readline(timeout_s)
        except TimeoutError as error:
            self._fail(str(error))
        if line is None:
            self._fail("ended")
        return line

    def send(self, line: str) -> None:
        """Send one command; what it answers is read with ``readline`` or ``ask``."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self._fail(f"ended before {line!r}")

    def ask(self, line: str, timeout_s: float = ANSWER_TIMEOUT_S) -> Truth:
        """Send a command that is answered with the truth."""
        self.send(line)
        said = self.readline(timeout_s)
        try:
            answer: Truth = json.loads(said)
        except json.JSONDecodeError:
            self._fail(f"said {said + self._rest()!r} instead of an answer to {line!r}")
        return answer

    def go(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Truth:
        """Let it do its work; return its truth (``targets/truth.h`` says what is in it)."""
        return self.ask("go", timeout_s)

    def wait(self, timeout_s: float = START_TIMEOUT_S) -> int:
        """Wait for its end; return its status, negative for a signal."""
        return self.process.wait(timeout_s)

    def close(self) -> None:
        """End it: it sees the end of its stdin, and is killed only where that does not help. May be called again."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._lines.close()
        self.process.stdout.close()
        self._errors.close()

    def _rest(self) -> str:
        """What else it says: a JVM that crashes says why on its stdout."""
        lines: list[str] = []
        with contextlib.suppress(TimeoutError):
            while len(lines) < MAX_LINES_SAID and (line := self._lines.readline(START_TIMEOUT_S)) is not None:
                lines.append(line)
        return "".join(f"\n{line}" for line in lines)

    def _fail(self, what: str) -> NoReturn:
        self._errors.seek(0)
        raise TargetError(f"target {self.name}: {what}; stderr: {self._errors.read().decode(errors='replace')!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def java_launcher(release: str) -> str:
    """The ``java`` of a JDK (``targets/jdks.py``); skips where it is missing."""
    found = jdks.find_launcher(release)
    require(found, f"JDK {release} is missing: run tests/targets/jdks.py")
    return str(found)


def leaker(*arguments: str, waits: bool = True, java: str = "java", options: Sequence[str] = ()) -> Target:
    """Start the Java service; ``targets/Leaker.java`` says what it does and which commands it takes.

    Args:
        arguments: ``NAME=VALUE``, for one ``chunk-pool=2``.
        waits: Allocate nothing before ``send("go")``, which has no answer; ``ask("until order-cache 101")`` has.
        java: The launcher of another JVM.
        options: Added to those of the JVM.
    """
    class_path = target_path("Leaker")
    require_program(java)
    command: list[str | Path] = [java, "-Xmx128m", "-XX:MaxDirectMemorySize=2g", *options, "-cp", class_path, "Leaker"]
    return Target("Leaker", *(["--wait"] if waits else []), *arguments, command=command)


def nativeleak(
    *arguments: object, timeout_s: float = 60.0, env: Mapping[str, str] | None = None, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end; the status is for the test to look at."""
    return subprocess.run(
        [sys.executable, "-m", "nativeleak", *(str(argument) for argument in arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
        input=stdin,
        env={**os.environ, **(env or {})},
    )


class Trace:
    """``nativeleak trace`` of one or more processes in the background; a context manager that is attached once entered.

    Args:
        pids: What to trace: targets or process ids.
        options: More options of ``trace``. Without a ``--max-overhead`` among them it is off: targets that do nothing
            but allocate would be sampled, and most tests are of exact figures.
        output: Where the recording goes, for tests that keep it; without one it goes with the trace.
        attaches: False where the trace is to fail: nothing is waited for then; see ``wait``.
        capabilities: Trace as a user who has these alone; None: as the tests are run.
        within: A command that the tracer is run by, which becomes it by exec.

    Attributes:
        process: The tracer.
        recording: Path of the recording.
        stderr: What it has said so far, each line with its newline; whole after ``stop`` or ``wait``.
        stdout: Its report as text; "" before its end.
    """

    def __init__(
        self,
        *pids: Target | int,
        options: Iterable[object] = (),
        output: Path | None = None,
        attaches: bool = True,
        env: Mapping[str, str] | None = None,
        timeout_s: float = START_TIMEOUT_S,
        capabilities: Sequence[str] | None = None,
        within: Sequence[str] = (),
        program: Sequence[str] = ("-m", "nativeleak"),
    ) -> None:
        self.stderr = ""
        self.stdout = ""
        self._room = tempfile.TemporaryDirectory(prefix="nativeleak-test-")
        self.recording = output or Path(self._room.name) / "trace.nlk"
        interpreter, environment = [sys.executable], dict(os.environ)
        if capabilities is not None:
            interpreter, environment = as_nobody(*capabilities)
            Path(self._room.name).chmod(0o777)
        words = [*interpreter, *program, "trace", "--format", "json", "-o", str(self.recording)]
        options = [str(option) for option in options]
        if "--max-overhead" not in options:
            words += ["--max-overhead", "off"]
        for pid in pids:
            words += ["-p", str(pid.pid if isinstance(pid, Target) else pid)]
        # A file, not a pipe: a report of a million sites must not wait for its reader.
        self._report = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close())
        self.process = subprocess.Popen(
            [*within, *words, *options],
            stdin=subprocess.DEVNULL,
            stdout=self._report,
            stderr=subprocess.PIPE,
            env={**environment, "PYTHONUNBUFFERED": "1", **(env or {})},
            cwd="/" if capabilities is not None else None,
        )
        assert self.process.stderr is not None
        self._lines = LineReader(self.process.stderr.fileno())
        if attaches:
            try:
                self._wait_attached(timeout_s)
            except BaseException:
                self.close()
                raise

    def _wait_attached(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.readline(max(0.0, deadline - time.monotonic()))
            except TimeoutError as error:
                raise TargetError(f"trace: not attached in {timeout_s} s; stderr: {self.stderr!r}") from error
            if line is None:
                raise TargetError(f"trace: ended before it was attached; stderr: {self.stderr!r}")
            self.stderr += line + "\n"
            if line.startswith("nativeleak: tracing"):
                return

    def wait_line(self, text: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Wait until it has said a line with this text.

        Raises:
            TargetError: It has not, or has ended.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.readline(max(0.0, deadline - time.monotonic()))
            except TimeoutError as error:
                raise TargetError(f"trace: no {text!r} in {timeout_s} s; stderr: {self.stderr!r}") from error
            if line is None:
                raise TargetError(f"trace: ended without {text!r}; stderr: {self.stderr!r}")
            self.stderr += line + "\n"
            if text in line:
                return

    def said(self) -> str:
        """All that it has said by now, its end not waited for."""
        with contextlib.suppress(TimeoutError):
            while (line := self._lines.readline(0.01)) is not None:
                self.stderr += line + "\n"
        return self.stderr

    def stop(self, timeout_s: float = ANSWER_TIMEOUT_S, signum: signal.Signals = signal.SIGINT) -> Report:
        """End the trace as Ctrl-C does, and return its report."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Report:
        """Wait until the trace ends by itself, by its duration or with its target; return its report.

        Raises:
            TargetError: It failed (``process.returncode`` says how), or did not end.
        """
        self.wait_end(timeout_s)
        if self.process.returncode != 0:
            raise TargetError(f"trace: status {self.process.returncode}; stderr: {self.stderr!r}")
        report: Report = json.loads(self.stdout)
        return report

    def all_sites(self) -> Report:
        """The report once more, now with the sites of which nothing is outstanding; after the end, before ``close``."""
        done = nativeleak("report", self.recording, "--format", "json", "--metric", "allocated")
        if done.returncode != 0:
            raise TargetError(f"report: status {done.returncode}; stderr: {done.stderr!r}")
        report: Report = json.loads(done.stdout)
        return report

    def wait_end(self, timeout_s: float = ANSWER_TIMEOUT_S) -> int:
        """Wait for its end, whatever it is; return its status. ``stdout`` and ``stderr`` are whole then."""
        deadline = time.monotonic() + timeout_s
        try:
            while (line := self._lines.readline(max(0.0, deadline - time.monotonic()))) is not None:
                self.stderr += line + "\n"
            status = self.process.wait(max(0.1, deadline - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            raise TargetError(f"trace: did not end in {timeout_s} s; stderr: {self.stderr!r}") from error
        self._report.seek(0)
        self.stdout = self._report.read().decode()
        return status

    def close(self) -> None:
        """End the tracer, by force where it does not end; may be called again."""
        assert self.process.stderr is not None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._lines.close()
        self.process.stderr.close()
        self._report.close()
        self._room.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


COMPARED = ("outstanding_bytes", "outstanding_count", "allocated_bytes", "allocated_count")


def site_totals(report: Report, site: Mapping[str, Any]) -> dict[str, int]:
    """Add up the report's sites that are one site of a truth: its kind, its thread, and its function in the stack.

    Args:
        report: ``--format json``.
        site: One of the ``sites`` of a truth; a ``method`` stands for a Java target's function.
    """
    wanted = site.get("function") or site.get("method")
    found = dict.fromkeys(COMPARED, 0)
    for row in report["sites"]:
        if row["kind"] != site["kind"] or row["thread"]["tid"] != site["tid"]:
            continue
        if any(_is_function(frame["function"], wanted) for frame in row["frames"]):
            for key in COMPARED:
                found[key] += row[key]
    return found


def _is_function(name: str, wanted: str | None) -> bool:
    """Tell whether a frame's name is the function, with or without its parameters."""
    return wanted is not None and (name == wanted or name.startswith(wanted + "("))


def mismatches(report: Report, truth: Truth, kinds: Sequence[str] = ("heap", "map", "brk")) -> list[str]:
    """Compare a report with a truth, site by site; an empty list says that they agree.

    Names of threads are compared where the site has anything outstanding. A site that the report does not have counts
    as zeros: that is right for one that only failed. What a site has allocated is compared where a report has all of
    it (``Trace.all_sites``). For a truth that is ``complete`` see ``strangers`` too.
    """
    found = []
    for site in truth["sites"]:
        if site["kind"] not in kinds:
            continue
        where = f"{site['kind']} {site['function']} in {site['thread']}/{site['tid']}"
        reported = site_totals(report, site)
        found += [
            f"{where}: {key} {reported[key]}, truth {site[key]}"
            for key in COMPARED
            if key in site and reported[key] != site[key] and not _is_absent(report, key)
        ]
        names = {row["thread"]["name"] for row in report["sites"] if row["thread"]["tid"] == site["tid"]}
        if site.get("outstanding_count") and names != {site["thread"]}:
            found.append(f"{where}: thread is called {sorted(names)}")
    return found


def _is_absent(report: Report, key: str) -> bool:
    """Most reports leave out stacks of which nothing is outstanding, and with them what was allocated there."""
    return key.startswith("allocated_") and report["metric"] != "allocated"


def strangers(report: Report, truth: Truth) -> list[str]:
    """Name the report's sites with memory outstanding that no site of a truth explains, each by its inner frames."""
    known = {(site["kind"], site["tid"], site["function"]) for site in truth["sites"]}
    return [
        f"{row['kind']} {row['outstanding_bytes']} bytes in {row['thread']['name']}: "
        + " < ".join(frame["function"] for frame in row["frames"][:8])
        for row in report["sites"]
        if row["outstanding_count"]
        and not any(
            row["kind"] == kind
            and row["thread"]["tid"] == tid
            and any(_is_function(frame["function"], function) for frame in row["frames"])
            for kind, tid, function in known
        )
    ]


def seen_as(truth: Truth, hidden: Mapping[str, str]) -> Truth:
    """The truth with sites named by the library function that they call, which then stands for all of them in a thread.

    For a library function without a frame pointer: of its stacks a walk by frame pointers finds that function, but not
    its caller, who is the site.

    Args:
        truth: What a target says.
        hidden: Function of a site -> the function of a library that hides it, as a report calls it.
    """
    merged: dict[tuple[str, int, str], dict[str, Any]] = {}
    for site in truth["sites"]:
        function = hidden.get(site["function"], site["function"])
        known = merged.setdefault((site["kind"], site["tid"], function), {**site, "function": function})
        if known["name"] != site["name"]:
            known.update({key: known[key] + site[key] for key in COMPARED if key in known})
    return {**truth, "sites": list(merged.values())}


def sums(truth: Truth, kind: str) -> dict[str, int]:
    """What all sites of a kind in a truth add up to, for the ``totals`` of a report; amounts it leaves open count 0."""
    return {key: sum(site.get(key, 0) for site in truth["sites"] if site["kind"] == kind) for key in COMPARED}


def totals(report: Report, kind: str) -> dict[str, int]:
    """The ``totals`` of a kind in a report, as ``sums`` gives those of a truth."""
    return {key: report["totals"][kind][key] for key in COMPARED}


def hiding(*paths: str | Path) -> list[str]:
    """The beginning of a command that sees an empty device in the place of each of these files.

    The mounts are in a mount namespace of the command's own.
    """
    mounts = "".join(f"mount --bind /dev/null {shlex.quote(str(Path(path).resolve()))} && " for path in paths)
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", f'{mounts}exec "$@"', "sh"]


def eventually(condition: Callable[[], object], what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Wait until something that gives no sign of its own has come about.

    Raises:
        TargetError: It has not, in ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TargetError(f"{what}: not in {timeout_s} s")
        time.sleep(0.01)


def bpf_objects(pid: int) -> dict[str, set[int]]:
    """Ids of the BPF programs and links that a process holds, by ``prog`` and ``link``; nothing once it is gone."""
    found: dict[str, set[int]] = {"prog": set(), "link": set()}
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for info in Path(f"/proc/{pid}/fdinfo").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = dict(line.split(":\t", 1) for line in info.read_text().splitlines() if ":\t" in line)
                for kind, ids in found.items():
                    # A link's descriptor names its program too.
                    ids.update({int(fields[f"{kind}_id"])} if f"{kind}_id" in fields else ())
    return found


def bpf_objects_alive(ids: Mapping[str, set[int]]) -> dict[str, set[int]]:
    """Those of ``bpf_objects`` that the kernel still has, whoever holds them."""
    require_program("bpftool")
    alive = {}
    for kind in ("prog", "link"):
        shown = subprocess.run(["bpftool", "-j", kind, "show"], capture_output=True, text=True, check=True).stdout
        alive[kind] = ids[kind] & {entry["id"] for entry in json.loads(shown or "[]")}
    return alive
