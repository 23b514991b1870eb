"""Java objects that hold native memory, on every JDK and collector, against a program that knows how many it made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from nativeleak.runtimes.hotspot.heap.graph import State
from nativeleak.runtimes.hotspot.heap.read import read_java_holders
from nativeleak.runtimes.hotspot.heap.result import HolderGroup, JavaHolders, holders_java_json
from nativeleak.runtimes.hotspot.heap.text import holders_java_text
from support import IS_LONG, Target, java_launcher
from support.native_blocks import read_native_blocks
from support.target import target_path
from targets.build import NETTY
from targets.jdks import DEBIAN, RELEASES

pytestmark = [pytest.mark.jvm, pytest.mark.timeout(180)]

ALL = (DEBIAN, *RELEASES)
COLLECTORS = ("G1", "Serial", "Parallel")
FLAGS = {
    "wide-oops": ["-XX:-UseCompressedOops"],
    "wide-classes": ["-XX:-UseCompressedOops", "-XX:-UseCompressedClassPointers"],
    "shifted-oops": ["-XX:HeapBaseMinAddress=32g"],
    "no-cds": ["-Xshare:off"],
    "no-counters": ["-XX:-UsePerfData"],
}
ROTATED = [(jdk, COLLECTORS[i % 3]) for i, jdk in enumerate(ALL)]
EACH = [(jdk, collector) for jdk in ALL for collector in COLLECTORS] if IS_LONG else ROTATED
EACH_FLAGS = (
    [(jdk, flags) for jdk in ALL for flags in FLAGS] if IS_LONG else [("17", "wide-oops"), ("25", "wide-classes")]
)

BUFFER, CODEC = "java.nio.DirectByteBuffer.address", "Holds$Codec.nativeHandle"
DEFLATER = "java.util.zip.Deflater$DeflaterZStreamRef.address"
INFLATER = "java.util.zip.Inflater$InflaterZStreamRef.address"


@contextmanager
def started(jdk: str, *flags: str, fill: int = 16) -> Iterator[Target]:
    command = [java_launcher(jdk), "-Xmx512m", "-XX:+UnlockExperimentalVMOptions", "-XX:+UnlockDiagnosticVMOptions"]
    with Target("Holds", command=[*command, *flags, "-cp", target_path("Holds"), "Holds", str(fill)]) as target:
        yield target


def look(target: Target) -> JavaHolders:
    return read_java_holders(target.pid, *read_native_blocks(target.pid, files=True))


def found(
    result: JavaHolders, holder: str, state: State = State.STRONG, root: str = "", owner: str = ""
) -> tuple[int, int]:
    """(objects, blocks) of the groups of a field, a state, a root and an owner."""
    groups = [
        group
        for group in result.groups
        if (group.holder, group.state) == (holder, state)
        and (not root or group.root == root)
        and (not owner or group.owner == owner)
    ]
    return sum(group.n_objects for group in groups), sum(group.n_blocks for group in groups)


def check_strong(result: JavaHolders, truth: dict[str, Any]) -> None:
    """What the program keeps is found to the last object."""
    n = {name: each[0] if isinstance(each, list) else each for name, each in truth.items()}
    rows = {
        "cache": (BUFFER, "static Holds.CACHE", "Holds.CACHE (java.util.HashMap)"),
        "orders": (BUFFER, "static Holds.ORDERS", "Holds$Orders.buffers (java.util.ArrayList)"),
        "local": (BUFFER, "thread worker-*", ""),
        "slices": (BUFFER, "static Holds.SLICES", "Holds.SLICES (java.util.ArrayList)"),
        "deep": (BUFFER, "static Holds.DEEP", "Holds$Vault.content (java.nio.ByteBuffer[])"),
        "codecs": (CODEC, "static Holds.CODECS", "Holds.CODECS (java.util.LinkedList)"),
        "deflaters": (DEFLATER, "static Holds.DEFLATERS", "Holds.DEFLATERS (java.util.ArrayList)"),
        "inflaters": (INFLATER, "static Holds.INFLATERS", "Holds.INFLATERS (java.util.ArrayList)"),
        "bare": ("static Holds.bareHandle", "static Holds.bareHandle", "Holds.bareHandle"),
    }
    assert {name: found(result, row[0], State.STRONG, *row[1:]) for name, row in rows.items()} == {
        name: (n[name], n[name]) for name in rows
    }
    assert found(result, "long[]", State.STRONG, "static Holds.HANDLES") == (1, n["handles"])
    assert found(result, BUFFER, State.STRONG, "static Holds.mapped") == (1, 1)
    for name in ("cache", "orders", "local", "slices", "deep", "codecs", "handles"):
        # The sizes are those of the blocks: what was asked for, rounded up by the JVM and by malloc.
        groups = [group for group in result.groups if group.state is State.STRONG]
        wanted = truth[name][1]
        assert sum(each[1] for group in groups for each in group.sizes if 0 <= each[0] - wanted < 8192) >= n[name]


def check_dropped(result: JavaHolders, truth: dict[str, Any]) -> None:
    """What the program dropped waits for a collection, or nothing will free it."""
    assert found(result, BUFFER, State.CLEANER) == (truth["dropped_buffers"][0],) * 2
    assert found(result, DEFLATER, State.CLEANER) == (truth["dropped_deflaters"],) * 2
    assert found(result, CODEC, State.NONE) == (truth["dropped_codecs"][0],) * 2
    assert not any(abs(size - truth["lost"][1]) < 64 for group in result.groups for size, _ in group.sizes)


def outline(result: JavaHolders) -> list[str]:
    return [str(result.completeness), *map(_line, result.groups)]


def _line(group: HolderGroup) -> str:
    counts = f"{group.n_bytes:,} {group.n_objects} {group.n_blocks}"
    return f"{counts} {group.state} {group.holder} {group.path} {group.root} {group.owner}"


@pytest.mark.parametrize(("jdk", "collector"), EACH)
def test_holders_at_rest_are_exact_on_each_jdk_and_collector(jdk: str, collector: str) -> None:
    with started(jdk, f"-XX:+Use{collector}GC") as target:
        truth = target.go()
        result = look(target)
    assert (result.collector, result.not_read) == (collector, None)
    check_strong(result, truth)
    check_dropped(result, truth)
    whole = result.completeness
    assert (whole.cut_short, whole.n_unfollowed, whole.n_collections, whole.notes) == (None, 0, 0, ())
    assert whole.n_passes <= 5
    json = holders_java_json(result)
    assert sum(each["blocks"] for each in json["holders"]) <= json["blocks"]


@pytest.mark.parametrize(("jdk", "flags"), EACH_FLAGS)
def test_holders_at_rest_are_exact_with_other_layouts(jdk: str, flags: str) -> None:
    with started(jdk, *FLAGS[flags]) as target:
        truth = target.go()
        result = look(target)
    check_strong(result, truth)
    if flags != "no-counters":  # whether collections ran is not known then
        check_dropped(result, truth)


def test_holders_at_rest_are_exact_with_compact_headers() -> None:
    with started("25", "-XX:+UseCompactObjectHeaders") as target:
        truth = target.go()
        result = look(target)
    check_strong(result, truth)
    check_dropped(result, truth)


@pytest.mark.parametrize(("jdk", "collector"), EACH if IS_LONG else [("17", "G1")])
def test_holders_that_live_long_are_exact_under_young_collections(jdk: str, collector: str) -> None:
    with started(jdk, f"-XX:+Use{collector}GC", "-Xmn24m", fill=128) as target:
        truth = target.go()
        target.ask("busy")
        before = target.ask("collections")["collections"]
        for _ in range(50):
            if target.ask("collections")["collections"] - before >= 5:
                break
        result = look(target)
    check_strong(result, truth)
    assert result.completeness.n_collections, "no collection ran during the look"


@pytest.mark.parametrize(("jdk", "collector"), EACH if IS_LONG else [("21", "Serial")])
def test_collections_that_move_all_objects_give_no_false_verdict(jdk: str, collector: str) -> None:
    with started(jdk, f"-XX:+Use{collector}GC", "-Xmn24m", fill=128) as target:
        target.go()
        target.ask("busy old")
        result = look(target)
    false = [
        group
        for group in result.groups
        if group.state in (State.CLEANER, State.NONE) and abs(group.sizes[0][0] - 400_009) > 8192
        if group.holder in (BUFFER, CODEC) and abs(group.sizes[0][0] - 70_001) > 8192
    ]
    assert false == [], outline(result)


@pytest.mark.parametrize("collector", ["Z", "Shenandoah"] if IS_LONG else ["Z"])
def test_collectors_that_are_not_read_are_said(collector: str) -> None:
    with started("17", f"-XX:+Use{collector}GC") as target:
        target.go()
        result = look(target)
    assert result.collector == collector
    assert result.groups == ()
    assert result.not_read is not None
    assert holders_java_json(result)["completeness"]["read"] is False


def gateway(jdk: str) -> Target:
    command = [java_launcher(jdk), "-Xmx256m", "-XX:MaxDirectMemorySize=4g", "-cp", f"{NETTY}:{target_path('Gateway')}"]
    return Target("Gateway", command=[*command, "Gateway"])


@pytest.mark.parametrize("jdk", ["11", DEBIAN, "25"] if IS_LONG else [DEBIAN])
def test_gateway_with_leaked_chunks_is_explained_after_the_fact(jdk: str) -> None:
    n_chunks, n_kept, n_dropped, n_small = (147 if IS_LONG else 47), 1500, 800, 300
    with gateway(jdk) as target:
        truth = target.ask(f"fill {n_chunks} {n_kept} {n_dropped} {n_small}", timeout_s=150)
        result = look(target)
    chunk_bytes = truth["chunk_bytes"]
    groups = {group.owner: group for group in result.groups}
    leaked = groups["Gateway.pending (java.util.ArrayList)"]
    assert (leaked.holder, leaked.n_blocks, leaked.root) == (BUFFER, n_chunks, "static Gateway.GATEWAY")
    assert all(0 <= size - chunk_bytes <= 8192 for size, _ in leaked.sizes)
    assert groups["Gateway$Request.body (io.netty.buffer.PooledUnsafeDirectByteBuf)"].path[-1] == "Gateway.open"
    (pool,) = result.pools
    assert (pool.kind, pool.chunk_bytes) == ("pooled", truth["used"])
    assert (pool.n_buffers, pool.n_garbage) == (n_chunks + n_kept + n_small, 0)
    # A buffer of 60,000 bytes takes 64 KiB of its chunk.
    assert pool.unaccounted_bytes == pool.lost_bytes == n_dropped << 16
    page = holders_java_text(result)
    assert page.count("\n") <= 24
    line = next(line for line in page.splitlines() if "Gateway.pending" in line)
    assert line.split("  ")[-1].startswith(f"{n_chunks} x 16.0 MiB: java.nio.DirectByteBuffer.address <- io.netty.")
    assert line.endswith(" <- Gateway.pending (java.util.ArrayList) <- static Gateway.GATEWAY")
    assert "50 MiB  dropped without release()" in page
