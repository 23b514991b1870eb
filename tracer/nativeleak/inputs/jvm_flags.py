"""What the flags of a JVM allow it to take, against the limit that it met.

Scope: the sizes that flags bound, with HotSpot's defaults where a flag is missing. The sum is what the JVM may reach
without a fault, not what it takes.

Source: src/hotspot/share/runtime/globals.hpp, gc/shared/gc_globals.hpp; ``-XX:MaxDirectMemorySize`` in
jdk.internal.misc.VM.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any, Final

from nativeleak.errors import UsageError
from nativeleak.units import format_bytes

_SIZE: Final = re.compile(r"(\d{1,18})([kKmMgGtT]?)")
_SHIFT: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_HEAP: Final = re.compile(r"-(?:Xmx|mx|XX:MaxHeapSize=)(.*)")
_STACK: Final = re.compile(r"-(?:Xss|ss|XX:ThreadStackSize=)(.*)")
_OPTION: Final = re.compile(r"-XX:(\w+)=(.*)")
_DEFAULT_CODE: Final = 240 << 20
_DEFAULT_STACK: Final = 1 << 20
_DEFAULT_PERCENT: Final = 25.0
_COLLECTORS: Final = {"UseG1GC": 0.05, "UseZGC": 0.03, "UseShenandoahGC": 0.03, "UseParallelGC": 0.03}
"""Tables of a collector as a part of the heap, roughly."""


@dataclass(frozen=True, slots=True)
class Part:
    """One share of what a JVM may take.

    Attributes:
        n_bytes: None: nothing bounds it.
        is_given: A flag says so; else it is a default or an estimate.
    """

    name: str
    n_bytes: int | None
    is_given: bool
    why: str


def parts_of(flags: str, limit_bytes: int | None, n_threads: int | None = None) -> list[Part]:
    """What the flags bound, largest first as the JVM has it.

    Args:
        flags: The command line of the JVM, or its options alone.
        limit_bytes: Of the container or the machine: the heap's default is a quarter of it.
        n_threads: For their stacks; None: they are left out.

    Raises:
        UsageError: A flag has no size where one belongs.
    """
    try:
        words = shlex.split(flags)
    except ValueError as error:
        raise UsageError(f"--jvm-flags {flags!r}: {error}", "close the quotes") from error
    heap = stack = None
    options: dict[str, str] = {}
    switches: dict[str, bool] = {}
    for word in words:
        if found := _HEAP.fullmatch(word):
            heap = _size(word, found[1])
        elif found := _STACK.fullmatch(word):
            stack = _size(word, found[1])
            stack = stack << 10 if "ThreadStackSize" in word else stack
        elif found := _OPTION.fullmatch(word):
            options[found[1]] = found[2]
        elif word.startswith(("-XX:+", "-XX:-")):
            switches[word[5:]] = word[4] == "+"
    parts = [_heap(heap, options, limit_bytes)]
    heap_bytes = parts[0].n_bytes
    parts += [_bounded("metaspace", options, "MaxMetaspaceSize", None, "no limit without -XX:MaxMetaspaceSize")]
    code = _DEFAULT_CODE if switches.get("TieredCompilation", True) else 48 << 20
    parts += [_bounded("code cache", options, "ReservedCodeCacheSize", code, "default")]
    direct = _bounded("direct buffers", options, "MaxDirectMemorySize", heap_bytes, "default: as much as the heap")
    parts += [direct if direct.n_bytes else Part("direct buffers", heap_bytes, is_given=False, why=direct.why)]
    if n_threads:
        each = stack or _DEFAULT_STACK
        parts.append(
            Part(f"stacks of {n_threads} threads", each * n_threads, stack is not None, f"{format_bytes(each)} each")
        )
    share = next((share for name, share in _COLLECTORS.items() if switches.get(name)), 0.05)
    if switches.get("UseSerialGC"):
        share = 0.01
    if heap_bytes is not None:
        parts.append(Part("collector's tables", round(heap_bytes * share), is_given=False, why="estimate"))
    return parts


def _heap(heap: int | None, options: dict[str, str], limit_bytes: int | None) -> Part:
    if heap is not None:
        return Part("heap", heap, is_given=True, why="-Xmx")
    whole = _size("-XX:MaxRAM", options["MaxRAM"]) if "MaxRAM" in options else limit_bytes
    given = "MaxRAMPercentage" in options
    try:
        percent = float(options.get("MaxRAMPercentage", _DEFAULT_PERCENT))
    except ValueError as error:
        raise UsageError(f"--jvm-flags: MaxRAMPercentage={options['MaxRAMPercentage']} is no number") from error
    if whole is None:
        return Part("heap", None, is_given=False, why=f"{percent:g} % of a limit that is unknown here")
    return Part("heap", round(whole * percent / 100), given, f"{percent:g} % of {format_bytes(whole)}")


def _bounded(name: str, options: dict[str, str], flag: str, default: int | None, why: str) -> Part:
    if flag in options:
        return Part(name, _size(f"-XX:{flag}", options[flag]), is_given=True, why=f"-XX:{flag}")
    return Part(name, default, is_given=False, why=why)


def _size(flag: str, text: str) -> int:
    found = _SIZE.fullmatch(text)
    if found is None:
        raise UsageError(f"--jvm-flags: {flag}: {text!r} is no size", "write -Xmx6g, -XX:MaxMetaspaceSize=256m")
    return int(found[1]) << _SHIFT[found[2].lower()]


def as_json(parts: list[Part], limit_bytes: int | None, limit_name: str) -> dict[str, Any]:
    """The object under ``jvm``."""
    total = sum(part.n_bytes or 0 for part in parts)
    return {
        "parts": [
            {"name": part.name, "bytes": part.n_bytes, "given": part.is_given, "why": part.why} for part in parts
        ],
        "sum_bytes": total,
        "limit_bytes": limit_bytes,
        "limit": limit_name,
        "exceeds": None if limit_bytes is None else total > limit_bytes,
    }


def in_words(parts: list[Part], limit_bytes: int | None, limit_name: str) -> list[str]:
    """The sum against the limit, then the parts."""
    total = sum(part.n_bytes or 0 for part in parts)
    sizes = " + ".join(f"{part.name} {format_bytes(part.n_bytes)}" for part in parts if part.n_bytes is not None)
    if limit_bytes is None:
        against = "no limit is known here: --limit SIZE gives one"
    else:
        over = "above" if total > limit_bytes else "within"
        against = f"{over} {limit_name} of {format_bytes(limit_bytes)}"
    lines = [f"the JVM's flags allow {sizes} = {format_bytes(total)}, {against}"]
    open_parts = [f"{part.name} ({part.why})" for part in parts if part.n_bytes is None]
    if open_parts:
        lines.append(f"without a bound: {', '.join(open_parts)}")
    defaults = [f"{part.name} ({part.why})" for part in parts if not part.is_given and part.n_bytes is not None]
    if defaults:
        lines.append(f"not given by a flag: {', '.join(defaults)}")
    lines.append("threads' stacks, malloc of native libraries and the allocator's retained memory come on top")
    return lines
