"""Contents of a range as JSON: ``nativeleak.peek/1``."""

from __future__ import annotations

import json
import os
from typing import Final

from nativeleak.peek.look import Contents
from nativeleak.process.check import TargetFacts
from nativeleak.process.procfs import read_boot_id

SCHEMA: Final = "nativeleak.peek/1"


def render_json(target: TargetFacts, contents: Contents, tool_version: str) -> str:
    """One object, with a newline at its end. Sizes in bytes, addresses as hex strings."""
    span, system = contents.span, os.uname()
    whole = {
        "schema": SCHEMA,
        "tool": {"version": tool_version},
        "host": {"kernel": system.release, "machine": system.machine, "boot_id": read_boot_id()},
        "target": {"pid": target.pid, "comm": target.comm, "exe": target.exe},
        "range": {
            "start": f"{span.start:#x}", "end": f"{span.end:#x}", "virtual_bytes": span.n_bytes,
            "resident_bytes": contents.resident_bytes, "swap_bytes": contents.swap_bytes,
            "unmapped_bytes": span.unmapped_bytes, "device_bytes": span.device_bytes, "no_dump": span.is_private,
            "mappings": [
                {"start": f"{region.start:#x}", "end": f"{region.end:#x}", "perms": region.entry.perms,
                 "path": region.entry.path or None}
                for region in span.regions
            ],
        },
        "read_bytes": contents.read_bytes,
        "failed_bytes": contents.failed_bytes,
        "target_ended": contents.has_ended,
        "sampled_one_in": contents.one_in,
        "raw": contents.is_raw,
        "masked_secrets": contents.n_secrets,
        "pages": contents.page_bytes,
        "entropy_bits": round(contents.entropy_bits, 3),
        "recognised": [
            {"kind": each.kind.id, "label": each.kind.label, "count": each.count, "first_at": f"{each.address:#x}",
             "example": each.example}
            for each in contents.found
        ],
        "java_classes": [{"name": name, "count": count} for name, count in contents.classes],
        "strings_found": contents.n_strings,
        "strings_max_missed": contents.max_missed,
        "strings": [
            {"text": text.text, "count": text.n_seen, "first_at": f"{text.address:#x}", "encoding": text.encoding}
            for text in contents.strings
        ],
    }  # fmt: skip
    return json.dumps(whole, indent=2) + "\n"
