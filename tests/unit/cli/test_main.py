"""The entry point: help of each verb, and the exit status and message of every way to fail."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import click
import pytest

from nativeleak import __version__
from nativeleak.cli import main
from nativeleak.errors import CannotTraceError, NativeleakError, NoTargetError, RecordingError, UsageError

VERBS = ("trace", "report", "triage", "maps", "doctor", "demo")


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """The exit status, stdout and stderr of a command line."""
    status = main.run([str(argument) for argument in arguments])
    captured = capfd.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> click.Command:
    """A verb ``fails`` that raises what its ``error`` is; real verbs fail so only on machines that are broken."""

    @click.command("fails")
    @click.option("-v", "--verbose", count=True)
    def fails(verbose: int) -> None:
        raise fails.error

    module = ModuleType("made_up_verb")
    module.fails = fails
    monkeypatch.setitem(sys.modules, "made_up_verb", module)
    monkeypatch.setitem(main._VERBS, "fails", ("made_up_verb", "fails"))
    return fails


def test_help_lists_every_verb_with_what_it_does(capfd):
    status, out, err = run(capfd, "--help")
    assert (status, err) == (0, "")
    for verb in VERBS:
        (line,) = [line for line in out.splitlines() if line.split()[:1] == [verb]]
        assert len(line.split()) > 3


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb_explains_every_option(verb, option, capfd):
    status, out, err = run(capfd, verb, option)
    assert (status, err) == (0, "")
    assert out.startswith(f"Usage: nativeleak {verb} ")
    command = main.cli.get_command(click.Context(main.cli), verb)
    names = [name for parameter in command.params if parameter.param_type_name == "option" for name in parameter.opts]
    assert len(names) >= 4
    words = out.replace(",", " ").split()
    assert [name for name in names if name not in words] == []
    assert f"nativeleak {verb}" in out.partition("Examples:")[2]


def test_no_arguments_show_the_help_as_wrong_usage(capfd):
    helped = run(capfd, "--help")[1]
    assert run(capfd) == (2, "", helped)


def test_version_is_that_of_the_package(capfd):
    assert run(capfd, "--version") == (0, f"nativeleak, version {__version__}\n", "")


def test_unknown_verb_is_a_usage_error_that_points_to_the_help(capfd):
    status, out, err = run(capfd, "trase")
    assert (status, out) == (2, "")
    assert err.splitlines() == [
        "nativeleak: No such command 'trase'.",
        "  Usage: nativeleak [OPTIONS] COMMAND [ARGS]...",
        "  `nativeleak --help` explains the options",
    ]


@pytest.mark.parametrize("verb", VERBS)
def test_unknown_option_is_a_usage_error_that_points_to_the_verbs_help(verb, capfd):
    status, out, err = run(capfd, verb, "--no-such-option")
    assert (status, out) == (2, "")
    # Versions of click differ in a colon and quotes.
    assert err.startswith("nativeleak: No such option")
    assert "--no-such-option" in err.splitlines()[0]
    assert err.splitlines()[-1] == f"  `nativeleak {verb} --help` explains the options"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NativeleakError, 1),
        (RecordingError, 1),
        (UsageError, 2),
        (CannotTraceError, 3),
        (NoTargetError, 4),
    ],
)
def test_error_has_its_exit_status_and_its_remedy_on_the_next_lines(error, status, fails, capfd):
    fails.error = error("x of PID 7 failed: no luck", "try again\nor not")
    assert run(capfd, "fails") == (status, "", "nativeleak: x of PID 7 failed: no luck\n  try again\n  or not\n")


def test_names_in_an_error_cannot_steer_the_terminal(fails, capfd):
    fails.error = NativeleakError("reading \x1b[31mevil failed", "remove \x1b[0mevil")
    err = run(capfd, "fails")[2]
    assert "\x1b" not in err
    assert err.count("evil") == 2


def test_unforeseen_error_is_called_a_bug_in_two_lines(fails, capfd):
    fails.error = ZeroDivisionError("by nothing")
    status, out, err = run(capfd, "fails")
    assert (status, out) == (1, "")
    first, second = err.splitlines()
    assert first == "nativeleak: ZeroDivisionError: by nothing"
    assert "bug" in second
    assert "-v" in second


@pytest.mark.parametrize("option", ["-v", "-vv", "--verbose"])
def test_verbose_shows_the_traceback(option, fails, capfd):
    fails.error = NativeleakError("foreseen")
    status, _, err = run(capfd, "fails", option)
    assert status == 1
    assert err.startswith("Traceback ")
    assert err.endswith("nativeleak: foreseen\n")
    fails.error = ZeroDivisionError("by nothing")
    with pytest.raises(ZeroDivisionError):
        main.run(["fails", option])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_interrupt_ends_as_a_shell_expects(error, fails, capfd):
    fails.error = error
    status, out, err = run(capfd, "fails")
    assert (status, out, err.strip()) == (130, "", "")


def test_main_exits_with_the_status_of_its_verb():
    done = subprocess.run([sys.executable, "-m", "nativeleak", "report"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("nativeleak: Missing argument 'FILE...'.\n")


def test_closed_stdout_is_said_and_no_descriptor_of_a_standard_stream_is_left_to_others():
    code = (
        "import os, sys; os.close(0); os.close(1); sys.stdin = sys.stdout = None; "
        "from nativeleak.cli.main import _open_closed_streams; _open_closed_streams(); "
        "sys.stderr.write(str([os.readlink(f'/proc/self/fd/{fd}') for fd in (0, 1)]) + str(os.get_inheritable(1)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    said, streams = done.stderr.splitlines()
    assert said.startswith("nativeleak: standard output is closed")
    assert streams == "['/dev/null', '/dev/null']True"


def test_verbs_import_neither_pandas_nor_each_other_for_their_help():
    code = (
        "import sys; from nativeleak.cli.main import run; run(['doctor', '--help']); "
        "print({'pandas', 'numpy', 'rich', 'nativeleak.cli.trace', 'nativeleak.doctor.examine'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
