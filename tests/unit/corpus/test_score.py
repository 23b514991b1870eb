"""The score of the corpus: a function counts by its whole name, a second row for one leak does not."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from corpus.labels import PROGRAMS, Program
from corpus.programs import HERE, TARGETS, Truth, parse_truth, rates
from corpus.score import is_named, score, wilson
from targets import build

PROGRAM = Program("C", "made_up", "open", (("config_reload",), ("feed_poll",)), "two leaks")


def suspect(name: str, called_by: str | None = None) -> dict[str, str | None]:
    return {"name": name, "called_by": called_by}


@pytest.mark.parametrize(
    ("name", "label", "named"),
    [
        ("session_open", "session_open", True),
        ("my_session_open", "session_open", False),
        ("(anonymous namespace)::OrderBook::remember", "OrderBook::remember", True),
        ("Open$OrderIndex.retain", "OrderIndex.retain", True),
        ("Open$OrderIndex.retained", "OrderIndex.retain", False),
        (None, "session_open", False),
    ],
)
def test_is_named_name_in_a_namespace_is_the_function(name, label, named):
    assert is_named(name, label) is named


def test_score_name_or_caller_counts_and_the_rest_is_wrong():
    said = score([suspect("xml_node_new", "feed_poll"), suspect("config_reload"), suspect("page_render")], PROGRAM)
    assert set(said.found) == {"config_reload", "feed_poll"}
    assert [wrong["name"] for wrong in said.wrong] == ["page_render"]
    assert said.missed == said.twice == []


def test_score_second_row_of_a_leak_is_wrong_and_the_other_leak_missed():
    said = score([suspect("feed_poll"), suspect("malloc", "feed_poll")], PROGRAM)
    assert [twice["called_by"] for twice in said.twice] == ["feed_poll"]
    assert said.missed == ["config_reload"]


def test_wilson_known_values_agree():
    # Source: the example of Newcombe, Statistics in Medicine 17 (1998), 857-872: 81 of 263, 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


def test_truth_line_gives_rates_between_two_moments():
    first, last = parse_truth("T 1000 f=100/1 A::g=7/1\n"), parse_truth("T 3000 f=500/5 A::g=7/1 late=8/2\n")
    assert first == Truth(1.0, {"f": (100, 1), "A::g": (7, 1)})
    assert last is not None
    assert rates([first, last], 0.5, 3.5) == {"f": 200.0, "A::g": 0.0, "late": 4.0}
    assert rates([first, last], 0.5, 2.5) == {}
    assert parse_truth("READY 12") is None


def test_labels_each_scenario_is_in_its_program_and_prints_its_leaks():
    sources = {
        name: (build.HERE / build.TARGETS[name].source).read_text()
        for name in {f"{TARGETS[program.language]}_{program.half}" for program in PROGRAMS}
    }
    service = (HERE / "service.py").read_text()
    for program in PROGRAMS:
        text = sources[f"{TARGETS[program.language]}_{program.half}"]
        text = service if program.language == "Python" else text
        assert f'"{program.scenario}"' in text, program.name
        for leak in program.leaks:
            assert re.search(rf'keep\("{re.escape(leak[0])}"', text), (program.name, leak)


def test_labels_corpus_is_as_large_and_as_mixed_as_it_must_be():
    assert len({program.name for program in PROGRAMS}) == len(PROGRAMS) >= 40
    assert min(Counter(program.half for program in PROGRAMS).values()) >= 20
    for half in ("open", "held"):
        of_half = [program for program in PROGRAMS if program.half == half]
        assert {program.language for program in of_half} == set(TARGETS)
        assert sum(not program.leaks for program in of_half) >= 10
