"""Takes the pictures of the HTML report, docs/page-*.png: wide, dark, on a phone, and a comparison.

    .venv/bin/python scripts/screenshots.py [RECORDING.nlk]

Without a recording it traces the leaking Java service of scripts/demo for 40 s, as root. Needs a JDK and Chromium.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import recording_fixtures as fixtures  # noqa: E402
from support.browser import Browser  # noqa: E402
from support.target import leaker  # noqa: E402

DURATION: Final = "40s"
GONE: Final = 13
"""The stack of memory that only the first of the two compared recordings has."""
SETTLED: Final = "new Promise(done => setTimeout(() => done(true), 500))"
RANGE: Final = 0.3, 0.75
"""The range of time that the dark picture shows, as shares of the curve's width."""


def record(path: Path) -> None:
    """Trace the service."""
    with leaker(waits=False) as target:
        trace = [sys.executable, "-m", "nativeleak", "trace", "-p", str(target.pid), "--duration", DURATION]
        subprocess.run([*trace, "-o", str(path), "--format", "none", "--quiet"], check=True)


def compare(folder: Path) -> Path:
    """The page of two made-up recordings: what grew, what is the same, and an index that is gone."""
    before, after, page = folder / "monday.nlk", folder / "tuesday.nlk", folder / "diff.html"
    fixtures.write_minutes(before, 4)
    fixtures.write_minutes(after, 7, without=GONE)
    diff = [sys.executable, "-m", "nativeleak", "diff", str(before), str(after), "--format", "html", "-o", str(page)]
    subprocess.run(diff, check=True)
    return page


def take_diff(page: Path, docs: Path) -> None:
    """Take the picture of a comparison."""
    with Browser() as browser:
        browser.open(page, width=1200, height=760)
        browser.wait(SETTLED)
        browser.screenshot(docs / "page-diff.png")


def take(page: Path, docs: Path) -> None:
    """Take each picture of a page."""
    with Browser() as browser:
        browser.open(page, width=1200, height=900)
        browser.view(1200, round(browser.run("document.querySelector('.legend').getBoundingClientRect().bottom")) + 20)
        browser.wait(SETTLED)
        browser.screenshot(docs / "page-wide.png")

        browser.open(page, width=1200, height=1000, dark=True)
        left, top, width, height = browser.box(".curve .u-over")
        end = left + RANGE[1] * width
        selected = f"Math.abs(document.querySelector('.u-select').getBoundingClientRect().right - {end}) < 2"
        browser.drag(*[(left + share * width, top + height / 2) for share in RANGE], until=selected)
        browser.run("document.querySelectorAll('.toggle input')[0].click()")
        browser.run("document.querySelector('.search input').focus()")
        browser.type("Deflater")
        browser.run("document.getElementById('memory').scrollIntoView({behavior: 'instant'})")
        browser.wait(SETTLED)
        browser.screenshot(docs / "page-dark.png")

        browser.open(page, width=390, height=844, phone=True)
        browser.wait(SETTLED)
        browser.screenshot(docs / "page-phone.png")
        if browser.complaints:
            raise SystemExit(f"screenshots.py: the page complains: {browser.complaints}")


def main() -> None:
    """Trace if need be, make the page, take the pictures."""
    with tempfile.TemporaryDirectory(prefix="nativeleak-screenshots-") as folder:
        recording = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "leaker.nlk"
        if len(sys.argv) == 1:
            record(recording)
        page = Path(folder) / "leaker.html"
        report = [sys.executable, "-m", "nativeleak", "report", str(recording), "--format", "html", "-o", str(page)]
        subprocess.run(report, check=True)
        take(page, ROOT / "docs")
        take_diff(compare(Path(folder)), ROOT / "docs")


if __name__ == "__main__":
    main()
