"""Classes of instructions, and what is made of measured costs; real probes are in ``integration/test_placement.py``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from nativeleak import arch
from nativeleak.probes import emulation
from nativeleak.probes.emulation import CONSERVATIVE, InstructionClass, classify, measure_emulated

on_x86_64 = pytest.mark.skipif(arch.here() is not arch.X86_64, reason="runs x86-64 code")


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        ("55", InstructionClass.PUSH, "push rbp"),
        ("57", InstructionClass.PUSH, "push rdi"),
        ("4154", InstructionClass.PUSH_EXTENDED, "push r12"),
        ("4157", InstructionClass.PUSH_EXTENDED, "push r15"),
        ("90", InstructionClass.NOP, "nop"),
        ("0f1f4000", InstructionClass.NOP4, "nop4"),
        ("0f1f440000", InstructionClass.NOP5, "nop5"),
        ("f30f1efa", InstructionClass.ENDBR, "endbr64"),
        ("eb00", InstructionClass.JUMP, "jmp"),
        ("e900000000", InstructionClass.JUMP, "jmp"),
        ("e800000000", InstructionClass.CALL, "call"),
        ("7700", InstructionClass.BRANCH, "ja"),
        ("0f8400000000", InstructionClass.BRANCH, "je"),
    ],
)
def test_classify_known_encoding_class_and_text(code: str, kind: InstructionClass, text: str) -> None:
    assert classify(bytes.fromhex(code)) is kind
    assert kind.describe(bytes.fromhex(code)) == text


@pytest.mark.parametrize("code", ["", "41", "0f", "4885ff", "6690", "f2e900000000", "4055", "58", "c3", "6a00", "ff30"])
def test_classify_anything_else_none(code: str) -> None:
    assert classify(bytes.fromhex(code)) is None


def costs(**ns: float) -> dict[InstructionClass | None, float]:
    stepped_ns = ns.pop("stepped")
    return {None: stepped_ns, **{InstructionClass[name.upper()]: cost_ns for name, cost_ns in ns.items()}}


def measured(monkeypatch: pytest.MonkeyPatch, costs_ns: dict[InstructionClass | None, float]) -> frozenset[str]:
    monkeypatch.setattr(emulation, "_time_slots", lambda *_: costs_ns)
    return measure_emulated(lambda *_: contextlib.nullcontext())


@on_x86_64
def test_measure_emulated_cheap_classes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    virtual = costs(nop=500, nop4=500, nop5=264, push=520, jump=540, endbr=16_700, stepped=16_000)
    assert measured(monkeypatch, virtual) == {"nop", "nop4", "nop5", "push", "jmp"}
    bare = costs(nop=310, nop4=880, push=340, call=420, endbr=910, stepped=900)
    assert measured(monkeypatch, bare) == {"nop", "push", "call"}


@on_x86_64
@pytest.mark.parametrize("stepped_ns", [2.0, 2.5])
def test_measure_emulated_no_difference_conservative(monkeypatch: pytest.MonkeyPatch, stepped_ns: float) -> None:
    assert measured(monkeypatch, costs(nop=2.0, endbr=2.0, stepped=stepped_ns)) == CONSERVATIVE


@on_x86_64
def test_measure_emulated_attach_fails_conservative_and_nothing_left() -> None:
    tried: list[str] = []

    def refuse(path: str, _: Sequence[int]) -> contextlib.AbstractContextManager[None]:
        tried.append(path)
        raise OSError

    assert measure_emulated(refuse) == CONSERVATIVE
    assert tried
    assert not any(Path(path).exists() for path in tried)


@on_x86_64
def test_measure_emulated_offsets_are_whole_instructions_of_the_file() -> None:
    """The code runs as it is, without probes, and the places given are those of the classes."""
    seen: list[InstructionClass | None] = []

    @contextlib.contextmanager
    def attach(path: str, offsets: Sequence[int]) -> Iterator[None]:
        page = Path(path).read_bytes()
        seen.extend(classify(page[offset:]) for offset in offsets)
        yield

    measure_emulated(attach)
    assert set(seen) == {*InstructionClass, None}
    assert len(seen) == len(InstructionClass) + 1


def test_measure_emulated_other_machine_conservative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arch, "here", lambda: arch.ARM64)
    assert measure_emulated(lambda *_: pytest.fail("nothing to attach")) == CONSERVATIVE
