"""What is said where the kernel refuses the programs."""

from __future__ import annotations

import errno
import resource

import pytest

from nativeleak.engines.bpf.kernel.abi import MissingFeature
from nativeleak.engines.bpf.kernel.failures import load_error, tracepoint_error
from nativeleak.engines.bpf.kernel.features import NOTHING_MISSING
from nativeleak.errors import MendableError


def test_load_error_forbidden_names_the_capabilities() -> None:
    error = load_error(OSError(errno.EPERM, "refused"), NOTHING_MISSING, [], needs_btf=True)
    assert error.what == "loading the BPF programs failed: Operation not permitted"
    assert "CAP_BPF" in error.remedy


@pytest.mark.parametrize(("bound", "is_named"), [(64 << 10, True), (resource.RLIM_INFINITY, False)])
def test_load_error_before_5_11_names_the_bound_on_locked_memory(
    bound: int, is_named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (bound, bound))
    error = load_error(OSError(errno.EPERM, "refused"), MissingFeature.ATOMICS, [], needs_btf=True)
    assert ("64 KiB" in error.what) is is_named
    assert ("ulimit -l unlimited" in error.remedy) is is_named
    assert isinstance(error, MendableError) is is_named


def test_load_error_other_gives_the_last_that_libbpf_said() -> None:
    error = load_error(OSError(errno.EINVAL, "refused"), NOTHING_MISSING, ["first", "last", ""], needs_btf=False)
    assert error.what == "loading the BPF programs failed: Invalid argument"
    assert error.remedy.endswith("(libbpf: last)")


def test_load_error_nothing_tried_says_so() -> None:
    error = load_error(None, NOTHING_MISSING, [], needs_btf=False)
    assert error.what == "loading the BPF programs failed: no way to attach left to try"


def test_tracepoint_error_names_the_event() -> None:
    error = tracepoint_error("syscalls/sys_enter_mmap", OSError(errno.ENOENT, "No such file or directory"))
    assert "syscalls/sys_enter_mmap" in error.what
    assert "No such file or directory" in error.what
