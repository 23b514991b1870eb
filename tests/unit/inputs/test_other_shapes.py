"""Shapes of the same kinds that no sample has: other orders, other collectors, cut and packed files, series."""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import lzma
import random
import time
from pathlib import Path

import pytest

from nativeleak.engines.pmap.dates import parse_date_line
from nativeleak.engines.pmap.listing import parse_listings
from nativeleak.errors import NativeleakError
from nativeleak.inputs.identify import identify
from nativeleak.inputs.registry import as_json, read_inputs, read_text
from nativeleak.inputs.source import InputFile

FILES = Path(__file__).parents[2] / "data/files"
DATA = Path(__file__).parents[1] / "engines/data"
PMAP = (FILES / "maps/procps-ng-x.txt").read_text().splitlines()


def read(text, name="file"):
    found = read_text(InputFile(Path(name), text.encode()))
    assert found.reading is not None, found.other
    return found.reading


def values(text):
    return read(text).values


# ---- packing and encoding ----


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, lambda data: data])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_packed_and_encoded_files_are_read_as_plain_ones(pack, encoding, tmp_path):
    file = tmp_path / "nmt.txt"
    file.write_bytes(pack((FILES / "nmt/jdk17-summary.txt").read_text().replace("\n", "\r\n").encode(encoding)))
    (found,) = as_json(read_inputs([file]))["inputs"]
    assert found["values"]["total"]["committed"] == 341641216
    assert found["unread_lines"] == 0


def test_packed_file_that_breaks_off_is_read_as_far_as_it_goes(tmp_path):
    noise = "".join(f"Jul 11 00:21:40 db-2 app: {random.Random(i).random()}\n" for i in range(3000))
    packed = gzip.compress(((FILES / "oom/k313-global.log").read_text() + noise).encode())
    file = tmp_path / "syslog.1.gz"
    file.write_bytes(packed[: len(packed) * 9 // 10])
    (found,) = as_json(read_inputs([file]))["inputs"]
    assert [event["pid"] for event in found["values"]["events"]] == [9091]
    assert any("breaks off" in note for note in found["notes"])


# ---- mappings ----


@pytest.mark.parametrize("column", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("is_reversed", [False, True])
def test_listing_in_any_order_has_the_same_sums(column, is_reversed):
    def key(line):
        words = line.split()
        word = words[column] if column < len(words) else ""
        return (int(word) if word.isdigit() else 0, line) if column in (1, 2, 3) else (0, word + line)

    lines = sorted(PMAP, key=key, reverse=is_reversed)
    (listing,) = parse_listings(lines).listings
    assert (listing.pid, len(listing.mappings), listing.mapped_bytes >> 10) == (5687, 40, 6392664)
    assert sum(mapping.rss for mapping in listing.mappings) >> 10 == 2975818
    assert listing.is_complete


def test_listing_in_random_orders_has_the_same_sums():
    for seed in range(20):
        lines = random.Random(seed).sample(PMAP, len(PMAP))
        (listing,) = parse_listings(lines).listings
        assert (listing.pid, listing.mapped_bytes >> 10, listing.is_complete) == (5687, 6392664, True)


def test_listings_in_one_file_are_told_apart_with_and_without_totals():
    later = [line.replace("344148  343148  343148", "426088  425088  425088") for line in PMAP]
    for cut in (len(PMAP), -2):
        listings = parse_listings([*PMAP[:cut], "", *later[:cut]]).listings
        assert [len(listing.mappings) for listing in listings] == [40, 40]
        assert (listings[1].mapped_bytes - listings[0].mapped_bytes) >> 10 == 81940


def test_date_lines_say_when_listings_were_made():
    lines = ["Wed Nov 25 14:30:21 CET 2026", *PMAP, "Wed Nov 25 14:40:21 CET 2026", *PMAP]
    listings = parse_listings(lines).listings
    assert listings[1].time_s - listings[0].time_s == 600


@pytest.mark.parametrize(
    "line",
    ["Wed Nov 25 14:30:21 UTC 2026", "Wed 25 Nov 2026 02:30:21 PM UTC", "2026-11-25 14:30:21", "2026-11-25T14:30:21Z",
     "1795617021", "2026-11-25T15:30:21+01:00", "=== 2026-11-25 14:30:21 ===", "2026-11-25 14:30:21,123"],
)  # fmt: skip
def test_date_lines_in_all_forms(line):
    assert int(parse_date_line(line)) == 1795617021


@pytest.mark.parametrize("line", ["", "5687:   java", "total kB         6392664 2975818", "2026", "May you read this"])
def test_lines_that_are_no_dates(line):
    assert parse_date_line(line) is None


def test_rows_that_are_missing_are_said():
    reading = read("\n".join(PMAP[:10] + PMAP[20:]))
    assert reading.values["complete"] is False
    assert any("some are missing" in note for note in reading.notes)


def test_lines_that_make_no_sense_are_counted_with_the_first_of_them():
    reading = read("\n".join([*PMAP[:5], "what is this line", *PMAP[5:], "and this"]))
    assert (reading.n_unread, reading.first_unread) == (2, "what is this line")


def test_system_map_of_a_jvm_is_read_with_its_owners():
    reading = read((DATA / "system_map.txt").read_text())
    found = reading.values
    assert (found["pid"], found["mappings"], found["mapped_kb"], found["rss_kb"]) == (5687, 166, 2482280, 39328)
    assert found["owners"]["JAVAHEAP"]["mapped_kb"] == 65536
    assert (reading.n_unread, found["complete"]) == (0, True)


def test_smaps_whose_last_entry_is_cut_has_it_without_a_size():
    text = (FILES / "maps/smaps-6.6.txt").read_text()
    cut = text[: text.rindex("Rss:")]
    (listing,) = parse_listings(cut.split("\n")).listings
    assert (len(listing.mappings), listing.mappings[-1].rss) == (40, -1)


# ---- the Java heap ----

SERIAL = """5687:
 def new generation   total 78656K, used 5596K [0x00000000c0000000, 0x00000000c5550000, 0x00000000d5550000)
  eden space 69952K,   8% used [0x00000000c0000000, 0x00000000c0577270, 0x00000000c4450000)
  from space 8704K,   0% used [0x00000000c4450000, 0x00000000c4450000, 0x00000000c4cd0000)
  to   space 8704K,   0% used [0x00000000c4cd0000, 0x00000000c4cd0000, 0x00000000c5550000)
 tenured generation   total 174784K, used 64K [0x00000000d5550000, 0x00000000e0000000, 0x0000000100000000)
   the space 174784K,   0% used [0x00000000d5550000, 0x00000000d5560000, 0x00000000d5560000, 0x00000000e0000000)
 Metaspace       used 4401K, capacity 4544K, committed 4864K, reserved 1056768K
"""


def test_heap_of_serial_in_heap_info():
    found = values(SERIAL)
    assert (found["gc"], found["heap_used"]) == ("Serial", (5596 + 64) << 10)
    assert found["young"] == {"total": 78656 << 10, "used": 5596 << 10}
    assert found["heap_max"] == 0x100000000 - 0xC0000000
    assert found["heap_committed"] == (0xC5550000 - 0xC0000000) + (0xE0000000 - 0xD5550000)


def test_heap_of_g1_in_25_has_reserved_and_committed_apart():
    found = values("5687:\ngarbage-first heap   total reserved 4194304K, committed 262144K, used 41984K [0x1, 0x2)\n")
    assert (found["heap_max"], found["heap_committed"], found["heap_used"]) == (4 << 30, 256 << 20, 41 << 20)


def test_heap_of_shenandoah_in_11():
    found = values("5687:\nShenandoah Heap\n 4194304K total, 524288K committed, 22016K used\n")
    assert (found["heap_max"], found["heap_committed"], found["heap_used"]) == (4 << 30, 512 << 20, 22016 << 10)


def test_jmap_of_parallel_adds_up_its_spaces():
    text = (FILES / "heap/jdk8-jmap-cms.txt").read_text()
    text = text.replace("Concurrent Mark-Sweep GC", "Parallel GC with 4 thread(s)")
    head = text[: text.index("New Generation (Eden")]
    spaces = text[text.index("Eden Space:") : text.index("concurrent mark-sweep generation:")]
    old = text[text.index("concurrent mark-sweep generation:") :].replace("concurrent mark-sweep", "PS Old", 1)
    found = values(head + "PS Young Generation\n" + spaces + old.replace("PS Old generation:", "PS Old Generation"))
    assert (found["gc"], found["young"]["used"]) == ("Parallel", 847249408 + 54525952)
    assert found["heap_used"] == 847249408 + 54525952 + 1610612736


def test_jmap_that_ends_in_an_exception_keeps_its_flags():
    text = (FILES / "heap/jdk8-jmap-cms.txt").read_text()
    reading = read(text[: text.index("Heap Usage:")] + 'Exception in thread "main" java.lang.RuntimeException: x\n')
    assert (reading.values["heap_max"], reading.values["heap_used"]) == (6442450944, None)
    assert any("breaks off" in note for note in reading.notes)


@pytest.mark.parametrize(
    ("line", "call", "n_bytes"),
    [
        ("# Native memory allocation (malloc) failed to allocate 32744 bytes for ChunkPool::allocate", "malloc", 32744),
        ("# Native memory allocation (mmap) failed to map 16384 bytes. Error detail: committing", "mmap", 16384),
        ("OpenJDK 64-Bit Server VM warning: INFO: os::commit_memory(0x00007f1a, 12288, 0) failed; "
         "error='无法分配内存' (errno=12)", "mmap", 12288),
    ],
)  # fmt: skip
def test_hs_err_names_the_call_that_failed_in_any_language(line, call, n_bytes):
    found = values(f"#\n# There is insufficient memory for the Java Runtime Environment to continue.\n{line}\n")
    assert (found["failed_call"], found["failed_bytes"]) == (call, n_bytes)


def test_vm_info_of_25_has_metaspace_in_a_part_of_its_own():
    found = values(
        "5687:\n#\n# JRE version: x\n# Java VM: OpenJDK 64-Bit Server VM (25, mixed mode, serial gc, linux-amd64)\n\n"
        "Heap:\nDefNew     total 19648K, used 1397K [0x1000, 0x2000, 0x2000)\nTenured    total 43712K, used 1166K "
        "[0x2000, 0x3000, 0x3000)\n\nMetaspace:\nMetaspace        used 89K, committed 320K, reserved 1114112K\n"
        " class space     used 5K, committed 128K, reserved 1048576K\n\nUsage:\n"
    )
    assert (found["pid"], found["gc"], found["heap_used"]) == (5687, "Serial", (1397 + 1166) << 10)
    assert (found["metaspace"]["used"], found["class_space"]["used"]) == (89 << 10, 5 << 10)


# ---- Native Memory Tracking ----


def test_nmt_pasted_without_hyphens_and_with_a_decimal_comma():
    text = (FILES / "nmt/jdk11-summary.txt").read_text()
    pasted = text.replace("\n-  ", "\n").replace("=0.00%", "=0,00%")
    assert values(pasted)["categories"] == values(text)["categories"]
    assert read(pasted).n_unread == 0


def test_nmt_of_several_moments_is_a_series():
    one = (FILES / "nmt/jdk17-summary.txt").read_text()
    two = one.replace("7168KB", "12288KB")
    reading = read(f"2026-11-25 14:30:21\n{one}\n2026-11-25 14:40:21\n{two}")
    assert reading.values["tables"] == 2
    assert [each["categories"]["Other"]["committed"] >> 10 for each in reading.values["series"]] == [7168, 12288]
    assert reading.values["series"][0]["time"] == "2026-11-25 14:30:21"
    assert any("Other: +5 MiB" in line for line in reading.lines)


def test_nmt_difference_of_8_has_an_arena_without_a_unit_and_17_no_threads():
    found = values(
        "Total: reserved=10KB +1KB, committed=10KB +1KB\n"
        "-  Thread (reserved=10KB +1KB, committed=10KB +1KB)\n    (thread #0)\n"
        "    (stack: reserved=8KB +1KB, committed=8KB +1KB)\n    (arena=1179KB +2 #793 +4)\n"
    )
    thread = found["categories"]["Thread"]
    assert (thread["arena"], thread["arena_delta"], thread["threads"]) == (1179 << 10, 2 << 10, None)


def test_nmt_detail_difference_of_25_has_its_change_behind_the_type():
    found = values(
        "Total: reserved=10KB +1KB, committed=10KB +1KB\n\n[0x00007f23a93b355a]Unsafe_AllocateMemory0+0x7a\n"
        "[0x00007f2398344a80]\n    (malloc=12288KB type=Other +5120KB #12 +5)\n"
    )
    assert found["mode"] == "detail.diff"
    assert found["sites"] == [{"bytes": 12288 << 10, "count": 12, "tag": "Other", "bytes_delta": 5120 << 10}]


# ---- allocators ----


def test_jemalloc_statistics_as_json_and_of_the_fourth_age():
    text = '{"jemalloc":{"version":"5.3.0-0-gabc","stats":{"allocated":7,"active":8,"resident":9,"retained":1}}}'
    assert {key: values(text)[key] for key in ("version", "allocated", "resident", "mapped")} == {
        "version": "5.3.0", "allocated": 7, "resident": 9, "mapped": None,
    }  # fmt: skip
    found = values("Version: 4.0.3-0-ge9192eacf8935e29fc62fddc2701f7942b1cc02c\n"
                   "Allocated: 7, active: 8, metadata: 3, resident: 9, mapped: 10\n")  # fmt: skip
    assert (found["version"], found["mapped"], found["retained"]) == ("4.0.3", 10, None)


def test_malloc_info_that_breaks_off_does_not_say_what_is_in_use():
    text = (FILES / "alloc/glibc-malloc-info.xml").read_text()
    reading = read(text[: text.index('<total type="mmap"')])
    assert (reading.values["in_use"], reading.values["arenas"]) == (None, 2)
    assert any("breaks off" in note for note in reading.notes)


def test_sampled_heap_is_scaled_and_memory_without_a_stack_is_said():
    reading = read("heap_v2/524288\n  t*: 2: 200 [0: 0]\n@\n  t*: 2: 200 [0: 0]\n")
    assert reading.values["bytes_estimated"] == 1048676  # 200 / (1 - exp(-100 / 524288))
    assert reading.values["bytes_without_stack"] == 1048676


def test_tcmalloc_statistics():
    found = values("MALLOC:      12345678 (   11.8 MiB) Bytes in use by application\n"
                   "MALLOC: +      4096 (    0.0 MiB) Bytes in page heap freelist\n"
                   "MALLOC: =  12349774 (   11.8 MiB) Actual memory used (physical + swap)\n")  # fmt: skip
    assert (found["in_use"], found["free_page_heap"], found["resident"]) == (12345678, 4096, 12349774)


# ---- other kinds ----


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty file"),
        (b"SQLite format 3\0" + b"\0" * 99, "recording of nativeleak (SQLite)"),
        (b"\x7fELF\x02\x01\x01" + b"\0" * 99, "ELF file: a program, a library or a core dump"),
        (b"JAVA PROFILE 1.0.2\0", "Java heap dump (hprof)"),
        (b"PERFILE2" + b"\0" * 99, "recording of perf"),
        (b'[pid 12] malloc(24) = 0x55e6\nstrlen("x") = 1\n', "output of ltrace"),
        (b"MemTotal:       24684084 kB\n", "/proc/meminfo"),
        (b" num     #instances         #bytes  class name\n", "Java class histogram (jmap -histo, GC.class_histogram)"),
        (b"java;main;work 12\njava;main;idle 3\n", "folded stacks"),
        (b"hello\n", "text of an unknown kind"),
    ],
)
def test_files_of_other_kinds_are_named(data, what, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(data)
    (found,) = as_json(read_inputs([file]))["inputs"]
    assert (found["kind"], found["is"]) == (None, what)
    assert found["use"]


def test_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(NativeleakError, match="No such file"):
        read_inputs([tmp_path / "missing"])


def test_files_of_two_processes_are_not_compared(tmp_path):
    for i, pid in enumerate((5687, 5688)):
        (tmp_path / f"{i}.txt").write_text("\n".join(PMAP).replace("5687:", f"{pid}:"))
    found = as_json(read_inputs([tmp_path / "0.txt", tmp_path / "1.txt"]))["inputs"]
    assert [each["values"]["pid"] for each in found] == [5687, 5688]
    assert "growth_kb" not in found[0]["values"]


def test_json_of_all_samples_together_is_one_document():
    files = [path for path in sorted(FILES.glob("*/*")) if path.suffix != ".json" and path.parent.name != "strace"]
    document = as_json(read_inputs(files))
    assert [each["file"] for each in document["inputs"]] == list(map(str, files))
    assert len(json.dumps(document)) > 10000
    assert all(a["file"] != b["file"] for a, b in itertools.pairwise(document["inputs"]))


@pytest.mark.parametrize("piece", ["\n", " ", "1.0 (", "a;", "[1.0s] ", " a a ", "{\n ", '"a', "<\n"])
def test_text_that_repeats_itself_is_named_in_bounded_time(piece: str) -> None:
    begin_s = time.thread_time()
    for beginning in ("", "x", "1.0 (", "{", " "):
        identify(b"", (beginning + piece * 65536)[:65535] + "x")
    # By patterns that try each line's beginning again: minutes.
    assert time.thread_time() - begin_s < 5
