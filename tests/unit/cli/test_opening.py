"""--open: which program shows the page as whom, and what is said where none can."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

import pytest

from nativeleak import children
from nativeleak.cli import opening
from nativeleak.cli.final_report import page_beside
from nativeleak.cli.opening import open_page

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture(autouse=True)
def _no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUDO_UID", "SUDO_GID", *opening._SCREEN):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def opener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in place of xdg-open that writes down who runs it, with what; its file of notes."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    tmp_path.chmod(0o755)
    notes, program = folder / "notes", folder / "xdg-open"
    program.write_text(f'#!/bin/sh\necho "$(id -u) $1 $DISPLAY $LD_PRELOAD" >{notes}\n')
    program.chmod(0o755)
    monkeypatch.setattr(children, "find_program", lambda name: str(program) if name == "xdg-open" else None)
    return notes


def _as_user(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)


def test_open_without_a_screen_names_the_page(
    tmp_path: Path, opener: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _as_user(monkeypatch, 1000)
    assert not open_page(tmp_path / "page.html")
    assert capsys.readouterr().err == f"nativeleak: no browser can be started here; the page is {tmp_path}/page.html\n"
    assert not opener.exists()


def test_open_asks_the_users_browser_with_a_small_environment(
    tmp_path: Path, opener: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _as_user(monkeypatch, 1000)
    monkeypatch.setenv("DISPLAY", ":7")
    monkeypatch.setenv("LD_PRELOAD", "")
    assert open_page(tmp_path / "a b.html")
    assert opener.read_text() == f"{os.getuid()} {tmp_path}/a b.html :7 \n"


def test_open_as_root_starts_no_browser(
    tmp_path: Path, opener: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _as_user(monkeypatch, 0)
    monkeypatch.setenv("DISPLAY", ":7")
    assert not open_page(tmp_path / "page.html")
    assert "as root no browser is started" in capsys.readouterr().err
    assert not opener.exists()


@pytest.mark.root
def test_open_under_sudo_is_the_callers_page_and_browser(
    tmp_path: Path, opener: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest lets nobody else into its folders.
    monkeypatch.setenv("SUDO_UID", str(NOBODY.pw_uid))
    monkeypatch.setenv("DISPLAY", ":7")
    for folder in (opener.parent, *opener.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) | 0o011)
        if folder.name.startswith("pytest-of-"):
            break
    page, linked = tmp_path / "page.html", tmp_path / "linked.html"
    page.write_text("x")
    linked.write_text("x")
    (tmp_path / "second").hardlink_to(linked)
    assert open_page(page)
    open_page(linked)
    assert page.stat().st_uid == NOBODY.pw_uid
    assert linked.stat().st_uid == 0
    assert opener.read_text().startswith(f"{NOBODY.pw_uid} ")


@pytest.mark.parametrize(("recording", "page"), [("a.nlk", "a.html"), ("a.html", "a.html.html"), ("a", "a.html")])
def test_page_beside_a_recording_never_is_the_recording(tmp_path: Path, recording: str, page: str) -> None:
    assert page_beside(tmp_path / recording) == tmp_path / page
