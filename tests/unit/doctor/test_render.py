"""The doctor's two forms of output."""

from __future__ import annotations

import json

from nativeleak.doctor.checks import Check, State
from nativeleak.doctor.render import render_coloured, render_json, render_text
from unit.doctor.examples import FAIL, OK, WARN


def test_render_text_has_a_line_a_check_and_the_verdict_last():
    assert render_text([OK, WARN, FAIL]) == (
        "ok    kernel     Linux 6.18\n"
        "warn  symbols x  only names in .dynsym\n"
        "                 install its debug symbols\n"
        "FAIL  rights     user 7 without CAP_BPF\n"
        "                 run as root\n"
        "trace cannot work here: rights\n"
    )


def test_render_text_name_with_control_characters_is_escaped():
    text = render_text([Check("target", State.OK, "PID 7 (\x1b[31mevil\n)")])
    assert text == "ok    target  PID 7 (\\x1b[31mevil\\x0a)\ntrace will work\n"


def test_render_coloured_says_the_same_as_text():
    checks = [OK, WARN, FAIL]
    assert render_coloured(checks).plain + "\n" == render_text(checks)


def test_render_json_holds_every_check():
    document = json.loads(render_json([OK, FAIL], 4711))
    assert document["schema"] == "nativeleak.doctor/1"
    assert (document["pid"], document["verdict"]) == (4711, "impossible")
    assert document["checks"] == [
        {"name": "kernel", "state": "ok", "detail": "Linux 6.18", "remedy": None},
        {"name": "rights", "state": "fail", "detail": "user 7 without CAP_BPF", "remedy": "run as root"},
    ]
