"""A look into memory of real processes: what was planted is found, and what was not in memory stays so."""

from __future__ import annotations

import functools
import json
import os
import resource
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from nativeleak.peek.ranges import find_span
from nativeleak.peek.reading import BLOCK_BYTES, PresentMemory
from nativeleak.process.procfs import PAGE_BYTES, read_status
from nativeleak.process.residency import ResidencyReader
from support import IS_LONG, require_program
from support.target import Target

_PEEK = (sys.executable, "-m", "nativeleak", "peek")
_LINES_A_PAGE = 16


def _peek(target: Target, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [*_PEEK, "-p", str(target.pid), *words]
    return subprocess.run(command, check=check, capture_output=True, text=True)


def _json(target: Target, *words: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(_peek(target, *words, "--format", "json").stdout)
    return report


def _range(where: dict[str, int]) -> str:
    return f"{where['start']:x}-{where['start'] + where['bytes']:x}"


def test_everything_planted_is_counted_exactly_and_secrets_are_masked() -> None:
    with Target("peeked", 4) as target:
        where = target.ask("where")
        report = _json(target, _range(where), "--whole", "--top", "1000")
        text = _peek(target, _range(where), "--whole").stdout
    quarter = where["bytes"] // 4
    assert report["range"]["resident_bytes"] == report["read_bytes"] == 3 * quarter
    assert report["pages"]["zero"] == quarter
    assert sum(report["pages"].values()) == report["read_bytes"]
    found = {each["kind"]: each["count"] for each in report["recognised"]}
    each_form = where["pages"] // 4 * _LINES_A_PAGE // 4
    assert found == {"http-request": each_form, "json": each_form}
    assert report["masked_secrets"] == each_form
    assert report["java_classes"] == [{"name": "com.acme.shop.Order5", "count": each_form}]
    strings = {each["text"]: each["count"] for each in report["strings"]}
    assert strings["java class com.acme.shop.Order5 is loaded"] == each_form
    assert strings["password=****;"] == each_form
    assert "hunter" not in text
    assert f"{each_form:,} secrets are masked" in text


def test_raw_shows_what_is_masked_otherwise() -> None:
    with Target("peeked", 1) as target:
        report = _json(target, _range(target.ask("where")), "--whole", "--raw", "--top", "1000")
    assert report["masked_secrets"] == 0
    assert any(each["text"].startswith("password=hunter") for each in report["strings"])


def test_a_sample_is_spread_over_all_that_is_in_memory_and_estimates_the_rest() -> None:
    with Target("peeked", 32) as target:
        where = target.ask("where")
        report = _json(target, _range(where), "--sample", "2M")
        span = find_span(target.pid, where["start"], where["start"] + where["bytes"])
        with PresentMemory(target.pid) as memory:
            blocks = [block.address for block in memory.sample(span, 12)]
            n_whole = sum(len(block.data) for block in memory.whole(span))
            n_all = sum(len(block.data) for block in memory.sample(span, 1))
    assert report["sampled_one_in"] == 12
    assert report["read_bytes"] == pytest.approx(2 << 20, rel=0.05)
    assert n_whole == n_all == report["range"]["resident_bytes"]
    found = {each["kind"]: each["count"] for each in report["recognised"]}
    assert found["json"] * 12 == pytest.approx(where["pages"] // 4 * _LINES_A_PAGE // 4, rel=0.05)
    gaps = [after - before for before, after in pairwise(blocks)]
    # 64 KiB of present pages are 85 KiB of addresses, where a quarter is absent.
    assert max(gaps) <= 2 * 12 * BLOCK_BYTES * 4 / 3 + 2 * PAGE_BYTES


@pytest.mark.parametrize("use_scan", [True, False], ids=["scan", "entries"])
def test_absent_pages_stay_absent_and_page_tables_do_not_grow(use_scan: bool) -> None:
    with Target("peeked", 16) as target:
        where = target.ask("where")
        start, end = where["start"], where["start"] + where["bytes"]
        untouched = (start + 3 * PAGE_BYTES, start + 4 * PAGE_BYTES)
        with ResidencyReader(target.pid) as residency:
            before = residency.present_runs(start, end)
            tables = read_status(target.pid)["VmPTE"]
            with PresentMemory(target.pid, use_scan=use_scan) as memory:
                read = list(memory.whole(find_span(target.pid, start, end)))
            if use_scan:
                _peek(target, _range(where), "--whole")
            assert residency.present_runs(start, end) == before
            assert residency.resident_bytes([untouched]) == [0]
            assert read_status(target.pid)["VmPTE"] == tables
    assert sum(len(block.data) for block in read) == 3 * where["bytes"] // 4
    assert memory.failed_bytes == 0


def test_a_copy_is_the_range_to_the_byte_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "region.bin"
    with Target("peeked", 4) as target:
        where = target.ask("where")
        start, n_bytes = where["start"] + 1000, where["bytes"] - 3000
        asked = f"{start:x}-{start + n_bytes:x}"
        said = _peek(target, asked, "--raw", "-o", str(path)).stderr
        piped = subprocess.run(
            [*_PEEK, "-p", str(target.pid), asked, "--raw", "-o", "-", "--quiet"], check=True, capture_output=True
        )
        with open(f"/proc/{target.pid}/mem", "rb", buffering=0) as memory:
            memory.seek(start)
            truth = memory.read(n_bytes)
        masked = subprocess.run([*_PEEK, "-p", str(target.pid), asked, "-o", "-"], check=True, capture_output=True)
    assert path.read_bytes() == truth == piped.stdout
    assert path.stat().st_mode & 0o777 == 0o600
    assert "were not in memory: zeros" in said
    assert len(masked.stdout) == n_bytes
    assert b"hunter" not in masked.stdout
    assert masked.stdout.replace(b"*", b"") != b""
    differs = sum(1 for one, other in zip(masked.stdout, truth, strict=True) if one != other and one != ord("*"))
    assert differs == 0


def test_a_copy_of_a_large_region_takes_little_memory() -> None:
    with Target("peeked", 400) as target:
        where = target.ask("where")
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        command = f"{sys.executable} -m nativeleak peek -p {target.pid} {_range(where)} --raw --quiet -o - | wc -c"
        script = (
            "import resource, subprocess, sys;"
            f"subprocess.run({command!r}, shell=True, check=True);"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert before >= 0
    n_written, peak_kib = map(int, done.stdout.split())
    assert n_written == where["bytes"]
    assert peak_kib < 50 << 10


def test_the_target_is_never_stopped_while_it_writes_at_full_speed() -> None:
    with Target("peeked", 64) as target:
        where = target.ask("where")
        states: set[str] = set()
        target.send("write 3000")
        with subprocess.Popen(
            [*_PEEK, "-p", str(target.pid), _range(where), "--whole", "--format", "json"], stdout=subprocess.PIPE
        ) as peek:
            out, done = b"", False
            while not done:
                states.add(read_status(target.pid)["State"].split()[0])
                try:
                    out, _ = peek.communicate(timeout=0.01)
                    done = True
                except subprocess.TimeoutExpired:
                    continue
            assert read_status(target.pid)["TracerPid"] == "0"
        words = json.loads(target.readline(120))["words"]
    assert words > 0
    assert states <= {"R", "S"}  # neither T (stopped) nor t (by a tracer)
    report = json.loads(out)
    assert report["read_bytes"] == 48 << 20
    assert report["failed_bytes"] == 0


def test_a_copy_of_a_process_that_ends_says_so() -> None:
    with Target("peeked", 4) as target:
        where = target.ask("where")
        span = find_span(target.pid, where["start"], where["start"] + where["bytes"])
        with PresentMemory(target.pid) as memory:
            blocks = memory.whole(span)
            n_bytes = len(next(blocks).data)
            assert not memory.has_ended
            target.close()
            n_bytes += sum(len(block.data) for block in blocks)
            assert memory.has_ended
    assert 0 < n_bytes < 3 << 20


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("nonsense", "not an address or a range"),
        ("2000-1000", "the end is not behind the start"),
        ("1000-2000", "has nothing mapped there"),
        ("10", "has nothing mapped there"),
    ],
)
def test_a_range_that_cannot_be_read_is_named_with_status_2(asked: str, said: str) -> None:
    with Target("peeked", 1) as target:
        done = _peek(target, asked, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_memory_kept_out_of_core_dumps_shows_no_texts_without_raw() -> None:
    script = (
        "import ctypes, mmap, sys; m = mmap.mmap(-1, 1 << 16, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS);"
        " m[:20] = b'the key of the house'; m.madvise(mmap.MADV_DONTDUMP);"
        " print('READY', hex(ctypes.addressof(ctypes.c_char.from_buffer(m))), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as target:
        assert target.stdout is not None
        address = target.stdout.readline().split()[1] + "+4K"
        peek = [*_PEEK, "-p", str(target.pid), address]
        shown = subprocess.run(peek, check=True, capture_output=True, text=True).stdout
        raw = subprocess.run([*peek, "--raw"], check=True, capture_output=True, text=True).stdout
        copied = subprocess.run([*peek, "-o", os.devnull], check=False, capture_output=True, text=True)
        target.communicate("")
    assert "the key of" not in shown
    assert "out of core dumps" in shown
    assert "the key of the house" in raw
    assert copied.returncode == 2


N_MIB = 2300 if IS_LONG else 300
FILLER = f"""
import ctypes, mmap, os
memory = mmap.mmap(-1, {N_MIB} << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
block = os.urandom(1 << 20)
for i in range({N_MIB}):
    memory[i << 20 : i + 1 << 20] = block
print(f"{{ctypes.addressof(ctypes.c_char.from_buffer(memory)):x}}", flush=True)
input()
"""


def test_a_region_larger_than_its_memory_is_copied_whole() -> None:
    """With LONG the 2.3 GB of the real incident, by a process that may take 100 MB."""
    require_program("prlimit")
    with subprocess.Popen(
        [sys.executable, "-c", FILLER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as filler:
        assert filler.stdout is not None
        place = filler.stdout.readline().strip()
        command = ["prlimit", "--data=100000000", sys.executable, "-m", "nativeleak", "peek", "-p", str(filler.pid)]
        with subprocess.Popen(
            [*command, f"{place}+{N_MIB}M", "--raw", "--quiet", "-o", "-"], stdout=subprocess.PIPE
        ) as looker:
            assert looker.stdout is not None
            n_bytes = sum(len(piece) for piece in iter(functools.partial(looker.stdout.read, 1 << 20), b""))
        filler.communicate("\n")
    assert (looker.returncode, n_bytes) == (0, N_MIB << 20)
