"""``nativeleak report`` as a command, and where its output goes."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import recording_fixtures as fixtures
from nativeleak.analysis.select import Selection
from nativeleak.cli.demo import demo_command
from nativeleak.cli.report import report_command
from nativeleak.cli.trace import trace_command
from nativeleak.errors import NativeleakError, RecordingError, UsageError
from nativeleak.recording import open_recording
from nativeleak.reports.formats import FORMATS, Format, WriteOptions, check_terminal, find_format
from nativeleak.reports.output import open_file, open_stdout
from nativeleak.reports.render import write_report


@pytest.fixture
def gateway(tmp_path: Path) -> Path:
    return fixtures.write_gateway(tmp_path / "gateway.nlk")


def _run(*arguments: object) -> str:
    result = CliRunner().invoke(report_command, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_report_text_has_no_control_characters(gateway: Path) -> None:
    assert _run(gateway).startswith("java (PID 5687): traced for 12m 00s")
    assert "\x1b" not in _run(gateway)


def test_report_options_reach_the_report(gateway: Path) -> None:
    output = _run(gateway, "--format", "folded", "--thread", "java", "--metric", "count", "--min", "1M", "--top", "1")
    assert output == "java;main;cache_grow;calloc 3072\n"


def test_report_several_files_have_headings(gateway: Path) -> None:
    output = _run(gateway, gateway, "--format", "folded", "--top", "1")
    assert [line for line in output.splitlines() if line.startswith("#")] == [f"# {gateway}:"] * 2


def test_report_json_of_several_files_is_a_usage_error(gateway: Path) -> None:
    with pytest.raises(UsageError) as raised:
        _run(gateway, gateway, "--format", "json")
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


def test_open_file_refuses_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "out").symlink_to(tmp_path / "victim")
    with pytest.raises(NativeleakError, match="symbolic link"), open_file(tmp_path / "out"):
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_open_file_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(NativeleakError, match="No such file or directory"), open_file(tmp_path / "none" / "out"):
        pass


def test_open_file_disk_full_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("old")
    with pytest.raises(NativeleakError, match=r"writing .*out failed: File too large"), _files_limited_to(4096):  # noqa: SIM117
        with open_file(tmp_path / "out") as stream:
            stream.write(bytes(1 << 20))
    assert (tmp_path / "out").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@contextlib.contextmanager
def _files_limited_to(n_bytes: int) -> Iterator[None]:
    """No file grows beyond this; the signal that comes with the error is ignored by Python."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_open_stdout_binary_bytes_arrive_unchanged(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with open_stdout(is_binary=True) as stream:
        stream.write(bytes(range(256)))
    assert capfdbinary.readouterr().out == bytes(range(256))


def test_open_stdout_after_an_error_wrote_nothing(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    def write_half() -> None:
        with open_stdout() as stream:
            stream.write(b"half")
            raise RecordingError("damaged")

    with pytest.raises(RecordingError):
        write_half()
    assert capfdbinary.readouterr().out == b""


_BINARY = Format("pprof", ".pb.gz", "rendering:write_marker", is_binary=True)


def test_binary_format_is_refused_on_a_terminal_alone() -> None:
    with pytest.raises(UsageError) as raised:
        check_terminal(_BINARY, is_terminal=True, remedy="Name a file: -o report.pb.gz")
    assert (raised.value.exit_status, raised.value.remedy) == (2, "Name a file: -o report.pb.gz")
    check_terminal(_BINARY, is_terminal=False, remedy="")
    check_terminal(find_format("text"), is_terminal=True, remedy="")


def test_binary_format_reaches_a_file_byte_by_byte(gateway: Path, tmp_path: Path) -> None:
    with open_recording(gateway) as recording, open_file(tmp_path / "out") as stream:
        write_report(recording, stream, _BINARY, Selection(), WriteOptions())
    assert (tmp_path / "out").read_bytes() == b"\x00\xff\x0a5687"


def test_every_format_is_a_choice_of_the_three_verbs() -> None:
    names = [format_.name for format_ in FORMATS]
    for command in (report_command, demo_command, trace_command):
        choices = next(option.type.choices for option in command.params if option.name.startswith("format"))
        assert [choice for choice in choices if choice != "none"] == names


def test_every_format_has_a_writer_and_a_suffix_of_its_own() -> None:
    assert all(callable(format_.load_writer()) for format_ in FORMATS)
    assert len({format_.suffix for format_ in FORMATS}) == len(FORMATS)


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
