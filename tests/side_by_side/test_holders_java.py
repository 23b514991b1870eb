"""The command on a JVM: the Java objects that hold blocks stand first, and hold by name."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from side_by_side.test_java_holders import gateway
from support.target import Target

_CHUNKS = 20


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
