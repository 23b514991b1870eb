"""A JVM's description of itself, handmade, incomplete and damaged."""

from __future__ import annotations

import contextlib
import struct

import pytest

from nativeleak.runtimes.hotspot.memory import Memory, UnreadableError
from nativeleak.runtimes.hotspot.vmstructs import EXPORTS, VmStructs
from unit.runtimes.hotspot.fakes import Noise, Space, describe

FIELDS = {"Method::_constMethod": 8, "nmethod::_method": 80, "Odd::_far": 1 << 40}


@pytest.fixture
def space():
    return Space()


@pytest.fixture
def exports(space):
    return describe(
        space,
        FIELDS,
        statics={"CodeCache::_heaps": 0x1234, "CodeCache::_none": 0},
        sizes={"nmethod": 224, "Abstract": 0},
        constants={"frame::entry_frame_call_wrapper_offset": -6},
        types={"nmethod::_method": "Method*"},
    )


def test_vmstructs_gives_what_is_described(space, exports):
    structs = VmStructs(Memory(space), exports.get)
    assert set(exports) == set(EXPORTS)
    assert structs.field("Method::_constMethod") == 8
    assert structs.field("CompiledMethod::_method", "nmethod::_method") == 80
    assert structs.type_of("nmethod::_method") == "Method*"
    assert structs.static("CodeCache::_none", "CodeCache::_heaps") == 0x1234
    assert structs.size("nmethod") == 224
    assert structs.constant("frame::entry_frame_call_wrapper_offset") == -6
    assert len(structs) == 5


def test_vmstructs_missing_is_none(space, exports):
    structs = VmStructs(Memory(space), exports.get)
    assert structs.field("Method::_gone", "nmethod::_gone") is None
    assert structs.field("CodeCache::_heaps") is None
    assert structs.field("Odd::_far") is None
    assert structs.static("CodeCache::_none") is None
    assert (structs.size("Abstract"), structs.size("Gone"), structs.constant("Gone")) == (None, None, None)
    assert structs.type_of("Gone::_field") == ""


@pytest.mark.parametrize("name", EXPORTS)
def test_vmstructs_without_an_export_is_refused(space, exports, name):
    del exports[name]
    with pytest.raises(UnreadableError, match=name):
        VmStructs(Memory(space), exports.get)


@pytest.mark.parametrize("stride", [0, 8, 1 << 20])
def test_vmstructs_impossible_stride_is_refused(space, exports, stride):
    space.write(exports["gHotSpotVMStructEntryArrayStride"], struct.pack("<Q", stride))
    with pytest.raises(UnreadableError):
        VmStructs(Memory(space), exports.get)


def test_vmstructs_of_a_jvm_that_has_not_begun_is_refused(space, exports):
    with pytest.raises(UnreadableError, match="empty"):
        VmStructs(Memory(space), describe(space).get)


@pytest.mark.parametrize("seed", range(50))
def test_vmstructs_of_random_memory_is_refused_or_ends(seed):
    noise = Noise(seed, share_unreadable=0.001)
    with contextlib.suppress(UnreadableError):
        VmStructs(Memory(noise), dict.fromkeys(EXPORTS, 4096).get)
    assert noise.n_reads < 500_000
