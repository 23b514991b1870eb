"""What processes hold in the kernel: BPF programs, links and maps."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from support.machine import require_program


def bpf_objects(pid: int) -> dict[str, set[int]]:
    """Ids of the BPF objects that a process holds, by ``prog``, ``link`` and ``map``; nothing once it is gone."""
    found: dict[str, set[int]] = {"prog": set(), "link": set(), "map": set()}
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for info in Path(f"/proc/{pid}/fdinfo").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = dict(line.split(":\t", 1) for line in info.read_text().splitlines() if ":\t" in line)
                for kind, ids in found.items():
                    # A link's descriptor names its program too.
                    ids.update({int(fields[f"{kind}_id"])} if f"{kind}_id" in fields else ())
    return found


def bpf_objects_alive(ids: Mapping[str, set[int]]) -> dict[str, set[int]]:
    """Programs and links of ``bpf_objects`` that the kernel still has, whoever holds them."""
    require_program("bpftool")
    alive = {}
    for kind in ("prog", "link"):
        shown = subprocess.run(["bpftool", "-j", kind, "show"], capture_output=True, text=True, check=True).stdout
        alive[kind] = ids[kind] & {entry["id"] for entry in json.loads(shown or "[]")}
    return alive
