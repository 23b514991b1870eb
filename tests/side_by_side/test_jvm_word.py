"""What is seen of a JVM from outside against its own word; and that a JVM that must not be asked never is."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nativeleak.errors import CannotTraceError
from nativeleak.runtimes.hotspot.attach import Attached, UnknownCommandError
from support import IS_LONG, NOBODY, Target, java_launcher, nativeleak, require_program, target_path

pytestmark = pytest.mark.jvm

RELEASES = ("11", "17", "21", "25")
COLLECTORS = ("G1", "Serial", "Parallel", "Z")
FILLS = ((8, 50, 5), (150, 400, 40), (330, 20, 3))
SAMPLE = (("11", "Serial", FILLS[1]), ("17", "Parallel", FILLS[2]), ("21", "Z", FILLS[1]), ("25", "G1", FILLS[2]))
"""Every release and every collector once."""
ALL = [(release, collector, fill) for release in RELEASES for collector in COLLECTORS for fill in FILLS]
CASES = ALL if IS_LONG else SAMPLE
TLABS_BYTES = 4 << 20
"""What the answer to GC.heap_info itself allocates."""


def fills(fill: Sequence[int], release: str = "debian", options: Sequence[str] = ()) -> Target:
    command: list[str | Path] = [java_launcher(release), "-Xmx512m", *options, "-cp", target_path("Fills"), "Fills"]
    return Target("Fills", *fill, command=command)


def triage(target: Target, *options: str) -> dict[str, Any]:
    done = nativeleak("triage", "-p", target.pid, "--format", "json", *options)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize(("release", "collector", "fill"), CASES)
def test_ledger_closes_and_agrees_with_the_jvms_own_word(release: str, collector: str, fill: tuple[int, ...]) -> None:
    options = ("-XX:+UnlockExperimentalVMOptions", f"-XX:+Use{collector}GC", "-XX:NativeMemoryTracking=summary")
    with fills(fill, release, options) as target:
        Attached(target.pid).ask("VM.version")  # what attaching itself takes is there before both are read
        report = triage(target, "--jcmd")
    lines = {line["id"]: line["resident_bytes"] for line in report["lines"]}
    assert sum(lines.values()) == report["rss_bytes"]
    assert report["rss_bytes"] == pytest.approx(report["status_rss_bytes"][1], rel=0.01)
    assert report["unexplained_bytes"] < 0.03 * report["rss_bytes"]
    said = report["jvm_says"]
    assert said["refusal"] is None
    assert [answer["unread_lines"] for answer in said["answers"]] == [0] * 4
    compared = {each["name"]: (each["seen_bytes"], each["said_bytes"]) for each in said["compared"]}
    seen, told = compared["Java heap, used"]
    assert seen == pytest.approx(told, rel=0.02, abs=TLABS_BYTES)
    assert told >= 0.9 * (fill[0] << 20)
    for name in (
        "metaspace, committed",
        "code cache, used",
        "-Xmx",
        *(() if release == "25" else ("metaspace, used",)),
    ):
        seen, told = compared[name]
        assert seen == pytest.approx(told, rel=0.02), name
    nmt = next(answer["values"] for answer in said["answers"] if answer["command"].startswith("VM.native_memory"))
    assert nmt["categories"]["Other"]["malloc"] >= fill[2] << 20
    in_use, tracked = compared["malloc, in use"]
    assert in_use == pytest.approx(tracked, rel=0.35)


@pytest.mark.parametrize(
    ("option", "why"),
    [("-Xrs", "it runs with -Xrs"), ("-XX:+DisableAttachMechanism", "it runs with -XX:+DisableAttachMechanism")],
)
def test_jvm_that_must_not_be_asked_is_not_and_lives(option: str, why: str) -> None:
    with fills((8, 1, 1), options=[option]) as target:
        report = triage(target, "--jcmd")
        target.send("waste 1")
        assert target.readline() == "DONE"  # a thread dump would stand before it
        assert target.process.poll() is None
    assert why in report["jvm_says"]["refusal"]
    assert report["jvm_says"]["answers"] == []
    assert sum(line["resident_bytes"] for line in report["lines"]) == report["rss_bytes"]


def test_every_command_on_request_is_read_without_a_line_left() -> None:
    asked = (
        "GC.class_histogram",
        "VM.native_memory detail",
        "VM.native_memory baseline",
        "VM.native_memory detail.diff",
    )
    with fills((16, 20, 7), "21", ["-XX:NativeMemoryTracking=detail"]) as target:
        words = [word for command in (*asked, "System.map") for word in ("--jcmd-ask", command)]
        report = triage(target, *words)
        text = nativeleak("triage", "-p", target.pid, "--jcmd").stdout
        assert sorted(Path("/proc", str(target.pid), "root/tmp").glob(".attach_pid*")) == []
    answers = {answer["command"]: answer for answer in report["jvm_says"]["answers"]}
    assert [(name, each["error"], each["unread_lines"]) for name, each in answers.items() if each["error"]] == []
    assert {each["unread_lines"] for each in answers.values()} == {0}
    assert answers["GC.class_histogram"]["values"]["native_holders"]["java.nio.DirectByteBuffer$Deallocator"] == 7
    assert answers["VM.native_memory detail"]["values"]["mode"] == "detail"
    assert answers["VM.native_memory detail.diff"]["values"]["mode"] == "detail.diff"
    assert answers["System.map"]["values"]["rss_kb"] == pytest.approx(report["rss_bytes"] >> 10, rel=0.05)
    assert "NMT, committed" in text
    assert "direct buffers and Unsafe.allocateMemory" in text


def test_trim_gives_back_what_the_verdict_says_and_an_old_jvm_says_that_it_cannot() -> None:
    with fills((8, 1, 1), options=["-XX:MaxDirectMemorySize=1g"]) as target:
        target.send("waste 300")
        assert target.readline() == "DONE"
        before = triage(target, "--jcmd")
        verdict = next(each for each in before["verdicts"] if each["id"] == "allocator-retention")
        assert "--jcmd-ask System.trim_native_heap" in verdict["next"][0]
        triage(target, "--jcmd-ask", "System.trim_native_heap")
        after = triage(target)
    foretold = sum(each["trimmable_bytes"] for each in before["allocators"])
    assert foretold > 100 << 20
    assert before["rss_bytes"] - after["rss_bytes"] == pytest.approx(foretold, rel=0.05)
    assert sum(each["trimmable_bytes"] for each in after["allocators"]) < 0.05 * foretold
    with fills((8, 1, 1), "11") as target, pytest.raises(UnknownCommandError):
        Attached(target.pid).ask("System.trim_native_heap")


def test_jvm_in_its_own_namespaces_is_asked_there() -> None:
    require_program("unshare")
    # The checkout may lie below /tmp.
    script = f'mount --bind {shlex.quote(str(target_path("Fills")))} /mnt && mount -t tmpfs tmpfs /tmp && exec "$@"'
    launcher: list[str | Path] = ["unshare", "--pid", "--mount", "--fork", "--mount-proc", "sh", "-c", script, "sh"]
    with Target("Fills", 8, 1, 1, command=[*launcher, "java", "-cp", "/mnt", "Fills"]) as target:
        children = Path(f"/proc/{target.pid}/task/{target.pid}/children").read_text().split()
        assert "Heap" in Attached(int(children[0])).ask("VM.flags")


def test_only_its_own_user_and_root_ask_a_jvm() -> None:
    require_program("setpriv")
    with tempfile.TemporaryDirectory(prefix="nativeleak-test-") as room:
        shutil.copytree(target_path("Fills"), Path(room) / "classes")
        Path(room).chmod(0o755)
        words: list[str | Path] = ["setpriv", "--reuid", str(NOBODY), "--clear-groups", java_launcher("debian")]
        with Target("Fills", 8, 1, 1, command=[*words, "-cp", f"{room}/classes", "Fills"]) as target:
            assert "Heap" in Attached(target.pid).ask("VM.flags")
            assert said_as(NOBODY - 1, target.pid) == (
                f"asking the JVM {target.pid} failed: it answers its own user (uid {NOBODY}) and root"
            )


def test_socket_that_another_process_listens_at_is_not_asked() -> None:
    with fills((8, 1, 1)) as target, socket.socket(socket.AF_UNIX) as planted:
        path = Path(f"/tmp/.java_pid{target.pid}")
        planted.bind(str(path))
        planted.listen()
        try:
            with pytest.raises(CannotTraceError, match="another process listens at its socket"):
                Attached(target.pid).ask("VM.flags")
        finally:
            path.unlink()
        path.symlink_to("/run/somebody")
        assert "Heap" in Attached(target.pid).ask("VM.flags")
        assert not path.is_symlink()  # the JVM has put its own in its place


def said_as(uid: int, pid: int) -> str:
    """What a process of another user is told."""
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(uid)
        try:
            Attached(pid)
            os.write(write_fd, b"asked")
        except BaseException as error:
            os.write(write_fd, str(error).encode())
        os._exit(0)
    os.close(write_fd)
    os.waitpid(child, 0)
    with open(read_fd, "rb") as said:
        return said.read().decode()


def test_what_is_no_jvm_is_not_asked() -> None:
    with Target("drips") as target, pytest.raises(CannotTraceError, match="it runs none"):
        Attached(target.pid)
