"""A lack of descriptors or memory is told from other failures; the limits are real, in processes of their own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nativeleak.errors import CannotTraceError, MendableError, NativeleakError
from nativeleak.process.cgroups import MemoryGroup
from nativeleak.process.shortage import describe_room, refuse_shortage, shortage_behind

LACKING = """
import resource, sys
from nativeleak.process.shortage import shortage_behind
limit, amount, deed = getattr(resource, sys.argv[1]), int(sys.argv[2]), sys.argv[3]
resource.setrlimit(limit, (amount, amount))
kept = []
try:
    exec(deed)
except BaseException as error:
    print(*shortage_behind(error), sep="\\n")
"""
OPEN = "while True: kept.append(open('/dev/null'))"
ALLOCATE = "bytearray(1 << 30)"
START = "import threading; [threading.Thread(target=threading.Event().wait, daemon=True).start() for _ in range(999)]"


def caused(cause: BaseException) -> CannotTraceError:
    try:
        raise CannotTraceError("loading failed") from cause
    except CannotTraceError as error:
        return error


@pytest.mark.parametrize(
    ("limit", "amount", "deed", "said"),
    [
        ("RLIMIT_NOFILE", 32, OPEN, ("this process may have 32 (RLIMIT_NOFILE)", "`ulimit -Hn 4096`", "LimitNOFILE=")),
        ("RLIMIT_AS", 256 << 20, ALLOCATE, ("this process may have 256 MiB (RLIMIT_AS)", "`ulimit -v unlimited`")),
        ("RLIMIT_AS", 256 << 20, START, ("this process may have 256 MiB (RLIMIT_AS)", "`ulimit -v unlimited`")),
        ("RLIMIT_DATA", 256 << 20, ALLOCATE, ("this process may have 256 MiB (RLIMIT_DATA)", "--max-memory")),
    ],
)
def test_shortage_names_the_limit_and_how_to_raise_it(limit: str, amount: int, deed: str, said: tuple[str, ...]):
    command = [sys.executable, "-c", LACKING, limit, str(amount), deed]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for each in said:
        assert each in done.stdout


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_shortage_is_found_behind_the_errors_that_it_led_to(number: int):
    assert shortage_behind(caused(OSError(number, os.strerror(number)))) is not None
    assert shortage_behind(caused(caused(OSError(number, os.strerror(number))))) is not None


@pytest.mark.parametrize(
    ("text", "is_lack"),
    [
        ("libbpf.so.1: cannot open shared object file: Too many open files", True),
        ("libbpf.so.1: cannot open shared object file: No such file or directory", False),
        ("/x.so: failed to map segment from shared object", True),
        ("/x.so: failed to map segment from shared object: Operation not permitted", False),
        ("/x.so: cannot allocate memory in static TLS block", False),
    ],
)
def test_shortage_of_the_dynamic_loader_is_read_from_its_message(text: str, is_lack: bool):
    assert (shortage_behind(OSError(text)) is not None) is is_lack
    assert (shortage_behind(ImportError(text)) is not None) is is_lack


@pytest.mark.parametrize("error", [OSError(errno.EPERM, "no"), ValueError("x"), RuntimeError("x"), OSError("x")])
def test_other_errors_are_no_shortage(error: Exception):
    assert shortage_behind(error) is None
    refuse_shortage(error, "tracing")


def test_error_that_hides_its_cause_is_no_shortage():
    def fail() -> None:
        try:
            raise MemoryError
        except MemoryError:
            raise CannotTraceError("another reason") from None

    with pytest.raises(CannotTraceError) as caught:
        fail()
    assert shortage_behind(caught.value) is None


def test_shortage_is_one_of_the_machine_before_the_trace_and_one_of_run_time_in_it():
    with pytest.raises(MendableError, match="tracing failed: ") as before:
        refuse_shortage(MemoryError(), "tracing")
    with pytest.raises(NativeleakError, match="tracing failed: ") as later:
        refuse_shortage(MemoryError(), "tracing", has_begun=True)
    assert (before.value.exit_status, later.value.exit_status) == (3, 1)


def test_room_of_a_group_in_words():
    assert (
        describe_room(MemoryGroup(Path("/g"), 300 << 20, 240 << 20, 0)) == "control group /g has 60 MiB left of 300 MiB"
    )
