"""Features that a kernel may lack, as far as no kernel is asked."""

from __future__ import annotations

import errno
import os

import pytest

from nativeleak.engines.bpf.kernel import bpf, features
from nativeleak.engines.bpf.kernel.abi import MissingFeature
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


def test_describe_names_each_missing_feature_with_its_release() -> None:
    assert features.describe(features.NOTHING_MISSING) == ""
    assert features.describe(MissingFeature.COOKIES) == (
        "cookies of probes (Linux 5.15): each probe has a program of its own in front"
    )
    every = MissingFeature.ATOMICS | MissingFeature.COOKIES | MissingFeature.REGISTERS
    assert features.describe(every).split("; ") == [feature.describe() for feature in features.FEATURES]


def test_rows_have_one_feature_for_each_flag() -> None:
    assert [feature.flag for feature in features.FEATURES] == list(MissingFeature)
    for feature in features.FEATURES:
        assert len(feature.probe) % INSTRUCTION.size == 0
        assert feature.probe


@pytest.mark.parametrize("row", features.FEATURES, ids=lambda row: row.flag.name)
def test_missing_features_is_the_flag_of_each_row_whose_program_is_refused(
    row: features.Feature, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_name: str, _kind: int, code: bytes, _attach_type: int, *, is_explained: bool) -> int:
        assert not is_explained
        if code.startswith(row.probe):
            raise OSError(errno.EINVAL, "refused")
        return os.open("/dev/null", os.O_RDONLY)

    monkeypatch.setattr(bpf, "load_program", load)
    assert features.missing_features.__wrapped__() == row.flag


def test_missing_features_where_nothing_may_be_loaded_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **_options: object) -> int:
        raise OSError(errno.EPERM, "refused")

    monkeypatch.setattr(bpf, "load_program", refuse)
    assert features.missing_features.__wrapped__() == features.NOTHING_MISSING
