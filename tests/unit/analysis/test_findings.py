"""Findings on recordings whose leaks are known: the right frame, its whole growth, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest

import recording_fixtures as fixtures
from nativeleak.analysis.curves import watched_span
from nativeleak.analysis.finding import Finding, Findings
from nativeleak.analysis.findings import find
from nativeleak.analysis.growth import Verdict
from nativeleak.analysis.paths import Paths
from nativeleak.analysis.table import add_paths, site_table
from nativeleak.model import Frame, Level, SiteTotals, Stack, Window
from nativeleak.recording import RecordingWriter

N_SNAPSHOTS = 20
Course = Callable[[int], tuple[int, int]]
"""Blocks allocated and blocks freed since the start, at a snapshot."""


def leak(each: int = 10) -> Course:
    return lambda number: (each * (number + 1), 0)


def churn(number: int) -> tuple[int, int]:
    return 100 * (number + 1), 100 * (number + 1)


def cache(number: int) -> tuple[int, int]:
    return 100 * (number + 1), max(0, 100 * (number + 1) - 300)


def _site(
    key: int, course: Course, number: int, block: int, thread: int = 1, kept_of_each: Fraction = Fraction(0)
) -> SiteTotals:
    """Totals of a site; the oldest blocks go first, as in a cache, but for a share of every age that stays."""
    made, freed = course(number)
    n_slices = 16
    oldest = [course(number * i // n_slices)[0] for i in range(n_slices + 1)]
    born = [b - a for a, b in pairwise(oldest)]
    born[0] += oldest[0]
    kept, gone = [], freed
    for n in born:
        gone_now = min(int(n * (1 - kept_of_each)), gone)
        gone -= gone_now
        kept.append(n - gone_now)
    slices = tuple((n * block, n) for n in kept)
    return fixtures.heap_site(thread, key, (made * block, made), (freed * block, freed), slices=slices)


def _found(
    tmp_path: Path,
    rows: Sequence[tuple[Sequence[str], Course]],
    blocks: Sequence[int] = (),
    threads: int = 1,
    kept_of_each: Fraction = Fraction(0),
) -> Findings:
    """The findings in a program with these paths, leaf first; malloc and main are added."""

    def write(writer: RecordingWriter) -> None:
        for key, (names, _) in enumerate(rows, 1):
            frames = [fixtures.native(name, "app") for name in (*names, "main")]
            writer.add_stacks([Stack(key, (fixtures.native("malloc"), *frames))])
        for number in range(N_SNAPSHOTS):
            sites = [
                _site(key, course, number, blocks[key - 1] if blocks else 64, 1 + key % threads, kept_of_each)
                for key, (_, course) in enumerate(rows, 1)
            ]
            writer.write_snapshot(fixtures.snapshot(number + 1.0, sites, slice_s=N_SNAPSHOTS / 16))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        paths = Paths(recording)
        table = add_paths(site_table(recording), paths)
        return find(recording, table, paths, watched_span(recording))


def _names(findings: Sequence[Finding]) -> list[tuple[str, str | None]]:
    return [(each.name, each.called_by) for each in findings]


def test_find_leak_over_many_paths_is_one_suspect_where_they_meet(tmp_path: Path) -> None:
    rows = [(("remember", f"handler_{n}", "serve"), leak(2)) for n in range(200)]
    found = _found(tmp_path, rows, threads=7)
    assert _names(found.suspects) == [("remember", None)]
    suspect = found.suspects[0]
    assert suspect.outstanding_count == 200 * 2 * N_SNAPSHOTS
    assert suspect.growth.slope_bytes_per_s == pytest.approx(200 * 2 * 64)
    assert suspect.share_pct == pytest.approx(100)
    assert suspect.n_stacks == 200


def test_find_frame_with_a_leak_and_a_steady_part_is_entered(tmp_path: Path) -> None:
    found = _found(tmp_path, [(("make_buffer", "render"), churn), (("make_buffer", "subscribe"), leak())])
    assert _names(found.suspects) == [("subscribe", None)]
    assert [step.name for step in found.suspects[0].path] == ["malloc", "make_buffer", "subscribe"]


def test_find_full_cache_beside_a_leak_is_no_suspect(tmp_path: Path) -> None:
    found = _found(tmp_path, [(("fill", "Cache::put"), cache), (("Sessions::open", "serve"), leak(50))])
    assert [each.name for each in found.suspects] == ["Sessions::open"]
    assert found.others[0].growth.verdict is Verdict.LEVELLING_OFF


def test_find_two_leaks_behind_one_helper_come_apart(tmp_path: Path) -> None:
    found = _found(tmp_path, [(("copy_text", "log_line"), leak()), (("copy_text", "add_user"), leak())], [64, 200])
    assert _names(found.suspects) == [("copy_text", "add_user"), ("copy_text", "log_line")]


def test_find_main_is_named_only_where_nothing_else_is(tmp_path: Path) -> None:
    beside = [(("make_node", "load"), churn), (("make_node",), leak())]
    assert _names(_found(tmp_path, beside).suspects) == [("make_node", None)]
    (tmp_path / "a.nlk").unlink()
    assert _names(_found(tmp_path, [((), leak())]).suspects) == [("main", None)]


def test_find_many_small_heads_are_one_suspect_at_their_caller(tmp_path: Path) -> None:
    rows = [((f"parse_{n}", "load_document", "serve"), leak(1)) for n in range(40)]
    found = _found(tmp_path, rows)
    assert _names(found.suspects) == [("load_document", None)]
    assert found.suspects[0].outstanding_count == 40 * N_SNAPSHOTS


def test_find_nothing_that_grows_is_no_suspect(tmp_path: Path) -> None:
    found = _found(tmp_path, [(("make_buffer", "render"), churn), (("Cache::put",), cache)])
    assert found.suspects == ()


def test_find_batches_are_periodic_and_so_is_the_process(tmp_path: Path) -> None:
    def batches(number: int) -> tuple[int, int]:
        n_batches, within = divmod(number, 5)
        return 400 * n_batches + 100 * within, 400 * n_batches

    found = _found(tmp_path, [(("run_batch",), batches)])
    assert found.suspects == ()
    assert [(each.name, each.growth.verdict) for each in found.others] == [("run_batch", Verdict.PERIODIC)]
    assert found.growth is not None
    assert found.growth.verdict is Verdict.PERIODIC


@pytest.mark.parametrize("has_slices", [True, False])
def test_find_growth_under_a_collector_is_judged_by_what_stays(tmp_path: Path, has_slices: bool) -> None:
    """A collector that frees nine of ten blocks each four snapshots, of 100 blocks a snapshot."""
    residue = Fraction(1, 10)

    def sawtooth(number: int) -> tuple[int, int]:
        made = 100 * (number + 1)
        return made, int(made // 400 * 400 * (1 - residue))

    if has_slices:
        found = _found(tmp_path, [(("newBuffer", "handle"), sawtooth)], kept_of_each=residue)
    else:
        found = _found_mappings(tmp_path, sawtooth)
    (suspect,) = found.suspects
    assert suspect.name == "newBuffer"
    assert suspect.growth.low_bytes_per_s <= 10 * 64 <= suspect.growth.high_bytes_per_s
    assert suspect.growth.slope_bytes_per_s == pytest.approx(10 * 64, rel=0.25)
    assert suspect.peak_bytes > suspect.outstanding_bytes


def test_find_sawtooth_of_which_nothing_stays_is_no_suspect(tmp_path: Path) -> None:
    def sawtooth(number: int) -> tuple[int, int]:
        made = 100 * (number + 1)
        return made, made // 400 * 400

    found = _found_mappings(tmp_path, sawtooth)
    assert found.suspects == ()
    assert [each.growth.verdict for each in found.others] == [Verdict.PERIODIC]


def _found_mappings(tmp_path: Path, course: Course) -> Findings:
    """The findings where mappings of 64 bytes take this course: they have no birth slices."""

    def write(writer: RecordingWriter) -> None:
        frames = [fixtures.native("mmap"), *(fixtures.native(name, "app") for name in ("newBuffer", "handle", "main"))]
        writer.add_stacks([Stack(1, tuple(frames))])
        for number in range(N_SNAPSHOTS):
            made, freed = course(number)
            facts = {"freed_bytes": freed * 64, "freed_count": freed, "resident_bytes": (made - freed) * 64}
            site = fixtures.map_site(1, 1, (made * 64, made), **facts)
            writer.write_snapshot(fixtures.snapshot(number + 1.0, [site]))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        paths = Paths(recording)
        return find(recording, add_paths(site_table(recording), paths), paths, watched_span(recording))


def test_find_leak_behind_a_cache_that_fills_at_the_same_place_is_a_suspect(tmp_path: Path) -> None:
    def filled_and_leaks(number: int) -> tuple[int, int]:
        return 2000 * min(number + 1, 4) + 40 * (number + 1), 0

    def filled(number: int) -> tuple[int, int]:
        return 2000 * min(number + 1, 4), 0

    (suspect,) = _found(tmp_path, [(("load_page",), filled_and_leaks)]).suspects
    assert suspect.name == "load_page"
    assert suspect.growth.slope_bytes_per_s == pytest.approx(40 * 64, rel=0.1)
    (tmp_path / "a.nlk").unlink()
    found = _found(tmp_path, [(("load_page",), filled)])
    assert found.suspects == ()
    assert [each.growth.verdict for each in found.others] == [Verdict.LEVELLING_OFF]


def _found_arenas(tmp_path: Path, fillers: dict[str, Course]) -> Findings:
    """The findings where a Python maps arenas of 1 MiB, each function at its own times."""

    def write(writer: RecordingWriter) -> None:
        for key, name in enumerate(fillers, 1):
            names = ("_PyMem_ArenaAlloc", "PyObject_Malloc", name, "_PyEval_EvalFrameDefault", "main")
            frames = [fixtures.native(each, "libpython3.11.so.1.0") for each in names]
            writer.add_stacks([Stack(key, (fixtures.native("mmap"), *frames))])
        for number in range(N_SNAPSHOTS):
            sites = []
            for key, course in enumerate(fillers.values(), 1):
                n = course(number)[0]
                sites.append(fixtures.map_site(1, key, (n << 20, n), resident_bytes=n << 20))
            writer.write_snapshot(fixtures.snapshot(number + 1.0, sites))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        paths = Paths(recording)
        return find(recording, add_paths(site_table(recording), paths), paths, watched_span(recording))


def test_find_chunks_of_one_pool_are_one_finding_whoever_took_them(tmp_path: Path) -> None:
    fillers = ("new_keys_object", "PyUnicode_New", "PyLong_FromLong")

    def turn(i: int) -> Course:
        return lambda number: (1 + (number + 2 - i) // 3, 0)

    found = _found_arenas(tmp_path, {name: turn(i) for i, name in enumerate(fillers)})
    (pool,) = found.suspects
    assert (pool.kind, pool.name, pool.called_by) == ("pool", "Python's small objects", None)
    assert sorted(pool.fillers) == sorted(fillers)
    assert pool.outstanding_count == N_SNAPSHOTS + 2
    assert found.others == ()


def test_find_churn_is_no_suspect_and_is_told(tmp_path: Path) -> None:
    found = _found(tmp_path, [(("serve",), churn), (("Sessions::open",), leak())])
    assert [each.name for each in found.suspects] == ["Sessions::open"]
    assert [(each.name, each.outstanding_bytes) for each in found.others] == [("serve", 0)]
    assert found.others[0].allocated_bytes == 100 * 64 * N_SNAPSHOTS


def test_find_stacks_and_structures_of_threads_are_one_suspect_that_counts_threads(tmp_path: Path) -> None:
    def write(writer: RecordingWriter) -> None:
        for key, leaf in ((1, "mmap"), (2, "calloc")):
            names = (leaf, "pthread_create", "open_session", "main")
            modules = ("libc.so.6", "libc.so.6", "app", "app")
            frames = [fixtures.native(name, "app") for name, module in zip(names, modules, strict=True)]
            writer.add_stacks([Stack(key, tuple(frames))])
        for number in range(N_SNAPSHOTS):
            n = 2 * (number + 1)
            sites = [
                fixtures.map_site(1, 1, (n << 20, n), resident_bytes=n << 16),
                _site(2, leak(2), number, 320),
            ]
            writer.write_snapshot(fixtures.snapshot(number + 1.0, sites, slice_s=N_SNAPSHOTS / 16))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        paths = Paths(recording)
        found = find(recording, add_paths(site_table(recording), paths), paths, watched_span(recording))
    (threads,) = found.suspects
    n_threads = 2 * N_SNAPSHOTS
    assert (threads.name, threads.kind, threads.outstanding_count) == ("open_session", "threads", n_threads)
    assert threads.resident_bytes == (n_threads << 16) + n_threads * 320
    assert threads.outstanding_bytes == (n_threads << 20) + n_threads * 320


JVM = "libjvm.so"
DEFINED = ("Metaspace::allocate", "ClassFileParser::parse_stream", "JVM_DefineClassWithSource")
PROFILE = ("Metaspace::allocate", "MethodData::allocate", "CompileBroker::compiler_thread_loop")
LINKED = ("Metaspace::allocate", "Rewriter::rewrite", "InstanceKlass::link_class_impl")
DEFINE_CLASS = "java.lang.ClassLoader.defineClass"


def _of_jvm(
    tmp_path: Path,
    rows: Sequence[tuple[Sequence[str], Sequence[str], Sequence[float]]],
    windows: Sequence[Window] = (),
    blocks: int = 0,
) -> Findings:
    """The findings in a JVM.

    Args:
        tmp_path: Where the recording goes.
        rows: Functions of libjvm that lead to mmap, Java methods above them, mappings of 64 KiB at each snapshot.
        windows: When the heap was watched.
        blocks: Bytes that malloc gives at each snapshot to the first row's functions too.
    """

    def frames(leaf: str, row: tuple[Sequence[str], Sequence[str], Sequence[float]]) -> tuple[Frame, ...]:
        below = [fixtures.native(name, JVM) for name in row[0]]
        return (fixtures.native(leaf), *below, *map(fixtures.java, row[1]), fixtures.native("start_thread"))

    def write(writer: RecordingWriter) -> None:
        writer.add_stacks([Stack(key, frames("mmap", row)) for key, row in enumerate(rows, 1)])
        writer.add_stacks([Stack(99, frames("malloc", rows[0]))])
        for number in range(N_SNAPSHOTS):
            held = [(int(row[2][number] * 65536), int(row[2][number])) for row in rows]
            sites = [fixtures.map_site(1, key, sums, resident_bytes=sums[0]) for key, sums in enumerate(held, 1)]
            if blocks:
                sites.append(fixtures.heap_site(1, 99, (blocks * (number + 1), 10 * (number + 1))))
            seen = {"windows": tuple(windows)} if windows else {}
            writer.write_snapshot(fixtures.snapshot(number + 1.0, sites, rss_bytes=256 << 20, **seen))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        paths = Paths(recording)
        return find(recording, add_paths(site_table(recording), paths), paths, watched_span(recording))


STEADILY = [float(2 * number) for number in range(1, N_SNAPSHOTS + 1)]
BUILT_IN = (DEFINE_CLASS, "jdk.internal.loader.BuiltinClassLoader.loadClass", "app.Main.start")


def test_find_memory_of_the_jvm_for_code_that_is_loaded_is_bounded_and_no_suspect(tmp_path: Path) -> None:
    rows = [(PROFILE, (), STEADILY), (LINKED, ("app.Main.start",), STEADILY), (DEFINED, BUILT_IN, STEADILY)]
    found = _of_jvm(tmp_path, rows)
    assert found.suspects == ()
    assert {(each.name, each.kind, each.bounded_by) for each in found.others} == {
        (name, "jvm", "bounded by the code that is loaded")
        for name in ("method profiles", "linking of code", "classes of the class path")
    }


def test_find_classes_that_leak_are_one_suspect_with_their_loader_and_links_and_the_jvm_follows(
    tmp_path: Path,
) -> None:
    deploy = ("app.Apps.deploy", "app.Main.start")
    rows = [
        (DEFINED, (DEFINE_CLASS, "app.AppLoader.define", *deploy), STEADILY),
        (LINKED, deploy, STEADILY),
        (PROFILE, (), STEADILY),
    ]
    found = _of_jvm(tmp_path, rows)
    (leak_,) = found.suspects
    assert {leak_.name, leak_.called_by} <= {"AppLoader.define", "Apps.deploy", None}
    assert leak_.outstanding_bytes == 2 * 65536 * STEADILY[-1]
    assert [(each.name, each.bounded_by) for each in found.others] == [("method profiles", "for the classes that leak")]


def test_find_loader_of_the_program_is_named_with_its_caller(tmp_path: Path) -> None:
    rows = [(DEFINED, (DEFINE_CLASS, "app.AppLoader.define", "app.Apps.deploy", "app.Main.start"), STEADILY)]
    found = _of_jvm(tmp_path, rows)
    assert _names(found.suspects) == [("AppLoader.define", "Apps.deploy")]


def test_find_mappings_are_judged_over_the_whole_trace_though_the_heap_was_watched_at_first(tmp_path: Path) -> None:
    filled = [min(number, 12) * 2.0 for number in range(1, N_SNAPSHOTS + 1)]
    rows = [(DEFINED, (DEFINE_CLASS, "app.AppLoader.define", "app.Apps.deploy"), filled)]
    windows = (Window(0.0, 12.0, Level.EXACT), Window(12.0, 20.0, Level.SYSCALLS))
    found = _of_jvm(tmp_path, rows, windows)
    assert found.suspects == ()
    assert found.others[0].growth.verdict is Verdict.LEVELLING_OFF
    (tmp_path / "a.nlk").unlink()
    goes_on = _of_jvm(tmp_path, [(*rows[0][:2], STEADILY)], windows, blocks=10_000)
    (leak_,) = goes_on.suspects
    assert leak_.growth.slope_bytes_per_s == pytest.approx(2 * 65536 + 10_000)


def test_find_little_memory_of_the_jvm_is_no_suspect(tmp_path: Path) -> None:
    little = [number / 2 for number in range(1, N_SNAPSHOTS + 1)]
    found = _of_jvm(tmp_path, [(("JvmtiTagMap::add",), (), little)])
    assert [(each.name, each.growth.verdict, each.is_minor) for each in found.others] == [
        ("JVMTI and management", Verdict.GROWING, True)
    ]
    assert found.suspects == ()
    (tmp_path / "a.nlk").unlink()
    found = _of_jvm(tmp_path, [(("JvmtiTagMap::add",), (), STEADILY)])
    assert [(each.name, each.kind) for each in found.suspects] == [("JVMTI and management", "jvm")]


def test_find_sites_whose_stacks_were_lost_are_not_decided(tmp_path: Path) -> None:
    """They may be of many causes."""

    def write(writer: RecordingWriter) -> None:
        for number in range(N_SNAPSHOTS):
            writer.write_snapshot(fixtures.snapshot(number + 1.0, [_site(7, leak(), number, 64)]))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        paths = Paths(recording)
        found = find(recording, add_paths(site_table(recording), paths), paths, watched_span(recording))
    assert found.suspects == ()
    assert [(each.name, each.growth.verdict) for each in found.others] == [("[stack lost]", Verdict.UNDECIDED)]
