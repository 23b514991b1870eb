"""The command on a JVM: the Java objects that hold blocks stand first, and hold by name."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from side_by_side.test_java_holders import gateway
from support import IS_LONG
from support.target import Target, java_launcher, target_path

_CHUNKS = 20
_MANY = 1_000_003 if IS_LONG else 200_003
_MOST_BYTES = 200_000_000 if IS_LONG else 100 << 20


def _holders(target: Target, *options: str) -> str:
    command = [sys.executable, "-m", "nativeleak", "holders", "-p", str(target.pid), "--scans", "2", *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_gateway_attached_to_late_is_explained_on_one_screen() -> None:
    with gateway("debian") as target:
        truth = target.ask(f"fill {_CHUNKS} 1500 800 300", timeout_s=150)
        text, report = _holders(target), json.loads(_holders(target, "--format", "json"))
    kept_bytes = _CHUNKS * truth["chunk_bytes"]
    lines = text.splitlines()
    assert len(lines) <= 40
    [row] = [line for line in lines if f"{_CHUNKS} x 16.0 MiB" in line]
    assert "java.nio.DirectByteBuffer.address" in row
    assert lines.index(row) < 6
    assert "Gateway.pending (java.util.ArrayList)" in text
    assert "static Gateway.GATEWAY" in text
    rows: list[dict[str, Any]] = report["holders"]
    [held] = [each for each in rows if each["holder"] == "Java Gateway.pending (java.util.ArrayList)"]
    assert held["kind"] == "java-class"
    assert held["blocks"] == _CHUNKS
    assert kept_bytes <= held["bytes"] <= kept_bytes * 1.001
    [group] = [each for each in report["java_holders"]["holders"] if each["root"] == "static Gateway.GATEWAY"][:1]
    assert group["bytes"] == held["bytes"]
    assert report["java_holders"]["completeness"]["read"] is True


def test_many_java_holders_take_little_memory_and_are_held_by_their_list_alone() -> None:
    """A million of them took 328 MiB."""
    java = [java_launcher("debian"), "-Xmx1g", "-cp", str(target_path("HoldsMany")), "HoldsMany", str(_MANY)]
    with Target("HoldsMany", command=java, timeout_s=60) as target:
        options = [
            "-m",
            "nativeleak",
            "holders",
            "-p",
            str(target.pid),
            "--scans",
            "2",
            "--wait",
            "0.1s",
            "--format",
            "json",
            "--quiet",
        ]
        # A child's largest size is at least that of the process that started it.
        script = (
            "import json, resource, subprocess, sys;"
            "done = subprocess.run([sys.executable, *sys.argv[1:]], check=True, stdout=-1);"
            "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss;"
            "json.dump({'peak_kib': peak, 'report': json.loads(done.stdout)}, sys.stdout)"
        )
        done = subprocess.run([sys.executable, "-c", script, *options], check=True, capture_output=True, text=True)
    result = json.loads(done.stdout)
    report = result["report"]
    [held] = [each for each in report["holders"] if each["holder"] == "Java HoldsMany.CODECS (java.util.ArrayList)"]
    assert held["blocks"] == _MANY
    assert held["exclusive_blocks"] >= 0.999 * _MANY
    [group] = [each for each in report["java_holders"]["holders"] if each["holder"] == "HoldsMany$Codec.nativeHandle"]
    assert (group["objects"], group["blocks"]) == (_MANY, _MANY)
    assert sum(each["count"] for each in group["sizes"]) == _MANY
    assert result["peak_kib"] << 10 < _MOST_BYTES
