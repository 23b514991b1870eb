"""Profiles for pprof: read by a reader of their own, and by pprof itself."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path
from typing import Any

import pytest

import recording_fixtures as fixtures
from nativeleak.analysis.select import By, Metric, Selection
from nativeleak.model import Frame, FrameKind, Stack
from nativeleak.recording import Recording, RecordingWriter, open_recording
from nativeleak.reports.exports.protobuf import number_field, packed_field, varint
from nativeleak.reports.formats import WriteOptions, find_format
from nativeleak.reports.render import write_report
from profile_reader import Profile, fields, numbers, read_profile

MIB = fixtures.MIB


def _profile(recording: Recording, **selection: Any) -> bytes:
    stream = io.BytesIO()
    write_report(recording, stream, find_format("pprof"), Selection(**selection), WriteOptions())
    return stream.getvalue()


@pytest.fixture
def gateway(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.pb.gz"
    with open_recording(fixtures.write_gateway(tmp_path / "gateway.nlk")) as recording:
        path.write_bytes(_profile(recording))
    return path


def _sums(profile: Profile) -> dict[str, int]:
    return {name: sum(sample.values[name] for sample in profile.samples) for name in profile.units}


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, (1 << 63) - 1, -1, -(1 << 63)])
def test_numbers_come_back(number: int) -> None:
    assert numbers(varint(number)) == [number]


def test_number_beyond_64_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        varint(1 << 64)


def test_default_number_is_left_out_and_packed_zeros_are_not() -> None:
    assert number_field(3, 0) == b""
    assert list(fields(packed_field(2, [0, 300, 0]))) == [(2, b"\x00\xac\x02\x00")]


def test_sums_are_those_of_the_json_report(gateway: Path) -> None:
    profile = read_profile(gateway.read_bytes())
    heap, mapped, brk = 38 * 16 * MIB + 3 * MIB + 1009, 192 * MIB, 132 * 1024
    churn = 7 * MIB + 11 * 4096
    assert _sums(profile) == {
        "alloc_objects": 38 + 4096 + 7168 + 11 + 1 + 3 + 1,
        "alloc_space": heap + MIB + churn + mapped + brk,
        "inuse_objects": 38 + 3072 + 1 + 3 + 1,
        "inuse_space": heap + mapped + brk,
        "growth_per_minute": 48 * MIB,
    }
    assert profile.units["growth_per_minute"] == profile.units["inuse_space"] == "bytes"
    assert (profile.default, profile.duration_ns, profile.period) == ("inuse_space", 720_000_000_000, 1)


def test_sample_has_stack_lines_and_labels(gateway: Path) -> None:
    sample = read_profile(gateway.read_bytes()).samples[0]
    assert sample.frames[:7] == [
        "malloc :0",
        "os::malloc(unsigned long, MEMFLAGS) os.cpp:735",
        "Unsafe_AllocateMemory0 :0",
        "jdk.internal.misc.Unsafe.allocateMemory0 Unsafe.java:0",
        "java.nio.DirectByteBuffer.<init> DirectByteBuffer.java:118",
        "io.netty.buffer.PoolArena.newChunk PoolArena.java:758",
        "com.example.gateway.Codec.decode Codec.java:41",
    ]
    assert len(sample.frames) == 26
    assert sample.labels == {
        "thread": "nioEventLoop-1-1",
        "pool": "nioEventLoop-*-*",
        "tid": "1860",
        "pid": "5687",
        "kind": "heap",
        "owner": "program",
        "host": "boot 0f8fad5b",
        "process": "java",
    }


def test_dropped_sites_keep_the_allocated_bytes_whole(tmp_path: Path) -> None:
    def write(writer: RecordingWriter) -> None:
        writer.add_stacks(fixtures.STACKS)
        gone = fixtures.heap_site(0, 0, (5 * MIB, 5), (5 * MIB, 5))
        writer.write_snapshot(
            fixtures.snapshot(1.0, fixtures.gateway_sites(0), threads=fixtures.THREADS, retired=(gone,))
        )

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        whole, some = read_profile(_profile(recording)), read_profile(_profile(recording, thread="java"))
    freed = [sample for sample in whole.samples if sample.frames[0].startswith("[freed;")]
    assert [sample.values["alloc_space"] for sample in freed] == [5 * MIB]
    assert not [sample for sample in some.samples if sample.frames[0].startswith("[freed;")]


def test_mappings_have_build_ids_and_addresses_within(tmp_path: Path) -> None:
    base, fixed = 0x7F1234560000, 0x401234
    frames = (
        Frame("malloc", "libc.so.6", base + 0x9A0, 0, build_id="aa11", module_offset=0x9A0),
        Frame("grow", "app", fixed, 4, build_id="bb22", module_offset=fixed),
        Frame("main", "app", fixed + 9, 13, build_id="bb22", module_offset=fixed + 9),
    )

    def write(writer: RecordingWriter) -> None:
        writer.add_stacks((Stack(1, frames),))
        sites = (fixtures.heap_site(1, 1, (MIB, 1)),)
        targets = (fixtures.target(exe="/opt/app"),)
        writer.write_snapshot(fixtures.snapshot(1.0, sites, threads=fixtures.THREADS, targets=targets))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        profile = read_profile(_profile(recording))
    assert profile.mappings == {
        1: ("app", "bb22", 0x401000, 0x402000, 0x1000),
        2: ("libc.so.6", "aa11", base, base + 0x1000, 0),
    }
    assert list(profile.addresses.values()) == [(2, base + 0x9A0), (1, fixed - 1), (1, fixed + 8)]


def test_names_of_the_target_stay_text(tmp_path: Path) -> None:
    def write(writer: RecordingWriter) -> None:
        writer.add_stacks((Stack(1, (Frame("ev\x1b[31m\udcff", "li\nb", 1 << 63, 1, FrameKind.NATIVE),)),))
        writer.write_snapshot(fixtures.snapshot(1.0, (fixtures.heap_site(1, 1, (MIB, 1)),), threads=fixtures.THREADS))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        profile = read_profile(_profile(recording))
    assert profile.samples[0].frames == ["ev\\x1b[31m\\udcff :0"]
    assert [name for name, *_ in profile.mappings.values()] == ["java", "li\\x0ab"]


@pytest.mark.parametrize(
    ("metric", "default"),
    [(Metric.ALLOCATED, "alloc_space"), (Metric.COUNT, "inuse_objects"), (Metric.GROWTH, "growth_per_minute")],
)
def test_metric_is_the_type_shown_first(tmp_path: Path, metric: Metric, default: str) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "gateway.nlk")) as recording:
        assert read_profile(_profile(recording, metric=metric)).default == default


def test_top_and_pool_hold(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "gateway.nlk")) as recording:
        profile = read_profile(_profile(recording, by=By.POOL, top=1))
    assert [sample.labels["thread"] for sample in profile.samples] == ["nioEventLoop-*-*"]


def _pprof(*arguments: object) -> str:
    done = subprocess.run(
        ["go", "tool", "pprof", *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pprof_itself_opens_it(gateway: Path) -> None:
    top = _pprof("-top", "-unit=B", gateway)
    assert "Type: inuse_space" in top
    assert [line.split() for line in top.splitlines() if line.endswith(" malloc")] == [
        [f"{38 * 16 * MIB + 1009}B", "75.70%", "75.70%", f"{38 * 16 * MIB + 1009}B", "75.70%", "malloc"]
    ]
    grown = _pprof("-top", "-unit=B", "-sample_index=growth_per_minute", "-tagfocus=pool=nioEventLoop", gateway)
    assert f"{48 * MIB}B" in grown


SOURCE = """\
#include <stdlib.h>
char *volatile kept;
__attribute__((noinline)) void keep(void)
{
	kept = malloc(3);
}
int main(void)
{
	keep();
	return 0;
}
"""


@pytest.mark.parametrize(("link", "bias"), [("-pie", 0x5555_5555_4000), ("-no-pie", 0)])
def test_pprof_finds_function_and_line_by_itself(tmp_path: Path, link: str, bias: int) -> None:
    """By the mapping and the addresses alone: the names of the profile are wrong."""
    source, program, output = tmp_path / "app.c", tmp_path / "app", tmp_path / "a.pb.gz"
    source.write_text(SOURCE)
    subprocess.run(["gcc", "-g", "-O1", link, "-o", program, source], check=True, timeout=60)
    listed = subprocess.run(["nm", program], check=True, capture_output=True, text=True).stdout
    symbols = {line.split()[2]: int(line.split()[0], 16) for line in listed.splitlines() if len(line.split()) == 3}

    def write(writer: RecordingWriter) -> None:
        places = ((symbols["keep"] + 14, 14), (symbols["main"] + 9, 9))
        frames = [Frame("wrong", "app", bias + at, offset, build_id="", module_offset=at) for at, offset in places]
        writer.add_stacks((Stack(1, tuple(frames)),))
        targets = (fixtures.target(exe=str(program)),)
        sites = (fixtures.heap_site(1, 1, (MIB, 1)),)
        writer.write_snapshot(fixtures.snapshot(1.0, sites, threads=fixtures.THREADS, targets=targets))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        output.write_bytes(_profile(recording))
    top = _pprof("-symbolize=force", "-lines", "-top", program, output)
    assert "wrong" not in top
    assert "keep app.c:5" in " ".join(top.replace(f"{tmp_path}/", "").split())
    assert "main app.c:9" in " ".join(top.replace(f"{tmp_path}/", "").split())


def test_pprof_compares_two_of_them(gateway: Path, tmp_path: Path) -> None:
    before = tmp_path / "before.pb.gz"
    with open_recording(fixtures.write_gateway(tmp_path / "before.nlk", 10)) as recording:
        before.write_bytes(_profile(recording))
    top = _pprof("-top", "-unit=B", f"-diff_base={before}", gateway)
    assert [line.split()[0] for line in top.splitlines() if line.endswith(" malloc")] == [f"{2 * 48 * MIB}B"]
