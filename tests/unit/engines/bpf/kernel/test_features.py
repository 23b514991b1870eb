"""What is done about a kernel whose BPF is without something: as far as no kernel is asked."""

from __future__ import annotations

from nativeleak.engines.bpf.kernel import features
from nativeleak.engines.bpf.kernel.abi import LACKS_NOTHING, Lack
from nativeleak.engines.bpf.kernel.instructions import ATOMIC_OPERATIONS, FETCHING, INSTRUCTION, JUMP_ALWAYS
from nativeleak.engines.bpf.kernel.loaders.libbpf import object_path
from nativeleak.symbols.elf import SHF_EXECINSTR, BytesSource, ElfFile


def instructions_of(content: bytes) -> dict[int, tuple[int, int, int, int]]:
    """Offset in the file -> (operation, registers, offset, value), of all code."""
    return {
        at: INSTRUCTION.unpack_from(content, at)
        for section in ElfFile(BytesSource(content)).sections
        if section.flags & SHF_EXECINSTR
        for at in range(section.offset, section.offset + section.n_bytes, INSTRUCTION.size)
    }


def test_object_without_fetching_differs_in_the_fetching_operations_alone() -> None:
    content = object_path().read_bytes()
    patched = features.without_fetching(content)
    before, after = instructions_of(content), instructions_of(patched)
    changed = {at for at in before if before[at] != after[at]}
    assert changed
    for at in changed:
        operation, _, _, value = before[at]
        assert operation in ATOMIC_OPERATIONS
        assert value & FETCHING
        assert after[at] == (JUMP_ALWAYS, 0, 0, 0)
    assert not any(op in ATOMIC_OPERATIONS and value & FETCHING for op, _, _, value in after.values())
    # Totals are still added to atomically.
    assert any(op in ATOMIC_OPERATIONS for op, _, _, _ in after.values())
    assert len(patched) == len(content)
    outside = set(range(len(content))) - {at + i for at in before for i in range(INSTRUCTION.size)}
    assert all(patched[at] == content[at] for at in outside)


def test_each_thing_that_is_lacking_is_said() -> None:
    assert features.describe(LACKS_NOTHING) == ""
    said = features.describe(Lack.ATOMICS | Lack.COOKIES | Lack.REGISTERS)
    assert [version for version in ("5.12", "5.15") if version in said] == ["5.12", "5.15"]
    assert said.count(";") == 2
