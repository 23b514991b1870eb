"""Formats of a report, and where a report is written to."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

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
