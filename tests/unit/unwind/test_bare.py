"""Rows read from code that has no unwind information."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

import pytest

from nativeleak.symbols.elf import ElfFile
from nativeleak.unwind import rules
from nativeleak.unwind.bare import bare_pieces, disassemble, entry_pieces, read_functions, rows_of
from nativeleak.unwind.rows import full_rows
from nativeleak.unwind.rules import Rule, pack_rule, unpack_rule
from nativeleak.unwind.table import read_pieces, text_ranges


def rows(code: str) -> list[tuple[int, int, Rule]]:
    """(start, end, rule) of a function given in hex."""
    data = bytes.fromhex(code)
    return [(start, end, unpack_rule(word)) for start, end, word in rows_of(disassemble(data), len(data))]


def by_rsp(off: int, fp_off: int = 0) -> Rule:
    return Rule(rules.KIND_SP, off, rules.FP_AT_CFA if fp_off else rules.FP_SAME, fp_off)


def test_rows_of_pushes_and_room_at_each_instruction() -> None:
    # push %r12; push %rbx; sub $0x28,%rsp; syscall; add $0x28,%rsp; pop %rbx; pop %r12; ret: as musl's mmap
    assert rows("4154 53 4883ec28 0f05 4883c428 5b 415c c3") == [
        (0, 2, by_rsp(8)),
        (2, 3, by_rsp(16)),
        (3, 7, by_rsp(24)),
        (7, 13, by_rsp(64)),
        (13, 14, by_rsp(24)),
        (14, 16, by_rsp(16)),
        (16, 17, by_rsp(8)),
    ]


def test_rows_of_rbp_saved_and_used_is_found_where_it_lies() -> None:
    # push %rbp; sub $0x70,%rsp; mov %ecx,%ebp; syscall; lea 0x70(%rsp),%rsp; pop %rbp; ret: as musl's mremap
    assert rows("55 4883ec70 89cd 0f05 488d642470 5d c3") == [
        (0, 1, by_rsp(8)),
        (1, 5, by_rsp(16, -16)),
        (5, 14, by_rsp(128, -16)),
        (14, 15, by_rsp(16, -16)),
        (15, 16, by_rsp(8)),
    ]


def test_rows_of_room_of_unknown_size_goes_by_the_frame() -> None:
    # push %rbp; mov %rsp,%rbp; push %rbx; sub %rax,%rsp; call; lea -8(%rbp),%rsp; pop %rbx; pop %rbp; ret
    by_frame = Rule(rules.KIND_FP, 16, rules.FP_AT_CFA, -16)
    assert rows("55 4889e5 53 4829c4 e800000000 488d65f8 5b 5d c3") == [
        (0, 1, by_rsp(8)),
        (1, 5, by_rsp(16, -16)),  # in rbp there is the same
        (5, 8, by_rsp(24, -16)),
        (8, 17, by_frame),
        (17, 18, by_rsp(24, -16)),
        (18, 19, by_rsp(16, -16)),
        (19, 20, by_rsp(8)),
    ]


def test_rows_of_leave_gives_back_the_frame() -> None:
    # push %rbp; mov %rsp,%rbp; and $-64,%rsp; leave; ret
    assert rows("55 4889e5 4883e4c0 c9 c3")[-2:] == [
        (8, 9, Rule(rules.KIND_FP, 16, rules.FP_AT_CFA, -16)),
        (9, 10, by_rsp(8)),
    ]


@pytest.mark.parametrize(
    "code",
    [
        "84c0 7401 50 0f05 c3",  # test; je over push %rax: two depths at the syscall
        "5a 0f05 52 c3",  # pop %rdx; syscall; push %rdx: vfork takes its return address off the stack
        "4829c4 0f05 c3",  # sub %rax,%rsp without a frame
        "4889fc ffe6",  # mov %rdi,%rsp; jmp *%rsi: longjmp
        "4894 c3",  # xchg %rax,%rsp
        "89cd 0f05 c3",  # mov %ecx,%ebp: not saved
        "55 58 5d c3",  # push %rbp; pop %rax; pop %rbp: another's
        "7401 48c7c001000000 c3",  # je into the middle of an instruction
    ],
)
def test_rows_of_code_that_cannot_be_followed_has_none(code: str) -> None:
    assert rows(code) == []


def test_rows_of_code_behind_a_table_of_jumps_is_not_told() -> None:
    # sub $8,%rsp; jmp *%rax; call; add $8,%rsp; ret
    assert rows("4883ec08 ffe0 e800000000 4883c408 c3") == [
        (0, 4, by_rsp(8)),
        (4, 6, by_rsp(16)),
        (6, 16, Rule(rules.KIND_NONE)),
    ]


def test_rows_of_a_frame_that_is_marked_as_outermost_are_its_root() -> None:
    # syscall; test %eax,%eax; jne 1f; xor %ebp,%ebp; pop %rdi; call *%r9; hlt; 1: ret: as musl's clone
    assert rows("0f05 85c0 7507 31ed 5f 41ffd1 f4 c3") == [
        (0, 8, by_rsp(8)),
        (8, 13, Rule(rules.KIND_ROOT)),
        (13, 14, by_rsp(8)),
    ]


def test_rows_of_a_register_that_is_cleared_after_saving_are_no_root() -> None:
    # push %rbp; xor %ebp,%ebp; syscall; pop %rbp; ret
    assert Rule(rules.KIND_ROOT) not in [rule for _, _, rule in rows("55 31ed 0f05 5d c3")]


LIBRARY = """
    .text
    .globl mmap
    .type mmap, @function
mmap:
    push %rbx
    call inner
    lea taken(%rip), %rax
    pop %rbx
    ret
    .size mmap, . - mmap
    .p2align 4
inner:
    sub $24, %rsp
    syscall
    add $24, %rsp
    ret
    .p2align 4
taken:
    sub $40, %rsp
    syscall
    add $40, %rsp
    ret
    .p2align 4
restore:
    mov $15, %rax
    syscall
"""


def rules_at_syscalls(path: Path) -> list[int]:
    """The rule at each system call in an object's text, by a table of what the code itself tells."""
    with ElfFile.open(str(path)) as elf:
        text = text_ranges(elf)
        made = full_rows(bare_pieces(elf, text, read_pieces(elf, text)), text)
        section = elf.section(".text")
        assert section is not None
        code = elf.source.read(section.offset, section.n_bytes)
        places = [section.vaddr + at for at in range(len(code)) if code[at : at + 2] == b"\x0f\x05"]
    found = [bisect_right(made.starts, place) - 1 for place in places]
    return [made.words[at] if at >= 0 else rules.NONE for at in found]


def test_bare_pieces_of_a_c_library_has_what_it_exports_calls_and_takes_the_address_of(
    assemble: Callable[..., Path],
) -> None:
    path = assemble(LIBRARY, "-Wl,--strip-all")
    assert rules_at_syscalls(path) == [
        pack_rule(rules.KIND_SP, 8 + 24),
        pack_rule(rules.KIND_SP, 8 + 40),
        rules.SIGNAL,
    ]


def test_bare_pieces_of_what_is_no_c_library_has_none(assemble: Callable[..., Path]) -> None:
    assert rules_at_syscalls(assemble(LIBRARY.replace("mmap", "mmap_pool"))) == [rules.NONE] * 3


def test_bare_pieces_of_a_library_with_unwind_information_has_none(assemble: Callable[..., Path]) -> None:
    text = LIBRARY.replace("mmap:", "mmap:\n.cfi_startproc").replace("    .size", ".cfi_endproc\n    .size")
    assert rules_at_syscalls(assemble(text)) == [rules.NONE] * 3


def test_bare_pieces_cold_part_of_a_function_has_none(assemble: Callable[..., Path]) -> None:
    cold = "\n.globl f.cold\n.type f.cold, @function\nf.cold:\n syscall\n ret\n.size f.cold, . - f.cold\n"
    assert rules_at_syscalls(assemble(LIBRARY + cold))[3] == rules.NONE


def test_entry_of_a_program_that_marks_its_outermost_frame_is_its_root(assemble: Callable[..., Path]) -> None:
    code = "\n.text\n.globl begin\n nop\nbegin:\n {}\n call begin\n .fill 64, 1, 0x90\n"
    found = []
    for first in ("xor %rbp, %rbp", "xor %ebp, %ebp", "xor %rbx, %rbx"):
        with ElfFile.open(str(assemble(code.format(first), "-Wl,-e,begin"))) as elf:
            pieces = entry_pieces(elf, text_ranges(elf))
            section = elf.section(".text")
            assert section is not None
            found.append([(start - section.vaddr, words[0][2]) for start, _, _, words in pieces])
    assert found == [[(1, rules.ROOT)], [(1, rules.ROOT)], []]


def c_libraries() -> list[str]:
    """The C library of this process, whose compiler has given it unwind information."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = {line.split(maxsplit=5)[5] for line in lines if line.count("/")}
    return sorted(path for path in paths if Path(path).name.startswith(("libc.so", "libc-")))


def test_rows_of_this_machines_c_library_equal_its_unwind_information() -> None:
    """At each address of all exported functions; of a frame that is being left, rbp may be where it was, or in rbp."""
    n_functions = n_read = n_compared = 0
    for path in c_libraries():
        with ElfFile.open(path) as elf:
            text = text_ranges(elf)
            known = full_rows(read_pieces(elf, text), text)
            for name, vaddr, size in read_functions(elf):
                offset = elf.vaddr_to_offset(vaddr)
                assert offset is not None
                told = rows_of(disassemble(elf.source.read(offset, size)), size)
                n_functions += 1
                n_read += bool(told)
                for start, end, word in told:
                    for at in range(start, end):
                        wanted = known.words[bisect_right(known.starts, vaddr + at) - 1]
                        if rules.NONE not in (word, wanted):
                            n_compared += 1
                            assert is_same(unpack_rule(word), unpack_rule(wanted)), (path, name, hex(at))
    assert n_functions > 1000
    assert n_read > 0.95 * n_functions
    assert n_compared > 100 * n_functions


def is_same(told: Rule, wanted: Rule) -> bool:
    """Whether two rules find the same caller with the same rbp."""
    if told == wanted:
        return True
    if wanted.kind == rules.KIND_FP:
        return told.fp_rule == rules.FP_AT_CFA and told[2:] == wanted[2:]
    is_popped = told.fp_rule == rules.FP_SAME and wanted.fp_rule == rules.FP_AT_CFA and -wanted.fp_off > told.off
    return told[:2] == wanted[:2] and is_popped
