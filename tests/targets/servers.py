"""The two leaking HTTP servers: how they are built and started, and what loads them.

They need Debian's jars of Netty and Jetty, and wrk; none takes a flag of the JVM.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from targets import build

JARS = Path("/usr/share/java")
PACKAGES = "wrk libnetty-java libjetty9-java libservlet-api-java"


@dataclass(frozen=True, slots=True)
class Server:
    """A server that leaks in one of so many requests.

    Attributes:
        name: Its class.
        jars: Patterns of the jars that it needs.
        every: In which of how many requests it leaks.
        method: The method that leaks.
        thread: How the names of the threads begin that call it.
    """

    name: str
    jars: tuple[str, ...]
    every: int
    method: str
    thread: str

    def class_path(self, source_name: str = "") -> str | None:
        """Its class path, with its own class compiled, or another of the same jars; None where a jar is missing."""
        found = [sorted(JARS.glob(pattern)) for pattern in self.jars]
        if not all(found):
            return None
        jars = [str(jar) for each in found for jar in each]
        build.BIN.mkdir(exist_ok=True)
        path = ":".join([str(build.BIN), *jars])
        source = build.HERE / "java" / f"{source_name or self.name}.java"
        subprocess.run(["javac", *build.JAVA, "-cp", path, "-d", build.BIN, source], check=True)
        return path


NETTY = Server("NettyServer", ("netty*.jar",), 7, "NettyServer$Handler.forgetBuffer", "nioEventLoopGroup-")
JETTY = Server("JettyServer", ("jetty9-*.jar", "servlet-api*.jar"), 97, "JettyServer$Handler.compress", "qtp")


def load(port: int, seconds: int) -> float:
    """Keep 16 connections to a server on this machine busy; returns requests a second as wrk counts them.

    Raises:
        RuntimeError: wrk failed, or requests did.
    """
    url = f"http://127.0.0.1:{port}/"
    done = subprocess.run(
        ["wrk", "-t1", "-c16", f"-d{seconds}s", url], capture_output=True, text=True, check=False, timeout=seconds + 60
    )
    found = re.search(r"Requests/sec:\s+([0-9.]+)", done.stdout)
    if found is None or "Non-2xx" in done.stdout or re.search(r"(connect|read|write) [1-9]", done.stdout):
        raise RuntimeError(f"wrk: status {done.returncode}: {done.stdout}{done.stderr}")
    return float(found[1])


def n_connections(port: int) -> int:
    """Connections that a server on this machine has not closed yet; each is closed after its last request is done.

    Source: proc_net_tcp.rst: local address, remote address, state; 0A listens, and 06 is closed by both sides.
    """
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split()[1:4] for table in tables for line in table]
    return sum(local.endswith(f":{port:04X}") and state not in ("0A", "06") for local, _, state in rows)
