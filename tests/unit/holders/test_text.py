"""The page of the holders: its first words, its bound, what it says of what was not seen."""

from __future__ import annotations

from nativeleak.heaps.known import known_as
from nativeleak.holders.attribution import ClassCensus, Holder
from nativeleak.holders.hints import hint
from nativeleak.holders.labels import Label
from nativeleak.holders.result import Completeness, HoldersReport, LostBlocks, LostGroup
from nativeleak.holders.text import MAX_LINES, render_text
from nativeleak.process.check import TargetFacts


def _report(n: int, lost: list[LostBlocks] | None) -> HoldersReport:
    return HoldersReport(
        target=TargetFacts(7, "app", "/usr/bin/app", 1, 7, same_mnt_ns=True, same_pid_ns=True),
        allocators=[("glibc", "/lib/libc.so.6")],
        lost=lost,
        why_not_lost="" if lost is not None else "no whole scan was made: raise --budget or --max-read",
        holders=[Holder(Label("global", f"g_{i} in app"), 10, 1 << 20, 5, 1 << 19) for i in range(n)],
        classes=[ClassCensus(f"Class{i}", 3, 300, 400, 0) for i in range(n)],
        completeness=Completeness(4, 4, 1000, 100 << 20),
        notes=[f"note {i}" for i in range(n)],
    )


def _lost(grade: str, n_groups: int) -> LostBlocks:
    groups = tuple(LostGroup(16 * i, 2, 32 * i, "", "zeros at its start", 0x1000) for i in range(1, n_groups + 1))
    return LostBlocks(grade, "proven", "", 2 * n_groups, sum(each.n_bytes for each in groups), groups)


def test_the_page_is_one_screen_however_much_there_is() -> None:
    text = render_text(_report(500, [_lost("lost", 300), _lost("leftover", 9), _lost("hidden", 9)]))
    assert text.count("\n") <= MAX_LINES
    assert text.index("LOST") < text.index("held by") < text.index("\nclass ")
    assert "297 other sizes" in text or "298 other sizes" in text or "299 other sizes" in text
    assert render_text(_report(500, [_lost("lost", 300)]), show_all=True).count("\n") > 1000


def test_without_a_whole_scan_nothing_is_said_of_lost_blocks() -> None:
    text = render_text(_report(3, None))
    assert "Lost blocks: not known: no whole scan was made: raise --budget or --max-read" in text
    assert "LOST" not in text


def test_no_lost_block_is_said_as_such() -> None:
    assert "No block is lost" in render_text(_report(1, [LostBlocks("lost", "proven", "", 0, 0, ())]))


def test_hints_say_sizes_only_of_glibc_and_show_text() -> None:
    assert hint(b"GET /index.html HTTP/1.1\r\n", 64, known_as) == 'text "GET /index.html HTTP/1.1"'
    assert hint(bytes(48), 64, known_as) == "zeros at its start"
    assert hint(b"\1\2\3", 5968, known_as) == "state of a zlib deflater"
    assert hint(b"\1\2\3", 5968, lambda _: None) == ""
