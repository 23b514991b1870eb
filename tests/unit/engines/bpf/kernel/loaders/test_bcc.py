"""What BCC's loader does itself: maps as the object for libbpf has them, and their descriptors in instructions."""

from __future__ import annotations

import ctypes
import os
import struct

import pytest

from nativeleak.engines.bpf.kernel.loaders.bcc import SHAPES, source_path, with_descriptors
from nativeleak.engines.bpf.kernel.loaders.libbpf import Libbpf, object_path


@pytest.fixture(scope="module")
def prebuilt():
    """Map of the object for libbpf -> (kind, bytes of key and value, flags)."""
    lib = Libbpf().lib
    for name in ("type", "key_size", "value_size", "map_flags"):
        function = getattr(lib, f"bpf_map__{name}")
        function.restype, function.argtypes = ctypes.c_uint32, (ctypes.c_void_p,)
    bpf_object = lib.bpf_object__open_file(os.fsencode(object_path()), None)
    found = {}
    for name in SHAPES:
        bpf_map = lib.bpf_object__find_map_by_name(bpf_object, name.encode())
        found[name] = tuple(
            getattr(lib, f"bpf_map__{what}")(bpf_map) for what in ("type", "key_size", "value_size", "map_flags")
        )
    yield found
    lib.bpf_object__close(bpf_object)


@pytest.mark.parametrize("name", SHAPES)
def test_map_of_bcc_is_as_that_of_libbpf(name, prebuilt):
    shape = SHAPES[name]
    assert (shape.kind, shape.key_bytes, shape.value_bytes, shape.flags) == prebuilt[name]


def test_with_descriptors_replaces_numbers_of_maps_and_nothing_else():
    load_map = struct.pack("<BBhi", 0x18, 0x11, 0, 71) + bytes(8)
    load_number = struct.pack("<BBhi", 0x18, 0x01, 0, 71) + bytes(8)
    add = struct.pack("<BBhi", 0x07, 0x11, 0, 71)
    patched = with_descriptors(load_map + load_number + add, {71: 13})
    assert patched == struct.pack("<BBhi", 0x18, 0x11, 0, 13) + bytes(8) + load_number + add


def test_source_path_of_a_checkout_is_its_own():
    assert source_path().name == "bcc.bpf.c"
    assert (source_path().parent / "alloc.bpf.c").is_file()
