"""Probes at call sites of the allocator, which are watched by themselves: attached, counted, detached."""

from __future__ import annotations

import array
from collections.abc import Mapping
from typing import Final

from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.attachment import FunctionProbes
from nativeleak.engines.bpf.kernel.groups import Group
from nativeleak.engines.bpf.kernel.loaders.libbpf import BpfMap
from nativeleak.engines.bpf.kernel.uprobes import Place, Step
from nativeleak.probes.call_sites import CallSite

_CALL: Final = Step("on_site_call")
_RETURN: Final = Step("on_site_return")


class CallSiteProbes:
    """Those of one trace, in a group of their own.

    Args:
        probes: All probes of the trace.
        hits: Map of the kernel side: number of a call site -> times it was reached.
    """

    def __init__(self, probes: FunctionProbes, hits: BpfMap) -> None:
        self._probes, self._hits = probes, hits

    def attach(self, slot: int, pid: int, path: str, name: str, sites: Mapping[int, CallSite]) -> None:
        """Probe call sites of one mapped object in one process.

        Args:
            path: Where the object's file can be opened, by this process.
            name: What to call it in an error.
            sites: Number -> call site; no two of a trace have the same number.

        Raises:
            CannotTraceError: The kernel refuses. None of them is attached then.
        """
        returns = {Place(site.landing, abi.site_return_cookie(slot, site.register)) for site in sites.values()}
        calls = [
            Place(site.offset, abi.site_cookie(site.kind, slot, site.n_bytes, number)) for number, site in sites.items()
        ]
        # A call without its end would be one in flight for ever.
        jobs = [(_RETURN, Group.SITES, sorted(returns)), (_CALL, Group.SITES, calls)]
        self._probes.add(jobs, (slot, path, Group.SITES), pid, path, name)

    def read_hits(self) -> array.array[int]:
        """How often each number was reached since the trace began, whatever call sites have had it."""
        hits = array.array("Q")
        for _, values, n in self._hits.batches(abi.MAX_CALL_SITES):
            hits.frombytes(values[: 8 * n])
        return hits

    def detach(self) -> None:
        """Detach and forget all of them. When this returns none of their programs runs."""
        self._probes.groups.drop_group(Group.SITES)
