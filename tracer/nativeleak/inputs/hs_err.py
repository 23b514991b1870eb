"""The JVM's hs_err_pidN.log, and ``jcmd VM.info``, as far as they speak of memory.

Scope: JDK 8 to 25. The heap and Native Memory Tracking parts are read by their own modules.

Source: ``VMError::report`` in src/hotspot/share/utilities/vmError.cpp; ``os::Linux::print_process_memory_info``,
``print_container_info`` in os/linux/os_linux.cpp.
"""

from __future__ import annotations

import re
from typing import Any, Final

from nativeleak.inputs.java_heap import is_heap_info, parse_heap_info
from nativeleak.inputs.nmt import is_nmt, parse_nmt
from nativeleak.inputs.reading import Reading, size

_PID: Final = re.compile(r"\bpid=(\d{1,10})\b")
_FAILED: Final = re.compile(
    r"Native memory allocation \((malloc|mmap)\) failed to \w+ (\d{1,20}) bytes(?: for (.*?)\.?\s*$)?"
)
_FAILED_COMMIT: Final = re.compile(r"os::(?:commit|reserve)_memory\(0x[0-9a-f]+, (\d{1,20}), .*\(errno=(\d{1,9})\)")
_MACHINE: Final = re.compile(
    r"Memory: \S+ page, physical (\d{1,18})k\((\d{1,18})k free\)(?:, swap (\d{1,18})k\((\d{1,18})k free\))?"
)
_MEMINFO: Final = re.compile(r"(MemTotal|MemAvailable|SwapTotal): +(\d{1,18}) kB")
_VIRTUAL: Final = re.compile(r"Virtual Size: (\d{1,18})K")
_RESIDENT: Final = re.compile(
    r"Resident Set Size: (\d{1,18})K(?: \(peak: (\d{1,18})K\))?"
    r"(?: \(anon: (\d{1,18})K, file: (\d{1,18})K, shmem: (\d{1,18})K\))?"
)
_SWAPPED: Final = re.compile(r"Swapped out: (\d{1,18})K")
_C_HEAP: Final = re.compile(r"C-Heap outstanding allocations: (\d{1,18})K(?:, retained: (\d{1,18})K)?(.*)")
_CONTAINER: Final = re.compile(r"(memory_\w+_in_bytes|kernel_memory_\w+_in_bytes): (-?\d{1,20})?( k)?(.*)")
_VM: Final = re.compile(r"# Java VM: (.*)|vm_info: (.*)")
_METASPACE: Final = re.compile(r"\nMetaspace +used .*(?:\n +class space +used .*)?")
_COLLECTORS: Final = (
    ("g1 gc", "G1"),
    ("serial gc", "Serial"),
    ("parallel gc", "Parallel"),
    ("z gc", "ZGC"),
    ("shenandoah gc", "Shenandoah"),
    ("epsilon gc", "Epsilon"),
    ("concurrent mark sweep gc", "CMS"),
)
_UNLIMITED_BYTES: Final = 1 << 62


def is_hs_err(text: str) -> bool:
    """Whether a text is an hs_err file, or the answer of ``VM.info``."""
    head = text[:20000]
    return (
        "detected by the Java Runtime Environment" in head
        or "There is insufficient memory for the Java Runtime Environment" in head
        or ("# JRE version:" in head and "Java VM:" in head)
        or bool(_FAILED_COMMIT.search(head))
    )


def parse_hs_err(text: str) -> Reading:
    """What it says about memory."""
    values: dict[str, Any] = {"pid": None, "gc": None}
    reading = Reading("heap", "hs_err file of a JVM", values)
    if is_heap_info(text):
        values |= {key: value for key, value in parse_heap_info(_heap_part(text)).values.items() if key != "pid"}
    if pid := _PID.search(text):
        values["pid"] = int(pid[1])
    else:
        first = re.match(r"\s*(\d{1,10}):\s*\n", text)
        values["pid"] = int(first[1]) if first else None
    vm = next((found[1] or found[2] for found in _VM.finditer(text)), "")
    values["gc"] = values["gc"] or next((name for words, name in _COLLECTORS if words in vm), None)
    _take_failure(values, text)
    _take_process(reading, text)
    _take_machine(values, text)
    if is_nmt(text):
        total = parse_nmt(text).values.get("total")
        if total:
            values |= {f"nmt_total_{name}": total[name] for name in ("reserved", "committed")}
    _tell(reading)
    return reading


def _heap_part(text: str) -> str:
    """From ``Heap:`` on to the next part: events repeat the heap before and after collections."""
    start = text.find("\nHeap:")
    if start < 0:
        return text
    end = re.search(r"\n\n(?=\S)", text[start + 7 :])
    heap = text[start : start + 7 + end.start()] if end else text[start:]
    if "Metaspace" in heap:
        return heap
    apart = _METASPACE.search(text)  # JDK 22 and newer
    return heap + apart[0] if apart else heap


def _take_failure(values: dict[str, Any], text: str) -> None:
    if failed := _FAILED.search("\n".join(text.split("\n")[:60])):
        values |= {"failed_call": failed[1], "failed_bytes": int(failed[2]), "failed_for": failed[3]}
    elif commit := _FAILED_COMMIT.search(text[:20000]):
        values |= {"failed_call": "mmap", "failed_bytes": int(commit[1]), "failed_for": None, "errno": int(commit[2])}


def _take_process(reading: Reading, text: str) -> None:
    values = reading.values
    if virtual := _VIRTUAL.search(text):
        values["virtual_kb"] = int(virtual[1])
    if resident := _RESIDENT.search(text):
        names = ("rss_kb", "rss_peak_kb", "anon_kb", "file_kb", "shmem_kb")
        values |= {name: _number(group) for name, group in zip(names, resident.groups(), strict=True)}
    if swapped := _SWAPPED.search(text):
        values["swapped_kb"] = int(swapped[1])
    if heap := _C_HEAP.search(text):
        values |= {"malloc_outstanding_kb": int(heap[1]), "malloc_retained_kb": _number(heap[2])}
        if "wrapped" in heap[3]:
            reading.notes.append("C-Heap outstanding may have wrapped at 4 GiB")
        if heap[2] is None:
            reading.notes.append("C-Heap outstanding of this JVM counts 32 bits, without blocks from mmap")


def _take_machine(values: dict[str, Any], text: str) -> None:
    if machine := _MACHINE.search(text):
        names = ("machine_kb", "machine_free_kb", "swap_kb", "swap_free_kb")
        values |= {name: _number(group) for name, group in zip(names, machine.groups(), strict=True)}
    for name, number in _MEMINFO.findall(text):
        key = {"MemTotal": "machine_kb", "MemAvailable": "machine_available_kb", "SwapTotal": "swap_kb"}[name]
        values.setdefault(key, int(number))
    container: dict[str, int | None] = {}
    for name, number, unit, _ in _CONTAINER.findall(text):
        n_bytes = int(number) << (10 if unit else 0) if number else None
        # -1 (JDK 11), a number near 2^63, or a word: no limit.
        container[name] = n_bytes if n_bytes is not None and 0 <= n_bytes < _UNLIMITED_BYTES else None
    if container:
        values["container"] = container


def _number(text: str | None) -> int | None:
    return int(text) if text is not None else None


def _kb(value: int | None) -> str:
    return size(None if value is None else value << 10)


def _tell(reading: Reading) -> None:
    values, lines = reading.values, reading.lines
    if "failed_bytes" in values:
        words = f" for {values['failed_for']}" if values.get("failed_for") else ""
        lines.append(f"the JVM ended: {values['failed_call']} of {size(values['failed_bytes'])} failed{words}")
    if values.get("heap_used") is not None:
        heap = f"{size(values['heap_used'])} used, {size(values.get('heap_committed'))} committed"
        lines.append(f"Java heap ({values['gc'] or 'unknown collector'}): {heap}")
    if values.get("metaspace"):
        meta = values["metaspace"]
        lines.append(f"metaspace: {size(meta['used'])} used, {size(meta.get('committed'))} committed")
    if "rss_kb" in values:
        lines.append(
            f"process: {_kb(values['rss_kb'])} resident (peak {_kb(values['rss_peak_kb'])}; anonymous "
            f"{_kb(values['anon_kb'])}, files {_kb(values['file_kb'])}), {_kb(values.get('virtual_kb'))} virtual"
        )
    if "malloc_outstanding_kb" in values:
        retained = values["malloc_retained_kb"]
        lines.append(f"malloc: {_kb(values['malloc_outstanding_kb'])} in use, {_kb(retained)} retained by glibc")
    if "nmt_total_committed" in values:
        lines.append(f"Native Memory Tracking: {size(values['nmt_total_committed'])} committed")
    if "machine_kb" in values:
        lines.append(f"machine: {_kb(values['machine_kb'])}, {_kb(values.get('machine_free_kb'))} free")
    for name, limit in values.get("container", {}).items():
        if name == "memory_limit_in_bytes":
            lines.append(f"container limit: {'none' if limit is None else size(limit)}")
    if not lines:
        reading.notes.append("it has no part on memory")
