"""Statistics that allocators print about themselves, and their heap profiles.

Scope: glibc ``malloc_info`` and ``malloc_stats``; jemalloc 3 to 5 statistics as text or JSON, and heap profiles;
gperftools heap profiles and ``MALLOC:`` statistics. Sizes in bytes.

Source: ``__malloc_info``, ``__malloc_stats`` in malloc/malloc.c; src/stats.c and src/prof_data.c of jemalloc;
src/heap-profile-table.cc and src/tcmalloc.cc of gperftools.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any, Final

from nativeleak.inputs.reading import Reading, size

_XML_HEAP: Final = re.compile(r'<heap nr="(\d+)">')
_XML_TAG: Final = re.compile(r"<(total|system|aspace)\s+([^<>]{1,200}?)/>")
_XML_ATTRIBUTE: Final = re.compile(r'(\w+)="([^"]{0,40})"')
_STATS: Final = re.compile(r"\s*(system bytes|in use bytes|max mmap regions|max mmap bytes)\s*=\s*(\d{1,20})")
_ARENA: Final = re.compile(r"\s*Arena (\d{1,9}):")
_JEMALLOC: Final = re.compile(r"\s*Allocated: \d{1,20}, active: \d{1,20}, .*mapped: \d{1,20}")
_JEMALLOC_PART: Final = re.compile(r"(\w+): (\d{1,20})")
_JEMALLOC_VERSION: Final = re.compile(r'Version: "?(\d+\.\d+\.\d+)')
_HEAP_V2: Final = re.compile(r"heap_v2/(\d{1,15})\s*")
_COUNTS: Final = re.compile(r"\s*t(\*|\d+): (\d{1,18}): (\d{1,20}) \[(\d{1,18}): (\d{1,20})\]\s*")
_PROFILE: Final = re.compile(r"heap profile: +(\d{1,20}): +(\d{1,20}) \[ *(\d{1,20}): +(\d{1,20})\] @ ?(\S*)\s*")
_ROW: Final = re.compile(r"\s*(\d{1,20}): +(\d{1,20}) \[ *(\d{1,20}): +(\d{1,20})\] @(.*)")
_TCMALLOC: Final = re.compile(r"\s*MALLOC: [=+ ]*(\d{1,20}) \( *[\d.]+ MiB\) (.*)")
_WRAP: Final = 1 << 32


def is_malloc_info(text: str) -> bool:
    """XML of glibc's ``malloc_info``."""
    return re.search(r'<malloc version="\d+">', text) is not None


def is_malloc_stats(text: str) -> bool:
    """Text of glibc's ``malloc_stats``."""
    return "system bytes" in text and "in use bytes" in text and "max mmap bytes" in text


def is_jemalloc_stats(text: str) -> bool:
    """Text or JSON of jemalloc's ``malloc_stats_print``."""
    return "___ Begin jemalloc statistics ___" in text or '{"jemalloc":' in text or _has(_JEMALLOC, text)


def is_jemalloc_heap(text: str) -> bool:
    """A heap profile of jemalloc."""
    return _HEAP_V2.match(text.lstrip()) is not None


def is_gperftools_heap(text: str) -> bool:
    """A heap profile of gperftools, or of jemalloc 3."""
    return _PROFILE.match(text.lstrip()[:300].split("\n")[0]) is not None


def is_tcmalloc_stats(text: str) -> bool:
    """Statistics of gperftools' tcmalloc."""
    return _has(_TCMALLOC, text) and "Bytes in use by application" in text


def _has(pattern: re.Pattern[str], text: str) -> bool:
    return any(pattern.match(line) for line in text.split("\n"))


def parse_malloc_info(text: str) -> Reading:
    """Glibc's ``malloc_info``: in use = from the kernel - free + mmapped blocks."""
    heaps, _, end = text.rpartition("</heap>")
    arenas = len(_XML_HEAP.findall(text))
    # The sums over all arenas stand behind the last of them; a text that breaks off has none.
    is_whole = "</malloc>" in end
    sums: dict[str, int] = {}
    for tag, attributes in _XML_TAG.findall(end if is_whole else heaps):
        facts = dict(_XML_ATTRIBUTE.findall(attributes))
        name, number = f"{tag} {facts.get('type', '')}", facts.get("size", "")
        if number.isdigit():
            sums[name] = sums.get(name, 0) + int(number)
            if name == "total mmap" and facts.get("count", "").isdigit():
                sums["mmap count"] = int(facts["count"])
    system, fast, rest = (sums.get(name, 0) for name in ("system current", "total fast", "total rest"))
    mapped = sums.get("total mmap") if is_whole else None
    values = {
        "arenas": arenas,
        "system_current": system,
        "free_fast": fast,
        "free_rest": rest,
        "mmap_count": sums.get("mmap count", 0) if is_whole else None,
        "mmap_bytes": (mapped or 0) if is_whole else None,
        "in_use": system - fast - rest + (mapped or 0) if is_whole else None,
    }
    reading = Reading("alloc", "malloc_info of glibc", values)
    if not is_whole:
        reading.notes.append(
            "it breaks off before the sums: mmapped blocks are unknown, the rest is of the arenas seen"
        )
    reading.lines = [
        f"{size(values['in_use'])} in use, {size(fast + rest)} free inside the arenas (retained)",
        f"{arenas} arenas with {size(system)} from the kernel; {values['mmap_count']} blocks from mmap, {size(mapped)}",
    ]
    return reading


def parse_malloc_stats(text: str) -> Reading:
    """Glibc's ``malloc_stats``: the arenas, then totals that include mmap."""
    arenas = 0
    total: dict[str, int] = {}
    sums: dict[str, int] = {}
    in_total = False
    for line in text.split("\n"):
        if _ARENA.match(line):
            arenas, in_total = arenas + 1, False
        elif "Total (incl. mmap)" in line:
            in_total = True
        elif found := _STATS.match(line):
            into = total if in_total else sums
            into[found[1]] = into.get(found[1], 0) + int(found[2])
    values = {
        "arenas": arenas,
        "system_bytes": total.get("system bytes"),
        "in_use_bytes": total.get("in use bytes"),
        "max_mmap_regions": total.get("max mmap regions"),
        "max_mmap_bytes": total.get("max mmap bytes"),
    }
    reading = Reading("alloc", "malloc_stats of glibc", values)
    system, used = values["system_bytes"], values["in_use_bytes"]
    reading.lines = [f"{size(used)} in use of {size(system)} from the kernel, mmapped blocks included; {arenas} arenas"]
    if system is not None and (sums.get("system bytes", 0) > system or (used or 0) > system):
        reading.notes.append("the totals have wrapped at 4 GiB (glibc before 2.33): they are too low")
    elif system is not None and system < _WRAP:
        reading.notes.append("before glibc 2.33 these totals wrap at 4 GiB: compare them with the process's RSS")
    return reading


_JEMALLOC_NAMES: Final = ("allocated", "active", "metadata", "resident", "mapped", "retained")


def parse_jemalloc_stats(text: str) -> Reading:
    """Jemalloc's statistics: the first line of sums; those of arenas repeat the words."""
    values: dict[str, Any] = dict.fromkeys(("version", *_JEMALLOC_NAMES))
    reading = Reading("alloc", "statistics of jemalloc", values)
    if version := _JEMALLOC_VERSION.search(text):
        values["version"] = version[1]
    start = text.find('{"jemalloc":')
    if start >= 0:
        _take_json(reading, text[start:])
    for line in text.split("\n") if start < 0 else ():
        if _JEMALLOC.match(line):
            found = {name.lower(): int(number) for name, number in _JEMALLOC_PART.findall(line)}
            values |= {name: found[name] for name in (*_JEMALLOC_NAMES, "huge") if name in found}
            break
    if values["allocated"] is None:
        reading.notes.append("the line of sums is missing: general statistics were left out, or it breaks off")
    active, allocated = values["active"], values["allocated"]
    waste = active - allocated if active is not None and allocated is not None else None
    resident = values["resident"]
    kept = resident - active - (values["metadata"] or 0) if resident is not None and active is not None else None
    reading.lines = [
        f"{size(allocated)} in use; {size(waste)} lost inside its pages (fragmentation)",
        f"{size(resident)} resident, of it {size(kept and max(0, kept))} kept after free, "
        f"{size(values['metadata'])} its own tables",
    ]
    if values["retained"] is not None:
        reading.lines.append(f"{size(values['retained'])} retained: address space, not memory")
    return reading


def _take_json(reading: Reading, text: str) -> None:
    try:
        found, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        reading.notes.append("the JSON breaks off")
        return
    top = found.get("jemalloc") if isinstance(found, dict) else None
    stats = top.get("stats") if isinstance(top, dict) else None
    if not isinstance(top, dict) or not isinstance(stats, dict):
        return
    version = re.match(r"\d+\.\d+\.\d+", str(top.get("version", "")))
    reading.values["version"] = version[0] if version else None
    reading.values |= {name: stats[name] for name in _JEMALLOC_NAMES if isinstance(stats.get(name), int)}


def parse_jemalloc_heap(text: str) -> Reading:
    """A heap profile of jemalloc: counts are of sampled blocks."""
    reading = Reading("alloc", "heap profile of jemalloc", {})
    sample, stacks, at_head, without = 0, 0, True, 0
    sums = [0, 0, 0, 0]
    estimate = 0.0
    is_empty = False
    for line in _before_maps(text, reading):
        counts = _COUNTS.fullmatch(line)
        if head := _HEAP_V2.fullmatch(line.strip()):
            sample = int(head[1])
        elif line.startswith("@"):
            stacks, at_head, is_empty = stacks + 1, False, not line[1:].strip()
        elif counts and counts[1] == "*":
            numbers = [int(each) for each in counts.groups()[1:]]
            if at_head:
                sums = numbers
            else:
                n_bytes = _unsampled(numbers[0], numbers[1], sample)
                estimate += n_bytes
                without += round(n_bytes) if is_empty else 0
        elif line.strip() and not counts:
            reading.miss(line)
    reading.values |= {
        "sample_bytes": sample,
        "objects_sampled": sums[0],
        "bytes_sampled": sums[1],
        "stacks": stacks,
        "bytes_estimated": round(estimate),
        "bytes_without_stack": without,
    }
    reading.lines = [
        f"about {size(round(estimate))} in use, from {sums[0]:,} sampled blocks at {stacks} stacks "
        f"(one block in {size(sample)})"
    ]
    if without:
        reading.lines.append(f"{size(without)} of it has no stack: nobody could walk it")
    reading.notes.append("names of functions: jeprof --text PROGRAM FILE")
    return reading


def _unsampled(n: int, n_bytes: int, sample: int) -> float:
    """Bytes that sampled blocks stand for. Source: the scaling of jeprof."""
    if not n or not sample:
        return float(n_bytes)
    chance = -math.expm1(-n_bytes / n / sample)
    return n_bytes / chance if chance > 0 else float(n_bytes)


def parse_gperftools_heap(text: str) -> Reading:
    """A heap profile of gperftools: exact (``heapprofile``), or sampled (``heap_v2/BYTES``)."""
    names = ("objects", "bytes", "allocated_objects", "allocated_bytes")
    reading = Reading("alloc", "heap profile of gperftools", dict.fromkeys((*names, "sample_bytes"), 0))
    stacks, without, in_use = 0, 0, 0
    for line in _before_maps(text, reading):
        if head := _PROFILE.match(line.lstrip()):
            reading.values |= dict(zip(names, map(int, head.groups()[:4]), strict=True))
            rate = re.match(r"heap(?:_v2)?/(\d{1,15})", head[5])
            reading.values["sample_bytes"] = int(rate[1]) if rate else 0
        elif found := _ROW.fullmatch(line):
            stacks += 1
            in_use += int(found[2])
            without += int(found[2]) if not found[5].strip() else 0
        elif line.strip():
            reading.miss(line)
    values = reading.values | {"stacks": stacks, "bytes_without_stack": without}
    reading.values = values
    reading.lines = [
        f"{size(values['bytes'])} in use in {values['objects']:,} blocks at {stacks} stacks; "
        f"{size(values['allocated_bytes'])} allocated in all"
    ]
    if values["sample_bytes"]:
        reading.notes.append(f"sampled, one block in {size(values['sample_bytes'])}: the sums are not scaled up")
    if without:
        reading.lines.append(f"{size(without)} of it has no stack: the profiler could not walk it")
    if in_use != values["bytes"] and stacks:
        reading.notes.append(f"the rows add up to {size(in_use)}: some are missing")
    reading.notes.append("names of functions: pprof --text PROGRAM FILE")
    return reading


def parse_tcmalloc_stats(text: str) -> Reading:
    """Tcmalloc's ``MALLOC:`` lines."""
    found = {words.strip(): int(number) for line in text.split("\n") for number, words in _TCMALLOC.findall(line)}
    values = {
        "in_use": found.get("Bytes in use by application"),
        "free_page_heap": found.get("Bytes in page heap freelist"),
        "free_central": found.get("Bytes in central cache freelist"),
        "free_threads": found.get("Bytes in thread cache freelists"),
        "metadata": found.get("Bytes in malloc metadata"),
        "resident": next((n for words, n in found.items() if words.startswith("Actual memory used")), None),
        "released": next((n for words, n in found.items() if words.startswith("Bytes released to OS")), None),
    }
    free = sum(values[name] or 0 for name in ("free_page_heap", "free_central", "free_threads"))
    lines = [
        f"{size(values['in_use'])} in use, {size(free)} kept after free, {size(values['metadata'])} its own tables"
    ]
    return Reading("alloc", "statistics of tcmalloc", values, lines)


def _before_maps(text: str, reading: Reading) -> Iterable[str]:
    profile, mark, _ = text.partition("MAPPED_LIBRARIES:")
    if not mark:
        reading.notes.append("MAPPED_LIBRARIES is missing: it breaks off, or was cut")
    return profile.split("\n")
