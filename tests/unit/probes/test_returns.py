"""How the end of each function of a library is seen, and what is kept of it on disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nativeleak.probes.cache import PlacementCache
from nativeleak.probes.emulation import CONSERVATIVE
from nativeleak.probes.placement import PlacedProbe, place
from nativeleak.probes.returns import Plan, Returns, plan_returns
from nativeleak.probes.search import find_allocators
from support import require


def library(name: str) -> str:
    found = sorted(Path("/lib").glob(f"x86_64-linux-gnu/{name}"))
    require(found, f"{name} is not installed")
    return str(found[0])


def placed_in(path: str) -> list[PlacedProbe]:
    points = find_allocators(path).points
    return place(path, points, CONSERVATIVE)


@pytest.mark.parametrize("returns", [Returns.AUTO, Returns.PROBES])
def test_plan_c_library_is_seen_by_return_probes_alone(returns: Returns) -> None:
    path = library("libc.so.6")
    placed = placed_in(path)
    plan = plan_returns(path, placed, returns, CONSERVATIVE)
    assert (plan.placed, plan.at_exits, plan.unseen) == (tuple(placed), (), ())


def test_plan_functions_are_those_that_were_asked_for_whichever_way() -> None:
    path = library("libjemalloc.so.2")
    placed = placed_in(path)
    for returns in Returns:
        plan = plan_returns(path, placed, returns, CONSERVATIVE)
        assert sorted(plan.functions) == sorted(placed)


def test_plan_jump_to_another_operator_has_the_exits_of_that_one() -> None:
    path = library("libjemalloc.so.2")
    plan = plan_returns(path, placed_in(path), Returns.AUTO, CONSERVATIVE)
    exits = {each.probe.point.function: set(each.exits) for each in plan.at_exits}
    assert exits["_Znam"] == exits["_Znwm"] != set()


@pytest.mark.parametrize("returns", list(Returns))
def test_plan_only_some_functions_keep_their_way(returns: Returns) -> None:
    path = library("libjemalloc.so.2")
    plan = plan_returns(path, placed_in(path), returns, CONSERVATIVE)
    some = plan.only(("free", "malloc", "_Znwm"))
    assert {probe.point.function for probe in some.functions} == {"free", "malloc", "_Znwm"}
    assert set(some.at_exits) == {e for e in plan.at_exits if e.probe.point.function in ("malloc", "_Znwm")}
    assert plan.only(()) == Plan()


def test_plan_is_kept_by_build_id_and_thrown_away_with_the_file(tmp_path: Path) -> None:
    path = shutil.copy(library("libtcmalloc_minimal.so.4"), tmp_path / "liballoc.so")
    cache, placed = PlacementCache(tmp_path), placed_in(str(path))
    first = plan_returns(str(path), placed, Returns.AUTO, CONSERVATIVE, cache)
    kept = (tmp_path / "placements.json").read_text()
    assert plan_returns(str(path), placed, Returns.AUTO, CONSERVATIVE, cache) == first
    assert (tmp_path / "placements.json").read_text() == kept
    # Another file of the same build id: patched, or longer.
    with Path(path).open("ab") as file:
        file.write(b"\0")
    assert plan_returns(str(path), placed, Returns.AUTO, CONSERVATIVE, cache) == first
    assert len((tmp_path / "placements.json").read_text()) > len(kept)


@pytest.mark.parametrize("row", ["null", "[1]", '["", false, false, [], [[1, 99, 0, null, true, true, "ret"]]]'])
def test_plan_damaged_rows_are_worked_out_anew(tmp_path: Path, row: str) -> None:
    path = library("libtcmalloc_minimal.so.4")
    cache, placed = PlacementCache(tmp_path), placed_in(path)
    first = plan_returns(path, placed, Returns.AUTO, CONSERVATIVE, cache)
    file = tmp_path / "placements.json"
    text = file.read_text()
    start = text.index(":[") + 1
    file.write_text(f"{text[:start]}[{row}]}}}}")
    assert plan_returns(path, placed, Returns.AUTO, CONSERVATIVE, cache) == first


@pytest.mark.parametrize("name", ["libc.so.6", "libjemalloc.so.2", "libtcmalloc_minimal.so.4", "libmimalloc.so.2.0"])
def test_plan_functions_of_a_well_known_library_are_known(name: str) -> None:
    assert {point.is_known for point in find_allocators(library(name)).points} == {True}


def test_plan_other_allocator_is_seen_at_its_exits_by_default_and_by_return_probes_on_demand() -> None:
    found = sorted(Path("/lib").glob("x86_64-linux-gnu/liblsan.so.*"))
    require(found, "liblsan.so is not installed")
    placed = placed_in(str(found[0]))
    default = plan_returns(str(found[0]), placed, Returns.AUTO, CONSERVATIVE)
    assert {probe.point.spec.frees for probe in default.placed} == {True}
    assert {"malloc", "calloc", "realloc"} <= {each.probe.point.function for each in default.at_exits}
    assert default.unproved == ()
    on_demand = plan_returns(str(found[0]), placed, Returns.PROBES, CONSERVATIVE)
    assert "malloc" in {probe.point.function for probe in on_demand.placed}
