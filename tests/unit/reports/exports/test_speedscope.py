"""Profiles for speedscope, by the rules of its schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import recording_fixtures as fixtures
from nativeleak.analysis.select import Metric
from nativeleak.recording import Recording, open_recording
from rendering import render_selected

MIB = fixtures.MIB


def _read(recording: Recording, **selection: Any) -> dict[str, Any]:
    """The file, with what speedscope's schema asks of it."""
    file: dict[str, Any] = json.loads(render_selected(recording, "speedscope", **selection))
    assert file["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    for frame in file["shared"]["frames"]:
        assert isinstance(frame["name"], str)
        assert frame.keys() <= {"name", "file", "line", "col"}
    for profile in file["profiles"]:
        assert profile.keys() == {"type", "name", "unit", "startValue", "endValue", "samples", "weights"}
        assert profile["type"] == "sampled"
        assert profile["unit"] in ("bytes", "none")
        assert len(profile["samples"]) == len(profile["weights"])
        assert sum(profile["weights"]) == profile["endValue"]
        assert {index for sample in profile["samples"] for index in sample} <= set(range(len(file["shared"]["frames"])))
    return file


def test_profiles_have_the_sums_of_the_report(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        file = _read(recording)
    heap = 38 * 16 * MIB + 3 * MIB + 1009
    assert {profile["name"]: profile["endValue"] for profile in file["profiles"]} == {
        "in use": heap + 192 * MIB + 132 * 1024,
        "blocks in use": 38 + 3072 + 1 + 4,
        "growth a minute": 48 * MIB,
        "allocated": heap + MIB + 7 * MIB + 11 * 4096 + 192 * MIB + 132 * 1024,
        "resident part of mappings": 96 * MIB + 132 * 1024,
    }
    names = [file["shared"]["frames"][index]["name"] for index in file["profiles"][0]["samples"][0]]
    assert (names[0], names[1], names[-1], len(names)) == ("[nioEventLoop-1-1]", "start_thread", "malloc", 27)


@pytest.mark.parametrize(("metric", "name"), [(Metric.OUTSTANDING, "in use"), (Metric.GROWTH, "growth a minute")])
def test_metric_is_the_profile_shown_first(tmp_path: Path, metric: Metric, name: str) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        file = _read(recording, metric=metric)
    assert file["profiles"][file["activeProfileIndex"]]["name"] == name
