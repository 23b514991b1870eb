"""Rules of triage on made-up processes: owners, mappings, verdicts, the page."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from nativeleak.heaps.census import Amount, ArenaCensus, Census, HeapWalk
from nativeleak.heaps.known import known_as
from nativeleak.process.cgroups import MemoryGroup
from nativeleak.process.check import TargetFacts
from nativeleak.process.procfs import MapEntry
from nativeleak.runtimes.hotspot.spaces import JavaSpaces
from nativeleak.runtimes.hotspot.statics import NativeCounts
from nativeleak.triage.lines import Ledger, Line, Piece
from nativeleak.triage.owners import Owners
from nativeleak.triage.regions import Region, parse_smaps
from nativeleak.triage.rest import Neighbours, name_of
from nativeleak.triage.stacks import find_stacks
from nativeleak.triage.text import MAX_LINES, render_text
from nativeleak.triage.verdicts import judge

_MIB = 1 << 20
_GIB = 1 << 30


def _entry(start: int, end: int, perms: str = "rw-p", path: str = "") -> MapEntry:
    return MapEntry(start, end, perms, 0, "00:00", 1 if path.startswith("/") else 0, path, False)


def _region(start: int, end: int, perms: str = "rw-p", path: str = "", flags: str = "") -> Region:
    return Region(_entry(start, end, perms, path), 0, 0, 0, 0, 0, flags)


def _ledger(
    lines: list[Line],
    *,
    flags: dict[str, int] | None = None,
    limit: int | None = None,
    walks: tuple[HeapWalk, ...] = (),
) -> Ledger:
    return Ledger(
        target=TargetFacts(4711, "java", "/usr/bin/java", 1, 4711, True, True),
        lines=lines,
        pieces=[],
        rss=sum(line.resident for line in lines),
        swap=0,
        virtual=8 * _GIB,
        status_rss=(0, 0),
        page_tables=0,
        huge=0,
        n_regions=100,
        n_threads=50,
        walks=list(walks),
        java=JavaSpaces(collector="G1", flags=flags) if flags is not None else None,
        groups=[MemoryGroup(Path("/g"), limit, limit // 2, 0)] if limit else [],
        machine_bytes=16 * _GIB,
        notes=[],
    )


def _walk(census: Census, mapped: dict[int, int] | None = None) -> HeapWalk:
    sizes = Counter(mapped or {})
    n_bytes = sum(size * count for size, count in sizes.items())
    arena = ArenaCensus("main", 1, census)
    return HeapWalk("glibc", "/libc.so.6", (arena,), sizes, n_bytes, sizes.total(), census.walked_bytes, ())


def test_owners_keep_what_came_first() -> None:
    owners = Owners()
    owners.add(10, 20, "a")
    owners.add(0, 30, "b")
    owners.add(5, 12, "c")
    assert [(each.start, each.end, each.line) for each in owners.inside(0, 40)] == [
        (0, 10, "b"), (10, 20, "a"), (20, 30, "b"),
    ]  # fmt: skip
    assert [each.line for each in owners.inside(12, 13)] == ["a"]
    assert list(owners.free(25, 40)) == [(30, 40)]


def test_smaps_of_old_and_new_kernels_are_read() -> None:
    text = b"""00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/a b
Size:                328 kB
Rss:                 300 kB
Pss:                 150 kB
Anonymous:             0 kB
AnonHugePages:         0 kB
Swap:                  4 kB
VmFlags: rd ex mr mw me
7f0000000000-7f0000021000 rw-p 00000000 00:00 0
Rss:                  12 kB
"""
    first, second = parse_smaps(text.splitlines(keepends=True))
    assert (first.entry.path, first.rss, first.pss, first.swap) == ("/usr/bin/a b", 300 << 10, 150 << 10, 4 << 10)
    assert first.flags == "rd ex mr mw me"
    assert (second.start, second.rss, second.flags) == (0x7F0000000000, 12 << 10, "")


def test_stacks_of_ended_threads_are_known_by_guard_and_size() -> None:
    regions = [
        _region(0x1000, 0x2000, "---p"), _region(0x2000, 0xA000),
        _region(0xB000, 0xC000, "---p"), _region(0xC000, 0x14000),
        _region(0x15000, 0x16000, "---p"), _region(0x16000, 0x17000),
    ]  # fmt: skip
    stacks = find_stacks(regions, {7: 0x9000})
    assert [(stack.start, stack.tid) for stack in stacks] == [(0x2000, 7), (0xC000, 0)]


@pytest.mark.parametrize(
    ("path", "perms", "line"),
    [
        ("/usr/lib/libz.so.1", "r--p", "libraries"),
        ("/memfd:java_heap", "rw-s", "java-heap"),
        ("/dev/shm/x", "rw-s", "shared"),
        ("/data/index.db", "r--s", "files"),
        ("[anon:scudo]", "rw-p", "anonymous"),
        ("[stack]", "rw-p", "thread-stacks"),
        ("/x/classes.jsa", "rw-p", "cds"),
        ("", "rw-p", ""),
    ],
)
def test_mappings_are_named_by_their_paths(path: str, perms: str, line: str) -> None:
    assert name_of(_entry(0, 4096, perms, path))[0] == line


def test_anonymous_memory_behind_a_program_is_its_data() -> None:
    regions = [_region(0, 0x1000, "rw-p", "/a.so"), _region(0x1000, 0x3000), _region(0x9000, 0xA000)]
    names = Neighbours(regions, frozenset({"/a.so"}), 0)
    assert names.name_of(1, 0x1000, 0x3000) == ("libraries", "/a.so")
    assert names.name_of(2, 0x9000, 0xA000)[0] == "unexplained"


@pytest.mark.parametrize(("limit", "said"), [(2 * _GIB, True), (8 * _GIB, False)])
def test_a_heap_too_near_the_limit_comes_first(limit: int, said: bool) -> None:
    flags = {"MaxHeapSize": 2 * _GIB, "ReservedCodeCacheSize": 240 * _MIB, "MaxMetaspaceSize": 1 << 63}
    ledger = _ledger([Line("java-heap", 900 * _MIB), Line("malloc-live", 100 * _MIB)], flags=flags, limit=limit)
    verdicts = judge(ledger)
    assert (verdicts[0].id == "limit-exceeded") is said
    if said:
        assert verdicts[0].certainty == "proven"
        assert "2 GiB (cgroup /g)" in " ".join(verdicts[0].evidence)


def test_netty_chunks_of_a_jvm_are_direct_memory_and_not_said_twice() -> None:
    walk = _walk(Census(in_use=Amount(10, 1000)), {16_781_312: 147})
    lines = [Line("java-heap", 500 * _MIB), Line("malloc-live", 147 * 16_781_312)]
    verdicts = judge(_ledger(lines, flags={"MaxHeapSize": _GIB, "MaxDirectMemorySize": 3 * _GIB}, walks=(walk,)))
    assert [verdict.id for verdict in verdicts] == ["direct-memory"]
    assert "147 blocks of 16,781,312 bytes = 2.3 GiB" in verdicts[0].evidence[0]
    assert "Netty" in verdicts[0].evidence[0]


def test_retention_that_was_not_fully_read_is_only_likely() -> None:
    census = Census(in_use=Amount(1, 100 * _MIB), free=Amount(1, 300 * _MIB), retained_resident_bytes=300 * _MIB)
    whole = _walk(census)
    lines = [Line("malloc-live", 100 * _MIB), Line("malloc-retained", 300 * _MIB)]
    half = HeapWalk(whole.kind, whole.object, whole.arenas, Counter(), 0, 0, 800 * _MIB, ())
    assert [judge(_ledger(lines, walks=(walk,)))[0].certainty for walk in (whole, half)] == ["proven", "likely"]


def test_unexplained_memory_leads_to_the_exact_trace_line() -> None:
    verdict = judge(_ledger([Line("libraries", 50 * _MIB), Line("unexplained", 500 * _MIB)]))[0]
    assert (verdict.id, verdict.certainty) == ("unexplained", "possible")
    assert verdict.next[0].startswith("nativeleak trace -p 4711 --duration 10m")


def test_nothing_remarkable_is_said_to_be_so() -> None:
    text = render_text(_ledger([Line("libraries", 5 * _MIB)]), [])
    assert "Nothing stands out" in text


def test_one_screen_holds_the_answer_however_much_there_is() -> None:
    census = Census(in_use=Amount(1, 100 * _MIB), sizes=Counter({32 * n: 1000 for n in range(1, 200)}))
    ids = ("metaspace", "thread-stacks", "malloc-live", "malloc-retained", "unexplained")
    ledger = _ledger(
        [Line(line_id, 300 * _MIB) for line_id in ids],
        flags={"MaxHeapSize": 3 * _GIB},
        limit=2 * _GIB,
        walks=(_walk(census, {16_781_312: 50}),),
    )
    ledger.notes += [f"note {n}" for n in range(9)]
    verdicts = judge(ledger)
    text = render_text(ledger, verdicts)
    assert len(verdicts) > 5
    assert text.count("\n") <= MAX_LINES
    assert text.splitlines()[2].startswith("PROVEN")
    assert "more: --all" in text
    assert render_text(ledger, verdicts, show_all=True).count("\n") > MAX_LINES


def test_sizes_are_known_by_chunk() -> None:
    assert "Netty" in (known_as(16_781_312) or "")
    assert known_as(16_781_312, in_java=False) == "buffer of 16 MiB"
    assert known_as(1008, in_java=False) is None
    assert "deflater" in (known_as(65_552) or "")
    assert known_as(48) is None


@pytest.mark.parametrize(("library", "words"), [("/usr/lib/libruby-3.1.so.3.1", "Ruby"), ("/usr/bin/php8.2", "PHP")])
def test_unexplained_memory_of_a_runtime_that_maps_without_names_says_so(library: str, words: str) -> None:
    ledger = _ledger([Line("unexplained", 50 * _MIB, detail=[("7f00-7f01", 50 * _MIB)])])
    assert words not in " ".join(judge(ledger)[0].evidence)
    ledger.pieces.append(Piece(0, 4096, "libraries", library, 4096, 0))
    verdict = judge(ledger)[0]
    assert (verdict.id, verdict.certainty) == ("unexplained", "possible")
    assert verdict.evidence[0].startswith(words)
    assert "nativeleak trace" in verdict.next[-1]


def test_zlib_streams_are_said_with_their_number_and_as_a_bound_where_the_list_is_longer() -> None:
    ledger = _ledger([Line("malloc-live", 100 * _MIB)], flags={})
    ledger.native_counts = NativeCounts(deflater_count=400, inflater_count=1)
    verdict = next(each for each in judge(ledger) if each.id == "zlib-streams")
    assert verdict.text == "400 Deflaters and 1 Inflater that were not ended hold up to 102.4 MiB of native memory."
    ledger.native_counts = NativeCounts(deflater_count=400, cleaners_whole=False)
    verdict = next(each for each in judge(ledger) if each.id == "zlib-streams")
    assert verdict.text.startswith("At least 400 Deflaters that were not ended")
    assert ledger.native_counts.said() == "at least 400 Deflaters not ended"
    ledger.native_counts = NativeCounts(deflater_count=40)
    assert [each.id for each in judge(ledger)] == ["native-memory"]
