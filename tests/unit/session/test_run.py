"""The order of a trace, as far as it needs no kernel programs."""

from __future__ import annotations

import os
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from nativeleak.errors import CannotTraceError, NoTargetError
from nativeleak.session.run import _told_if_gone


@pytest.mark.parametrize("is_gone", [True, False])
def test_failure_of_the_beginning_is_the_targets_end_where_it_has_ended(is_gone: bool) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        pidfd = os.pidfd_open(process.pid)
        targets: Any = {pidfd: SimpleNamespace(facts=SimpleNamespace(pid=process.pid))}
        if is_gone:
            process.kill()
        try:
            with pytest.raises(NoTargetError if is_gone else CannotTraceError) as caught, _told_if_gone(targets):
                raise CannotTraceError("no allocator functions found")
        finally:
            os.close(pidfd)
            process.kill()
    assert ("it ended before anything was recorded" in caught.value.what) == is_gone
