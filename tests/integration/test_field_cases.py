"""Cases from the field (``targets/field``): default options, and the first answer is the right one.

A few kinds run always; ``NATIVELEAK_TEST_LONG=1`` runs all. Two run at one time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from support import IS_LONG, java_launcher
from support.field import Case, Run, names, run_case

MIB = 1 << 20


def java(*words: str, release: str = "debian", options: tuple[str, ...] = ()) -> Callable[[Any], list[Any]]:
    return lambda room: [java_launcher(release), "-Xmx256m", *options, "-cp", room, *words]


def native(*words: str) -> Callable[[Any], list[Any]]:
    return lambda room: [room / words[0], *words[1:]]


def found(*words: str) -> Callable[[Any], list[Any]]:
    return lambda _: list(words)


def python(mode: str) -> Callable[[Any], list[Any]]:
    return found(sys.executable, "server.py", mode)


CASES = {
    "gzip_unended": Case("gzip_unended", java("MetricsService")),
    "jni_strings": Case("jni_strings", java("NativeCodec", "./libcodec.so")),
    "mmap_segments": Case("mmap_segments", java("SegmentDirectory")),
    "stripped_debuglink": Case("stripped_debug", native("link/app"), programs=("objcopy", "xz")),
    "threads_split_pool": Case("threads_split", native("pool", "pool"), lines=6),
    "rust_prefixed_jemalloc": Case("rust_prefixed_jemalloc", native("rustsrv"), programs=("rustc", "objcopy")),
    "thread_leak": Case("thread_leak", java("ClientFactory"), seconds=20),
    "ffm_arena": Case("ffm_arena", java("ForeignIndex", release="25", options=("--enable-native-access=ALL-UNNAMED",))),
    "c2_spike": Case("c2_spike", java("Pricing", options=("-XX:-DontCompileHugeMethods",)), seconds=25, lines=1),
    "zstd_streams": Case(
        "zstd_streams",
        lambda room: ["java", "-cp", f"{room}:/usr/share/java/zstd-jni.jar", "EventArchiver"],
        files=("/usr/share/java/zstd-jni.jar",),
    ),
    "busy_slow_leak": Case("busy_slow_leak", java("RecordService", "100000"), seconds=20),
    "cpp_containers": Case("cpp_containers", native("shop"), seconds=25),
    "cpp_containers_O0": Case("cpp_containers", native("shop_O0"), seconds=25),
    "fork_server": Case("fork_server", native("prefork")),
    "fragmentation": Case("fragmentation", native("frag"), lines=1),
    "glib_slices": Case("glib_slices", native("slices"), programs=("pkg-config",)),
    "go_cgo": Case("go_cgo", native("gateway"), programs=("go",)),
    "go_heap": Case("go_heap", native("service"), programs=("go",)),
    "node_addon": Case(
        "node_addon",
        found("node", "server.js"),
        25,
        programs=("node",),
        files=("/usr/include/node/node_api.h",),
    ),
    "python_ext": Case("python_service", python("ext")),
    "python_objects": Case("python_service", python("objects"), seconds=25),
    "python_blobs": Case("python_service", python("blobs")),
    "stripped_minidebuginfo": Case("stripped_debug", native("mini/app"), programs=("objcopy", "xz")),
    "stripped_plain": Case("stripped_debug", native("plain/app"), programs=("objcopy", "xz")),
    "threads_split_connections": Case("threads_split", native("pool", "conn"), lines=6),
    "rate_server_20000": Case("rate_server", native("server", "20000", "100", "/dev/stdout", "1", "0"), seconds=30),
    "rate_server_200000": Case("rate_server", native("server", "200000", "100", "/dev/stdout", "1", "0"), seconds=30),
    "rate_server_10000": Case("rate_server", native("server", "10000", "100", "/dev/stdout", "1", "0"), seconds=15),
    "rate_server_1000000": Case("rate_server", native("server", "1000000", "100", "/dev/stdout", "1", "0"), seconds=30),
}

SAMPLE = (
    "gzip_unended",
    "mmap_segments",
    "threads_split_pool",
    "rust_prefixed_jemalloc",
    "go_cgo",
    "go_heap",
    "rate_server_10000",
)
"""Of each kind one; all cases with NATIVELEAK_TEST_LONG=1."""
CHOSEN = list(CASES if IS_LONG else SAMPLE)


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Run]]]:
    """Case -> its run, under way or done: all that are selected, two at a time."""
    items = [item for item in request.session.items if hasattr(item, "callspec")]
    chosen = [item.callspec.params["case"] for item in items if "case" in item.callspec.params]
    with ThreadPoolExecutor(2) as pool:
        futures = {case: pool.submit(run_case, CASES[case]) for case in CASES if case in chosen}
        yield futures
        for future in futures.values():
            future.cancel()


def only(run: Run, *labels: str) -> list[dict[str, Any]]:
    """The suspects: one for each of these functions, in this order, certain to grow, and no other."""
    found = [run.suspects(label) for label in labels]
    assert [len(suspects) for suspects in found] == [1] * len(labels), run.outline()
    assert len(run.report["suspects"]) == len(labels), run.outline()
    suspects = [suspects[0] for suspects in found]
    assert {suspect["growth"]["verdict"] for suspect in suspects} == {"growing"}, run.outline()
    return suspects


def assert_within(run: Run, suspect: dict[str, Any], name: str, unit: float = 1.0, slack: float = 0.01) -> None:
    """What a suspect holds is what the program says, times ``unit``, within a share of it.

    Of samples the size is an estimate: then the interval of the growth holds the truth.
    """
    least, most = run.grew(name)
    if suspect["evidence"] != "exact":
        low, high = (rate * run.report["window"]["duration_s"] for rate in suspect["growth"]["ci95"])
        assert low <= most * unit * (1 + slack), run.outline()
        assert high >= least * unit * (1 - slack), run.outline()
        return
    assert least * unit * (1 - slack) <= suspect["outstanding_bytes"] <= most * unit * (1 + slack), run.outline()


def check_gzip_unended(run: Run) -> None:
    (leak,) = only(run, "BlobWriter.write")
    assert leak["outstanding_bytes"] >= 0.95 * run.report["totals"]["heap"]["outstanding_bytes"]
    assert_within(run, leak, "unended-deflaters/", 4 * 65536 + 5900, 0.02)
    assert leak["threads"] == "main"


def check_jni_strings(run: Run) -> None:
    strings, references = only(run, "NativeCodec.encode", "Listeners.register")
    assert_within(run, strings, "utf-chars")
    assert strings["kind"] != "jvm"
    assert references["kind"] != "jvm"


def check_mmap_segments(run: Run) -> None:
    (leak,) = only(run, "SegmentDirectory.removeIndex")
    assert_within(run, leak, "mapped-segments")
    assert leak["resident_bytes"] >= 0.9 * leak["outstanding_bytes"]


def check_cpp_containers(run: Run) -> None:
    orders, audit, prices, sessions = only(
        run, "Orders::remember", "AuditTrail::append", "Prices::record", "Sessions::open"
    )
    assert_within(run, orders, "orders", 1 + 80 / 4001, 0.03)
    assert_within(run, sessions, "sessions", 1 + 32 / 1016, 0.05)
    for suspect in (orders, audit, prices, sessions):
        assert not suspect["name"].startswith(("std::", "__gnu_cxx::"))


def check_rust_prefixed_jemalloc(run: Run) -> None:
    (leak,) = only(run, "remember")
    assert_within(run, leak, "leaked_bytes", slack=0.02)
    assert run.report["unwatched"] == []


def check_threads_split(run: Run) -> None:
    (leak,) = only(run, "tls_context_new")
    assert_within(run, leak, "leaked_bytes")
    assert leak["n_threads"] > 1


def check_thread_leak(run: Run) -> None:
    (leak,) = only(run, "HttpClient.get")
    assert leak["kind"] == "threads"
    least, most = run.grew("leaked-threads/")
    assert least <= leak["outstanding_count"] <= most
    assert leak["resident_bytes"] < leak["outstanding_count"] * MIB / 2


def check_ffm_arena(run: Run) -> None:
    arenas, copies = only(run, "Query.score", "Labels.label")
    assert_within(run, arenas, "arenas")
    assert_within(run, copies, "strdup")
    assert {arenas["kind"], copies["kind"]} == {"java"}


def check_c2_spike(run: Run) -> None:
    assert run.suspects("Pricing.price", "Pricing.main") == []
    resident = run.report["resident"]
    assert resident["peak_bytes"] > 300 * MIB
    assert 0 < resident["peak_at_s"] < run.report["window"]["duration_s"]
    assert "compiler" in json.dumps(run.report["suspects"] + run.report["findings"]).lower()


def check_zstd_streams(run: Run) -> None:
    (leak,) = only(run, "Batch.pack")
    least, most = run.grew("unclosed-streams/")
    assert least * 0.5 * MIB <= leak["outstanding_bytes"] <= most * 2 * MIB


def check_fork_server(run: Run) -> None:
    children = run.report["children"]
    assert len(children) >= 3
    assert max(child["growth_bytes"] for child in children) > 200_000
    assert run.report["suspects"] == []


def check_fragmentation(run: Run) -> None:
    assert all(names(suspect, "keep_summary") for suspect in run.report["suspects"]), run.outline()
    lines = {line["id"]: line["end_bytes"] - line["start_bytes"] for line in run.report["resident"]["lines"]}
    assert lines["retained"] > 0.6 * sum(lines.values())


def check_glib_slices(run: Run) -> None:
    accused = [suspect for suspect in run.suspects("event_new") if suspect["kind"] != "pool"]
    assert accused == [], run.outline()
    assert run.suspects("meta_new") or any(suspect["kind"] == "pool" for suspect in run.report["suspects"])


def check_go_cgo(run: Run) -> None:
    (leak,) = only(run, "main.lookupTenant")
    assert_within(run, leak, "leaked_bytes")


def check_go_heap(run: Run) -> None:
    """It has no malloc: what its runtime maps is recorded, and counts as mapped memory although threads run in it."""
    (heap,) = run.report["suspects"]
    assert heap["name"] == heap["pool"] == "Go's heap"
    least, most = run.grew("kept_bytes")
    # The collector lets garbage grow beside what lives: to as much again.
    assert 0.9 * least <= heap["resident_bytes"] <= 3 * most, run.outline()
    lines = {line["id"]: line["end_bytes"] - line["start_bytes"] for line in run.report["resident"]["lines"]}
    assert lines["mapped"] >= 0.8 * sum(lines.values())
    assert lines["stacks"] < 1 * MIB


def check_node_addon(run: Run) -> None:
    (checksum,) = run.suspects("Checksum", "scratch_new")
    assert checksum["module"] == "addon.node"
    assert_within(run, checksum, "addon_leaked")
    (buffers,) = (suspect for suspect in run.report["suspects"] if suspect is not checksum)
    least, most = (grown / run.report["window"]["duration_s"] for grown in run.grew("buffers_kept"))
    low, high = buffers["growth"]["ci95"]
    assert low <= most
    assert high >= least
    assert "Buffer" in json.dumps([buffers["name"], buffers["called_by"], buffers["what"]])


def check_python_ext(run: Run) -> None:
    (leak,) = only(run, "tokenize")
    assert_within(run, leak, "leaked", slack=0.02)


def check_python(run: Run) -> None:
    assert run.report["suspects"], run.report["findings"]
    assert run.report["growth"]["verdict"] == "growing"
    for suspect in run.report["suspects"]:
        assert not names(suspect, "_PyEval_EvalFrameDefault", "_PyObject_MakeTpCall"), run.outline()


def check_python_blobs(run: Run) -> None:
    check_python(run)
    assert_within(run, run.report["suspects"][0], "leaked", slack=0.02)


def check_stripped(run: Run) -> None:
    (leak,) = only(run, "append_ledger_row")
    assert_within(run, leak, "leaked_bytes")


def check_stripped_plain(run: Run) -> None:
    (leak,) = run.report["suspects"]
    assert_within(run, leak, "leaked_bytes")
    assert leak["module"] == "app"
    assert "app+0x" in leak["name"]


def check_busy_slow_leak(run: Run) -> None:
    """Half a million pairs are made for each thousand blocks that are kept."""
    (leak,) = only(run, "RecordService.audit")
    assert_growth(run, leak, run.grew("audit-records"))


def check_rate_server(run: Run) -> None:
    assert run.report["growth"]["verdict"] == "growing"
    (leak,) = only(run, "SessionIndex::remember")
    assert_growth(run, leak, run.grew("bytes"))


def assert_growth(run: Run, leak: dict[str, Any], truth: tuple[float, float]) -> None:
    """Its rate is that of the truth within a tenth, or the interval holds the truth; it is no wild guess either way."""
    seconds = run.report["window"]["duration_s"]
    least, most = (bound / seconds for bound in truth)
    low, high = leak["growth"]["ci95"]
    slope = leak["growth"]["slope_bytes_per_s"]
    assert 0.9 * least <= slope <= 1.1 * most or low <= most <= 2 * high <= 8 * least, (leak["growth"], least, most)


CHECKS: dict[str, Callable[[Run], None]] = {
    "gzip_unended": check_gzip_unended,
    "jni_strings": check_jni_strings,
    "mmap_segments": check_mmap_segments,
    "cpp_containers": check_cpp_containers,
    "threads_split_pool": check_threads_split,
    "rust_prefixed_jemalloc": check_rust_prefixed_jemalloc,
    "thread_leak": check_thread_leak,
    "ffm_arena": check_ffm_arena,
    "c2_spike": check_c2_spike,
    "zstd_streams": check_zstd_streams,
    "busy_slow_leak": check_busy_slow_leak,
    "cpp_containers_O0": check_cpp_containers,
    "fork_server": check_fork_server,
    "fragmentation": check_fragmentation,
    "glib_slices": check_glib_slices,
    "go_cgo": check_go_cgo,
    "go_heap": check_go_heap,
    "node_addon": check_node_addon,
    "python_ext": check_python_ext,
    "python_objects": check_python,
    "python_blobs": check_python_blobs,
    "stripped_debuglink": check_stripped,
    "stripped_minidebuginfo": check_stripped,
    "stripped_plain": check_stripped_plain,
    "threads_split_connections": check_threads_split,
    "rate_server_10000": check_rate_server,
    "rate_server_1000000": check_rate_server,
    "rate_server_20000": check_rate_server,
    "rate_server_200000": check_rate_server,
}


@pytest.mark.parametrize("case", CHOSEN)
def test_field_case_first_answer_is_right(case: str, runs: dict[str, Future[Run]]):
    CHECKS[case](runs[case].result())
