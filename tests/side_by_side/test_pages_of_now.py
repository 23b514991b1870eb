"""Pages of triage and watch of real processes: all that text and JSON have is in them, and no script."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from support import Target, java_launcher, nativeleak, target_path

_NO_SCRIPT = "script-src 'none'"


def test_page_of_triage_with_holders_says_who_holds_and_what_is_lost(tmp_path: Path) -> None:
    page = tmp_path / "now.html"
    with Target("held_cxx") as target:
        done = nativeleak("triage", "-p", target.pid, "--holders", "--format", "html", "-o", page, "--redact")
        exe = target_path("held_cxx")
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert _NO_SCRIPT in text
    assert str(exe) not in text
    assert re.search(r"<small>LOST, proven</small> 724 blocks, ", text)
    assert "app::Forgotten" in text
    assert re.search(r"Held by \(nearest holder\).*g_sessions", text, re.DOTALL)


@pytest.mark.jvm
def test_page_of_triage_with_jcmd_has_the_jvms_words_line_by_line(tmp_path: Path) -> None:
    page = tmp_path / "now.html"
    options = ["-XX:NativeMemoryTracking=summary", "-Xmx64m", "-cp", str(target_path("ZipStreams"))]
    command = [java_launcher("21"), *options, "ZipStreams"]
    asked = ["--jcmd-ask", "GC.class_histogram"]
    with Target("ZipStreams", command=command) as target:
        target.ask("open 307 11")
        done = nativeleak("triage", "-p", target.pid, *asked, "--format", "html", "-o", page)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert _NO_SCRIPT in text
    assert '<section id="jvm">' in text
    assert re.search(r"<td>metaspace, committed</td>.*?<td>GC\.heap_info</td>", text)
    assert "Native Memory Tracking</h3>" in text
    assert "Deflater$DeflaterZStreamRef: 307: deflaters" in text
    assert "\\x0a" not in text


def test_page_of_a_watch_that_a_name_finds_has_curve_lines_and_events(tmp_path: Path) -> None:
    page, program = tmp_path / "watch.html", tmp_path / "pagewatched"
    shutil.copy(target_path("drips"), program)
    options = ["--every", "0.2s", "--duration", "1s", "--rss-above", "1M", "--format", "html", "-o", page]
    with Target("drips", command=[program]) as target:
        done = nativeleak("watch", "--name", "pagewatched", *options)
        name = f"pagewatched (PID {target.pid})"
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert _NO_SCRIPT in text
    assert f"<h1>{name}</h1>" in text
    assert "<polyline points=" in text or "One moment makes no curve" in text  # on a busy machine
    assert re.search(r"<td>program and libraries</td>", text)
    assert re.search(r"What happened.*is above 1 MiB", text, re.DOTALL)
    assert done.stdout == ""
    assert nativeleak("watch", "-p", "1", "--redact").returncode == 2
