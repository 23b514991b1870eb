"""Offsets of fields in the kernel's description of its types."""

from __future__ import annotations

import struct

import pytest

from nativeleak.engines.bpf.kernel.btf import parse_offsets

INT, POINTER, ARRAY, STRUCT, UNION = 1, 2, 3, 4, 5


class Btf:
    """Type information, made type by type."""

    def __init__(self) -> None:
        self.types = b""
        self.strings = b"\0"

    def text(self, name: str) -> int:
        if not name:
            return 0
        self.strings += name.encode() + b"\0"
        return len(self.strings) - len(name) - 1

    def add(self, name: str, kind: int, tail: bytes = b"", n: int = 0, flag: int = 0) -> None:
        self.types += struct.pack("=III", self.text(name), flag << 31 | kind << 24 | n, 8) + tail

    def add_struct(self, name: str, *members: tuple[str, int, int], kind: int = STRUCT, flag: int = 0) -> None:
        tail = b"".join(struct.pack("=III", self.text(field), type_id, bits) for field, type_id, bits in members)
        self.add(name, kind, tail, len(members), flag)

    def whole(self, magic: int = 0xEB9F) -> bytes:
        n = len(self.types)
        return struct.pack("=HBBIIIII", magic, 1, 0, 24, 0, n, n, len(self.strings)) + self.types + self.strings


def test_parse_offsets_of_fields_in_nested_nameless_structures_are_from_the_outermost():
    btf = Btf()
    btf.add("int", INT, struct.pack("=I", 32))
    btf.add("", ARRAY, struct.pack("=III", 1, 1, 7))
    btf.add_struct("", ("brk", 1, 96), ("start", 1, 160))
    btf.add_struct("", ("first", 1, 0), ("", 3, 32), kind=UNION)
    btf.add_struct("mm_struct", ("users", 1, 0), ("names", 2, 32), ("", 4, 256))
    found = parse_offsets(btf.whole(), [("mm_struct", "brk"), ("mm_struct", "names"), ("mm_struct", "first")])
    assert found == {("mm_struct", "brk"): 48, ("mm_struct", "names"): 4, ("mm_struct", "first"): 32}


def test_parse_offsets_of_a_structure_with_bit_fields_leaves_their_width_out():
    btf = Btf()
    btf.add("int", INT, struct.pack("=I", 32))
    btf.add_struct("task_struct", ("flag", 1, 3 << 24 | 5), ("pid", 1, 64), flag=1)
    assert parse_offsets(btf.whole(), [("task_struct", "pid")]) == {("task_struct", "pid"): 8}


def test_parse_offsets_of_a_declared_structure_is_that_of_its_definition():
    btf = Btf()
    btf.add("int", INT, struct.pack("=I", 32))
    btf.add_struct("task_struct")
    btf.add_struct("task_struct", ("pid", 1, 32))
    assert parse_offsets(btf.whole(), [("task_struct", "pid")]) == {("task_struct", "pid"): 4}


def test_parse_offsets_without_the_field_says_which():
    btf = Btf()
    btf.add_struct("task_struct", ("pid", 0, 32))
    with pytest.raises(ValueError, match=r"no task_struct\.tgid, mm_struct\.brk"):
        parse_offsets(btf.whole(), [("task_struct", "tgid"), ("mm_struct", "brk")])


@pytest.mark.parametrize("damage", ["cut", "magic", "kind", "empty"])
def test_parse_offsets_of_damaged_information_is_a_value_error(damage):
    btf = Btf()
    btf.add("int", INT, struct.pack("=I", 32))
    btf.add_struct("task_struct", ("pid", 1, 32))
    if damage == "kind":
        btf.add("odd", 31)
    whole = {"cut": btf.whole()[:40], "magic": btf.whole(0x9FEB), "kind": btf.whole(), "empty": b""}[damage]
    with pytest.raises(ValueError, match="type information"):
        parse_offsets(whole, [("task_struct", "pid")])
