"""Servers under load, as distributions ship them: every allocation has a whole stack, or one that says it is none."""

from __future__ import annotations

import http.client
import os
import platform
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from integration.test_unwind_programs import (
    SNAPSHOTS_OF_LOAD,
    Walked,
    assert_roots,
    under_load,
    walked,
)  # fmt: skip
from stacks import await_snapshots, await_tables
from support import Trace, eventually, require, require_program
from support.scripts import NODE_WORK

NODE = NODE_WORK + "process.stdin.once('data', work);\n"


# An empty line ends a query.
SQL = b"""\
SELECT g % 7, md5(string_agg(g::text || repeat('x', 50), ',' ORDER BY g DESC))
FROM generate_series(1, 5000) g GROUP BY 1;

SELECT count(*) FROM regexp_split_to_table(repeat('a1,b22,', 2000), ',') t WHERE t ~ '^[a-z]2+$';

DO $$ BEGIN FOR i IN 1..200 LOOP PERFORM i, upper(repeat('y', i)); END LOOP; END $$;

"""
NOBODY = 65534
N_REQUESTS = 2000


@pytest.fixture(autouse=True)
def _tables() -> None:
    require(platform.machine() == "x86_64", "unwind tables are made for x86-64 only")


def assert_whole_or_marked(found: Walked, program: Path) -> None:
    """All have a whole stack or a mark, and what is whole ends where a program or a thread begins."""
    assert found.n_whole + sum(found.marks.values()) == found.n
    assert_roots(found, program)


def test_node_every_stack_is_whole_or_marked(record_property):
    """Code that V8 has made has no unwind information: a stack through it is found by frame pointers, and marked."""
    path = Path("/usr/bin/node")
    require(path.exists(), "the distribution's node is not installed")
    found = under_load([path, "-e", NODE])
    record_property("walked", str(found))
    print(f"node: {found}")
    assert found.n > 1000
    assert_whole_or_marked(found, path)


def postgres_path() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    require(found, "postgresql is not installed")
    return found[-1]


def test_postgres_every_stack_is_whole(tmp_path_factory, record_property):
    path = postgres_path()
    require_program("setpriv")
    # Nobody but its owner may come to its data: not below the folder of root's tests.
    room = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    os.chown(room, NOBODY, NOBODY)
    nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    data = room / "data"
    try:
        subprocess.run(
            [*nobody, path.with_name("initdb"), "-D", data, "-U", "nobody", "--no-sync", "--locale=C", "-E", "UTF8"],
            check=True, capture_output=True, cwd=room,
        )  # fmt: skip
        found = postgres_under_load([*nobody, path, "--single", "-j", "-D", data, "-c", "jit=off", "postgres"], room)
    finally:
        shutil.rmtree(room)
    record_property("walked", str(found))
    print(f"postgres: {found}")
    assert found.n > 1000
    assert found.n_whole >= 0.999 * found.n, found
    assert_whole_or_marked(found, path)


def postgres_under_load(command: list[object], room: Path) -> Walked:
    """A server of one user, who types without end."""
    with subprocess.Popen(
        [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        cwd=room, bufsize=0,
    ) as server:  # fmt: skip
        assert server.stdin is not None
        stops = threading.Event()

        def type_queries() -> None:
            while not stops.is_set():
                try:
                    server.stdin.write(SQL)
                except (BrokenPipeError, ValueError):
                    return

        eventually(lambda: "postgres" in Path(f"/proc/{server.pid}/comm").read_text(), "setpriv has become postgres")
        server.stdin.write(SQL)
        maps, call = Path(f"/proc/{server.pid}/maps"), Path(f"/proc/{server.pid}/syscall")
        eventually(lambda: "plpgsql.so" in maps.read_text(), "the language of the last query is loaded")
        eventually(lambda: call.read_text().startswith("0 0x0 "), "it reads what is typed next")
        typist = threading.Thread(target=type_queries)
        try:
            with Trace(server.pid, options=["--interval", "0.5s"]) as trace:
                await_tables(trace)
                typist.start()
                await_snapshots(trace, SNAPSHOTS_OF_LOAD)
                trace.stop()
                return walked(trace.recording)
        finally:
            stops.set()
            server.kill()
            if typist.ident:
                typist.join()


@contextmanager
def nginx(room: Path) -> Iterator[tuple[int, int]]:
    """A server of one process that packs what it serves: its PID and port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (room / "page.txt").write_text("some words to be packed\n" * 5000)
    (room / "nginx.conf").write_text(
        "daemon off; master_process off; pid nginx.pid; error_log error.log; events { worker_connections 64; }\n"
        f"http {{ access_log off; gzip on; gzip_types text/plain; gzip_min_length 1; default_type text/plain;\n"
        f"client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp;\n"
        f"scgi_temp_path tmp; server {{ listen 127.0.0.1:{port}; root {room}; }} }}\n"
    )
    command = ["nginx", "-p", str(room), "-c", "nginx.conf", "-e", str(room / "error.log")]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        try:
            eventually(lambda: server.poll() is not None or answers(port), "nginx answers")
            assert server.poll() is None, server.stderr.read()
            yield server.pid, port
        finally:
            server.kill()


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def test_nginx_every_stack_is_whole(tmp_path, record_property):
    require_program("nginx")
    with nginx(tmp_path) as (pid, port), Trace(pid, options=["--interval", "0.5s"]) as trace:
        await_tables(trace)
        for n in range(N_REQUESTS):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/page.txt" if n % 3 else "/none", headers={"Accept-Encoding": "gzip"})
            assert connection.getresponse().read()
            connection.close()
        trace.stop()
        found = walked(trace.recording)
    record_property("walked", str(found))
    print(f"nginx: {found}")
    assert found.n > N_REQUESTS
    assert found.n_whole >= 0.999 * found.n, found
    assert_whole_or_marked(found, Path(shutil.which("nginx") or ""))
