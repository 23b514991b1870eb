"""The walker's configuration as bytes; where they lie is held against C in ``test_abi``."""

from __future__ import annotations

from dataclasses import fields, replace

from nativeleak.runtimes.hotspot.layout import WalkerConfig
from nativeleak.runtimes.hotspot.spec import HOTSPOT
from nativeleak.runtimes.hotspot.walker import N_JAVA_HEAPS, Java, pack


def test_pack_carries_every_field():
    numbers = {
        each.name: 1009 + i for i, each in enumerate(fields(WalkerConfig)) if each.name not in ("heaps", "notes")
    }
    heaps = tuple((3 * i + 1, 3 * i + 2, 3 * i + 3) for i in range(N_JAVA_HEAPS))
    config = replace(WalkerConfig(**numbers), heaps=heaps, call_wrapper_offset=-48, notes=("not packed",))
    assert len(pack(config)) == HOTSPOT.config_bytes
    java = Java.from_buffer_copy(pack(config))
    assert {name: getattr(java, name) for name in numbers} == numbers | {"call_wrapper_offset": -48}
    assert tuple((heap.low, heap.high, heap.segments) for heap in java.heaps) == heaps
