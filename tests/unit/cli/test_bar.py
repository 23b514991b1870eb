"""The bar of long reports: on a terminal only, and gone at the end."""

from __future__ import annotations

import io
import sys

import pytest

from nativeleak.cli import bar
from nativeleak.reports.stages import begin


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_of_a_long_report_is_drawn_and_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(bar, "_SILENT_S", 0.0)
    with bar.report_bar():
        begin("reading the stacks", 0.25)
    shown = screen.getvalue()
    assert " 25%  reading the stacks" in shown
    assert shown.endswith("\r\x1b[2K")


def test_bar_of_a_short_report_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with bar.report_bar():
        begin("reading the stacks", 0.25)
    assert screen.getvalue() == ""


def test_bar_is_for_terminals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bar, "_SILENT_S", 0.0)
    with bar.report_bar():
        begin("reading the stacks", 0.25)
    assert capsys.readouterr().err == ""
