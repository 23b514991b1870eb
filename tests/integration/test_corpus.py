"""The labelled corpus: every leak is a suspect, one row each, and nothing else is.

Three programs run always, at twice their pace; ``NATIVELEAK_TEST_LONG=1`` runs the whole open half. Figures of both
halves: ``benchmarks/accuracy.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from corpus.labels import PROGRAMS, Program
from corpus.programs import started, trace
from corpus.score import Score, score
from support import IS_LONG, require_program
from targets import build

SAMPLE = ("c:two_behind_one", "c++:lru_list", "java:deployments")
OPEN = {program.name: program for program in PROGRAMS if program.half == "open"}
CHOSEN = {
    **(OPEN if IS_LONG else {}),
    **{f"{name} fast": replace(OPEN[name], pace=0.5) for name in SAMPLE},
}
COMPILERS = {"C": "gcc", "C++": "g++", "Java": "javac", "Rust": "rustc", "Python": "gcc"}


def traced(program: Program, folder: Path) -> Score:
    require_program(COMPILERS[program.language])
    with started(program) as running:
        report = trace(running.process.pid, program.window * program.pace, folder / "trace.nlk")
    return score(report["suspects"], program)


@pytest.fixture(scope="module")
def scores(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Score]]]:
    """Program -> what its trace said, two at a time: all that are selected."""
    items = [item for item in request.session.items if hasattr(item, "callspec")]
    names = [name for item in items if (name := item.callspec.params.get("program")) in CHOSEN]
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(traced, CHOSEN[name], tmp_path_factory.mktemp("corpus")) for name in names}


@pytest.mark.parametrize("program", CHOSEN)
def test_corpus_suspects_are_the_leaks_and_nothing_else(program: str, scores: dict[str, Future[Score]]):
    said = scores[program].result()
    assert [said.missed, [wrong["name"] for wrong in said.wrong], [twice["name"] for twice in said.twice]] == [
        [],
        [],
        [],
    ]
    assert {leak[0] for leak in CHOSEN[program].leaks} == set(said.found)


def test_corpus_held_half_compiles():
    """A change of what the halves share cannot break the half that nobody runs."""
    require_program("gcc", "javac")
    for name in ("corpus_c_held", "corpus_java_held"):
        build.build_target(name)
