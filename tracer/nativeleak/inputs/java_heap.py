"""The Java heap in words of the JVM: ``GC.heap_info``, the Heap part of hs_err files, ``jmap -heap``, ``jhsdb jmap``.

Scope: Serial, Parallel, CMS, G1, ZGC, Shenandoah and Epsilon of JDK 6 to 25. Sizes in bytes. What a text does not say
is None or missing.

Source: ``print_on`` of the collectors' heaps in src/hotspot/share/gc; ``HeapSummary`` of the serviceability agent.
"""

from __future__ import annotations

import re
from typing import Any, Final

from nativeleak.inputs.reading import Reading, row, size

_UNITS: Final = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE: Final = r"(\d{1,20})([BKMGT]?)B?"
_RANGE: Final = re.compile(r"\[(0x[0-9a-f]{1,16}), ?(?:(0x[0-9a-f]{1,16}), ?)?(0x[0-9a-f]{1,16})\)")
_SPACE: Final = re.compile(
    rf"\s*(?P<name>[A-Za-z][\w -]{{0,40}}?)\s{{1,40}}total\s+(?:reserved {_SIZE}, committed )?{_SIZE}"
    rf", used {_SIZE}(?P<range>.*)"
)
_Z: Final = re.compile(rf"\s*ZHeap\s+used {_SIZE}, capacity {_SIZE}, max capacity {_SIZE}")
_META: Final = re.compile(rf"\s*(Metaspace|class space)\s+(?:total {_SIZE}, )?used {_SIZE}(?P<rest>.*)")
_META_PART: Final = re.compile(rf"(capacity|committed|reserved) {_SIZE}")
_SHENANDOAH: Final = re.compile(
    rf"\s*{_SIZE} (?:max|total), (?:{_SIZE} soft max, )?{_SIZE} committed, {_SIZE} used"
)  # "total" in 8 and 11
_EPSILON: Final = re.compile(rf"\s*space {_SIZE},\s+\d+% used")
_PID: Final = re.compile(r"(\d{1,10}): *")
_ATTACH: Final = re.compile(r"Attaching to process ID (\d{1,10})")
_PROPERTY: Final = re.compile(r"\s*(\w[\w ]*?)\s+= (\d{1,20})(?: \(|$)")
_GENERATIONS: Final = {
    "garbage-first heap": ("G1", "heap"),
    "par new generation": ("CMS", "young"),
    "concurrent mark-sweep generation": ("CMS", "old"),
    "concurrent-mark-sweep perm gen": ("CMS", "perm"),
    "def new generation": ("Serial", "young"),
    "DefNew": ("Serial", "young"),
    "tenured generation": ("Serial", "old"),
    "Tenured": ("Serial", "old"),
    "compacting perm gen": ("Serial", "perm"),
    "PSYoungGen": ("Parallel", "young"),
    "PSOldGen": ("Parallel", "old"),
    "ParOldGen": ("Parallel", "old"),
    "PSPermGen": ("Parallel", "perm"),
}
COLLECTORS: Final = (
    ("Garbage-First (G1) GC", "G1"),
    ("Concurrent Mark-Sweep GC", "CMS"),
    ("Parallel GC with", "Parallel"),
    ("Mark Sweep Compact GC", "Serial"),
    ("ZGC", "ZGC"),
    ("Z GC", "ZGC"),
    ("Shenandoah", "Shenandoah"),
    ("Epsilon", "Epsilon"),
)
_BARE_SECTIONS: Final = ("PS Young Generation", "PS Old Generation", "PS Perm Generation")
"""Printed without a colon."""
_SECTIONS: Final = (
    ("G1 Heap", "heap"),
    ("G1 Young Generation", "parts"),
    ("G1 Old Generation", "parts"),
    ("New Generation", "young"),
    ("PS Young Generation", "ps"),
    ("PS Old Generation", "old"),
    ("concurrent mark-sweep generation", "old"),
    ("tenured generation", "old"),
    ("Perm Generation", "perm"),
    ("PS Perm Generation", "perm"),
)


def is_heap_info(text: str) -> bool:
    """Whether a text has the heap as the JVM prints it."""
    for line in filter(str.strip, text.split("\n")):
        found = _SPACE.match(line)
        if (found and found["name"] in _GENERATIONS) or _Z.match(line) or _META.match(line):
            return True
        if line.strip() in ("Shenandoah Heap", "Epsilon Heap"):
            return True
    return False


def is_jmap(text: str) -> bool:
    """Whether a text is output of ``jmap -heap`` or ``jhsdb jmap --heap``."""
    return "Heap Configuration:" in text or ("Attaching to process ID" in text and "JVM version is" in text)


def parse_heap_info(text: str) -> Reading:
    """Answer of ``GC.heap_info``, or the Heap part of an hs_err file."""
    values: dict[str, Any] = {"pid": None, "gc": None, "metaspace": None, "class_space": None}
    reading = Reading("heap", "the Java heap (GC.heap_info)", values)
    reserved = committed = 0
    for line in text.split("\n"):
        pid, space, z, meta = _PID.fullmatch(line.strip()), _SPACE.match(line), _Z.match(line), _META.match(line)
        if pid:
            values["pid"] = int(pid[1])
        elif space and space["name"] in _GENERATIONS:
            whole, mapped = _take_generation(values, space)
            reserved, committed = reserved + whole, committed + mapped
        elif z:
            used, capacity, most = _sizes(z.groups())
            values |= {"gc": "ZGC", "heap_used": used, "heap_committed": capacity, "heap_max": most}
        elif meta:
            facts = {name: _bytes(number, unit) for name, number, unit in _META_PART.findall(meta["rest"])}
            facts["used"] = _bytes(meta[4], meta[5])
            values["metaspace" if meta[1] == "Metaspace" else "class_space"] = facts
        elif line.strip() in ("Shenandoah Heap", "Epsilon Heap"):
            values["gc"] = line.split()[0]
        elif values["gc"] == "Shenandoah" and (found := _SHENANDOAH.match(line)):
            groups = found.groups()
            values["heap_max"], values["heap_committed"] = _bytes(*groups[0:2]), _bytes(*groups[4:6])
            values["heap_used"] = _bytes(*groups[6:8])
    if "heap_used" not in values:
        parts = [values[name] for name in ("young", "old") if name in values]
        values["heap_used"] = sum(part["used"] for part in parts) if parts else None
        values["heap_committed"], values["heap_max"] = committed or None, reserved or None
        if len(parts) == 1:
            reading.notes.append("one generation of two is printed: the sums are of that one")
    _tell(reading)
    return reading


def _take_generation(values: dict[str, Any], space: re.Match[str]) -> tuple[int, int]:
    """Enter one generation; returns its reserved and its committed bytes."""
    collector, part = _GENERATIONS[space["name"]]
    values["gc"] = values["gc"] or collector
    groups = space.groups()
    total, used = _bytes(groups[3], groups[4]), _bytes(groups[5], groups[6])
    place = _RANGE.search(space["range"])
    reserved = int(place[3], 16) - int(place[1], 16) if place else 0
    if groups[1]:  # since 25: total reserved, committed, used
        reserved = _bytes(groups[1], groups[2])
    if part == "heap":
        values |= {"heap_committed": total, "heap_used": used, "heap_max": reserved or None}
        return 0, 0
    values[part] = {"total": total, "used": used}
    if part == "perm":
        return 0, 0
    return reserved, int(place[2], 16) - int(place[1], 16) if place and place[2] else total


def parse_jmap(text: str) -> Reading:
    """Output of ``jmap -heap`` (up to 8) or ``jhsdb jmap --heap`` (since 9)."""
    values: dict[str, Any] = {"pid": None, "gc": None}
    reading = Reading("heap", "the Java heap (jmap -heap)", values)
    flags: dict[str, int | None] = {}
    sections: list[tuple[str, dict[str, int]]] = []
    in_usage = False
    for line in text.split("\n"):
        attach, found = _ATTACH.match(line), _PROPERTY.match(line)
        if attach:
            values["pid"] = int(attach[1])
        elif line.strip() in ("Heap Configuration:", "Heap Usage:"):
            in_usage = line.strip() == "Heap Usage:"
        elif found and in_usage and sections:
            sections[-1][1][found[1]] = int(found[2])
        elif found:
            flags[found[1]] = int(found[2])
        elif in_usage and (line.rstrip().endswith(":") or line.strip() in _BARE_SECTIONS):
            sections.append((line.strip().rstrip(":"), {}))
        elif not in_usage and values["gc"] is None:
            values["gc"] = next((name for words, name in COLLECTORS if words in line), None)
    _take_flags(values, flags)
    _take_sections(values, sections)
    if not sections:
        reading.notes.append("it breaks off before the usage: only flags are known")
    elif "Exception" in text:
        reading.notes.append("it ends in an exception: what stands before it counts")
    if "metaspace_max" in values:
        reading.notes.append("metaspace in use is not printed here, only its flags")
    _tell(reading)
    return reading


def _take_flags(values: dict[str, Any], flags: dict[str, int | None]) -> None:
    values["heap_max"] = flags.get("MaxHeapSize")
    if "MetaspaceSize" in flags:
        values["metaspace_max"] = flags.get("MaxMetaspaceSize")
        values["metaspace_size_flag"] = flags["MetaspaceSize"]
        values["class_space_max"] = flags.get("CompressedClassSpaceSize")
    if "MaxPermSize" in flags:
        values["perm"] = {"max": flags["MaxPermSize"]}


def _take_sections(values: dict[str, Any], sections: list[tuple[str, dict[str, int]]]) -> None:
    where, survivor = "", 0
    for name, facts in sections:
        kind = next((kind for words, kind in _SECTIONS if name.startswith(words)), None)
        where = kind or where
        if kind in ("heap", "young", "old", "perm") and "capacity" in facts:
            into = values.setdefault(kind, {})
            into |= {"capacity": facts["capacity"], "used": facts.get("used")}
        elif kind is None and where == "ps":
            young = values.setdefault("young", {"capacity": 0, "used": 0})
            young["capacity"] += facts.get("capacity", 0)
            young["used"] += facts.get("used", 0)
        elif name == "To Space" and where == "young":
            survivor = facts.get("capacity", 0)
    whole = values.pop("heap", None)
    parts = [values[part] for part in ("young", "old") if part in values]
    if whole is not None:
        values["heap_committed"], values["heap_used"] = whole["capacity"], whole["used"]
    elif parts:
        values["heap_used"] = sum(part["used"] or 0 for part in parts)
        # New Generation leaves one survivor space out.
        values["heap_committed"] = sum(part["capacity"] for part in parts) + survivor
    else:
        values["heap_committed"] = values["heap_used"] = None


def _sizes(groups: tuple[str | None, ...]) -> list[int]:
    return [_bytes(groups[i], groups[i + 1]) for i in range(0, len(groups), 2)]


def _bytes(number: str | None, unit: str | None) -> int:
    return int(number or "0") * _UNITS[unit or ""]


def _tell(reading: Reading) -> None:
    values = reading.values
    used, committed, most = (values.get(f"heap_{name}") for name in ("used", "committed", "max"))
    reading.lines.append(f"collector {values['gc'] or 'unknown'}")
    reading.lines.append(f"Java heap: {size(used)} used, {size(committed)} committed, {size(most)} at most")
    for name, label in (("young", "young"), ("old", "old"), ("perm", "permanent generation")):
        if part := values.get(name):
            whole = part.get("capacity", part.get("total"))
            reading.lines.append(f"{row('  ' + label, part.get('used'), whole)}")
    for name, label in (("metaspace", "metaspace, class space included"), ("class_space", "class space")):
        if part := values.get(name):
            reading.lines.append(f"{label}: {size(part['used'])} used, {size(part.get('committed'))} committed")
    if "metaspace_max" in values:
        limit = values["metaspace_max"]
        reading.lines.append(f"metaspace limit: {'none' if limit is None else size(limit)}")
