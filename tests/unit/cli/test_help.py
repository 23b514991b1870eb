"""Help, man page and completion: made from the options, and current."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import recording_fixtures as fixtures
from nativeleak.cli.grouped import EVERYDAY, GROUPS
from nativeleak.cli.main import cli
from nativeleak.cli.report import report_command
from nativeleak.cli.trace import trace_command
from nativeleak.model import ThreadInfo

ROOT = Path(__file__).parents[3]
VERBS = cli.list_commands(click.Context(cli))


def _context(command: click.Command) -> click.Context:
    """A context as the group makes it: click keeps the help option of the first context that a command gets."""
    return click.Context(command, parent=click.Context(cli, **cli.context_settings))


def _help(*arguments: str, width: int = 80) -> str:
    return CliRunner().invoke(cli, [*arguments, "--help"], terminal_width=width, catch_exceptions=False).output


@pytest.mark.parametrize("width", [60, 80, 100])
def test_help_shows_every_verb_with_an_uncut_line(width: int) -> None:
    shown = " ".join(_help(width=width).split("Commands:")[1].split("Tab completion")[0].split())
    assert "..." not in shown
    for verb in VERBS:
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None
        assert command.short_help
        assert command.short_help in shown


def test_trace_help_has_the_everyday_options_first_then_four_groups() -> None:
    headings = [line[:-1] for line in _help("trace").splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == list(GROUPS)
    everyday = trace_command.options_by_group(_context(trace_command))[EVERYDAY]
    names = [option.opts[-1] for option in everyday]
    assert names[:6] == ["--pid", "--duration", "--output", "--format", "--min-size", "--max-overhead"]
    assert names[6:] == ["--help"]


def test_trace_help_shows_every_option_once() -> None:
    ctx = _context(trace_command)
    shown = [option for group in trace_command.options_by_group(ctx).values() for option in group]
    assert sorted(option.name or "" for option in shown) == sorted(p.name or "" for p in trace_command.get_params(ctx))


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_a_help_text(verb: str) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    assert [o.name for o in command.params if isinstance(o, click.Option) and not o.help] == []


def test_man_page_is_the_one_that_the_options_make() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "manpage.py"))["page"]()
    committed = (ROOT / "docs" / "nativeleak.8").read_text(encoding="utf-8")
    assert committed == page, "run: .venv/bin/python scripts/manpage.py > docs/nativeleak.8"


def _complete(command: click.Command, option: str, incomplete: str, **given: object) -> dict[str, str | None]:
    ctx = _context(command)
    ctx.params.update(given)
    param = next(p for p in command.params if option in p.opts)
    return {item.value: item.help for item in param.shell_complete(ctx, incomplete)}


def test_completion_of_pid_offers_processes_with_their_names() -> None:
    comm = Path("/proc/self/comm").read_text(encoding="utf-8").strip()
    assert _complete(trace_command, "--pid", str(os.getpid()))[str(os.getpid())] == comm
    assert _complete(trace_command, "--pid", "no number") == {}


def test_completion_of_thread_offers_harmless_names_of_the_recording(tmp_path: Path) -> None:
    threads = tuple(
        ThreadInfo(uid, 0, 1000 + uid, name)
        for uid, name in enumerate(("worker-1", "writer", "$(reboot)", "a;b", "two words"), 1)
    )
    path = tmp_path / "a.nlk"
    fixtures.record(path, lambda w: w.write_snapshot(fixtures.snapshot(1.0, [], threads=threads))).close()
    assert set(_complete(report_command, "--thread", "", files=(path,))) == {"worker-1", "writer"}
    assert set(_complete(report_command, "--thread", "wo", files=(path,))) == {"worker-1"}
    assert _complete(report_command, "--thread", "", files=(tmp_path / "none.nlk",)) == {}
