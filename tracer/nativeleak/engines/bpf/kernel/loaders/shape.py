"""How kernel maps are made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MapShape:
    """How a map is made: what ``bpf(2)`` takes.

    Attributes:
        kind: ``enum bpf_map_type``.
        key_bytes: Size of a key.
        value_bytes: Size of a value.
        n: Most elements; bytes of a ring buffer.
        flags: ``BPF_F_*``.
    """

    kind: int
    key_bytes: int
    value_bytes: int
    n: int
    flags: int
