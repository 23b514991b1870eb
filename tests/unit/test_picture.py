"""scripts/picture: a terminal's output becomes the lines that a user sees, and these become a picture."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console
from rich.live import Live
from rich.text import Text

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/picture"


@pytest.fixture(scope="module")
def picture() -> ModuleType:
    loader = SourceFileLoader("picture", str(SCRIPT))
    spec = importlib.util.spec_from_loader("picture", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_screen_live_view_of_rich_shows_the_last_frame_and_then_nothing(picture, tmp_path):
    path = tmp_path / "terminal"
    with open(path, "w+", newline="") as file:
        console = Console(file=file, force_terminal=True, width=40, color_system="standard")
        console.print("before")
        with Live(console=console, auto_refresh=False, transient=True) as live:
            live.update(Text("first\nframe\nof three"), refresh=True)
            live.update(Text("last\nframe", style="bold"), refresh=True)
        console.print("after")
    shown = path.read_bytes().decode()
    view, end, rest = shown.partition("\x1b[?25h")
    screen = picture.Screen()
    screen.feed(view)
    assert [Text.from_ansi(line).plain for line in screen.lines if line] == ["before", "last", "frame"]
    assert "\x1b[1m" in "".join(screen.lines)
    screen.feed(end + rest)
    assert [Text.from_ansi(line).plain for line in screen.lines if line] == ["before", "after"]


def test_screen_unknown_control_sequence_is_refused(picture):
    with pytest.raises(ValueError, match="unknown control sequence"):
        picture.Screen().feed("\x1b[2Jtext")


def test_first_lines_end_before_the_second_empty_line(picture):
    assert picture.first_lines(["heading", "", "Growth", "Held by", "", "Call sites"]) == [
        "heading", "", "Growth", "Held by",
    ]  # fmt: skip


def test_windows_one_below_the_other_hold_every_line(picture):
    lines = ["# nativeleak trace <PID>", "\x1b[1;31mGrowth  growing\x1b[0m"]
    drawn = picture.stack_up([picture.draw("one", lines, "a"), picture.draw("two", lines, "b")])
    root = ET.fromstring(drawn)  # noqa: S314 - made just now
    windows = root.findall("{http://www.w3.org/2000/svg}svg")
    text = "".join(root.itertext()).replace("\xa0", " ")
    assert text.count("# nativeleak trace <PID>") == text.count("Growth  growing") == len(windows) == 2
    first, second = windows
    assert float(second.attrib["y"]) >= float(first.attrib["height"])
    assert float(root.attrib["viewBox"].split()[3]) >= float(second.attrib["y"]) + float(second.attrib["height"])
