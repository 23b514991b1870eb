"""Programs as they come: what is called lost stays lost while they work, and their resident memory closes.

A block that is called lost and is written to or freed later was none. With NATIVELEAK_TEST_LONG=1 six programs are
watched for NATIVELEAK_TEST_WATCH_S seconds each (120 unless it is set); CI watches two of them shortly. PySpark comes
from the package registry then.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nativeleak.holders.run import Options, find_who_holds
from support import IS_LONG, eventually, nativeleak, require, require_program
from support.scripts import NODE_WORK

WATCH_S = float(os.environ.get("NATIVELEAK_TEST_WATCH_S", "120")) if IS_LONG else 2.0
MAX_TAKEN_BACK = 0.01
NOBODY = 65534

PYTHON = """
import json, re, zlib
def work(i):
    text = json.dumps([{'i': j, 's': 'x' * (j % 50)} for j in range(500)])
    return len(zlib.compress(text.encode())), len(re.findall('x+', text)), json.loads(text)[i % 500]
kept = {}
i = 0
print('ready', flush=True)
while True:
    kept[i % 1000] = work(i)
    i += 1
"""
NODE = NODE_WORK + "work();\n"
SPARK = """
import sys, time
from pyspark.sql import SparkSession
local = {'spark.ui.enabled': 'false', 'spark.driver.bindAddress': '127.0.0.1', 'spark.driver.host': '127.0.0.1'}
builder = SparkSession.builder.master('local[2]')
for name, value in local.items():
    builder = builder.config(name, value)
spark = builder.getOrCreate()
spark.sparkContext.setLogLevel('OFF')
rows = spark.range(0, 2_000_000).selectExpr('id % 1000 as k', 'id as v')
rows.cache().count()
print('ready', spark._jvm.java.lang.ProcessHandle.current().pid(), flush=True)
while True:
    rows.groupBy('k').sum('v').count()
"""
SQL = b"""\
SELECT g % 7, md5(string_agg(g::text || repeat('x', 50), ',' ORDER BY g DESC))
FROM generate_series(1, 5000) g GROUP BY 1;

DO $$ BEGIN FOR i IN 1..200 LOOP PERFORM i, upper(repeat('y', i)); END LOOP; END $$;

"""


@contextmanager
def _script(*command: str) -> Iterator[int]:
    require_program(command[0])
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process.pid
        finally:
            process.kill()


@contextmanager
def _in_the_background(work: Callable[[], object]) -> Iterator[None]:
    """Do something again and again until the end, whatever becomes of it."""
    stops = threading.Event()

    def again() -> None:
        while not stops.is_set():
            with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
                work()

    thread = threading.Thread(target=again)
    thread.start()
    try:
        yield
    finally:
        stops.set()
        thread.join()


@contextmanager
def _nginx(room: Path) -> Iterator[int]:
    require_program("nginx")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (room / "page.txt").write_text("some words to be packed\n" * 5000)
    (room / "nginx.conf").write_text(
        f"daemon off; master_process off; error_log {room}/error.log; pid {room}/pid; events {{}}\n"
        "http { access_log off; gzip on; gzip_types text/plain;\n"
        f"server {{ listen 127.0.0.1:{port}; root {room}; }} }}\n"
    )
    with subprocess.Popen(["nginx", "-p", room, "-c", room / "nginx.conf"]) as server:

        def ask() -> bytes:
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
                connection.request("GET", "/page.txt", headers={"Accept-Encoding": "gzip"})
                return connection.getresponse().read()

        def answers() -> bool:
            with contextlib.suppress(OSError):
                return bool(ask())
            return False

        try:
            eventually(answers, "nginx answers")
            with _in_the_background(ask):
                yield server.pid
        finally:
            server.kill()


@contextmanager
def _redis(room: Path) -> Iterator[int]:
    require_program("redis-server", "redis-benchmark")
    path = room / "socket"
    command = ["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--dir", room]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        load = ["redis-benchmark", "-s", path, "-q", "-n", "20000", "-r", "10000", "-t", "set,lpush,hset,zadd"]
        try:
            eventually(path.exists, "redis listens")
            with _in_the_background(lambda: subprocess.run(load, check=True, capture_output=True, timeout=60)):
                yield server.pid
        finally:
            server.kill()


@contextmanager
def _postgres() -> Iterator[int]:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    require(found, "postgresql is not installed")
    require_program("setpriv")
    # Nobody but its owner may come to its data: not below the folder of root's tests.
    room = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    os.chown(room, NOBODY, NOBODY)
    nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    made = [*nobody, found[-1].with_name("initdb"), "-D", room / "data", "-U", "nobody", "--no-sync", "--locale=C"]
    try:
        subprocess.run(made, check=True, capture_output=True, cwd=room)
        command = [*nobody, found[-1], "--single", "-j", "-D", room / "data", "postgres"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=room, bufsize=0
        ) as server:
            stdin = server.stdin
            assert stdin is not None
            comm = Path(f"/proc/{server.pid}/comm")
            try:
                eventually(lambda: "postgres" in comm.read_text(), "setpriv has become postgres")
                with _in_the_background(lambda: stdin.write(SQL)):
                    eventually(lambda: _cpu_s(server.pid) > 0.5, "postgres has worked")
                    yield server.pid
                    server.kill()
            finally:
                server.kill()
    finally:
        shutil.rmtree(room)


@contextmanager
def _spark(room: Path) -> Iterator[int]:
    """The JVM of a Spark driver."""
    packages = room / "packages"
    install = [sys.executable, "-m", "pip", "install", "-qq", "--target", packages, "pyspark"]
    subprocess.run(install, check=True, timeout=600)
    java = Path(shutil.which("java") or "/bin/java").resolve().parent.parent
    environment = os.environ | {"PYTHONPATH": str(packages), "JAVA_HOME": str(java)}
    command = [sys.executable, "-c", SPARK]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, cwd=room
    ) as driver:
        assert driver.stdout is not None
        try:
            words = driver.stdout.readline().split()
            assert words[:1] == [b"ready"]
            yield int(words[1])
        finally:
            driver.kill()  # its JVM ends with it


def _cpu_s(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _started(name: str, room: Path) -> contextlib.AbstractContextManager[int]:
    programs: dict[str, Callable[[], contextlib.AbstractContextManager[int]]] = {
        "python3": lambda: _script("/usr/bin/python3", "-c", PYTHON),
        "node": lambda: _script("/usr/bin/node", "-e", NODE),
        "nginx": lambda: _nginx(room),
        "redis": lambda: _redis(room),
        "postgres": _postgres,
        "pyspark": lambda: _spark(room),
    }
    return programs[name]()


NAMES = ["python3", "node", *(("nginx", "redis", "postgres", "pyspark") if IS_LONG else ())]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_resident_memory_of_programs_as_they_come_closes(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with _started(name, tmp_path) as pid:
        done = nativeleak("triage", "-p", pid, "--format", "json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    lines = {line["id"]: line["resident_bytes"] for line in report["lines"]}
    rss, unexplained = report["rss_bytes"], lines.get("unexplained", 0)
    counted = report["status_rss_bytes"]  # before and after
    said = f"{name}: {rss >> 10} KiB in lines, {[each >> 10 for each in counted]} KiB by the kernel's count, "
    said += f"{unexplained / rss:.2%} unexplained"
    record_property("closes", said)
    print(said)
    assert sum(lines.values()) == rss
    assert 0.99 * min(counted) <= rss <= 1.01 * max(counted)
    assert unexplained <= 0.03 * rss


@pytest.mark.timeout(WATCH_S + 300)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_called_lost_is_not_taken_back_while_a_program_works(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    options = Options(gap_s=1.0 if IS_LONG else 0.2)
    with _started(name, tmp_path) as pid:
        first = find_who_holds(pid, options)
        time.sleep(WATCH_S)
        second = find_who_holds(pid, options)
    before, after = first.grade("lost"), second.grade("lost")
    assert before is not None, first.why_not_lost
    assert after is not None, second.why_not_lost
    still = set(after.starts)
    n_gone = sum(1 for start in before.starts if start not in still)
    bytes_gone = before.n_bytes * n_gone / max(before.n_blocks, 1)
    said = f"{name}: {before.n_blocks} blocks, {before.n_bytes} bytes of {first.completeness.n_bytes} called lost; "
    said += f"{n_gone} taken back after {WATCH_S:.0f} s"
    record_property("lost", said)
    print(said)
    assert bytes_gone <= MAX_TAKEN_BACK * first.completeness.n_bytes, said
