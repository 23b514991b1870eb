"""Structures and numbers that user space shares with the BPF programs, against the type information of the objects."""

from __future__ import annotations

import ctypes
import struct
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Any

import pytest

from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.btf import Member, Record, parse_enums, parse_records
from nativeleak.engines.bpf.kernel.loaders.libbpf import object_path
from nativeleak.probes.calls import CALLS, AllocCall
from nativeleak.runtimes.base import FOUND_GAP
from nativeleak.runtimes.hotspot import walker
from nativeleak.symbols.elf import ElfFile
from nativeleak.unwind import rules

OBJECTS = sorted(object_path().parent.glob("nativeleak.*.bpf.o"))
STRUCTS: dict[str, type[ctypes.Structure]] = {
    "nl_event": abi.Event,
    "nl_java": walker.Java,
    "nl_java_heap": walker.JavaHeap,
    "nl_live": abi.Live,
    "nl_mapping": abi.Mapping,
    "nl_mappings": abi.Mappings,
    "nl_marked_site": abi.MarkedSite,
    "nl_marked_sites": abi.MarkedSites,
    "nl_site": abi.Site,
    "nl_site_key": abi.SiteKeyStruct,
    "nl_slice": abi.Slice,
    "nl_stack": abi.StackStruct,
    "nl_target": abi.Target,
    "nl_wrapper": abi.Wrapper,
}
ONLY_IN_C = {("nl_event", "comm")}
"""In the place of another field."""
ENUMS: dict[str, tuple[str, type[IntEnum | IntFlag]]] = {
    "nl_alloc_call": ("NL_ALLOC_CALL_", AllocCall),
    "nl_counter": ("NL_", abi.Counter),
    "nl_end": ("NL_END_", abi.End),
    "nl_event_type": ("NL_EVENT_", abi.EventType),
    "nl_lack": ("NL_LACKS_", abi.MissingFeature),
    "nl_state": ("NL_", abi.WindowState),
    "nl_target_flag": ("NL_TARGET_", abi.TargetFlag),
    "nl_unwind": ("NL_UNWIND_", abi.Unwind),
}
"""Enum in C -> what its constants begin with, and the same in Python."""
RULE_KINDS = {
    "NL_RULE_NONE": rules.KIND_NONE,
    "NL_RULE_RSP": rules.KIND_SP,
    "NL_RULE_RBP": rules.KIND_FP,
    "NL_RULE_RBP_DEREF": rules.KIND_AT_FP,
    "NL_RULE_SIGNAL": rules.KIND_SIGNAL,
    "NL_RULE_ROOT": rules.KIND_ROOT,
    "NL_RULE_PLT": rules.KIND_PLT,
    "NL_RULE_GO": rules.KIND_GO,
    "NL_RULE_BAD": rules.KIND_BAD,
}
FP_RULES = {"NL_RBP_SAME": rules.FP_SAME, "NL_RBP_AT_CFA": rules.FP_AT_CFA, "NL_RBP_AT_RBP": rules.FP_AT_FP}


@pytest.fixture(scope="module", params=OBJECTS, ids=lambda path: path.name.split(".")[1])
def btf(request: pytest.FixtureRequest) -> bytes:
    path: Path = request.param
    with ElfFile.open(str(path)) as elf:
        content = elf.section_data(".BTF", 1 << 24)
    assert content is not None
    return content


def differences(name: str, ours: type[ctypes.Structure], record: Record) -> list[str]:
    """What is not the same in a structure of ours and in C, field by field."""
    members = {field: member for field, member in record.members.items() if (name, field) not in ONLY_IN_C}
    found = [] if ctypes.sizeof(ours) == record.n_bytes else [f"{ctypes.sizeof(ours)} bytes, {record.n_bytes} in C"]
    places = {}
    for field, *_ in ours._fields_:
        descriptor: Any = getattr(ours, field)
        places[field] = Member(descriptor.offset, descriptor.size)
    found += [f"{field} is not in C" for field in places.keys() - members.keys()]
    found += [f"{field} is in C alone" for field in members.keys() - places.keys()]
    both = places.keys() & members.keys()
    found += [f"{field}: {places[field]}, {members[field]} in C" for field in both if places[field] != members[field]]
    return sorted(found)


def test_objects_of_both_machines_are_compared() -> None:
    assert [path.name for path in OBJECTS] == ["nativeleak.aarch64.bpf.o", "nativeleak.x86_64.bpf.o"]


def test_tables_name_every_structure_and_enum_of_both_sides() -> None:
    defined = {
        each
        for module in (abi, walker)
        for each in vars(module).values()
        if isinstance(each, type) and each.__module__ == module.__name__
    }
    assert {each for each in defined if issubclass(each, ctypes.Structure)} == set(STRUCTS.values())
    enums = {each for each in defined if issubclass(each, IntEnum | IntFlag)}
    assert enums | {AllocCall} == {each for _, each in ENUMS.values()} | {abi.FrameSource, walker.JavaFrame}


@pytest.mark.parametrize("name", STRUCTS)
def test_structure_has_every_field_where_c_has_it(btf: bytes, name: str) -> None:
    assert differences(name, STRUCTS[name], parse_records(btf)[name]) == []


@pytest.mark.parametrize("name", ENUMS)
def test_enum_has_every_number_of_c(btf: bytes, name: str) -> None:
    prefix, ours = ENUMS[name]
    constants = {constant: value for constant, value in parse_enums(btf)[name].items() if constant != "NL_N_COUNTERS"}
    assert constants == {f"{prefix}{each.name}": each.value for each in ours}


def test_frame_sources_are_those_of_native_code_and_of_the_runtimes(btf: bytes) -> None:
    ours = [*abi.FrameSource, *walker.JavaFrame]
    assert parse_enums(btf)["nl_found"] == {f"NL_FOUND_{each.name}": each.value for each in ours}
    assert abi.FrameSource.GAP == FOUND_GAP


def test_rules_have_the_numbers_of_c(btf: bytes) -> None:
    enums = parse_enums(btf)
    assert enums["nl_rule_kind"] == RULE_KINDS
    assert enums["nl_rbp_rule"] == FP_RULES


def test_sizes_of_structures_that_user_space_never_takes_apart(btf: bytes) -> None:
    records = parse_records(btf)
    thread = records["nl_thread"]
    assert thread.n_bytes == abi.THREAD_BYTES
    assert thread.members["tid"] == Member(abi.THREAD_TID_AT, 4)
    assert records["nl_frame"].n_bytes == abi.FRAME_BYTES
    assert records["nl_chunk"].n_bytes == abi.CHUNK_FRAMES * abi.FRAME_BYTES
    assert records["nl_chunk_key"].n_bytes == 16


def test_every_kind_of_call_but_none_has_a_row() -> None:
    assert [spec.call for spec in CALLS] == [call for call in AllocCall if call is not AllocCall.NONE]
    ranks = [spec.may_decline for spec in CALLS if spec.may_decline is not None]
    assert sorted(ranks) == list(range(len(ranks)))


class _Int32Pair(ctypes.Structure):
    _fields_ = (("a", ctypes.c_uint32), ("b", ctypes.c_uint32), ("c", ctypes.c_uint64))


class _Swapped(ctypes.Structure):
    _fields_ = (("b", ctypes.c_uint32), ("a", ctypes.c_uint32), ("c", ctypes.c_uint64))


class _Narrow(ctypes.Structure):
    _fields_ = (("a", ctypes.c_uint32), ("b", ctypes.c_uint16), ("c", ctypes.c_uint64))


def made_up_btf() -> bytes:
    """``struct pair { u32 a; u32 b; u64 c; };`` and ``enum sign { MINUS = -1, PLUS = 1 };``."""
    strings = b"\0u32\0u64\0pair\0a\0b\0c\0sign\0MINUS\0PLUS\0"

    def text(name: str) -> int:
        return strings.index(b"\0" + name.encode() + b"\0") + 1

    types = struct.pack("=IIII", text("u32"), 1 << 24, 4, 32) + struct.pack("=IIII", text("u64"), 1 << 24, 8, 64)
    types += struct.pack("=III", text("pair"), 4 << 24 | 3, 16)
    for name, type_id, bits in (("a", 1, 0), ("b", 1, 32), ("c", 2, 64)):
        types += struct.pack("=III", text(name), type_id, bits)
    types += struct.pack("=III", text("sign"), 6 << 24 | 2, 4)
    types += struct.pack("=Ii", text("MINUS"), -1) + struct.pack("=Ii", text("PLUS"), 1)
    header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + types + strings


def test_differences_of_a_made_up_structure_are_seen() -> None:
    record = parse_records(made_up_btf())["pair"]
    assert differences("pair", _Int32Pair, record) == []
    assert differences("pair", _Swapped, record) == [
        "a: Member(offset=4, n_bytes=4), Member(offset=0, n_bytes=4) in C",
        "b: Member(offset=0, n_bytes=4), Member(offset=4, n_bytes=4) in C",
    ]
    assert differences("pair", _Narrow, record) == ["b: Member(offset=4, n_bytes=2), Member(offset=4, n_bytes=4) in C"]


def test_parse_enums_negative_values_are_kept() -> None:
    assert parse_enums(made_up_btf()) == {"sign": {"MINUS": -1, "PLUS": 1}}


def test_parse_records_of_what_is_no_type_information_is_refused() -> None:
    content = made_up_btf()
    for damaged in (b"", content[:30], content[:60], b"\0" * 64):
        with pytest.raises(ValueError, match="type information cannot be read"):
            parse_records(damaged)
