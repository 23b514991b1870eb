"""Regions through growth, split and merge, what they are, and what pmap and smaps print."""

from __future__ import annotations

import struct

import pytest

from nativeleak.engines.pmap.blocks import find_blocks, parse_header
from nativeleak.engines.pmap.differences import Range, ranges_of, without
from nativeleak.engines.pmap.ledger import PmapLedger
from nativeleak.engines.pmap.reading import parse_stack_pointer
from nativeleak.engines.pmap.recorded import RecordedPmap
from nativeleak.engines.pmap.regions import (
    ANONYMOUS,
    ARENA_BYTES,
    HEAP,
    Region,
    StackPointer,
    Surroundings,
    blocks_by_size,
    malloc_region,
)
from nativeleak.engines.pmap.smaps import Mapping, is_pmap_start, parse_pmap, parse_smaps
from nativeleak.engines.threads import ThreadTable
from nativeleak.engines.userspace import TracedProcess
from nativeleak.errors import NativeleakError
from nativeleak.model import Owner, TargetInfo
from nativeleak.runtimes.base import OwnedRange
from nativeleak.runtimes.hotspot.spec import HOTSPOT

PAGE = 4096
CHUNK = (16 << 20) + PAGE
BASE = 0x7FAF_0000_0000

SMAPS = """\
5645d4713000-5645d4742000 r--p 00000000 fe:00 260104                     /usr/bin/bash
Size:                188 kB
Rss:                 188 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
5645ff451000-5645ff51d000 rw-p 00000000 00:00 0                          [heap]
Size:                816 kB
Rss:                 788 kB
VmFlags: rd wr mr mw me ac
7faf00000000-7faf00021000 rw-p 00000000 00:00 0
Rss:                  12 kB
VmFlags: rd wr mr mw me nr
7faf00021000-7faf04000000 ---p 00000000 00:00 0
Rss:                   0 kB
VmFlags: mr mw me nr
7faf10000000-7faf10001000 rw-s 00000000 00:01 1024                       /SYSV00000000 (deleted)
Rss:                   4 kB
"""

PMAP = """\
4580:   /opt/jdk/bin/java -Xmx128m Leaker
Address           Kbytes     RSS   Dirty Mode  Mapping
00005645d4713000     188     188       0 r---- java
00007f08703ff000   16388   16388   16388 rw---   [ anon ]
00007f0880000000     132      12      12 rw---   [ anon ]
00007f0880021000   65404       0       0 -----   [ anon ]
00007f088c34f000     516     516     516 rw-s- shared
00007ffc8d1f1000     132      24      24 rw---   [ stack ]
ffffffffff600000       4       0       0 --x--   [ anon ]
---------------- ------- ------- -------
total kB           82764   17128   17120
"""


def anon(start, n_bytes, perms="rw-p", rss=0, flags=""):
    return Mapping(start, start + n_bytes, perms, "", rss, flags)


def test_smaps_of_a_process():
    found = parse_smaps(SMAPS)
    assert found[0] == Mapping(0x5645D4713000, 0x5645D4742000, "r--p", "/usr/bin/bash", 188 << 10, "rd mr mw me")
    assert [(m.path, m.rss >> 10) for m in found] == [
        ("/usr/bin/bash", 188), ("[heap]", 788), ("", 12), ("", 0), ("/SYSV00000000", 4),
    ]  # fmt: skip
    assert [m.is_accessible for m in found] == [True, True, True, False, True]


@pytest.mark.parametrize(
    "text",
    ["", "\n\n", "Rss: 4 kB", "1-0 rw-p 0 00:00 0", "5-4 rw-p 00000000 00:00 0", "x" * 100_000, "\0" * 99, "Rss: x kB",
     "VmFlags:", "7faf00000000-7faf00021000 rw-p", "a-b " * 9000],
)  # fmt: skip
def test_smaps_that_make_no_sense_are_passed_over(text):
    assert parse_smaps(text) == []
    assert list(parse_pmap(text.split("\n"))) == []


def test_pmap_with_and_without_resident_memory():
    (listing,) = parse_pmap(PMAP.split("\n"))
    assert (listing.pid, listing.command) == (4580, "/opt/jdk/bin/java -Xmx128m Leaker")
    assert [(m.start, m.rss >> 10, m.perms, m.path) for m in listing.mappings][1:3] == [
        (0x7F08703FF000, 16388, "rw-p", ""), (0x7F0880000000, 12, "rw-p", ""),
    ]  # fmt: skip
    assert len(listing.mappings) == 7
    plain = "7:   cat\n0000562d01232000      8K r-x-- cat\n0000562d01236000   1024K rw---   [ anon ]\n total 1032K\n"
    (listing,) = parse_pmap(plain.split("\n"))
    assert [(m.end - m.start, m.rss) for m in listing.mappings] == [(8192, -1), (1 << 20, -1)]
    assert is_pmap_start("7:   cat")
    assert not is_pmap_start("7 brk(NULL) = 0")


def test_ranges_merge_and_split_without_a_difference():
    before = ranges_of([anon(BASE, 9 * PAGE), anon(BASE + 20 * PAGE, PAGE)])
    split = ranges_of([anon(BASE, 3 * PAGE), anon(BASE + 3 * PAGE, 6 * PAGE, "r--p"), anon(BASE + 20 * PAGE, PAGE)])
    assert without(split, before) == without(before, split) == []


def test_ranges_growth_holes_and_replacement():
    before = [Range(10, 20, ""), Range(30, 40, ""), Range(50, 60, "/a")]
    now = [Range(8, 22, ""), Range(30, 33, ""), Range(35, 40, ""), Range(50, 60, "/b")]
    assert without(now, before) == [Range(8, 10, ""), Range(20, 22, ""), Range(50, 60, "/b")]
    assert without(before, now) == [Range(33, 35, ""), Range(50, 60, "/a")]


def test_regions_are_told_by_what_is_around_them():
    arena = BASE // ARENA_BYTES * ARENA_BYTES
    stack = arena + 2 * ARENA_BYTES + PAGE
    reserved = arena + 3 * ARENA_BYTES
    mappings = [
        Mapping(0x1000, 0x2000, "rw-p", "[heap]"),
        Mapping(0x3000, 0x4000, "r-xp", "/usr/lib/libc.so.6"),
        anon(arena, 33 * PAGE),
        anon(arena + 33 * PAGE, ARENA_BYTES - 33 * PAGE, "---p"),
        anon(stack - PAGE, PAGE, "---p"),
        anon(stack, 2048 * PAGE),
        anon(reserved, 17 * PAGE, flags="rd wr"),
        anon(reserved + 17 * PAGE, 99 * PAGE, "---p", flags="mr nr"),
        anon(reserved + 999 * PAGE, 9 * PAGE),
        Mapping(reserved + 2000 * PAGE, reserved + 2001 * PAGE, "rw-p", "[stack]"),
    ]
    stacks = [StackPointer(stack + 2000 * PAGE, 77, "worker")]
    owned = [OwnedRange(reserved + 999 * PAGE, reserved + 1003 * PAGE, "Java heap")]
    around = Surroundings(mappings, stacks, owned, HOTSPOT)
    names = {address: around.region(address) for address in (m.start for m in mappings)}
    unknown = Region(ANONYMOUS, is_certain=False)
    assert names[0x1000] == Region(HEAP)
    assert names[0x3000] == Region("file libc.so.6")
    assert names[arena] == Region("glibc arena")
    assert names[stack] == Region("stack of thread worker", 77)
    assert names[reserved] == Region(HOTSPOT.memory.structures, is_runtime=True, is_certain=False)
    assert names[reserved + 999 * PAGE] == Region("Java heap", is_runtime=True)
    assert around.region(reserved + 1004 * PAGE) == unknown
    assert names[reserved + 2000 * PAGE] == Region("stack of the main thread")
    assert around.region(0) == unknown
    assert Surroundings(mappings).region(reserved) == unknown


def test_arena_cut_by_mprotect_is_still_one():
    arena = BASE // ARENA_BYTES * ARENA_BYTES
    mappings = [
        anon(arena, PAGE), anon(arena + PAGE, PAGE, "r--p"), anon(arena + 2 * PAGE, PAGE),
        anon(arena + 3 * PAGE, ARENA_BYTES - 3 * PAGE, "---p"),
    ]  # fmt: skip
    assert Surroundings(mappings).region(arena + 2 * PAGE).name == "glibc arena"


@pytest.mark.parametrize(
    ("n_bytes", "n"),
    [(CHUNK, 1), (3 * CHUNK, 3), (64 * CHUNK, 64), (16 << 20, 0), (CHUNK + 2 * PAGE, 0), (PAGE, 0), (0, 0)],
)
def test_blocks_by_size(n_bytes, n):
    assert blocks_by_size(n_bytes) == n


def test_malloc_region_names_round_sizes_only():
    assert malloc_region(CHUNK) == "16 MiB malloc served by mmap"
    assert malloc_region(204800) == "malloc served by mmap, other sizes"


def test_blocks_are_walked_by_their_headers():
    memory = {0: struct.pack("<QQ", 0, CHUNK | 2), CHUNK: struct.pack("<QQ", 0, 2 * PAGE | 2), CHUNK + 2 * PAGE: b""}
    assert list(find_blocks(0, CHUNK + 9 * PAGE, lambda address: memory.get(address, b""))) == [
        (0, CHUNK), (CHUNK, CHUNK + 2 * PAGE),
    ]  # fmt: skip
    for header in (b"", bytes(16), struct.pack("<QQ", 0, CHUNK), struct.pack("<QQ", 5000, CHUNK | 2), b"\xff" * 16,
                   struct.pack("<QQ", 0, 1 << 63 | 2)):  # fmt: skip
        assert parse_header(header, 2 * CHUNK) == 0


@pytest.mark.parametrize(
    ("text", "address"),
    [("0 0x3 0x7ffe 0x1 0x0 0x0 0x0 0x7ffd1000 0x7f35\n", 0x7FFD1000), ("-1 0x7ffd2000 0x7f\n", 0x7FFD2000),
     ("running\n", 0), ("", 0), ("a b c", 0xB)],
)  # fmt: skip
def test_stack_pointer_of_a_waiting_thread(text, address):
    assert parse_stack_pointer(text) == address


def test_ledger_region_growing_and_shrinking_is_exact():
    process = TracedProcess(0, TargetInfo(0, 7, "x", ""))
    ledger = PmapLedger(process, ThreadTable())
    old = anon(BASE, 16 * PAGE)
    heap = Mapping(0x1000, 0x5000, "rw-p", "[heap]")
    ledger.begin(Surroundings([heap, old]))

    def take(*mappings):
        ledger.take(mappings, lambda: Surroundings(mappings), 1.0)
        return {
            stacks[site.key.stack_key]: (site.outstanding_bytes, site.outstanding_count)
            for site in process.space.site_totals(0, 2.0)
            for stacks in [names]
        }

    names = {}

    class Names(dict):
        def __missing__(self, key):
            self.update({stack.key: stack.frames[0].function for stack in ledger.take_stacks()})
            return self[key]

    names = Names()
    grown = Mapping(0x1000, 0x9000, "rw-p", "[heap]")
    assert take(grown, old) == {f"[{HEAP}]": (4 * PAGE, 1)}
    # What malloc maps is put right below, and merges with what was there.
    merged = anon(BASE - 2 * CHUNK, 2 * CHUNK + 16 * PAGE)
    assert take(grown, merged) == {f"[{HEAP}]": (4 * PAGE, 1), "[16 MiB malloc served by mmap]": (2 * CHUNK, 2)}
    # One of the two goes, with a hole where it was; memory from before goes without a trace.
    rest = anon(BASE - CHUNK, CHUNK)
    assert take(grown, rest) == {f"[{HEAP}]": (4 * PAGE, 1), "[16 MiB malloc served by mmap]": (CHUNK, 1)}
    assert take(heap, rest) == {f"[{HEAP}]": (0, 0), "[16 MiB malloc served by mmap]": (CHUNK, 1)}


def test_recorded_listings_before_and_after():
    listings = list(parse_pmap(PMAP.split("\n")))
    grown = PMAP.replace("00007f08703ff000   16388   16388   16388", "00007f086f3fe000   32776   24582   24582")
    source = RecordedPmap([(100.0, listings[0]), (160.0, *parse_pmap(grown.split("\n")))])
    (snapshot,) = source.snapshots(10.0)
    (site,) = snapshot.sites
    assert (site.outstanding_bytes, site.outstanding_count, site.owner) == (CHUNK, 1, Owner.PROGRAM)
    assert site.resident_bytes == 24582 * 1024 // 2
    assert (source.started, source.duration_s, snapshot.elapsed_s) == (100.0, 60.0, 60.0)
    assert [stack.frames[0].function for stack in source.take_stacks()] == ["[16 MiB malloc served by mmap]"]
    assert source.take_notes()[-1][0] == "region"
    with pytest.raises(NativeleakError, match="no listing of process 5"):
        RecordedPmap([(100.0, listings[0])], 5)


def test_one_listing_alone_is_shown_as_it_is():
    source = RecordedPmap([(100.0, *parse_pmap(PMAP.split("\n")))])
    (snapshot,) = source.snapshots(10.0)
    assert sum(site.outstanding_bytes for site in snapshot.sites) >> 10 == 188 + 16388 + 132 + 516 + 132 + 4
    assert ("input", "one listing only: what is mapped is shown, growth takes two") in source.take_notes()
