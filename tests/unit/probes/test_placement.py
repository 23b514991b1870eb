"""Where probes go in real allocator functions and in made-up ones that try to mislead."""

from __future__ import annotations

import builtins
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nativeleak.arch import X86_64
from nativeleak.probes.cache import PlacementCache
from nativeleak.probes.calls import CALLS, AllocCall
from nativeleak.probes.emulation import CONSERVATIVE, InstructionClass
from nativeleak.probes.families import ProbePoint
from nativeleak.probes.placement import Placement, choose_placement, place

KINDS = [spec.call for spec in CALLS]
ENDBR64 = "f30f1efa"

# The code of Debian 12's libraries, whole functions unless a name says otherwise.
GLIBC_MALLOC_PREFIX = "4154 55 53 4889fb 4883ec10 803d461b140000 0f84f8010000"
GLIBC_FREE = (
    "4885ff0f84bf00000055488d77f0534883ec18488b1dd69e1300488b47f8648b2ba802755b488b155c9e13006448833a000f8499000000488d"
    "3d32ad1300a8047426488b1537a41300488d04950000000048f7d84885d248c7c2000000fc480f44c24821f0488b3831d2e8c1d1ffff64892b"
    "4883c4185b5dc30f1f80000000008b1512a4130085d27526483905cfa31300731d483d0000000277154883e0f8488905baa313004801c04889"
    "05a0a313004889f7e808baffff64892b4883c4185b5dc3660f1f440000c30f1f8000000000488b15b99d130048893c2464803a000f8552ffff"
    "ff4889742408e831f2ffff488b3c24488b742408488b47f8e936ffffff"
)
GLIBC_POSIX_MEMALIGN = (
    "803d010214000041544989d4554889fd534889f3745a4889da48c1ea03488d42ff4821d04889da83e2074809d075314885db742c4c89e64889"
    "dfe891e9ffff4889c2b80c0000004885d274064889550031c05b5d415cc3660f1f8400000000005bb8160000005d415cc3660f1f440000e8fb"
    "afffffeb9f"
)
GLIBC_ALIGNED_ALLOC = (
    "803d710e1400007407e932f6ffff66904883ec18488974240848893c24e8bebcffff488b742408488b3c244883c418e90cf6ffff"
)
GLIBC_VALLOC = "803d310e140000534889fb741b488b05349813004889de5b488b7818e9dff5ffff0f1f8000000000e873bcffffebde"
GLIBC_REALLOCARRAY = "4889f048f7e24889c67005e940b8f8ff488b05e985130064c7000c00000031c0c3"
JEMALLOC_MALLOC = (
    "4881ff001000000f8793000000488d155c7f2c00488d4707488b0d49960a0048c1e8034c8d0586812c000fb6340264488b9138030000490314"
    "f064483b9140030000735c644c8b0c25000000004c8d14764b8d04d14801c84c8b80600300004d8b184d8d500866443b807003000074384c89"
    "90600300006448899138030000488bb8680300004883c701488d34764c89d8498d14f14889bc0a68030000c36690e9cbe4ffff0f1f0066443b"
    "807403000074ee4c89906003000066448990700300006448899138030000488bb8680300004883c701ebb4"
)
JEMALLOC_FREE = (
    "4889f8488b150e530a004889f948c1e81a4881e1000000c025f00000006448030425000000004801d0483b88b00100000f858a0000004889fe"
    "4c8b80b801000048c1ee0c81e6ffff03004d8b0cf04d89ca49c1ea304183e1017465488d05fe3d2c004589d34a8b0cd86448038a4803000064"
    "483b8a500300007345644c8b0425000000004b8d345b4d8d0cf04901d14d8b9160030000664539917203000074204d8d5af84d899960030000"
    "49897af86448898a48030000c30f1f840000000000e94bf1ffff"
)
JEMALLOC_SIZED_DELETE = "4885ff74134883ec08e81233f8ff4883c408c30f1f440000c3"
TCMALLOC_MALLOC = (
    "488b0559ab00004885c07575488b0505a10000644c8b004d85c074654881ff00040000775383c707c1ef03488d05ae811b000fb634384889f0"
    "89f248c1e00548c1e2054c01c0458b5410184c8b084d85c97455498b118b48084889108d51ff8950083b500c7259452990001000004c89c8c3"
    "660f1f4400004881ff000004007647488b0500a00000483b05d1a10000744f483b0500a100007406e971eefeff90e9abe2feff0f1f00488b0d"
    "d99f00004489d24c89c7e996e3feff660f1f44000089500ceba20f1f0081c77f3c0000c1ef07e955ffffff662e0f1f840000000000e9cbedfeff"
)
MIMALLOC_MALLOC = (
    "488b0549b400004889fe64488b384881fe000400007729488d460748c1e803488b44c708488b50104885d27423488b0a834018014889481048"
    "89d0c30f1f400031c931d2e997f9ffff0f1f800000000031c9e989f9ffff"
)
MIMALLOC_CALLOC_PREFIX = "488b15c9ad00004889f864488b3a4883f8017408"
MIMALLOC_REALLOC = "488b0549a900004889f24889fe64488b004889c7e9f74effff"
MIMALLOC_FREE = (
    "4889f94885ff745d488d7fff4889c84881e7000000fe4829f848c1e810488d048048c1e004488db008010000644c8b042500000000488b9700"
    "0100008b84070c0100004829c64801fe4939d07532807e0e00753c488b4620488901836e180148894e20740bc3662e0f1f8400000000004889"
    "f7e9d8efffff0f1f84000000000031d2e929feffff660f1f840000000000ba01000000e916feffff"
)
MUSL_MALLOC = "e96b190000"
MUSL_REALLOCARRAY = "4889d14885d274084889f048f7e17009480faff1e927b0feff50e8b113ffffc7000c00000031c05ac3"
MUSL_VALLOC = "4889febf00100000e9a349ffff"


def at(code: str, kind: AllocCall = AllocCall.MALLOC, **options: Any) -> Placement:
    return choose_placement(bytes.fromhex(code), kind, **options)


@pytest.mark.parametrize(
    ("code", "kind", "offset", "instruction"),
    [
        (GLIBC_MALLOC_PREFIX, AllocCall.MALLOC, 0, "push r12"),
        (GLIBC_POSIX_MEMALIGN, AllocCall.POSIX_MEMALIGN, 7, "push r12"),
        (GLIBC_ALIGNED_ALLOC, AllocCall.ALIGNED_ALLOC, 7, "je"),
        (GLIBC_VALLOC, AllocCall.MALLOC, 7, "push rbx"),
        (JEMALLOC_MALLOC, AllocCall.MALLOC, 7, "ja"),
        (JEMALLOC_FREE, AllocCall.FREE, 0x30, "jne"),
        (TCMALLOC_MALLOC, AllocCall.MALLOC, 0xA, "jne"),
        (MIMALLOC_FREE, AllocCall.FREE, 6, "je"),
        (MUSL_MALLOC, AllocCall.MALLOC, 0, "jmp"),
        (MUSL_REALLOCARRAY, AllocCall.REALLOCARRAY, 6, "je"),
    ],
)
def test_choose_placement_real_function_known_place(code: str, kind: AllocCall, offset: int, instruction: str) -> None:
    assert at(code, kind) == Placement(offset, emulated=True, instruction=instruction)


@pytest.mark.parametrize(
    ("code", "kind", "instruction"),
    [
        (GLIBC_REALLOCARRAY, AllocCall.REALLOCARRAY, "mov rax, rsi"),  # the product is in place of both factors
        (MIMALLOC_MALLOC, AllocCall.MALLOC, "mov rax, qword ptr [rip + 0xb449]"),
        (MUSL_VALLOC, AllocCall.MALLOC, "mov rsi, rdi"),
    ],
)
def test_choose_placement_argument_overwritten_first_entry(code: str, kind: AllocCall, instruction: str) -> None:
    assert at(code, kind) == Placement(0, emulated=False, instruction=instruction)


@pytest.mark.parametrize(
    ("code", "kind", "offset", "arguments"),
    [
        (MIMALLOC_MALLOC, AllocCall.MALLOC, 0x15, (6, 6, 2)),
        (MIMALLOC_CALLOC_PREFIX, AllocCall.CALLOC, 0x12, (0, 6, 2)),
        (MIMALLOC_REALLOC, AllocCall.REALLOC, 0x14, (6, 2, 2)),
        (MUSL_VALLOC, AllocCall.MALLOC, 8, (6, 6, 2)),
    ],
)
def test_choose_placement_moved_arguments_followed(
    code: str, kind: AllocCall, offset: int, arguments: tuple[int, int, int]
) -> None:
    placement = at(code, kind, moved_arguments=True)
    assert (placement.offset, placement.emulated, placement.arguments) == (offset, True, arguments)


def test_choose_placement_glibc_free_behind_the_null_test() -> None:
    assert at(GLIBC_FREE, AllocCall.FREE) == Placement(9, emulated=True, instruction="push rbp", sees_null=False)


def test_choose_placement_glibc_free_push_not_emulated_null_test_itself() -> None:
    emulated = CONSERVATIVE - {InstructionClass.PUSH}
    assert at(GLIBC_FREE, AllocCall.FREE, emulated=emulated) == Placement(3, emulated=True, instruction="je")


def test_choose_placement_sized_delete_stack_room_is_told() -> None:
    assert at(JEMALLOC_SIZED_DELETE, AllocCall.DELETE) == Placement(
        9, emulated=True, instruction="call", sees_null=False, pushed_bytes=8
    )


@pytest.mark.parametrize(
    ("code", "kind", "offset", "sees_null", "pushed_bytes"),
    [
        (f"{ENDBR64} 4154 55 53", AllocCall.MALLOC, 4, True, 0),
        (f"{ENDBR64} 4885ff 742a 55 4889e5", AllocCall.FREE, 9, False, 0),
        (f"{ENDBR64} 4881ff00100000 0f8793000000", AllocCall.MALLOC, 11, True, 0),
        (f"{ENDBR64} 55 4889e5 4885ff 742a", AllocCall.MALLOC, 4, True, 0),
        (f"{ENDBR64} 53 4885ff 742a 4889fb e800000000", AllocCall.FREE, 13, False, 8),
        (f"{ENDBR64} 4883ec18 4885ff 7420 e800000000", AllocCall.FREE, 13, False, 24),
    ],
)
def test_choose_placement_cet_build_behind_the_landing_pad(
    code: str, kind: AllocCall, offset: int, sees_null: bool, pushed_bytes: int
) -> None:
    placement = at(code, kind)
    assert (placement.offset, placement.emulated) == (offset, True)
    assert (placement.sees_null, placement.pushed_bytes) == (sees_null, pushed_bytes)


def test_choose_placement_endbr64_emulated_entry() -> None:
    placement = at(f"{ENDBR64} 4154", emulated=CONSERVATIVE | {InstructionClass.ENDBR})
    assert placement == Placement(0, emulated=True, instruction="endbr64")


def test_choose_placement_jump_is_a_place() -> None:
    assert at("4889f8 eb00 55 c3").offset == 3


@pytest.mark.parametrize(
    ("code", "kind", "why"),
    [
        ("4889f8 4889d7 55", AllocCall.MALLOC, "rdi overwritten"),
        ("4889f8 40b700 55", AllocCall.MALLOC, "a byte of rdi overwritten"),
        ("4889f8 31ff 55", AllocCall.FREE, "the lower half of rdi overwritten"),
        ("4889f8 4889c6 55", AllocCall.CALLOC, "rsi overwritten"),
        ("4889f8 ba01000000 55", AllocCall.POSIX_MEMALIGN, "rdx overwritten"),
        ("4889f8 4883ec18 55", AllocCall.MALLOC, "room taken on the stack"),
        ("4889f8 488d6424e8 55", AllocCall.FREE, "the stack pointer computed"),
        ("4889f8 4881ec00100000 55", AllocCall.FREE, "more room than can be told"),
        ("4889f8 4883ec04 55", AllocCall.FREE, "an odd amount of room"),
        ("4889f8 4889fd 55", AllocCall.MALLOC, "the frame pointer overwritten"),
        ("4889f8 48893d00000000 55", AllocCall.FREE, "memory written"),
        ("f048ff0500000000 55", AllocCall.FREE, "memory written with a lock"),
        ("4889f8 0f05 55", AllocCall.MALLOC, "a system call"),
        ("4889f8 ffd0 55", AllocCall.MALLOC, "an indirect call"),
        ("4889f8 ffe0 55", AllocCall.MALLOC, "an indirect jump"),
        ("4889f8 c3 55", AllocCall.MALLOC, "a return"),
        ("4889f8 4887fe 55", AllocCall.MALLOC, "an exchange"),
        ("4889f8 48f3ab 55", AllocCall.MALLOC, "a string operation"),
        ("4889f8 06 55", AllocCall.MALLOC, "no instruction"),
    ],
)
def test_choose_placement_something_changed_before_entry(code: str, kind: AllocCall, why: str) -> None:
    placement = at(code, kind)
    assert (placement.offset, placement.emulated) == (0, False), why


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("4889f8 7402 5553 c3", "je skips the push, but is no test for NULL"),
        ("4885f6 7402 5553 c3", "another register is tested"),
        ("85ff 7402 5553 c3", "only half of the register is tested"),
        ("4885f7 7402 5553 c3", "two registers are tested"),
        ("4885ff 7502 5553 c3", "jne goes on with what is not NULL"),
        ("4885ff 4883c801 7402 5553 c3", "the flags are of something else"),
    ],
)
def test_choose_placement_branch_that_is_no_null_test_is_not_passed(code: str, why: str) -> None:
    placement = at(code, AllocCall.FREE)
    assert placement.instruction in ("je", "jne"), why
    assert placement.sees_null, why


def test_choose_placement_null_test_for_a_call_with_return_is_not_passed() -> None:
    emulated = frozenset({InstructionClass.PUSH})
    assert at("4885ff 7402 5553 c3", AllocCall.MALLOC, emulated=emulated).offset == 0
    assert at("4885ff 7402 5553 c3", AllocCall.FREE, emulated=emulated).offset == 5


def test_choose_placement_null_test_with_harmless_between_is_passed() -> None:
    assert at("4885ff 4889f8 7402 5553 c3", AllocCall.FREE) == Placement(
        8, emulated=True, instruction="push rbp", sees_null=False
    )


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("4889f8 55 5d 48ffc8 75f9 c3", "loop to the push"),
        ("4889f8 4889f1 55 5d 48ffc8 75f6 c3", "loop to the instruction before the push"),
        ("4889f8 55 5d 48ffc8 0f85f5ffffff c3", "loop with a long displacement"),
        ("4889f8 55 5d e8f9ffffff c3", "call of the push"),
        ("4889f8 55 5d e2fc c3", "loop instruction"),
        ("4889f8 55 5d f2e9f7ffffff", "jump with a prefix"),
        ("4889f8 55 5d 06 ebfa", "a branch behind what is no instruction"),
    ],
)
def test_choose_placement_branch_back_into_the_prefix_entry(code: str, why: str) -> None:
    placement = at(code)
    assert (placement.offset, placement.emulated) == (0, False), why


@pytest.mark.parametrize(
    "code",
    [
        "4889f8 55 5d 48ffc8 75f5 c3",  # back to the entry: each time is a call
        "4889f8 55 53 48ffc8 75fa c3",  # back to behind the push
        "4889f8 55 48b8 75fbebfae8faffff 5d c3",  # a number that looks like branches
    ],
)
def test_choose_placement_branch_elsewhere_is_no_obstacle(code: str) -> None:
    assert at(code).offset == 3


def test_choose_placement_branch_back_into_null_test_first_place_before_it() -> None:
    # The way back to behind the null test rules out the push only.
    code = "4885ff 7406 55 5d ff06 75fa c3"
    assert at(code, AllocCall.FREE) == Placement(3, emulated=True, instruction="je")


def test_choose_placement_jump_table_entry() -> None:
    # movsxd rax, [rdx + rax*4]; add rax, rdx; jmp rax, and the same marked notrack
    assert at("4889f8 55 486304824801d0ffe0").offset == 0
    assert at("4889f8 55 3effe0").offset == 0
    assert at("4889f8 55 ff24c500000000").offset == 0


def test_choose_placement_jump_through_a_pointer_is_no_table() -> None:
    assert at("4889f8 55 488b0500000000 5d ffe0").offset == 3
    assert at("4889f8 55 5d ff2500000000").offset == 3


def test_choose_placement_cold_part_jumps_back_entry() -> None:
    code = bytes.fromhex("4889f8 55 0f85f60f0000 5d c3")
    cold_at = 10 + 0xFF6
    cold = b"\x90\xe9" + struct.pack("<i", 3 - (cold_at + 6))

    def read_cold(distance: int, n_bytes: int) -> bytes:
        return cold[distance - cold_at :][:n_bytes]

    assert choose_placement(code, AllocCall.MALLOC, read_outside=read_cold).offset == 0
    assert choose_placement(code, AllocCall.MALLOC, read_outside=lambda *_: b"\x90\xc3").offset == 3
    assert choose_placement(code, AllocCall.MALLOC, read_outside=lambda *_: b"").offset == 3


@pytest.mark.parametrize("kind", KINDS)
def test_choose_placement_no_code_entry(kind: AllocCall) -> None:
    assert choose_placement(b"", kind) == Placement(0, emulated=False, instruction="")


def test_choose_placement_nops_only_where_emulated() -> None:
    nop5_first = "4889f8 0f1f440000 c3"
    assert at(nop5_first).offset == 0
    assert at(nop5_first, emulated=CONSERVATIVE | {InstructionClass.NOP5}).offset == 3


_PIECES = st.sampled_from(
    [
        bytes.fromhex(piece)
        for piece in (
            *("55", "4154", "90", "f30f1efa", "4885ff", "7402", "75fa", "eb00", "e8fbffffff", "0f84f8ffffff", "c3"),
            *("4889f8", "4889fe", "4889f7", "4883ec08", "4889fd", "488b07", "488907", "f3", "f0", "66", "48", "ffe0"),
            *("0f1f440000", "0f1f4000", "ff24c500000000", "48f7e2", "31ff", "e2fe", "c8000000", "6a01", "ff37", "5c"),
        )
    ]
)
_CODE = st.one_of(st.binary(max_size=200), st.lists(_PIECES, max_size=40).map(b"".join))


@settings(max_examples=500, deadline=None)
@given(_CODE, st.sampled_from(KINDS), st.sets(st.sampled_from(InstructionClass)), st.booleans())
def test_choose_placement_any_bytes_a_whole_emulated_instruction_or_the_entry(
    code: bytes, kind: AllocCall, emulated: set[InstructionClass], moved: bool
) -> None:
    capstone = pytest.importorskip("capstone")
    placement = choose_placement(code, kind, emulated, moved_arguments=moved, read_outside=lambda *_: code)
    assert 0 <= placement.offset <= 255
    assert placement.pushed_bytes % 8 == 0
    assert 0 <= placement.pushed_bytes <= 255 * 8
    if placement.offset:
        disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        starts = {address: size for address, size, _, _ in disassembler.disasm_lite(code, 0)}
        assert placement.emulated
        assert placement.offset in starts
        assert placement.offset + starts[placement.offset] <= len(code)
    if not moved:
        assert placement.arguments == X86_64.arguments
    if kind not in (AllocCall.FREE, AllocCall.DELETE):
        assert placement.sees_null
        assert placement.pushed_bytes == 0


# A whole object


def elf_with(code: bytes, *, machine: int = 62, build_id: bytes = b"\x12\x34") -> bytes:
    """A file with one executable segment at offset 0x200, which holds ``code``, and a build id note."""
    note = struct.pack("<III", 4, len(build_id), 3) + b"GNU\0" + build_id.ljust(-(-len(build_id) // 4) * 4, b"\0")
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 3, machine, 1, 0, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    segments = [(1, 5, 0x200, 0x1000, len(code)), (4, 4, 0x180, 0x180, len(note) if build_id else 0)]
    table = b"".join(
        struct.pack("<IIQQQQQQ", kind, flags, offset, vaddr, vaddr, n_bytes, n_bytes, 16)
        for kind, flags, offset, vaddr, n_bytes in segments
    )
    return (header + table).ljust(0x180, b"\0") + note.ljust(0x80, b"\0") + code


POINTS = [ProbePoint("malloc", AllocCall.MALLOC, 0x200), ProbePoint("free", AllocCall.FREE, 0x240)]
CODE = bytes.fromhex(JEMALLOC_MALLOC)[:0x40] + bytes.fromhex(GLIBC_FREE)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "lib.so"
    path.write_bytes(elf_with(CODE))
    return path


def test_place_functions_of_a_file_places_in_the_file(library: Path) -> None:
    malloc, free = place(str(library), POINTS)
    assert (malloc.point.function, malloc.offset, malloc.placement.instruction) == ("malloc", 0x207, "ja")
    assert (free.point.function, free.offset, free.placement.sees_null) == ("free", 0x249, False)


def test_place_aarch64_entries(tmp_path: Path) -> None:
    path = tmp_path / "lib.so"
    path.write_bytes(elf_with(CODE, machine=183))
    placed = place(str(path), POINTS)
    assert [probe.offset for probe in placed] == [0x200, 0x240]
    assert all(probe.placement.emulated for probe in placed)


def test_place_second_time_from_the_cache_without_disassembler(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = PlacementCache(tmp_path / "cache")
    first = place(str(library), POINTS, cache=cache)
    forbid_capstone(monkeypatch)
    assert place(str(library), POINTS, cache=cache) == first
    assert first[1].offset == 0x249


@pytest.mark.parametrize("change", ["code", "kinds", "emulated", "moved"])
def test_place_anything_else_than_cached_is_worked_out_anew(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    cache = PlacementCache(tmp_path / "cache")
    place(str(library), POINTS, cache=cache)
    forbid_capstone(monkeypatch)
    points, emulated = POINTS, set(CONSERVATIVE)
    if change == "code":
        library.write_bytes(elf_with(CODE[:-1] + b"\x90"))
    elif change == "kinds":
        points = [POINTS[0], ProbePoint("free", AllocCall.DELETE, 0x240)]
    elif change == "emulated":
        emulated.add(InstructionClass.NOP5)
    placed = place(str(library), points, emulated, cache=cache, moved_arguments=change == "moved")
    assert [probe.placement.offset for probe in placed] == [0, 0]  # without a disassembler: the entries


def test_place_without_build_id_nothing_cached(tmp_path: Path) -> None:
    path = tmp_path / "lib.so"
    path.write_bytes(elf_with(CODE, build_id=b""))
    place(str(path), POINTS, cache=PlacementCache(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_place_disassembler_does_not_load_entries_and_nothing_cached(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = PlacementCache(tmp_path / "cache")
    with monkeypatch.context() as patch:
        forbid_capstone(patch)
        placed = place(str(library), POINTS, cache=cache)
    assert [(probe.offset, probe.placement.emulated) for probe in placed] == [(0x200, False), (0x240, False)]
    assert place(str(library), POINTS, cache=cache)[1].offset == 0x249


@pytest.mark.parametrize(
    "row",
    [
        [300, True, "", True, 0, [7, 6, 2]],
        [-1, True, "", True, 0, [7, 6, 2]],
        [7, True, "", True, 0, [7, 6, 16]],
        [7, True, "", True, 1 << 20, [7, 6, 2]],
        [7, True, "", True, 0],
        ["7", True, "", True, 0, [7, 6, 2]],
        None,
    ],
)
def test_place_damaged_rows_in_the_cache_worked_out_anew(library: Path, tmp_path: Path, row: object) -> None:
    class Damaged(PlacementCache):
        def find(self, key: str) -> list[object] | None:
            rows = super().find(key)
            return None if rows is None else [row, *rows[1:]]

    cache = Damaged(tmp_path / "cache")
    assert place(str(library), POINTS, cache=cache) == place(str(library), POINTS, cache=cache)


def forbid_capstone(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def guarded(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.partition(".")[0] == "capstone":
            raise ImportError(name)
        return real_import(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", guarded)
