"""The walker's configuration as bytes: what the C side declares."""

from __future__ import annotations

import ctypes
import re
from dataclasses import fields, replace

from nativeleak.runtimes.base import FOUND_GAP
from nativeleak.runtimes.hotspot.layout import WalkerConfig
from nativeleak.runtimes.hotspot.spec import HOTSPOT
from nativeleak.runtimes.hotspot.walker import N_JAVA_HEAPS, Java, JavaFrame, pack
from support import ROOT

HEADER = (ROOT / "bpf" / "nativeleak.h").read_text(encoding="utf-8")


def test_java_has_the_size_that_the_header_asserts():
    match = re.search(r"sizeof\(struct nl_java\) == (\d+)", HEADER)
    assert match is not None
    assert ctypes.sizeof(Java) == HOTSPOT.config_bytes == int(match[1])


def test_java_has_the_fields_of_the_header_in_their_order():
    match = re.search(r"struct nl_java \{(.*?)\n\};", HEADER, re.DOTALL)
    assert match is not None
    declared = re.findall(r"^\t(\S.*?) (\w+)(?:\[\w+\])?;", match[1], re.MULTILINE)
    types = {"__u64": ctypes.c_uint64, "__u32": ctypes.c_uint32, "__s32": ctypes.c_int32}
    assert [name for name, _ in Java._fields_] == [name for _, name in declared]
    assert [t for name, t in Java._fields_ if name != "heaps"] == [
        types[word] for word, name in declared if name != "heaps"
    ]


def test_codes_of_frames_are_those_of_the_header():
    match = re.search(r"enum nl_found \{(.*?)\};", HEADER, re.DOTALL)
    assert match is not None
    names = re.findall(r"NL_FOUND_(\w+)(?:\s*=\s*(\d+))?", re.sub(r"/\*.*?\*/", "", match[1], flags=re.DOTALL))
    codes, code = {}, -1
    for name, value in names:
        code = int(value) if value else code + 1
        codes[name] = code
    assert {name: code for name, code in codes.items() if code >= 16} == {each.name: each.value for each in JavaFrame}
    assert codes["GAP"] == FOUND_GAP


def test_pack_carries_every_field():
    numbers = {
        each.name: 1009 + i for i, each in enumerate(fields(WalkerConfig)) if each.name not in ("heaps", "notes")
    }
    heaps = tuple((3 * i + 1, 3 * i + 2, 3 * i + 3) for i in range(N_JAVA_HEAPS))
    config = replace(WalkerConfig(**numbers), heaps=heaps, call_wrapper_offset=-48, notes=("not packed",))
    java = Java.from_buffer_copy(pack(config))
    assert {name: getattr(java, name) for name in numbers} == numbers | {"call_wrapper_offset": -48}
    assert tuple((heap.low, heap.high, heap.segments) for heap in java.heaps) == heaps
