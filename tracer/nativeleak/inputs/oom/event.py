"""One kill, or one moment when nobody could be killed."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(slots=True)
class Event:
    """What a log says of one kill; None: it does not say. Sizes in KiB.

    Attributes:
        time: As ISO 8601 without fractions; without a year ``MM-DDThh:mm:ss``.
        uptime_s: Seconds since the machine started.
        killer: ``kernel``, ``systemd-oomd``, ``earlyoom``, ``nohang``, ``lmkd``, ``lowmemorykiller``, ``talos``,
            ``kubernetes``, ``kubelet-eviction``, ``docker``.
        killed: False: nobody was killed.
        scope: ``global``, ``memcg``, ``cpuset``, ``mempolicy`` or ``container``.
        limit_cgroup: The group whose limit was reached.
        invoked_by: Name of the thread whose allocation began it.
        others: The largest other processes: pid, comm, rss_kb, swap_kb.
        extra: More, by name: ``unit``, ``rss_kb``, ``reason``, ``n_killed``, ``order``, ``machine_kb``, ...
    """

    killer: str
    killed: bool = True
    pid: int | None = None
    comm: str | None = None
    uid: int | None = None
    scope: str | None = None
    limit_cgroup: str | None = None
    victim_cgroup: str | None = None
    invoked_by: str | None = None
    total_vm_kb: int | None = None
    anon_rss_kb: int | None = None
    file_rss_kb: int | None = None
    shmem_rss_kb: int | None = None
    swap_kb: int | None = None
    pgtables_kb: int | None = None
    oom_score_adj: int | None = None
    usage_kb: int | None = None
    limit_kb: int | None = None
    time: str | None = None
    uptime_s: float | None = None
    others: list[dict[str, Any]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The object of the interface."""
        plain = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "extra"}
        return plain | self.extra

    @property
    def rss_kb(self) -> int | None:
        """Resident memory of the victim."""
        parts = [part for part in (self.anon_rss_kb, self.file_rss_kb, self.shmem_rss_kb) if part is not None]
        rss: int | None = self.extra.get("rss_kb")
        return rss if rss is not None else sum(parts) if parts else None
