"""The page as a file: what stands in it, and that nothing of a traced process can act in it."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import recording_fixtures as fixtures
from nativeleak.analysis.select import By, Selection
from nativeleak.model import Stack, ThreadInfo
from nativeleak.recording import Recording, open_recording
from nativeleak.recording.moment import RecordingAt
from nativeleak.reports.formats import WriteOptions, find_format
from nativeleak.reports.render import write_report
from support.page import figures, outstanding

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{x}}"
_EMPTY = {"meta", "br", "link", "input", "hr", "img"}


def page_of(recording: Recording, selection: Selection | None = None, **options: object) -> str:
    stream = io.BytesIO()
    wanted = WriteOptions(**options)  # type: ignore[arg-type]
    write_report(recording, stream, find_format("html"), selection or Selection(), wanted)
    return stream.getvalue().decode("utf-8")


@pytest.fixture
def gateway(tmp_path: Path) -> Recording:
    return open_recording(fixtures.write_gateway(tmp_path / "gateway.nlk"))


class Outline(HTMLParser):
    """Elements, their attributes, and whether each is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data


def test_page_says_the_answer_first_without_script(gateway: Recording) -> None:
    links, text = Outline(page_of(gateway)).text.split("LEAK: 1 suspect explains 100 % of the growth")
    assert "java (PID 5687)" in links
    headings = ("Codec.decode", "Not growing for certain", "Threads and pools", "The JVM's own memory", "Address space")
    places = [text.index(part) for part in (*headings, "Completeness", "How this was made")]
    assert places == sorted(places)
    assert "211 frees were of blocks older than the trace" in text


def test_page_is_whole_html(gateway: Recording) -> None:
    outline = Outline(page_of(gateway))
    assert outline.open == []
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_page_figures_are_those_of_the_recording(gateway: Recording) -> None:
    sums = outstanding(page_of(gateway))
    mib = 1 << 20
    assert sums["nioEventLoop-1-1", _names(11)] == 38 * 16 * mib
    assert sums["java", ("calloc", "cache_grow", "main")] == 3 * mib
    assert sums["worker", _names(11)] == 1009
    assert sums["java", ("mmap", "load_index", "main")] == 64 * mib
    assert ("java", ("mmap", "sysmalloc", "malloc", "main")) not in sums, "an allocator's memory holds counted blocks"


def _names(key: int) -> tuple[str, ...]:
    stack = next(each for each in fixtures.STACKS if each.key == key)
    names = [frame.function for frame in stack.frames]
    shown = [".".join(name.split(".")[-2:]) if frame.module is None else name.split("(")[0]
             for name, frame in zip(names, stack.frames, strict=True)]  # fmt: skip
    return tuple(shown)


def test_page_courses_are_those_of_each_snapshot(gateway: Recording) -> None:
    facts, columns = figures(page_of(gateway))
    n = len(columns["site_stack"])
    courses = {
        name: columns[name].astype(np.int64).reshape(-1, n).cumsum(axis=0) for name in ("bytes", "added", "calls")
    }
    assert columns["moments"].tolist() == [60.0 * (minute + 1) for minute in range(12)]
    leak = int(courses["bytes"][-1].argmax())
    assert courses["bytes"][:, leak].tolist() == [(5 + 3 * minute) * 16 << 20 for minute in range(12)]
    churn = [site for site in range(n) if courses["bytes"][-1, site] == 0]
    assert courses["added"][:, churn[0]].tolist() == [(7 << 20) + minute * 4096 for minute in range(12)]
    assert [facts["threads"][columns["site_thread"][site]][0] for site in churn] == ["worker"]


def test_page_rows_follow_the_selection(gateway: Recording) -> None:
    _, columns = figures(page_of(gateway, Selection(thread="java", top=2)))
    assert columns["row_bytes"].tolist() == [128 << 20, 64 << 20]
    facts, columns = figures(page_of(gateway, Selection(by=By.THREAD)))
    assert facts["by"] == "thread"
    assert set(columns["row_head"].tolist()) == {-1}


def test_page_of_an_earlier_moment_ends_there(gateway: Recording) -> None:
    _, columns = figures(page_of(RecordingAt(gateway, 3)))
    assert columns["moments"].tolist() == [60.0, 120.0, 180.0, 240.0]


@pytest.mark.parametrize("backend", fixtures.BACKENDS)
def test_page_of_every_engine_is_made(tmp_path: Path, backend: str) -> None:
    with open_recording(fixtures.write_of_backend(tmp_path / "x.nlk", backend)) as recording:
        page = page_of(recording)
    assert Outline(page).open == []
    assert sum(outstanding(page).values()) > 0


def test_page_without_a_snapshot_says_so(tmp_path: Path) -> None:
    with fixtures.record(tmp_path / "x.nlk", lambda _: None) as recording:
        assert "NOT KNOWN: the recording ends before its first snapshot" in Outline(page_of(recording)).text


def test_page_loads_nothing_and_allows_only_its_own_script_and_style(gateway: Recording) -> None:
    page = page_of(gateway)
    outline = Outline(page)
    policy = next(a["content"] for tag, a in outline.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for element, directive in (("script", "script-src"), ("style", "style-src")):
        [inner] = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    loading = {"src", "srcset", "data", "action", "formaction", "poster", "background", "style"}
    for tag, attributes in outline.tags:
        assert not loading & attributes.keys(), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("href", "#").startswith("#")  # type: ignore[union-attr]


def test_page_holds_the_licences_of_what_is_bundled(gateway: Recording) -> None:
    text = Outline(page_of(gateway)).text
    for name in ("uplot", "d3-flame-graph", "d3-hierarchy", "Leon Sorokin", "Mike Bostock", "Apache License"):
        assert name in text


def hostile_recording(path: Path) -> Recording:
    """Every name that a process can choose is one that would act in a page."""
    stack = Stack(5, (fixtures.native("malloc"), fixtures.native(HOSTILE, HOSTILE), fixtures.native("main", "app")))

    def write(writer: object) -> None:
        writer.add_stacks([stack])  # type: ignore[attr-defined]
        for minute in range(8):
            blocks = 10 * (minute + 1)
            site = fixtures.heap_site(9, 5, (blocks << 20, blocks), slices=((1 << 20, 1),) * 8)
            writer.write_snapshot(  # type: ignore[attr-defined]
                fixtures.snapshot(
                    60.0 * (minute + 1),
                    [site],
                    threads=(ThreadInfo(9, 0, 77, HOSTILE),) if not minute else (),
                    targets=(fixtures.target(comm=HOSTILE, exe=f"/x/{HOSTILE}", runtime=None),),
                    rss_bytes=(100 + blocks) << 20,
                    slice_s=60.0,
                )
            )

    return fixtures.record(path, write, slice_s=60.0, options={"output": HOSTILE})


def test_page_of_a_hostile_process_has_no_element_of_its_making(tmp_path: Path) -> None:
    with hostile_recording(tmp_path / "x.nlk") as recording:
        page = page_of(recording)
    outline = Outline(page)
    assert outline.open == []
    assert HOSTILE in outline.text
    assert HOSTILE not in page
    assert [tag for tag, _ in outline.tags].count("script") == 2
    assert "img" not in [tag for tag, _ in outline.tags]


def test_redacted_page_has_no_hidden_word_anywhere(gateway: Recording) -> None:
    plain = page_of(gateway)
    page = page_of(gateway, redact=True, hide=("com.example.*", "nioEventLoop*", "libcache.so"))
    facts, _ = figures(page)
    words = f"{Outline(page).text} {facts}"
    for word in ("Codec", "decode", "Pipeline", "nioEventLoop", "libcache", str(gateway.name)):
        assert word in f"{Outline(plain).text} {figures(plain)[0]}"
        assert word not in words
        assert word not in page.replace(page[page.index("<style>") :], "")
    assert "hidden-" in Outline(page).text
    assert "cache_grow" in words
    assert sum(outstanding(page).values()) == sum(outstanding(plain).values())


def test_page_of_a_jvm_tells_its_own_memory_by_purpose(gateway: Recording) -> None:
    text = Outline(page_of(gateway)).text
    own = text[text.index("The JVM's own memory") : text.index("Address space")]
    assert "128 MiB" in own
    assert "1 GiB" in own
