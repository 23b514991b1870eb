"""The ways round what older kernels lack, on this one: made to believe that it lacks them.

On a kernel that really does, ``scripts/kernels 5.10`` runs the battery.
"""

from __future__ import annotations

import errno
import resource

import pytest

from nativeleak.doctor.machine import check_kernel
from nativeleak.doctor.trial import Subject, try_mode
from nativeleak.engines.bpf.kernel import features
from nativeleak.engines.bpf.kernel.abi import MissingFeature
from nativeleak.engines.bpf.kernel.loaders.libbpf import BpfObject
from nativeleak.engines.bpf.kernel.programs import AttachMode, Limits, Programs
from nativeleak.errors import CannotTraceError
from support import require_root

LACKING = [
    MissingFeature.COOKIES,
    MissingFeature.REGISTERS,
    MissingFeature.ATOMICS | MissingFeature.COOKIES | MissingFeature.REGISTERS,
]


@pytest.fixture(autouse=True)
def _needs_root() -> None:
    require_root()


@pytest.mark.parametrize("mode", [AttachMode.PERF, AttachMode.TRACEFS])
@pytest.mark.parametrize("lacking", LACKING, ids=str)
def test_every_call_is_counted_without(
    lacking: MissingFeature, mode: AttachMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "missing_features", lambda: lacking)
    with Subject() as child:
        trial = try_mode(mode, child)
    assert not trial.error
    assert trial.works


def test_what_is_lacking_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "missing_features", lambda: MissingFeature.COOKIES)
    with Programs(Limits(), lambda _event: None, (AttachMode.PERF,)) as engine:
        assert [note for note in engine.notes if note.startswith("this kernel lacks cookies of probes (Linux 5.15)")]


def test_bound_on_locked_memory_is_named_where_maps_count_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: BpfObject) -> None:
        raise OSError(errno.EPERM, "refused")

    monkeypatch.setattr(features, "missing_features", lambda: MissingFeature.ATOMICS)
    monkeypatch.setattr(BpfObject, "load", refuse)
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (64 << 10, 64 << 10))
    with pytest.raises(CannotTraceError) as caught:
        Programs(Limits(), lambda _event: None)
    assert "locked memory, of which this process may have 64 KiB" in caught.value.what
    assert "ulimit -l unlimited" in caught.value.remedy


def test_doctor_says_what_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all("lacks" not in check.detail for check in check_kernel())
    monkeypatch.setattr(features, "missing_features", lambda: MissingFeature.REGISTERS)
    assert any("it lacks the registers of a task (Linux 5.15)" in check.detail for check in check_kernel())
