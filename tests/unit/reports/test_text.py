"""The report for people: what comes first, what it says when something went wrong, what it hides."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import recording_fixtures as fixtures
from nativeleak.analysis.select import By, Metric, Selection
from nativeleak.model import Child, Level, Owner, Stack, TargetEnd, UnmapTotals, Window
from nativeleak.recording import Recording, RecordingWriter, open_recording
from nativeleak.reports.formats import WriteOptions
from nativeleak.reports.text_sites import stack_lines
from rendering import render


def _text(recording: Recording, max_frames: int | None = 40, **selection: Any) -> str:
    return render(recording, "text", WriteOptions(max_frames=max_frames, detail=True), Selection(**selection))


def _gateway(path: Path, **changes: Any) -> str:
    with open_recording(fixtures.write_gateway(path, **changes)) as recording:
        return _text(recording)


def test_text_begins_with_the_answer(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        text = render(recording, "text")
    assert text.splitlines() == [
        "java (PID 5687) \N{MIDDLE DOT} traced 12m 00s, every allocation \N{MIDDLE DOT} memory 2.9 GiB -> 3.5 GiB "
        "(+550 MiB)",
        "",
        "LEAK: 1 suspect explains 100 % of the growth",
        "       holds   growth/min  (95 % sure)                 share   oldest",
        " 1  608.0 MiB      +48 MiB                              100 %  11m 10s",
        "      Codec.decode  Codec.java:41",
        "      direct buffer: 39 blocks of 15.6 MiB; the caller only filled Netty's buffer pool",
        "      (-Dio.netty.allocator.type=unpooled); 2 threads; half older than 7m 00s",
        "    (a cache that takes longer than 12m 00s to fill looks the same)",
        "",
        " 1  PoolArena.newChunk < Codec.decode < Pipeline.next",
        "",
        "Not growing",
        "       64 MiB  steady: the JVM itself: other; thread java",
        "       32 MiB  steady: load_index  libindex.so; thread java",
        "",
        "Outstanding  803.1 MiB of 811.2 MiB allocated since the start: heap 611.0 MiB in 3,111 blocks;",
        "             mapped 192 MiB (96 MiB of it in memory); brk 132 KiB; 128 MiB of all this is the JVM's",
        "             own",
        "Memory       resident +550 MiB; what is outstanding accounts for 96 % of it",
        "Watched      malloc, mmap, brk; nothing lost; cost 2.3 % of a core, 2.5 % of the target's CPU",
        f"More         nativeleak report {tmp_path}/a.nlk --full-stacks   (--all: threads and completeness)",
    ]


@pytest.mark.parametrize("n_snapshots", [0, 1, 3, 12])
def test_text_without_options_is_forty_lines_at_most(tmp_path: Path, n_snapshots: int) -> None:
    """With many leaks, many losses and many paths that do not grow."""
    stacks = [
        Stack(key, (fixtures.native("malloc"), fixtures.native(f"leak_{key}_" + "x" * 90, "app", key)))
        for key in range(1, 60)
    ]
    with RecordingWriter(tmp_path / "a.nlk", fixtures.trace_info(slice_s=1.0)) as writer:
        writer.add_stacks(stacks)
        for number in range(n_snapshots):
            grown = [fixtures.heap_site(1, key, (1000 * key * (number + 9), number + 9)) for key in range(1, 30)]
            still = [fixtures.heap_site(1, key, (1000 * key, 9)) for key in range(30, 60)]
            lost = fixtures.counters(lost_allocations=5, lost_stacks=3, lost_events=2, sites_full=7, threads_full=9)
            writer.write_snapshot(fixtures.snapshot(number + 1.0, grown + still, counters=lost))
        writer.finish("duration", 12.0)
    with open_recording(tmp_path / "a.nlk") as recording:
        text = render(recording, "text")
    assert len(text.splitlines()) <= 40
    assert re.search("^(LEAK|Leak: not|NOT KNOWN)", text, re.MULTILINE)


def test_text_longer_than_the_screen_ends_with_the_suspects(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        long = render(recording, "text", WriteOptions(detail=True, screen_lines=24)).splitlines()
        short = render(recording, "text", WriteOptions(screen_lines=60)).splitlines()
    assert long[-8:-6] == ["", "LEAK: 1 suspect explains 100 % of the growth"]
    assert short.count("LEAK: 1 suspect explains 100 % of the growth") == 1


def test_text_nothing_grows_says_for_how_long_to_watch(tmp_path: Path) -> None:
    def write(writer: RecordingWriter) -> None:
        for number in range(20):
            site = fixtures.heap_site(1, 12, ((1 << 20) + 4096 * (number % 3), 20))
            writer.write_snapshot(fixtures.snapshot(number + 1.0, [site], rss_bytes=64 << 20))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        text = " ".join(render(recording, "text").split())
    assert "NO LEAK SEEN: live memory" in text
    watch = re.search(r"to see a growth of 655.4 KiB a day, 1 % of its resident memory, watch for (\d+)m", text)
    assert watch
    assert 20 <= int(watch[1]) < 60


def test_text_tells_what_allocates_much_and_what_was_much(tmp_path: Path) -> None:
    """Beside a leak: a function that frees all it gets, and one that held 64 MiB for a time."""
    names = ("leak", "serve", "compile_method")

    def write(writer: RecordingWriter) -> None:
        writer.add_stacks(
            [Stack(key, (fixtures.native("malloc"), fixtures.native(name, "app"))) for key, name in enumerate(names, 1)]
        )
        for number in range(20):
            n = number + 1
            spike = 64 << 20 if number in (8, 9) else 0
            made = 64 << 20 if number >= 8 else 0
            sites = [
                fixtures.heap_site(1, 1, (n << 16, n)),
                fixtures.heap_site(1, 2, (n << 22, n << 6), (n << 22, n << 6)),
                fixtures.heap_site(1, 3, (made + 4096, 9), (made - spike, 8)),
            ]
            writer.write_snapshot(fixtures.snapshot(n, sites, rss_bytes=256 << 20))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        lines = render(recording, "text").splitlines()
        report = json.loads(render(recording, "json"))
    assert [suspect["name"] for suspect in report["suspects"]] == ["leak"]
    others = {each["name"]: each for each in report["findings"]}
    assert (others["serve"]["outstanding_bytes"], others["serve"]["allocated_bytes"]) == (0, 20 << 22)
    assert (others["compile_method"]["peak_bytes"], others["compile_method"]["peak_at_s"]) == ((64 << 20) + 4096, 9.0)
    text = " ".join(" ".join(lines).split())
    assert "allocates 4 MiB/s and frees it: serve app" in text, lines
    assert re.search(r"compile_method app; [^;]*; peak 64.0 MiB at 9s", text), lines


def _jvm(path: Path, *rows: tuple[str, str]) -> tuple[str, dict[str, Any]]:
    """The text and the JSON of a JVM that grows by 64 KiB a second at each stack: functions of libjvm, Java methods."""
    jvm = "libjvm.so"

    def write(writer: RecordingWriter) -> None:
        for key, (below, above) in enumerate(rows, 1):
            frames = [fixtures.native(name, jvm) for name in below.split()] + [
                fixtures.java(name) for name in above.split()
            ]
            writer.add_stacks([Stack(key, (fixtures.native("mmap"), *frames))])
        for number in range(20):
            n = number + 1
            sites = [fixtures.map_site(1, key, (n << 16, n), resident_bytes=n << 16) for key in range(1, len(rows) + 1)]
            writer.write_snapshot(fixtures.snapshot(n, sites, rss_bytes=(64 << 20) + (n << 16)))

    with fixtures.record(path, write) as recording:
        return " ".join(render(recording, "text").split()), json.loads(render(recording, "json"))


_PROFILE = ("Metaspace::allocate MethodData::allocate CompileBroker::compiler_thread_loop", "")
_CLASSES = (
    "Metaspace::allocate ClassFileParser::parse_stream JVM_LookupDefineClass",
    "java.lang.ClassLoader.defineClass0 java.lang.invoke.MethodHandles$Lookup.defineHiddenClass app.Scripts.compile",
)


def test_text_of_a_jvm_that_compiles_its_code_is_no_leak_and_says_what_is_bounded(tmp_path: Path) -> None:
    text, report = _jvm(tmp_path / "a.nlk", _PROFILE)
    assert "NO LEAK SEEN: live memory +3.8 MiB/min, +3.8 MiB/min of it for code that is loaded and compiled" in text
    assert "Bounded 1.2 MiB +3.8 MiB/min, bounded by the code that is loaded: the JVM itself: method profiles" in text
    assert (report["suspects"], report["findings"][0]["bounded_by"]) == ([], "bounded by the code that is loaded")


def test_text_of_a_java_heap_that_grows_is_no_leak_and_says_what_bounds_it(tmp_path: Path) -> None:
    text, report = _jvm(tmp_path / "a.nlk", ("os::commit_memory PSVirtualSpace::expand_by PSOldGen::expand", ""))
    said = "NO LEAK SEEN: live memory +3.8 MiB/min, +3.8 MiB/min of it for Java heap, which is bounded by -Xmx"
    assert said in text
    assert report["suspects"] == []


def test_text_of_classes_that_leak_says_what_grows_with_them(tmp_path: Path) -> None:
    text, report = _jvm(tmp_path / "a.nlk", _PROFILE, _CLASSES)
    assert "LEAK: 1 suspect explains 50 % of the growth" in text
    assert "with compiled code and profiles of the classes, +3.8 MiB/min more: 100 %" in text
    follower = "1.2 MiB +3.8 MiB/min, for the classes that leak: the JVM itself: method profiles"
    assert f"Because of the leak {follower}" in text
    assert [suspect["name"] for suspect in report["suspects"]] == ["Scripts.compile"]


@pytest.mark.parametrize(("freed", "is_told"), [(0, True), (100, False)])
def test_text_of_memory_that_a_collection_frees_says_how_to_have_one(tmp_path: Path, freed: int, is_told: bool) -> None:
    names = ("java.nio.DirectByteBuffer.<init>", "java.nio.ByteBuffer.allocateDirect", "app.Index.put")

    def write(writer: RecordingWriter) -> None:
        writer.add_stacks([Stack(1, (fixtures.native("malloc"), *map(fixtures.java, names)))])
        for number in range(20):
            n = 10 * (number + 1)
            site = fixtures.heap_site(1, 1, (n << 12, n), (freed, freed // 100))
            writer.write_snapshot(fixtures.snapshot(number + 1.0, [site]))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        text = " ".join(render(recording, "text").split())
    assert "LEAK: 1 suspect" in text
    told = "(unused Java objects free it at a collection only: trace again, with jcmd 5687 GC.run meanwhile)"
    assert (told in text) is is_told


def test_text_of_one_small_block_is_no_reason_for_doubt(tmp_path: Path) -> None:
    def write(writer: RecordingWriter) -> None:
        writer.add_stacks([Stack(1, (fixtures.native("malloc"), fixtures.native("start_worker", "app")))])
        for number in range(20):
            n = 1 if number > 10 else 0
            writer.write_snapshot(
                fixtures.snapshot(number + 1.0, [fixtures.heap_site(1, 1, (n << 16, n))], rss_bytes=100 << 20)
            )

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        assert "NO LEAK SEEN" in render(recording, "text")


def test_text_of_a_master_whose_children_grow_is_no_all_clear(tmp_path: Path) -> None:
    child = Child(7, "worker", 9 << 20, 5 << 20)
    target = replace(fixtures.target(), children=(child,))

    def write(writer: RecordingWriter) -> None:
        for number in range(20):
            writer.write_snapshot(fixtures.snapshot(number + 1.0, [], rss_bytes=1 << 20, targets=(target,)))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        text = " ".join(render(recording, "text").split())
        growth = json.loads(render(recording, "json"))["growth"]
    assert (growth["verdict"], growth["children_bytes"]) == ("unknown", 5 << 20)
    assert "Leak: not known, because what grew is in children of this process (+5 MiB), see CHILDREN" in text
    assert "NO LEAK SEEN" not in text
    assert "would have been seen" not in text


def test_text_unwatched_heap_gives_no_verdict(tmp_path: Path) -> None:
    windows = (Window(0.0, 1.0, Level.EXACT), Window(1.0, 20.0, Level.SYSCALLS))

    def write(writer: RecordingWriter) -> None:
        for number in range(20):
            site = fixtures.heap_site(1, 12, (1 << 20, 20), oldest_s=1.0)
            rss = (64 << 20) + (number << 20)
            writer.write_snapshot(fixtures.snapshot(number + 1.0, [site], rss_bytes=rss, windows=windows))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        text = " ".join(render(recording, "text").split())
        report = json.loads(render(recording, "json"))
    assert "Leak: not known, because malloc was watched for 1s of 20s" in text
    assert "resident memory +60 MiB/min" in text
    assert "1 MiB growth not known" in text
    assert "steady" not in text
    assert (report["growth"]["verdict"], report["growth"]["watched_pct"]) == ("unknown", 5.0)


def test_text_says_first_that_the_target_was_oom_killed_and_what_was_lost(tmp_path: Path) -> None:
    text = _gateway(tmp_path / "a.nlk", end=TargetEnd.OOM_KILLED, lost_allocations=1009, lost_bytes=2 << 20)
    lines = " ".join(text.split("\n\n")[0].splitlines()[1:])
    lines = " ".join(lines.split())
    assert lines.startswith("ATTENTION java (PID 5687) was killed by the kernel's OOM killer during the trace")
    assert "1,009 allocations (2 MiB) were dropped (map full) and are missing from the totals" in lines
    assert "--max-allocations" in lines
    assert text.index("--max-allocations") < text.index("LEAK")
    assert "Nothing was lost" not in text


def test_text_function_that_is_not_seen_is_named_first(tmp_path: Path) -> None:
    def write(writer: RecordingWriter) -> None:
        writer.add_event(0.0, "unseen", "_Znwm of /srv/app is not seen: it never returns")
        writer.write_snapshot(fixtures.snapshot(1.0, []))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        lines = " ".join(" ".join(_text(recording).split("\n\n")[0].splitlines()[1:]).split())
    assert lines.startswith("ATTENTION _Znwm of /srv/app is not seen: it never returns: what it allocates")


def test_text_recorder_killed_says_so(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "a.nlk", fixtures.trace_info())
    writer.write_snapshot(fixtures.snapshot(60.0, fixtures.gateway_sites(0), threads=fixtures.THREADS))
    writer.close()
    with open_recording(tmp_path / "a.nlk") as recording:
        assert "the recorder was stopped before it could finish" in _text(recording)


def test_text_never_calls_outstanding_memory_leaked(tmp_path: Path) -> None:
    text = _gateway(tmp_path / "a.nlk", n_snapshots=3)
    assert not re.search(r"leaked|LEAK|suspected", text)
    assert "Leak: not decided, because 3 snapshots cannot show growth; watch for 9m 00s\n" in text


def test_text_shows_ten_sites_and_says_how_to_see_all(tmp_path: Path) -> None:
    sites = [fixtures.heap_site(1, key, (1000 + key, 1)) for key in range(13)]

    def write(writer: RecordingWriter) -> None:
        frames = fixtures.native("malloc"), fixtures.native("main", "app")
        writer.add_stacks([Stack(key, (frames[0], fixtures.native(f"f{key}", "app"), frames[1])) for key in range(13)])
        writer.write_snapshot(fixtures.snapshot(1.0, sites, threads=fixtures.THREADS))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        assert (
            "Call paths, all threads together by outstanding bytes: 10 of 13 (--top 13 shows all), 77.0 % of"
            in _text(recording)
        )
        assert "13 of 13, 100.0 % of" in _text(recording, top=13)


def test_text_site_row_has_all_figures(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        text = _text(recording, by=By.SITE_AND_THREAD)
    columns = "    #   share  outstanding      blocks  mean block   oldest     growth/min  verdict"
    row = "    1  75.7 %      608 MiB          38      16 MiB  11m 10s        +48 MiB  growing: suspected leak"
    assert f"{columns}\n{row}\n      thread nioEventLoop-1-1 (TID 1860); heap by malloc\n        malloc  " in text


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"metric": Metric.ALLOCATED}, "Call paths, all threads together by bytes allocated during the trace: 4 of 4"),
        ({"by": By.SITE}, "Call sites, all threads together by outstanding bytes: 4 of 4"),
        ({"by": By.THREAD}, "2 stacks merged (--by site,thread shows them)"),
        ({"thread": "worker"}, "only --thread worker: 1 of 1, 100.0 % of what is outstanding"),
        ({"min_bytes": 1 << 20}, "only --min 1048576: 3 of 4"),
    ],
)
def test_text_heading_says_what_is_shown(tmp_path: Path, selection: dict[str, Any], expected: str) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        assert expected in _text(recording, **selection)


def test_text_what_the_jvm_holds_is_a_group_of_its_own(tmp_path: Path) -> None:
    text = _gateway(tmp_path / "a.nlk")
    group = text[text.index("Held by the JVM itself") :].split("\n\n")[0].splitlines()
    assert group[1].split() == ["share", "outstanding", "blocks", "reserved", "for"]
    assert group[2].split() == ["15.9", "%", "128", "MiB", "1", "1", "GiB", "other"]
    assert len(group) == 3


def test_text_says_who_gave_mapped_memory_back(tmp_path: Path) -> None:
    """The program's callers only, the largest first."""
    lines = _gateway(tmp_path / "a.nlk").splitlines()
    start = lines.index("Unmapped memory, by the caller of munmap, mremap or shmdt")
    assert lines[start + 1 : start + 5] == [
        "      unmapped       calls  by",
        "        19 MiB           2  drop_index  libindex.so; thread nioEventLoop-1-1 (TID 1860); 17 MiB of it"
        " mapped by other threads; 3 MiB more that was only reserved",
        "       268 KiB          36  drop_index  libindex.so; thread java (TID 5687); 28 KiB of it older than the"
        " trace",
        "",
    ]


def test_text_who_gave_back_is_five_lines_at_most(tmp_path: Path) -> None:
    rows = tuple(UnmapTotals(i, 0, 1, 17, Owner.PROGRAM, ("munmap",), 1, (i + 1) << 20) for i in range(7))
    maps = [fixtures.map_site(1, 13, (64 << 20, 2))]
    with fixtures.record(
        tmp_path / "a.nlk", lambda w: w.write_snapshot(fixtures.snapshot(1.0, maps, unmapped=rows))
    ) as recording:
        text = _text(recording)
    assert text.count("[stack lost]; thread *") == 5
    assert "  and 2 more with 3 MiB (all: --format json)\n" in text


@pytest.mark.parametrize(("others", "is_shown"), [(0, False), (4096, True)])
def test_text_who_gave_back_is_left_out_where_nothing_mapped_is_left(
    tmp_path: Path, others: int, is_shown: bool
) -> None:
    rows = (UnmapTotals(0, 0, 1, 17, Owner.PROGRAM, ("munmap",), 1, 8192, others),)
    with fixtures.record(
        tmp_path / "a.nlk", lambda w: w.write_snapshot(fixtures.snapshot(1.0, [], unmapped=rows))
    ) as recording:
        assert ("Unmapped memory" in _text(recording)) is is_shown


def test_text_nothing_allocated_says_so(tmp_path: Path) -> None:
    with fixtures.record(tmp_path / "a.nlk", lambda w: w.write_snapshot(fixtures.snapshot(1.0, []))) as recording:
        text = _text(recording)
    assert "nothing: no allocation was seen during the trace" in text
    assert "Call paths, all threads together by outstanding bytes: 0 of 0\n  none\n" in text


def test_text_long_names_are_not_cut(tmp_path: Path) -> None:
    name = "ns::" + "a_very_long_template<int, " * 20 + "end"
    stack = Stack(11, (fixtures.native("malloc"), fixtures.native(name, "app")))

    def write(writer: RecordingWriter) -> None:
        writer.add_stacks([stack])
        writer.write_snapshot(fixtures.snapshot(1.0, [fixtures.heap_site(1, 11, (5, 1))], threads=fixtures.THREADS))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        assert f"        {name}  app\n" in _text(recording)


def test_stack_lines_fold_recursion_and_keep_the_root() -> None:
    frames = [fixtures.native("malloc"), *[fixtures.native("walk", "app")] * 5]
    frames += [fixtures.native(f"f{n}", "app") for n in range(60)]
    whole = [text for text, _ in stack_lines(Stack(1, tuple(frames)), None)]
    assert len(whole) == 62
    assert whole[1].split() == ["walk", "[x5]", "app"]
    short = [text.strip() for text, _ in stack_lines(Stack(1, tuple(frames)), 40)]
    assert len(short) == 41
    assert short[39] == "... 22 frames hidden (--max-frames 0 shows all)"
    assert short[40].split() == ["f59", "app"]


def test_stack_lines_say_why_a_stack_is_not_whole() -> None:
    cut = Stack(1, (fixtures.native("malloc"),), truncated=True, end="depth")
    assert "--max-depth" in list(stack_lines(cut, 40))[-1][0]
    lost = Stack(1, (fixtures.native("malloc"),), end="no frame pointer")
    assert list(stack_lines(lost, 40))[-1][0].endswith("stack walk ended here: no frame pointer")
