"""--open: the browser, and what is said where there is none."""

from __future__ import annotations

import os
import webbrowser
from pathlib import Path

import pytest

from nativeleak.cli import opening
from nativeleak.cli.final_report import page_beside
from nativeleak.cli.opening import open_page


@pytest.fixture(autouse=True)
def _nobody_called_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUDO_UID", "SUDO_GID", "DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)


def test_open_without_a_screen_names_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not open_page(tmp_path / "page.html")
    assert capsys.readouterr().err == f"nativeleak: no browser can be started here; the page is {tmp_path}/page.html\n"


def test_open_asks_the_browser_for_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "open", lambda url: not asked.append(url))
    assert open_page(tmp_path / "a b.html")
    assert asked == [f"file://{tmp_path}/a%20b.html"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_open_under_sudo_gives_the_page_to_the_caller_and_starts_no_browser_as_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, linked = tmp_path / "page.html", tmp_path / "linked.html"
    page.write_text("x")
    linked.write_text("x")
    (tmp_path / "second").hardlink_to(linked)
    monkeypatch.setenv("SUDO_UID", "65534")
    monkeypatch.setenv("SUDO_GID", "65534")
    monkeypatch.setattr(webbrowser, "open", lambda _: pytest.fail("a browser as root"))
    open_page(page)
    open_page(linked)
    assert page.stat().st_uid == 65534
    assert linked.stat().st_uid == 0


def test_the_caller_is_known_only_to_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "1000")
    monkeypatch.setenv("SUDO_GID", "1000")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert opening._caller() is None


@pytest.mark.parametrize(("recording", "page"), [("a.nlk", "a.html"), ("a.html", "a.html.html"), ("a", "a.html")])
def test_page_beside_a_recording_never_is_the_recording(tmp_path: Path, recording: str, page: str) -> None:
    assert page_beside(tmp_path / recording) == tmp_path / page
