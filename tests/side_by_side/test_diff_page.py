"""The page of ``nativeleak diff`` in a real browser: what grew and what shrank, by colour, sign and figure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import recording_fixtures as fixtures
from nativeleak.cli.main import run
from support.browser import Browser

GONE = 13
"""The stack of memory that only the first recording has."""
HUES = """[...document.querySelectorAll('.flame g.frame')].map(frame => [
  frame.getAttribute('aria-label'), frame.querySelector('rect').getAttribute('fill'),
  frame.querySelector('.d3-flame-graph-label').textContent])"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 MiB chunks: 8 before, 17 after; an index of 64 MiB before and none after."""
    folder = tmp_path_factory.mktemp("diff")
    before, after, page = folder / "before.nlk", folder / "after.nlk", folder / "diff.html"
    fixtures.write_minutes(before, 1)
    fixtures.write_minutes(after, 4, without=GONE)
    assert run(["diff", str(before), str(after), "--format", "html", "--hide", "load_index", "-o", str(page)]) == 0
    return page


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[Browser]:
    with Browser() as browser:
        browser.open(page)
        yield browser
        assert browser.complaints == []


def test_difference_is_said_in_words(browser: Browser) -> None:
    assert browser.run("document.documentElement.dataset.ready") == "yes"
    assert browser.text("#answer h2").startswith("+80 MiB (from 323.1 MiB to 403.1 MiB, +24.8 %)")
    assert "before.nlk at 2m 00s" in browser.text("header .facts")


def test_flame_graph_tells_growth_by_colour_sign_and_figure(browser: Browser) -> None:
    browser.run("document.querySelector('.toggle input:checked').click()")  # with libraries and the JVM
    # The library writes the texts a moment after the frames.
    hues = browser.wait(HUES, lambda found: found and all(text for _, _, text in found))
    frames = {label.split(": ")[0]: (label, fill, text) for label, fill, text in hues}
    grew, gone, same = frames["Codec.decode"], frames["hidden-1"], frames["os::reserve_memory"]
    assert grew[0] == "Codec.decode: +144 MiB (from 128.0 MiB to 272.0 MiB)"
    assert gone[0] == "hidden-1: -64 MiB (from 64 MiB to 0 B)"
    assert same[0] == "os::reserve_memory: 0 B (from 128 MiB to 128 MiB)"
    assert [each[2][0] for each in (grew, gone, same)] == ["+", "\u2212", "="]
    red, green, blue = (int(grew[1][at : at + 2], 16) for at in (1, 3, 5))
    assert red > green > 0
    assert red > blue + 60
    red, green, blue = (int(gone[1][at : at + 2], 16) for at in (1, 3, 5))
    assert blue > red + 60


def test_tables_have_the_differences_and_sort(browser: Browser) -> None:
    first = "document.querySelector('#paths tbody tr').innerText"
    assert "Codec.decode" in browser.run(first)
    assert "load_index" not in browser.run("document.documentElement.innerHTML")
    browser.click("#paths thead th:nth-child(1) button")
    browser.click("#paths thead th:nth-child(1) button")
    assert "hidden-1" in browser.run(first)


def test_page_of_a_difference_fits_a_phone(browser: Browser, page: Path) -> None:
    browser.open(page, width=360, height=740, phone=True, dark=True)
    assert browser.run("document.documentElement.scrollWidth") == 360
    browser.open(page)


def test_options_of_the_page_are_refused_for_other_formats(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fixtures.write_minutes(tmp_path / "a.nlk", 1)
    name = str(tmp_path / "a.nlk")
    assert run(["diff", name, name, "--redact"]) == 2
    assert "--redact is for --format html" in capfd.readouterr()[1]
