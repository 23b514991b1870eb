"""Which runtime a process has, and what is said where it cannot be read."""

from __future__ import annotations

import dataclasses
import os

from nativeleak.model import FrameKind, RuntimeInfo
from nativeleak.process.procfs import MapEntry
from nativeleak.runtimes.hotspot.spec import HOTSPOT
from nativeleak.runtimes.registry import RUNTIMES, find_runtime, identify, jit_kind, open_runtime, spec_of
from unit.runtimes import made_up

BOTH = (*RUNTIMES, made_up.SPEC)


def mapped(path, inode=77):
    return MapEntry(0x10000, 0x11000, "r-xp", 0, "fd:01", inode, path, False)


def test_find_runtime_is_told_by_the_mapped_library():
    jvm, other = mapped("/opt/jdk/lib/server/libjvm.so"), mapped(f"/opt/{made_up.LIBRARY}")
    assert find_runtime([mapped("/usr/bin/app"), jvm]) is HOTSPOT
    assert find_runtime([mapped("/usr/bin/app"), other]) is None
    assert find_runtime([mapped("/usr/bin/app"), other], BOTH) is made_up.SPEC
    assert find_runtime([other, jvm], BOTH) is HOTSPOT
    assert find_runtime([mapped("/opt/libjvm.so", inode=0), mapped("/opt/libjvm.so.1")], BOTH) is None


def test_identify_gives_name_and_version():
    assert identify(os.getpid(), [mapped(f"/opt/{made_up.LIBRARY}")], BOTH) == RuntimeInfo("made-up", "1009")
    assert identify(os.getpid(), [mapped("/nowhere/libjvm.so")], BOTH) == RuntimeInfo("hotspot", "unknown")
    assert identify(os.getpid(), [], BOTH) is None


def test_spec_of_a_runtime_that_is_not_known_here_is_none():
    assert spec_of(RuntimeInfo("made-up", "1009")) is None
    assert spec_of(RuntimeInfo("made-up", "1009"), BOTH) is made_up.SPEC
    assert spec_of(None, BOTH) is None


def test_open_runtime_says_what_cannot_be_shown():
    runtime, why = open_runtime(os.getpid(), made_up.SPEC)
    assert isinstance(runtime, made_up.MadeUp)
    assert why == "half of it is made up"


def test_open_runtime_that_cannot_be_read_says_why():
    runtime, why = open_runtime(7, dataclasses.replace(made_up.SPEC, open=made_up.refuse))
    assert runtime is None
    assert why == "reading the made-up runtime of PID 7 failed: it is not that mad"
    runtime, why = open_runtime(os.getpid(), HOTSPOT)
    assert runtime is None
    assert why.endswith("no libjvm.so is mapped")


def test_jit_kind_is_the_runtimes():
    assert jit_kind([mapped("/opt/libjvm.so")]) is FrameKind.JAVA_COMPILED
    assert jit_kind([mapped("/usr/bin/node")]) is FrameKind.NATIVE


def test_names_and_config_maps_of_all_runtimes_differ():
    assert len({spec.name for spec in BOTH}) == len({spec.config_map for spec in BOTH}) == len(BOTH)
