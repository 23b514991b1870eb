"""Choosing a process and counting growth, on made-up processes."""

from __future__ import annotations

import pytest

from nativeleak.processes.choice import Choice, is_in_group, listed
from nativeleak.processes.reading import Process, program_of
from nativeleak.processes.top import Growth, Row, ordered, render_lines

_MIB = 1 << 20


def _process(pid: int, rss: int, *, name: str = "java", program: str = "", started_s: float = 0.0) -> Process:
    return Process(pid, started_s, 3600.0, name, program, f"{name} {program}".strip(), "app", 1000,
                   f"/usr/bin/{name}", rss, rss // 2, 0)  # fmt: skip


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (["java", "-Xmx1g", "-cp", "a:b", "com.acme.Gateway", "--port", "1"], "com.acme.Gateway"),
        (["/usr/bin/java", "-jar", "/opt/gateway.jar"], "gateway.jar"),
        (["java", "-m", "com.acme/com.acme.Main"], "com.acme"),
        (["python3.11", "-u", "/srv/app.py", "x"], "app.py"),
        (["python3", "-m", "http.server"], "http.server"),
        (["python3", "-c", "print()"], ""),
        (["node", "--max-old-space-size=100", "server.js"], "server.js"),
        (["java", "@args"], ""),
        (["sleep", "10"], ""),
        ([], ""),
    ],
)  # fmt: skip
def test_program_of_an_interpreter_is_found(words: list[str], program: str) -> None:
    assert program_of(words[0] if words else "", words) == program


@pytest.mark.parametrize(
    ("name", "matches"),
    [
        ("java", True),
        ("com.acme.Gateway", True),
        ("Gateway", True),
        ("Gate*", True),
        ("gateway", False),
        ("ja", False),
        ("j?va", True),
    ],
)
def test_names_are_those_of_the_process_and_of_its_program(name: str, matches: bool) -> None:
    assert Choice(name=name).matches(_process(1, _MIB, program="com.acme.Gateway")) is matches


def test_user_is_a_name_or_a_number() -> None:
    process = _process(1, _MIB)
    assert [Choice(user=user).matches(process) for user in ("app", "1000", "root", "100")] == [True, True, False, False]


@pytest.mark.parametrize(
    ("wanted", "is_in"),
    [
        ("/system.slice/app.service", True),
        ("/sys/fs/cgroup/system.slice/app.service", True),
        ("/sys/fs/cgroup/memory/system.slice", True),
        ("app.service", True),
        ("app.service/inner", True),
        ("/app.service", False),
        ("app", False),
        ("/system.slice/app.service/inner/deeper", False),
        ("", False),
        ("/", False),
    ],
)
def test_groups_are_named_by_their_path_or_its_last_parts(wanted: str, is_in: bool) -> None:
    text = "4:memory:/system.slice/app.service/inner\n0::/system.slice/app.service/inner\n"
    assert is_in_group(text, wanted) is is_in


def test_the_largest_is_listed_first_with_its_growth() -> None:
    lines = list(listed([_process(7, 720 * _MIB), _process(8, _MIB)] + [_process(n, 1) for n in range(30)]))
    assert lines[1].split()[:4] == ["7", "app", "720", "MiB"]
    assert "+204.8 KiB/s" in lines[1]
    assert lines[-1].strip() == "12 smaller ones"


def test_growth_is_counted_from_the_first_look_at_the_same_process() -> None:
    growth = Growth()
    assert [row.growth for row in growth.rows([_process(1, 10 * _MIB)], 0.0)] == [None]
    rows = growth.rows([_process(1, 14 * _MIB), _process(2, _MIB)], 2.0)
    assert [row.growth for row in rows] == [4 * _MIB, None]
    assert rows[0].per_s == 2 * _MIB
    taken_again = growth.rows([_process(1, 20 * _MIB, started_s=9.0)], 4.0)
    assert taken_again[0].growth is None


def test_orders_and_lines_of_top() -> None:
    rows = [Row(_process(1, 3 * _MIB), -5, 1.0), Row(_process(2, 2 * _MIB), 7 * _MIB, 1.0)]
    assert [row.process.pid for row in ordered(rows, "rss")] == [1, 2]
    assert [row.process.pid for row in ordered(rows, "growth")] == [2, 1]
    assert [row.process.pid for row in ordered(rows, "swap")] == [1, 2]
    lines = list(render_lines(rows, 1, rows))
    assert "2 processes, 2.5 MiB anonymous" in lines[0]
    assert len(lines) == 3
