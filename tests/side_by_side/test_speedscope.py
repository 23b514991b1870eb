"""Profiles for speedscope, opened by speedscope itself in a real browser."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import recording_fixtures as fixtures
from nativeleak.cli.main import run
from support import ROOT, require
from support.browser import Browser

PAGE = ROOT / "web/node_modules/speedscope/dist/release/index.html"
MIB = 1 << 20
OPEN = "document.title.endsWith(' - speedscope') && document.body.innerText.includes('(1/')"
SANDWICH = "[...document.querySelectorAll('div')].findLast(each => each.innerText.endsWith('Sandwich')).click()"
ROWS = """[...document.querySelectorAll('tr')].map(row => [...row.querySelectorAll('td')].map(
  cell => cell.innerText.trim()))"""


def test_speedscope_shows_the_profiles_with_their_sums(tmp_path: Path) -> None:
    require(PAGE.exists(), "speedscope is not installed: scripts/setup")
    recording, profile, script = tmp_path / "a.nlk", tmp_path / "a.speedscope.json", tmp_path / "open.js"
    fixtures.write_gateway(recording)
    assert run(["report", str(recording), "--format", "speedscope", "-o", str(profile)]) == 0
    # As its own command line program hands a file to its page.
    content = base64.b64encode(profile.read_bytes()).decode()
    script.write_text(f"speedscope.loadFileFromBase64({json.dumps(profile.name)}, {json.dumps(content)})")
    with Browser() as browser:
        browser.view(1200, 800)
        browser.call("Page.navigate", url=f"{PAGE.as_uri()}#localProfilePath={script}")
        browser.wait(OPEN)
        assert "in use (1/5)" in browser.text("body")
        browser.run(SANDWICH)
        rows = browser.wait(ROWS, lambda rows: len(rows) > 2)
    listed = {row[1]: row[2] for row in rows if len(row) == 3 and row[0].isdigit()}
    whole = (608 + 3 + 192) * MIB + (132 << 10) + 1009
    assert listed["in use"] == f"{whole / MIB:.2f} MB"  # MB are MiB there
    assert [*listed] == ["in use", "blocks in use", "growth a minute", "allocated", "resident part of mappings"]
    selves = {row[2]: row[1].split(" (")[0] for row in rows if len(row) == 3 and not row[0].isdigit()}
    assert (selves["malloc"], selves["mmap"], selves["calloc"]) == ("608.00 MB", "192.00 MB", "3.00 MB")
