"""The HTML report in a real browser: mouse, keyboard, dark and light, a phone, and names that would like to act."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import recording_fixtures as fixtures
from nativeleak.analysis.select import Selection
from nativeleak.model import Limit, LimitKind, LimitUse, MemoryLine, MemoryReading, RuntimeInfo, Stack, ThreadInfo
from nativeleak.recording import Recording, RecordingWriter
from nativeleak.reports.formats import WriteOptions, find_format
from nativeleak.reports.render import write_report
from support.browser import Browser
from support.target import Target

MIB = 1 << 20
HOSTILE = "</script><script>window.acted=1</script><img src=x onerror='window.acted=2'>"
N_SNAPSHOTS = 20
LEAK, CACHE, NATIVE, PLUMBING, HOSTILE_STACK = 21, 22, 23, 25, 24
STACKS = (
    Stack(
        LEAK,
        (
            fixtures.native("malloc"),
            fixtures.native("Java_java_util_zip_Deflater_init", "libzip.so"),
            fixtures.java("java.util.zip.Deflater.<init>"),
            fixtures.java("com.shop.export.Archive.compress", line=41),
            fixtures.java("com.shop.export.Job.step", line=7),
            fixtures.java("com.shop.export.Job.step", line=7),
            fixtures.java("com.shop.export.Job.step", line=7),
            fixtures.native("start_thread"),
        ),
    ),
    Stack(
        CACHE,
        (fixtures.native("malloc"), fixtures.java("com.shop.Cache.fill", line=3), fixtures.native("start_thread")),
    ),
    Stack(
        NATIVE, (fixtures.native("calloc"), fixtures.native("load_fonts", "libshop.so"), fixtures.native("main", "app"))
    ),
    Stack(
        PLUMBING,
        (fixtures.native("malloc"), fixtures.native("std::string::_M_append", "app"), fixtures.native("main", "app")),
    ),
    Stack(HOSTILE_STACK, (fixtures.native("malloc"), fixtures.native(HOSTILE, "app"), fixtures.native("main", "app"))),
)
THREADS = (
    ThreadInfo(1, 0, 100, "main"),
    ThreadInfo(2, 0, 101, "export-1"),
    ThreadInfo(3, 0, 102, "export-2"),
    ThreadInfo(4, 0, 103, HOSTILE),
)


def _snapshot(number: int) -> object:
    """At second 10 * (number + 1): 3 MiB more of the leak in two threads, a full cache, fonts, 1 MiB of HOSTILE."""
    n = number + 1
    slices = tuple((n * MIB // 20, 1) for _ in range(16))
    sites = [
        fixtures.heap_site(2, LEAK, (2 * n * MIB, 2 * n), slices=slices),
        fixtures.heap_site(3, LEAK, (n * MIB, n), slices=slices),
        fixtures.heap_site(2, CACHE, (8 * MIB + n * MIB, 8 + n), (n * MIB, n)),
        fixtures.heap_site(1, NATIVE, (4 * MIB, 4)),
        fixtures.heap_site(1, PLUMBING, (2 * MIB, 2)),
        fixtures.heap_site(4, HOSTILE_STACK, (MIB, 1)),
    ]
    heap = (15 + 3 * n) * MIB
    lines = {MemoryLine.ALLOCATOR: heap + 5 * MIB, MemoryLine.JAVA_HEAP: 30 * MIB, MemoryLine.FILES: 20 * MIB}
    lines |= {MemoryLine.STACKS: 4 * MIB, MemoryLine.UNEXPLAINED: 6 * MIB}
    limit = Limit(0, LimitKind.CGROUP, "memory.max", 160 * MIB)
    return fixtures.snapshot(
        10.0 * n,
        sites,
        threads=THREADS if not number else (),
        targets=(fixtures.target(comm="shop", exe="/srv/shop", runtime=RuntimeInfo("hotspot", "21.0.1")),),
        rss_bytes=heap + 65 * MIB,
        slice_s=200 / 16,
        readings=(MemoryReading(0, 10.0 * n, lines),),
        limits=(LimitUse(limit, heap + 65 * MIB),),
    )


def write_shop(path: Path) -> Recording:
    """A service that leaks 3 MiB every 10 s in two threads of a pool."""

    def write(writer: RecordingWriter) -> None:
        writer.add_stacks(STACKS)
        for number in range(N_SNAPSHOTS):
            writer.write_snapshot(_snapshot(number))  # type: ignore[arg-type]

    return fixtures.record(path, write, slice_s=200 / 16)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    stream = io.BytesIO()
    with write_shop(folder / "shop.nlk") as recording:
        write_report(recording, stream, find_format("html"), Selection(), WriteOptions())
    path = folder / "shop.html"
    path.write_bytes(stream.getvalue())
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with Browser() as started:
        yield started


@pytest.fixture
def browser(chromium: Browser, page: Path) -> Iterator[Browser]:
    """The page in a wide window; no test leaves an error, a broken rule of its policy or a request behind."""
    chromium.open(page)
    assert chromium.run("document.documentElement.dataset.ready") == "yes"
    yield chromium
    assert chromium.complaints == []
    assert chromium.run("window.acted") is None


def _frames(browser: Browser) -> dict[str, str]:
    """Names of the drawn frames with what is said about each."""
    script = "[...document.querySelectorAll('.flame g.frame')].map(f => f.getAttribute('aria-label'))"
    labels = [
        label.rpartition(": ") if label.count(": ") == 1 else label.partition(": ") for label in browser.run(script)
    ]
    return {name: said for name, _, said in labels}


def _toggle(browser: Browser, words: str) -> None:
    browser.run(f"[...document.querySelectorAll('.toggle')].find(l => l.innerText.includes('{words}')).click()")


def _choose(browser: Browser, label: str, value: str) -> None:
    browser.run(
        f"(() => {{ const s = [...document.querySelectorAll('label')].find(l => l.innerText.startsWith('{label}'))"
        f".querySelector('select'); s.value = '{value}'; s.dispatchEvent(new Event('change')); }})()"
    )


def test_page_answers_first_and_draws_everything(browser: Browser) -> None:
    assert browser.text("h2") == "LEAK: 1 suspect explains 100 % of the growth"
    assert "Archive.compress" in browser.text(".suspect h3")
    assert browser.run("document.querySelectorAll('.curve canvas').length") == 1
    assert browser.run("document.querySelectorAll('.spark').length") >= 1
    assert browser.text(".key").split("\n")[-1].split() == ["all", "140", "MiB", "+57", "MiB"]
    assert HOSTILE.replace("1", "*").replace("2", "*") in browser.text("#threads")


def test_page_flame_graph_has_the_true_figures(browser: Browser) -> None:
    frames = _frames(browser)
    assert frames["all"].startswith("75 MiB, 100 %")
    assert frames["Job.step"].startswith("60 MiB, 80 %")
    assert frames["Cache.fill"].startswith("8 MiB, 11 %")
    assert frames["load_fonts"].startswith("4 MiB, 5.3 %")
    assert "start_thread" not in frames, "plumbing is hidden"
    assert frames["main"].startswith("3 MiB"), "a stack of nothing but plumbing shows the frame that heads it"
    _toggle(browser, "hide plumbing")
    assert _frames(browser)["start_thread"].startswith("68 MiB")
    n_folded = browser.run("document.querySelectorAll('.flame g.frame').length")
    _toggle(browser, "fold recursion")
    assert browser.run("document.querySelectorAll('.flame g.frame').length") == n_folded + 2
    _toggle(browser, "allocator first")
    assert _frames(browser)["malloc"].startswith("71 MiB")


def test_page_flame_graph_by_thread_and_pool(browser: Browser) -> None:
    _choose(browser, "Threads", "pool")
    frames = _frames(browser)
    assert frames["export-*"].startswith("68 MiB")
    _choose(browser, "Threads", "thread")
    assert _frames(browser)["export-2 (102)"].startswith("20 MiB")


@pytest.mark.parametrize(
    ("metric", "whole", "step"),
    [("growth", "+75 MiB", "+60 MiB"), ("allocated", "95 MiB", "60 MiB"), ("freed", "20 MiB", None),
     ("count", "75 blocks", "60 blocks")],
)  # fmt: skip
def test_page_metrics_have_the_true_figures(browser: Browser, metric: str, whole: str, step: str | None) -> None:
    _choose(browser, "Width", metric)
    frames = _frames(browser)
    assert frames["all"].startswith(f"{whole}, 100 %")
    assert step is None or frames["Job.step"].startswith(step)


def test_page_offers_resident_memory_only_where_it_was_measured(
    browser: Browser, chromium: Browser, tmp_path: Path
) -> None:
    offered = "[...document.querySelectorAll('.controls option')].some(option => option.value === 'resident')"
    assert browser.run(offered) is False, "blocks of the heap alone"
    other = tmp_path / "gateway.html"
    with (
        Recording.from_bytes(fixtures.write_gateway(tmp_path / "gateway.nlk").read_bytes()) as recording,
        other.open("wb") as stream,
    ):
        write_report(recording, stream, find_format("html"), Selection(), WriteOptions())
    chromium.open(other)
    _choose(chromium, "Width", "resident")
    frames = _frames(chromium)
    assert frames["all"].startswith("96.1 MiB, 100 %"), "half of 64 and of 128 MiB of mappings, and the program break"
    assert frames["load_index"].startswith("32 MiB")
    assert "without blocks of the heap" in chromium.text("#flame")


def test_page_lifetime_is_bytes_times_time(browser: Browser) -> None:
    _choose(browser, "Width", "lifetime")
    # The cache: 8 MiB from second 10 on, 4 MiB on average before: (40 + 1520) MiB s for 28 MiB allocated.
    assert _frames(browser)["Cache.fill"].endswith("each byte held 56s on average")


def test_page_brush_selects_the_time_of_the_flame_graph(browser: Browser) -> None:
    _choose(browser, "Width", "growth")
    left, top, width, height = browser.box(".curve .u-over")
    end = 200 * 1.15
    x = [left + width * second / end for second in (50, 75, 101)]
    selected = f"Math.abs(document.querySelector('.u-select').getBoundingClientRect().right - {x[-1]}) < 2"
    browser.drag(*[(each, top + height / 2) for each in x], until=selected)
    assert "From\n50s\nto\n1m 40s" in browser.text(".range")
    assert _frames(browser)["all"].startswith("+15 MiB")
    _choose(browser, "Width", "outstanding")
    assert _frames(browser)["Job.step"].startswith("30 MiB")
    browser.run("[...document.querySelectorAll('button')].find(b => b.innerText === 'Whole trace').click()")
    assert _frames(browser)["Job.step"].startswith("60 MiB")


def test_page_time_range_is_moved_by_keyboard(browser: Browser) -> None:
    browser.run("document.querySelectorAll('input[type=range]')[1].focus()")
    for _ in range(10):
        browser.press("ArrowLeft")
    assert _frames(browser)["Job.step"].startswith("30 MiB")


def test_page_search_tells_the_share_of_matches(browser: Browser) -> None:
    browser.run("document.body.focus()")
    browser.press("/")
    browser.type("compress")
    assert browser.wait("document.querySelector('.found').innerText").startswith("80 %: 60 MiB in 1 frame")
    assert browser.run("document.querySelectorAll('.flame g.match').length") == 1
    browser.type("|Cache")
    browser.wait("document.querySelector('.found').innerText", lambda text: text == "91 %: 68 MiB in 2 frames")
    browser.type("(")
    browser.wait("document.querySelector('.found').innerText", lambda text: text == "no match")


def test_page_zooms_by_click_and_back(browser: Browser) -> None:
    browser.click(".flame g.frame[aria-label^='Cache.fill'] rect")
    width = "document.querySelector(\".flame g.frame[aria-label^='Cache.fill'] rect\").getBoundingClientRect().width"
    whole = browser.run("document.querySelector('.flame').clientWidth")
    assert browser.wait(width, lambda value: value > 0.95 * whole)
    assert "Job.step" not in _frames(browser)
    assert "8 MiB" in browser.text(".details")
    browser.click("#flame .controls > button")
    assert "Job.step" in _frames(browser)


def test_page_flame_graph_is_used_by_keyboard(browser: Browser) -> None:
    browser.run("document.querySelector('.flame g.frame').focus()")
    browser.press("ArrowDown")
    focused = "document.activeElement.getAttribute('aria-label')"
    assert browser.run(focused).startswith("Job.step")
    browser.press("ArrowRight")
    assert browser.run(focused).startswith("Cache.fill")
    browser.press("Enter")
    assert "Job.step" not in _frames(browser)
    browser.press("Escape")
    assert "Job.step" in _frames(browser)
    browser.press("ArrowUp")
    assert browser.run(focused).startswith("all")


def test_page_suspect_is_shown_in_the_flame_graph(browser: Browser) -> None:
    browser.click(".suspect button")
    assert set(_frames(browser)) == {"all", "Job.step", "Archive.compress"}
    assert browser.text(".filter").startswith("Only suspect 1")
    browser.click(".filter button")
    assert "Cache.fill" in _frames(browser)


def test_page_call_sites_sort_filter_expand_and_copy(browser: Browser) -> None:
    names = "[...document.querySelectorAll('.sites .opener')].map(b => b.innerText)"
    assert browser.run(names)[0] == "Archive.compress"
    browser.click(".sites th [data-key=freed]")
    assert browser.run(names)[0] == "Cache.fill"
    browser.run(
        "(() => { const f = document.querySelector('#sites input'); f.value = 'libshop';"
        " f.dispatchEvent(new Event('input')); })()"
    )
    browser.wait(names, lambda shown: shown == ["load_fonts"])
    browser.click(".opener")
    assert browser.text(".stack").split("\n") == ["calloc libc.so.6", "load_fonts libshop.so", "main app"]
    copied = "navigator.clipboard.writeText = text => { window.copied = text; return Promise.resolve(); }"
    browser.run(f"void ({copied})")
    browser.click("tr.open button")
    assert browser.wait("window.copied").split("\n")[1:4] == [
        "calloc  libc.so.6",
        "load_fonts  libshop.so",
        "main  app",
    ]


def test_page_tables_sort(browser: Browser) -> None:
    browser.click("#threads thead th:nth-child(4) button")
    assert browser.run("document.querySelector('#threads tbody tr').cells[4].innerText") == "export-*"
    browser.click("#threads thead th:nth-child(1) button")
    browser.click("#threads thead th:nth-child(1) button")
    assert browser.run("document.querySelector('#threads tbody tr').cells[0].innerText") == "1 MiB"


@pytest.mark.parametrize("dark", [False, True])
def test_page_is_readable_in_dark_and_light(chromium: Browser, page: Path, dark: bool) -> None:
    chromium.open(page, dark=dark)
    colours = chromium.run(CONTRASTS)
    assert min(colours.values()) >= 4.5, colours
    chromium.run("document.querySelector('.search input').focus()")
    chromium.type("compress")
    chromium.wait("document.querySelectorAll('.flame g.match').length")
    searched = chromium.run(CONTRASTS)
    assert min(searched.values()) >= 4.5, searched
    is_dark = chromium.run("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 27)"
    assert is_dark is dark


CONTRASTS = """(() => {
  const channels = c => c.match(/[0-9.]+/g).slice(0, 3).map(Number);
  const linear = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = channels(c).map(linear); return .2126 * r + .7152 * g + .0722 * b; };
  const ratio = (a, b) => {
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + .05) / (y + .05);
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (c !== 'rgba(0, 0, 0, 0)') return c;
    }
    return getComputedStyle(document.body).backgroundColor;
  };
  const hasText = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  const found = {};
  for (const e of document.querySelectorAll('main *, header *, nav *')) {
    if (e.closest('svg') || !hasText(e) || !e.offsetParent || e.disabled) continue;
    const { color } = getComputedStyle(e);
    found[e.tagName + '.' + e.className + ' ' + color] = ratio(color, behind(e));
  }
  for (const f of document.querySelectorAll('.flame g.frame')) {
    const rect = f.querySelector('rect');
    const { color } = getComputedStyle(f.querySelector('div'));
    if (getComputedStyle(rect).fillOpacity !== '1') found['transparent'] = 0;
    found['frame ' + rect.getAttribute('fill')] = ratio(color, getComputedStyle(rect).fill);
  }
  return found;
})()"""
"""Contrast of all text that is seen, by element and colour. Source: WCAG 2.1, relative luminance; 4.5 is level AA."""


def test_page_fits_a_phone(chromium: Browser, page: Path) -> None:
    chromium.open(page, width=360, height=740, phone=True)
    assert chromium.run("document.documentElement.scrollWidth") == 360
    wide = "[...document.querySelectorAll('main > section')].filter(s => s.scrollWidth > s.clientWidth).map(s => s.id)"
    assert chromium.run(wide) == []
    chromium.click(".flame g.frame[aria-label^='Job.step'] rect")
    assert "60 MiB" in chromium.text(".details")
    assert chromium.complaints == []


def test_page_of_a_real_process_is_made_without_probes(chromium: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    with Target("heap_states", "gaps", 40009) as target, page.open("wb") as out:
        options = ["--engine", "pmap", "--duration", "1s", "--format", "html", "-o", str(tmp_path / "x.nlk"), "--quiet"]
        command = [sys.executable, "-m", "nativeleak", "trace", "-p", str(target.pid), *options]
        subprocess.run(command, check=True, stdout=out)
    chromium.open(page)
    assert chromium.run("document.documentElement.dataset.ready") == "yes"
    assert f"PID {target.pid}" in chromium.text("h1")
    assert chromium.text("h2").startswith("NO LEAK SEEN")
    assert chromium.complaints == []


def test_page_policy_stops_scripts_and_requests_of_others(chromium: Browser, page: Path) -> None:
    chromium.open(page)
    chromium.run(
        "(() => { const s = document.createElement('script'), i = document.createElement('img');"
        " s.textContent = 'window.acted = 3'; i.src = 'http://127.0.0.1:9/x.png'; document.body.append(s, i); })()"
    )
    assert chromium.run("window.acted") is None
    chromium.wait("new Promise(done => setTimeout(() => done(1), 50))")
    refused = [text for text in chromium.complaints if "Content Security Policy" in text]
    assert len(refused) == 2
    chromium.complaints.clear()


def test_page_says_what_an_old_browser_lacks(chromium: Browser, page: Path, tmp_path: Path) -> None:
    script = json.dumps("delete window.DecompressionStream")
    number = chromium.call("Page.addScriptToEvaluateOnNewDocument", source=json.loads(script))["identifier"]
    try:
        chromium.open(page)
        assert chromium.run("document.documentElement.dataset.ready") == "failed"
        assert "This browser is too old" in chromium.text("main .warning")
        assert "LEAK: 1 suspect" in chromium.text("#answer")
    finally:
        chromium.call("Page.removeScriptToEvaluateOnNewDocument", identifier=number)
        chromium.complaints.clear()


def test_page_of_triage_shows_the_lines_and_runs_no_script(chromium: Browser, tmp_path: Path) -> None:
    page = tmp_path / "now.html"
    with Target("heap_states", "gaps", 40009) as target:
        command = [sys.executable, "-m", "nativeleak", "triage", "-p", str(target.pid), "--format"]
        subprocess.run([*command, "html", "--redact", "-o", str(page)], check=True)
        report = json.loads(subprocess.run([*command, "json"], check=True, capture_output=True).stdout)
        text = page.read_text()
    chromium.view(1280, 1000)
    chromium.call("Page.navigate", url=page.as_uri())
    chromium.wait("document.querySelector('#memory td.number') !== null")
    assert chromium.complaints == []
    assert chromium.text("h1") == f"heap_states (PID {target.pid})"
    assert chromium.text("h2").startswith("PROVEN ")
    shown = chromium.run(
        "[...document.querySelectorAll('#memory tbody tr')].map(r => Number(r.cells[1].dataset.value))"
    )
    assert sum(shown[:-1]) == shown[-1]
    assert abs(shown[-1] - report["rss_bytes"]) < MIB
    assert "script-src 'none'" in text
    assert report["target"]["exe"] not in text
    assert chromium.run("getComputedStyle(document.querySelector('.bar rect')).fill") == "rgb(0, 114, 178)"
    assert chromium.run("document.documentElement.scrollWidth") == 1280
