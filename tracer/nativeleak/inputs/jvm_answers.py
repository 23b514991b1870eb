"""Answers of jcmd that have no file format of their own: Compiler.codecache, GC.class_histogram, VM.flags.

Source: output of JDK 11, 17, 21 and 25; ``CodeCache::print`` in code/codeCache.cpp, ``KlassInfoTable`` in
memory/heapInspection.cpp.
"""

from __future__ import annotations

import re
from typing import Any, Final

from nativeleak.inputs.reading import Reading
from nativeleak.units import format_bytes

_HEAP: Final = re.compile(
    r"\s*(?:CodeHeap '([^']{1,40})'|(CodeCache)): size=(\d{1,15})Kb,? used=(\d{1,15})Kb,? max_used=(\d{1,15})Kb"
)
_CLASS: Final = re.compile(r"\s*\d{1,9}: {1,20}(\d{1,15}) {1,20}(\d{1,18}) {1,4}(\S.*?)(?: \((\S+)\))?\s*")
_MAX_LINE: Final = 1000
"""No class has a longer name, and a line of blanks and brackets would take the square of its length."""
_TOTAL: Final = re.compile(r"Total +(\d{1,15}) +(\d{1,18})")
_HEADER: Final = re.compile(r"\s*num +#instances +#bytes|-{4,}|\s*$")
_FLAG: Final = re.compile(r"-XX:(?:([+-])(\w{1,80})|(\w{1,80})=(\S{0,4000}))")

NATIVE_HOLDERS: Final = {
    "java.nio.DirectByteBuffer$Deallocator": "direct buffers that are not freed",
    "java.util.zip.Deflater$DeflaterZStreamRef": "deflaters, some 260 KiB of malloc each until end()",
    "java.util.zip.Inflater$InflaterZStreamRef": "inflaters, some 40 KiB of malloc each until end()",
    "io.netty.buffer.PoolChunk": "chunks of Netty's pool, 4 or 16 MiB each",
    "java.lang.Thread": "threads, each with a stack",
    "java.lang.ref.Finalizer": "objects that wait for finalization",
    "sun.nio.ch.FileChannelImpl$Unmapper": "mapped files",
    "sun.nio.ch.FileChannelImpl$DefaultUnmapper": "mapped files",
}
"""Classes whose instances hold memory outside of the Java heap. DirectByteBuffer itself counts slices and views too."""


def parse_code_cache(text: str) -> Reading:
    """Answer of ``Compiler.codecache``: sizes of the whole and of each part, bytes."""
    heaps: dict[str, dict[str, int]] = {}
    reading = Reading("heap", "the code cache (Compiler.codecache)", {"heaps": heaps})
    for match in filter(None, map(_HEAP.match, text.split("\n"))):
        size, used, most = (int(number) << 10 for number in match.groups()[2:])
        heaps[match[1] or match[2]] = {"size": size, "used": used, "max_used": most}
    # Since 21 a line for the whole follows the parts; a cache in one piece has only that line.
    parts = [heap for name, heap in heaps.items() if name != "CodeCache"] or list(heaps.values())
    reading.values |= {name: sum(heap[name] for heap in parts) if parts else None for name in ("size", "used")}
    if parts:
        values = reading.values
        reading.lines.append(f"code cache: {format_bytes(values['used'])} used of {format_bytes(values['size'])}")
    return reading


def parse_histogram(text: str, n_most: int = 50) -> Reading:
    """Answer of ``GC.class_histogram``: the largest classes, those that hold native memory, and the total."""
    rows: list[dict[str, Any]] = []
    reading = Reading("heap", "the objects of the Java heap (GC.class_histogram)", {"classes": rows, "total": None})
    holders: dict[str, int] = {}
    for line in text.split("\n"):
        if match := _CLASS.fullmatch(line) if len(line) <= _MAX_LINE else None:
            row = {"class": match[3], "count": int(match[1]), "bytes": int(match[2])}
            if len(rows) < n_most:
                rows.append(row)
            if match[3] in NATIVE_HOLDERS:
                holders[match[3]] = int(match[1])
        elif match := _TOTAL.match(line):
            reading.values["total"] = {"count": int(match[1]), "bytes": int(match[2])}
        elif not _HEADER.match(line):
            reading.miss(line)
    reading.values["native_holders"] = holders
    reading.lines += [f"{row['class']}: {row['count']:,} objects, {format_bytes(row['bytes'])}" for row in rows[:3]]
    reading.lines += [f"{name}: {count:,}: {NATIVE_HOLDERS[name]}" for name, count in holders.items()]
    return reading


def parse_flags(text: str) -> Reading:
    """Answer of ``VM.flags``: values by name; switches as 0 and 1, numbers as numbers."""
    flags: dict[str, int | str] = {}
    for match in _FLAG.finditer(text):
        sign, switch, name, value = match.groups()
        if switch:
            flags[switch] = int(sign == "+")
        else:
            flags[name] = int(value) if value.isascii() and value.isdigit() else value
    return Reading("heap", "flags of the JVM (VM.flags)", {"flags": flags}, [f"{len(flags)} flags are set"])
