"""What BCC's loader does itself: maps as the object for libbpf declares them, and their descriptors in instructions."""

from __future__ import annotations

import ctypes
import os
import struct

import pytest

from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.loaders.bcc import map_names, read_shapes, source_path, with_descriptors
from nativeleak.engines.bpf.kernel.loaders.libbpf import BpfObject, Libbpf, object_path
from nativeleak.runtimes.hotspot.walker import Java

ARRAY, HASH, PERCPU_ARRAY, RINGBUF = 2, 1, 6, 27
ALLOCATED_ON_USE = 1
SITE_BYTES = ctypes.sizeof(abi.Site)
BLOCK_BYTES = ctypes.sizeof(abi.Live)
SHAPES = {
    "targets": (ARRAY, 4, ctypes.sizeof(abi.Target), 0),
    "windows": (ARRAY, 4, 4, 0),
    "slots": (HASH, 4, 4, 0),
    "live_cache_keys": (ARRAY, 4, 8, 0),
    "live_cache": (ARRAY, 4, BLOCK_BYTES, 0),
    "live_overflow": (ARRAY, 4, 4, 0),
    "live": (HASH, 8, BLOCK_BYTES, ALLOCATED_ON_USE),
    "site_cache_used": (ARRAY, 4, 8, 0),
    "site_cache_keys": (ARRAY, 4, ctypes.sizeof(abi.SiteKeyStruct), 0),
    "site_cache": (ARRAY, 4, SITE_BYTES, 0),
    "sites": (HASH, ctypes.sizeof(abi.SiteKeyStruct), SITE_BYTES, ALLOCATED_ON_USE),
    "thread_cache": (ARRAY, 4, abi.THREAD_BYTES, 0),
    "threads": (HASH, 4, abi.THREAD_BYTES, ALLOCATED_ON_USE),
    "counters": (PERCPU_ARRAY, 4, 8, 0),
    "events": (RINGBUF, 0, 0, 0),
    "stacks": (HASH, 8, ctypes.sizeof(abi.StackStruct), ALLOCATED_ON_USE),
    "stack_frames": (HASH, 16, abi.CHUNK_FRAMES * abi.FRAME_BYTES, ALLOCATED_ON_USE),
    "known_stacks": (HASH, 8, 4, ALLOCATED_ON_USE),
    "mappings": (ARRAY, 4, ctypes.sizeof(abi.Mappings), 0),
    "javas": (ARRAY, 4, ctypes.sizeof(Java), 0),
    "tables": (ARRAY, 4, 4, 0),
}
"""Maps that user space reads or writes: kind, bytes of key and value, flags."""


@pytest.fixture(scope="module")
def shapes():
    return read_shapes(Libbpf())


@pytest.mark.parametrize("name", SHAPES)
def test_map_of_bcc_is_as_user_space_takes_it(name, shapes):
    shape = shapes[name]
    assert (shape.kind, shape.key_bytes, shape.value_bytes, shape.flags) == SHAPES[name]


def test_maps_of_bcc_are_those_of_the_object_but_for_its_constants(shapes):
    lib, found, at = Libbpf().lib, set(), None
    bpf_object = lib.bpf_object__open_file(os.fsencode(object_path()), None)
    while at := lib.bpf_object__next_map(bpf_object, at):
        found.add(lib.bpf_map__name(at).decode())
    lib.bpf_object__close(bpf_object)
    assert {name for name in found if "." not in name} == set(shapes)
    assert len(set(map_names())) == len(map_names())


def test_maps_are_as_long_as_user_space_takes_them():
    with BpfObject(Libbpf(), object_path()) as prebuilt:
        assert prebuilt.map_shape("tables").n == abi.MAX_TABLES
        assert prebuilt.map_shape("counters").n == len(abi.Counter)
        assert prebuilt.map_shape("functions").n == abi.MAX_TARGETS * abi.N_FUNCTIONS
        assert prebuilt.map_shape("thread_cache").n == 1 + abi.THREAD_CACHE_SIZE
        assert prebuilt.map_shape("live_cache_keys").n == 1 + (1 << abi.LIVE_CACHE_BITS)
        assert prebuilt.map_shape("site_cache_keys").n == 1 + (1 << abi.SITE_CACHE_BITS)


def test_with_descriptors_replaces_numbers_of_maps_and_nothing_else():
    load_map = struct.pack("<BBhi", 0x18, 0x11, 0, 71) + bytes(8)
    load_number = struct.pack("<BBhi", 0x18, 0x01, 0, 71) + bytes(8)
    add = struct.pack("<BBhi", 0x07, 0x11, 0, 71)
    patched = with_descriptors(load_map + load_number + add, {71: 13})
    assert patched == struct.pack("<BBhi", 0x18, 0x11, 0, 13) + bytes(8) + load_number + add


def test_source_path_of_a_checkout_is_its_own():
    assert source_path().name == "bcc.bpf.c"
    assert (source_path().parent / "alloc.bpf.c").is_file()
