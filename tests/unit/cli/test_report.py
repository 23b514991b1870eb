"""``nativeleak report`` as a command, and where its output goes."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import recording_fixtures as fixtures
from nativeleak.cli.main import run
from nativeleak.cli.report import report_command
from nativeleak.errors import RecordingError, UsageError


@pytest.fixture
def gateway(tmp_path: Path) -> Path:
    return fixtures.write_gateway(tmp_path / "gateway.nlk")


def _run(*arguments: object) -> str:
    result = CliRunner().invoke(report_command, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_report_text_has_no_control_characters(gateway: Path) -> None:
    assert _run(gateway).startswith("java (PID 5687) \N{MIDDLE DOT} traced 12m 00s, every allocation")
    assert "\x1b" not in _run(gateway)


def test_report_options_reach_the_report(gateway: Path) -> None:
    output = _run(gateway, "--format", "folded", "--thread", "java", "--metric", "count", "--min", "1M", "--top", "1")
    assert output == "java;main;cache_grow;calloc 3072\n"


def test_report_library_of_the_user_is_not_named(gateway: Path) -> None:
    named = "      Codec.decode"
    assert named in _run(gateway)
    assert named not in _run(gateway, "--library", "com.example.gateway.Codec*")


def test_report_library_of_a_configuration_file_is_not_named(
    gateway: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "config" / "nativeleak"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('libraries = ["com.example.gateway.Codec*"]')
    (folder / "config.toml").chmod(0o600)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert "      Codec.decode" not in _run(gateway)


def test_report_several_files_have_headings(gateway: Path) -> None:
    other = fixtures.write_gateway(gateway.with_name("other.nlk"))
    output = _run("--each", gateway, other, "--format", "folded", "--top", "1")
    assert [line for line in output.splitlines() if line.startswith("#")] == [f"# {gateway}:", f"# {other}:"]


def test_report_each_of_several_files_as_json_is_a_usage_error(gateway: Path) -> None:
    other = fixtures.write_gateway(gateway.with_name("other.nlk"))
    with pytest.raises(UsageError) as raised:
        _run("--each", gateway, other, "--format", "json")
    assert raised.value.exit_status == 2


def test_report_missing_file_is_an_error_for_main(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no such file"):
        _run(tmp_path / "none.nlk")


@pytest.mark.parametrize("arguments", [["--min", "lots"], ["--top", "0"], ["--metric", "beauty"], []])
def test_report_bad_option_is_wrong_usage(gateway: Path, arguments: list[str]) -> None:
    files = [str(gateway)] if arguments else []
    assert CliRunner().invoke(report_command, [*files, *arguments]).exit_code == 2


def test_report_to_a_file_is_private_and_whole(gateway: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_text("old")
    out.chmod(0o644)
    assert _run(gateway, "--format", "json", "-o", out) == ""
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert json.loads(out.read_text())["schema"] == "nativeleak.report/1"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["gateway.nlk", "out.json"]


def test_report_failing_leaves_the_old_output(gateway: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("old")
    gateway.write_bytes(b"SQLite format 3\0")
    with pytest.raises(RecordingError):
        _run(gateway, "-o", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "old"


_COMMAND = "from nativeleak.cli.report import report_command; report_command()"


def test_report_reader_gone_is_quiet(gateway: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed_pipe:
        done = subprocess.run(
            [sys.executable, "-c", _COMMAND, str(gateway)], stdout=closed_pipe, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_report_to_an_ascii_terminal_does_not_fail(tmp_path: Path) -> None:
    stack = fixtures.Stack(11, (fixtures.native("malloc"), fixtures.native("größe", "app")))

    def write(writer: fixtures.RecordingWriter) -> None:
        writer.add_stacks([stack])
        writer.write_snapshot(fixtures.snapshot(1.0, [fixtures.heap_site(1, 11, (5, 1))], threads=fixtures.THREADS))

    fixtures.record(tmp_path / "a.nlk", write).close()
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, str(tmp_path / "a.nlk"), "--format", "folded"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"java;gr\\xf6\\xdfe;malloc 5\n"


def test_recording_package_loads_no_pandas() -> None:
    code = (
        "import sys, nativeleak.recording, nativeleak.cli.report, nativeleak.reports.formats; "
        "print({'pandas', 'numpy', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_report_of_one_screen_loads_no_pandas(gateway: Path) -> None:
    code = (
        "import sys; from nativeleak.cli.main import run; "
        f"run(['report', {str(gateway)!r}]); sys.exit('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("java (PID 5687)")


@pytest.mark.parametrize("option", [["--redact"], ["--hide", "x"], ["--open"]])
def test_report_options_of_the_page_are_refused_for_other_formats(gateway: Path, option: list[str]) -> None:
    with pytest.raises(UsageError, match=f"{option[0]} is for --format html, not for json"):
        _run(gateway, "--format", "json", *option)


def test_report_open_without_a_file_is_refused(gateway: Path) -> None:
    with pytest.raises(UsageError, match="--open needs a file"):
        _run(gateway, "--format", "html", "--open")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--format", "html", "--redact"], "--redact is for the report of one recording"),
        (["--format", "html", "--hide", "x"], "--hide is for the report of one recording"),
        (["--format", "json", "--compact"], "--compact is for the report of one recording"),
        (["--format", "prometheus"], "do not fit into one set of metrics"),
        (["--by", "thread"], "--by thread needs one recording"),
    ],
)
def test_report_of_several_recordings_refuses_what_is_of_one(gateway: Path, options: list[str], why: str) -> None:
    other = fixtures.write_gateway(gateway.with_name("other.nlk"))
    with pytest.raises(UsageError, match=why):
        _run(gateway, other, *options)


def test_report_of_one_recording_has_no_hosts_to_part(gateway: Path) -> None:
    other = fixtures.write_gateway(gateway.with_name("other.nlk"))
    for files in ([gateway], ["--each", gateway, other]):
        with pytest.raises(UsageError, match="--by host needs several recordings"):
            _run(*files, "--by", "host")


def test_report_of_a_folder_and_a_pattern_has_all_recordings_once(gateway: Path, tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    fixtures.write_gateway(below / "other.nlk")
    (below / "notes.txt").write_text("no recording")
    for arguments in ([tmp_path], [f"{tmp_path}/**/*.nlk"], [gateway, tmp_path]):
        report = json.loads(_run(*arguments, "--format", "json"))
        assert [each["file"] for each in report["recordings"]] == sorted(map(str, (below / "other.nlk", gateway)))[
            :: -1 if arguments[0] == gateway else 1
        ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="has no recordings"):
        _run(tmp_path / "empty")
    with pytest.raises(UsageError, match="no file matches"):
        _run(f"{tmp_path}/*.none")


def test_report_with_a_damaged_recording_has_the_others_and_its_exit_status(
    gateway: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken, newer = tmp_path / "broken.nlk", fixtures.write_gateway(tmp_path / "newer.nlk")
    broken.write_bytes(gateway.read_bytes()[:9000])
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    assert run(["report", str(tmp_path), "--format", "json"]) == 1
    out, err = capfd.readouterr()
    report = json.loads(out)
    assert [each["file"] for each in report["recordings"]] == [str(gateway)]
    assert [each["file"] for each in report["failed"]] == [str(broken), str(newer)]
    assert f"nativeleak: reading {broken} failed" in err
    assert "in format 99" in err
    assert run(["report", str(broken), str(newer)]) == 1
    assert capfd.readouterr().out == ""


def test_report_page_goes_to_a_file(gateway: Path, tmp_path: Path) -> None:
    _run(gateway, "--format", "html", "--redact", "-o", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert str(tmp_path) not in page
