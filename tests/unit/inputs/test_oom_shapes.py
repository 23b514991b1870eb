"""Kernel lines of all ages and the stamps around them, cut lines, copies, other killers; the verb and its sources."""

from __future__ import annotations

import gzip
import json

import pytest

from nativeleak.cli.main import run
from nativeleak.inputs import jvm_flags
from nativeleak.inputs.oom import OomReader
from nativeleak.inputs.oom.sources import read_kmsg, rotated
from nativeleak.inputs.oom.stamps import parse_log_line
from nativeleak.units import parse_size

KILLED = (
    "Out of memory: Killed process 4711 (java) total-vm:8000kB, anon-rss:4000kB, file-rss:12kB, shmem-rss:0kB, "
    "UID:33 pgtables:60kB oom_score_adj:7"
)


def events(text):
    reader = OomReader()
    for line in text.split("\n"):
        reader.feed(line)
    reader.finish()
    return reader.events


@pytest.mark.parametrize(
    ("prefix", "time", "uptime_s"),
    [
        ("", None, None),
        ("[ 5824.605919] ", None, 5824.606),
        ("[ 5824.605919][T21848] ", None, 5824.606),
        ("[ 5824.605919][    C3] ", None, 5824.606),
        ("<3>[ 5824.605919] ", None, 5824.606),
        ("3,812,5824605919,-;", None, 5824.606),
        ("3,812,5824605919,-,caller=T21848;", None, 5824.606),
        ("[Wed Nov 25 14:30:21 2026] ", "2026-11-25T14:30:21", None),
        ("[Mi Nov 25 14:30:21 2026] ", "2026-11-25T14:30:21", None),
        ("[mer. nov. 25 14:30:21 2026] ", "2026-11-25T14:30:21", None),
        ("[月 11月 25 14:30:21 2026] ", "2026-11-25T14:30:21", None),
        ("Nov 25 14:30:21 gw kernel: ", "11-25T14:30:21", None),
        ("Nov  5 14:30:21 gw kernel: [ 5824.605919] ", "11-05T14:30:21", 5824.606),
        ("Dez 25 14:30:21 gw kernel: ", "12-25T14:30:21", None),
        ("нояб. 25 14:30:21 gw kernel: ", "11-25T14:30:21", None),
        ("\x1b[32m[ 5824.605919] \x1b[0m\x1b[31m", None, 5824.606),
        ("ноя 25 14:30:21 gw kernel: ", "11-25T14:30:21", None),
        ("Nov 25 14:30:21 kernel: ", "11-25T14:30:21", None),
        ("Nov 25 14:30:21 ", "11-25T14:30:21", None),
        ("Nov 25 14:30:21.123456 gw kernel: ", "11-25T14:30:21", None),
        ("2026-11-25T14:30:21.123456+01:00 gw kernel: ", "2026-11-25T14:30:21+01:00", None),
        ("2026-11-25T14:30:21+0000 gw kernel: ", "2026-11-25T14:30:21Z", None),
        ("Wed 2026-11-25 14:30:21 CET gw kernel: ", "2026-11-25T14:30:21", None),
        ("[ 5824.605919] gw kernel: ", None, 5824.606),
        ("1795617021.123456 gw kernel: ", "2026-11-25T14:30:21Z", None),
        ("10.5.0.3: kern:     err: [2026-11-25T14:30:21.6Z]: ", "2026-11-25T14:30:21Z", None),
    ],
)
def test_kill_behind_every_kind_of_stamp(prefix, time, uptime_s):
    found = events(prefix + KILLED)
    (event,) = found
    assert (event.pid, event.comm, event.uid, event.anon_rss_kb, event.time) == (4711, "java", 33, 4000, time)
    assert event.uptime_s == pytest.approx(uptime_s, abs=0.001) if uptime_s else event.uptime_s is None


def test_journal_as_json_with_a_message_of_bytes():
    entry = {"MESSAGE": list(KILLED.replace("java", "j\xe9").encode("latin-1")), "_TRANSPORT": "kernel",
             "__REALTIME_TIMESTAMP": "1795617021123456", "_SOURCE_MONOTONIC_TIMESTAMP": "5824605919"}  # fmt: skip
    (event,) = events(json.dumps(entry))
    assert (event.pid, event.comm, event.time) == (4711, "j\ufffd", "2026-11-25T14:30:21Z")
    assert parse_log_line("{}").text == "{}"


@pytest.mark.parametrize("cut", range(len("Out of memory: Killed process 4711 (java)"), len(KILLED)))
def test_line_cut_anywhere_says_no_number_that_touches_the_cut(cut):
    (event,) = events(f"[    1.0] {KILLED[:cut]}>")
    whole = events(f"[    1.0] {KILLED}")[0]
    for name in ("total_vm_kb", "anon_rss_kb", "file_rss_kb", "shmem_rss_kb", "pgtables_kb", "oom_score_adj", "uid"):
        assert getattr(event, name) in (None, getattr(whole, name)), name
    assert event.pid == 4711


def test_words_of_an_application_are_no_kill():
    assert events(f"Nov 25 14:30:21 gw gateway[77]: {KILLED}") == []
    assert events("2026-11-25 14:30:21 INFO java killed by SIGKILL, status=9/KILL, exit code 137") == []
    assert events("Nov 25 14:30:21 gw systemd[1]: gw.service: Main process exited, code=killed, status=9/KILL") == []


def test_kill_process_without_its_second_line_is_a_note():
    reader = OomReader()
    reader.feed("[ 1.0] Out of memory: Kill process 9 (java) score 900 or sacrifice child")
    reader.finish()
    assert reader.events == []
    assert "1 kills were announced" in reader.notes[0]


def test_child_dies_in_place_of_the_process_that_was_chosen():
    (event,) = events(
        "[ 1.0] Out of memory: Kill process 9 (java) score 900 or sacrifice child\n"
        "[ 1.0] Killed process 12 (worker) total-vm:800kB, anon-rss:400kB, file-rss:4kB"
    )
    assert (event.pid, event.comm, event.scope) == (12, "worker", "global")


def test_page_size_of_arm64_is_taken_from_the_line_and_the_table():
    (event,) = events(
        "[ 1.0] java invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n"
        "[ 1.0] [  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name\n"
        "[ 1.0] [   4711]  1000  4711   100000    10000   131072      100             0 java\n"
        "[ 1.0] [     12]  1000    12     1000      500   131072        0             0 tmux: server\n"
        "[ 1.0] Out of memory: Killed process 4711 (java) total-vm:6400000kB, anon-rss:639000kB, file-rss:1000kB, "
        "shmem-rss:0kB, UID:1000 pgtables:128kB oom_score_adj:0"
    )
    assert event.swap_kb == 6400
    assert event.others == [{"pid": 12, "comm": "tmux: server", "rss_kb": 32000, "swap_kb": 0}]


def test_page_tables_of_5_4_are_bytes_under_the_name_of_kilobytes():
    (event,) = events(
        KILLED.replace("total-vm:8000kB", "total-vm:8817644kB").replace("pgtables:60kB", "pgtables:9437184kB")
    )
    assert event.pgtables_kb == 9216


@pytest.mark.parametrize(("constraint", "scope"), [("CPUSET", "cpuset"), ("MEMORY_POLICY", "mempolicy")])
def test_full_node_is_not_the_whole_machine(constraint, scope):
    (event,) = events(
        f"[ 1.0] oom-kill:constraint=CONSTRAINT_{constraint},nodemask=0,cpuset=/a,mems_allowed=0-1,global_oom,"
        f"task_memcg=/b,c,task=x,task=y,pid=4711,uid=33\n[ 1.0] {KILLED}"
    )
    assert (event.scope, event.victim_cgroup) == (scope, "/b,c")


def test_copy_by_another_program_is_told_once_and_a_second_kill_of_the_pid_apart():
    copy = f"Warning  OOMKilling  3m  kernel-monitor  {KILLED}"
    assert len(events(f"[ 1.0] {KILLED}\n{copy}")) == 1
    assert len(events(f"[ 1.0] {KILLED}\n[ 900.0] {KILLED.replace('4000kB', '4004kB')}")) == 2


def test_unit_of_systemd_alone_is_an_event():
    (event,) = events(
        "Nov 25 14:30:21 gw systemd[1]: gw.service: A process of this unit has been killed by the OOM killer.\n"
        "Nov 25 14:30:21 gw systemd[1]: gw.service: Failed with result 'oom-kill'."
    )
    assert (event.killer, event.pid, event.extra["unit"]) == ("kernel", None, "gw.service")


@pytest.mark.parametrize(
    ("line", "facts"),
    [
        ("Killing process 'bash' with signal 15, pid: 9, badness: 12, VmRSS: 100 MiB", (9, "bash", None, 102400)),
        ('killing process 9 "bash" with signal 15: badness 12, VmRSS 100 MiB', (9, "bash", None, 102400)),
        ('sending SIGTERM to process 9 uid 33 "ja va": badness 12, VmRSS 100 MiB', (9, "ja va", 33, 102400)),
        ('sending SIGKILL to process 9 uid 33 "ja": oom_score 12, VmRSS 100 MiB, cmdline "x"', (9, "ja", 33, 102400)),
    ],
)  # fmt: skip
def test_earlyoom_of_all_ages_kills_once(line, facts):
    (event,) = events(f"Nov 25 14:30:21 pc earlyoom[5]: {line}\nNov 25 14:30:22 pc earlyoom[5]: {line}")
    assert (event.killer, event.pid, event.comm, event.uid, event.extra["rss_kb"]) == ("earlyoom", *facts)


def test_pod_as_yaml():
    (event,) = events(
        '    lastState:\n      terminated:\n        exitCode: 137\n        finishedAt: "2026-11-25T14:30:21Z"\n'
        "        reason: OOMKilled\n    name: gw\n"
    )
    assert (event.time, event.extra) == ("2026-11-25T14:30:21Z", {"exit_code": 137, "container": "gw"})


def test_panic_without_a_victim():
    (event,) = events("[ 2.0] Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled")
    assert (event.killed, event.extra["panic"]) == (False, True)


# ---- the verb ----


def test_log_is_read_with_its_rotated_ages_oldest_first(tmp_path, capsys):
    log = tmp_path / "syslog"
    log.write_text(f"Nov 27 01:00:00 gw kernel: {KILLED}\n")
    (tmp_path / "syslog.1").write_text(f"Nov 26 01:00:00 gw kernel: {KILLED.replace('4711', '4710')}\n")
    (tmp_path / "syslog.2.gz").write_bytes(
        gzip.compress(f"Nov 25 01:00:00 gw kernel: {KILLED.replace('4711', '4709')}\n".encode())
    )
    (tmp_path / "syslog.conf").write_text("no log")
    assert [path.name for path in rotated(log)] == ["syslog.2.gz", "syslog.1", "syslog"]
    assert run(["oom", "--log", str(log), "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "nativeleak.oom/1"
    assert [event["pid"] for event in document["events"]] == [4709, 4710, 4711]
    assert run(["oom", "--log", str(log), "--no-rotated", "--format", "json"]) == 0
    assert [event["pid"] for event in json.loads(capsys.readouterr().out)["events"]] == [4711]


def test_log_with_nobody_killed_says_so(tmp_path, capsys):
    log = tmp_path / "log"
    log.write_text("Nov 27 01:00:00 gw kernel: all is well\n")
    assert run(["oom", "--log", str(log)]) == 0
    assert capsys.readouterr().out.startswith("nobody was killed when memory ran out: 1 lines read")


def test_flags_of_a_jvm_are_added_up_against_the_limit_that_was_met(tmp_path, capsys):
    log = tmp_path / "log"
    log.write_text(
        "[ 1.0] memory: usage 4194304kB, limit 4194304kB, failcnt 9\n"
        f"[ 1.0] {KILLED.replace('Out of memory', 'Memory cgroup out of memory')}\n"
    )
    flags = "-Xms1g -Xmx2g -Xmx3g -XX:MaxMetaspaceSize=256m -XX:MaxDirectMemorySize=512m -Xss2m"
    assert run(["oom", "--log", str(log), "--jvm-flags", flags, "--threads", "100", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["jvm"]
    sizes = {part["name"]: part["bytes"] >> 20 for part in found["parts"]}
    assert sizes == {"heap": 3072, "metaspace": 256, "code cache": 240, "direct buffers": 512,
                     "stacks of 100 threads": 200, "collector's tables": 153}  # fmt: skip
    assert (found["limit_bytes"], found["exceeds"]) == (4 << 30, True)


def test_heap_without_a_flag_is_a_quarter_of_the_limit_and_metaspace_has_no_bound():
    parts = {part.name: part for part in jvm_flags.parts_of("-jar x.jar", 4 << 30)}
    assert parts["heap"].n_bytes == 1 << 30
    assert parts["metaspace"].n_bytes is None
    assert parts["direct buffers"].n_bytes == parts["heap"].n_bytes
    assert parse_size("1g") == jvm_flags.parts_of("-XX:MaxRAMPercentage=50 x", 2 << 30)[0].n_bytes


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["oom", "--journal", "--kmsg"], "exclude each other"),
        (["oom", "--log", "{log}", "--jvm-flags", "-Xmxlots"], "is no size"),
        (["oom", "--log", "{log}", "--jvm-flags", "'"], "--jvm-flags"),
        (["triage"], "no process is given"),
    ],
)
def test_wrong_usage_is_named(args, words, tmp_path, capsys):
    (tmp_path / "log").write_text("x\n")
    assert run([arg.format(log=tmp_path / "log") for arg in args]) == 2
    assert words in capsys.readouterr().err


def test_triage_of_nothing_that_is_read_ends_with_2(tmp_path, capsys):
    (tmp_path / "x").write_text("hello\n")
    assert run(["triage", "--input", str(tmp_path / "x")]) == 2
    assert "not read: text of an unknown kind" in capsys.readouterr().out


def test_kernel_buffer_is_read_as_a_log(tmp_path):
    record = tmp_path / "kmsg"
    record.write_bytes(f"3,812,5824605919,-;{KILLED.replace('java', chr(92) + 'x1b[31m')}\n SUBSYSTEM=x\n".encode())
    (line, *_) = read_kmsg(record)
    (event,) = events(line)
    assert (event.pid, event.comm, event.uptime_s) == (4711, "\x1b[31m", 5824.606)
    assert event.time is not None
