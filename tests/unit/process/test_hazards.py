"""What is looked at in a process before the first probe, as far as no other process is asked."""

from __future__ import annotations

import os

import pytest

from nativeleak import arch
from nativeleak.process.dispatch import catches_sigsys, has_syscall_dispatch
from nativeleak.process.hazards import (
    filters_deny_probes,
    find_hazard,
    has_filter,
    is_patched,
    name_process,
    read_code,
    read_tracer,
)
from nativeleak.process.procfs import read_status

NOP5 = b"\x0f\x1f\x44\x00\x00"
CODE = b"\xf3\x0f\x1e\xfa\x55\x48\x89\xe5"


@pytest.fixture(autouse=True)
def x86_64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arch, "here", lambda: arch.X86_64)


@pytest.mark.parametrize(
    ("memory", "original", "expected"),
    [
        (CODE, CODE, False),
        (b"", CODE, False),
        (CODE[:3], CODE, False),
        # A breakpoint is another probe's.
        (CODE[:4] + b"\xcc" + CODE[5:], CODE, False),
        (b"\xcc" + CODE[1:], CODE, False),
        # The kernel's call in the place of a nop; a jump there is not the kernel's.
        (b"\xe8\x10\x20\x30\x40" + CODE, NOP5 + CODE, False),
        (b"\xe9\x10\x20\x30\x40" + CODE, NOP5 + CODE, True),
        (b"\xe8\x10\x20\x30\x40" + CODE[5:], CODE, True),
        # Detours.
        (b"\xe9\x10\x20\x30\x40" + CODE[5:], CODE, True),
        (b"\x48\xb8" + CODE[2:], CODE, True),
        (CODE[:7] + b"\x90", CODE, True),
    ],
)
def test_code_is_patched_where_more_than_breakpoints_differ(memory: bytes, original: bytes, expected: bool) -> None:
    assert is_patched(memory, original) is expected


def test_code_of_arm64_is_compared_by_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arch, "here", lambda: arch.ARM64)
    brk = arch.ARM64.breakpoint
    assert not is_patched(CODE[:4] + brk, CODE)
    assert is_patched(CODE[:6] + brk[:2], CODE)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"SigCgt": "0000000040000000", "Seccomp": "0"}, True),
        ({"SigCgt": "0000000040000000", "Seccomp": "2"}, False),
        ({"SigCgt": "00000000bfffffff", "Seccomp": "0"}, False),
        ({}, False),
    ],
)
def test_only_a_handler_of_sigsys_without_a_filter_is_a_reason_to_ask(status: dict[str, str], expected: bool) -> None:
    assert catches_sigsys(status) is expected


def test_process_of_our_own_has_what_the_kernel_says() -> None:
    pid, status = os.getpid(), read_status(os.getpid())
    assert str(read_tracer(pid)) == status["TracerPid"] == "0"
    assert has_filter(pid) is (status["Seccomp"] == "2")
    assert not has_syscall_dispatch(pid)
    assert find_hazard(pid) is None
    assert name_process(pid).startswith(f"process {pid} (")


def test_code_that_cannot_be_read_is_empty() -> None:
    assert read_code(os.getpid(), 0, 4) == b""
    assert read_code(1 << 30, 4096, 4) == b""


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("6.10.14", False),
        ("6.11.0-rc1", True),
        ("6.12.48+deb13-amd64", True),
        ("6.13", True),
        ("6.14.0", False),
        ("5.12.0", False),
        ("unknown", False),
    ],
)
def test_kernels_whose_filters_deny_return_probes(release: str, expected: bool) -> None:
    assert filters_deny_probes(release) is expected
