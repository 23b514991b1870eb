"""Every sample of files that people have at hand gives the values that stand beside it, or is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nativeleak.cli.main import run
from nativeleak.inputs.registry import as_json, read_inputs

FILES = Path(__file__).parents[2] / "data/files"
SAMPLES = sorted(path.relative_to(FILES).as_posix() for path in FILES.glob("*/*.json"))


def load(name):
    """(facts, files) of a sample."""
    facts = json.loads((FILES / name).read_text())
    files = facts["file"] if isinstance(facts["file"], list) else [facts["file"]]
    return facts, [(FILES / name).parent / file for file in files]


def differences(wanted, found, place=""):
    """Where what was found is not what is wanted; keys beyond those wanted are free."""
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            return [(place, wanted, found)]
        return [
            d for key, value in wanted.items() for d in differences(value, found.get(key, "MISSING"), f"{place}/{key}")
        ]
    if isinstance(wanted, list):
        if not isinstance(found, list) or len(wanted) != len(found):
            return [(place, wanted, found)]
        pairs = enumerate(zip(wanted, found, strict=True))
        return [d for i, (one, other) in pairs for d in differences(one, other, f"{place}[{i}]")]
    if isinstance(wanted, float) and isinstance(found, (int, float)):
        return [] if abs(wanted - found) < 0.01 else [(place, wanted, found)]
    return [] if wanted == found else [(place, wanted, found)]


def test_all_samples_are_here():
    assert len(SAMPLES) == 86


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_gives_the_values_beside_it(name):
    facts, files = load(name)
    inputs = as_json(read_inputs(files))["inputs"]
    expect = facts["expect"]
    if expect.get("refuse"):
        (only,) = inputs
        assert (only["kind"], only["is"].removeprefix("output of ")) == (None, expect["is_"])
        assert only["use"]
        return
    first = inputs[0]
    assert first["kind"] == name.partition("/")[0]
    assert differences(expect, first["values"]) == []
    assert first["unread_lines"] == 0, first["first_unread"]


@pytest.mark.parametrize("name", [name for name in SAMPLES if not name.startswith("strace/not")])
def test_sample_is_told_in_text_without_control_characters(name, capsys):
    _, files = load(name)
    assert run(["triage", "--input", *map(str, files)]) == 0
    out = capsys.readouterr().out
    assert str(files[0]) in out
    assert out.replace("\n", "").isprintable()
