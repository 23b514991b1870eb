"""What a JVM says of its own memory when it is asked, beside what is seen from outside.

Scope: which commands are asked, their parsers, the comparison. Nothing is asked unless the user wants it.

| command | cost for the JVM |
|---|---|
| VM.flags, GC.heap_info, VM.native_memory summary, Compiler.codecache | no stop that is seen |
| VM.native_memory detail, baseline, detail.diff | stops of up to 13 ms |
| System.map | reads its own smaps |
| GC.class_histogram | a full collection: about a second with 9 million objects |
| System.trim_native_heap | gives free memory of malloc back; holds malloc up meanwhile |

Source: rss-ledger-and-verdicts.md, 6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from nativeleak.errors import NativeleakError
from nativeleak.inputs.java_heap import parse_heap_info
from nativeleak.inputs.jvm_answers import parse_code_cache, parse_flags, parse_histogram
from nativeleak.inputs.maps import parse_maps
from nativeleak.inputs.nmt import parse_nmt
from nativeleak.inputs.reading import Reading
from nativeleak.inputs.words import CATEGORIES
from nativeleak.runtimes.hotspot.attach import Attached, UnknownCommandError
from nativeleak.triage.ledger import read_ledger
from nativeleak.triage.lines import Ledger
from nativeleak.triage.verdicts import Verdict
from nativeleak.units import format_bytes

FLAGS, HEAP, NMT, CODE = "VM.flags", "GC.heap_info", "VM.native_memory summary", "Compiler.codecache"
HISTOGRAM, MAP, TRIM = "GC.class_histogram", "System.map", "System.trim_native_heap"
NMT_DETAIL, NMT_BASELINE = "VM.native_memory detail", "VM.native_memory baseline"
NMT_DIFF, NMT_DETAIL_DIFF = "VM.native_memory summary.diff", "VM.native_memory detail.diff"

ALWAYS: Final = (FLAGS, HEAP, NMT, CODE)
"""Asked with ``--jcmd``."""
ON_REQUEST: Final = (HISTOGRAM, MAP, TRIM, NMT_DETAIL, NMT_BASELINE, NMT_DIFF, NMT_DETAIL_DIFF)
"""Asked only by name: they stop the JVM, or change something in it."""

RETENTION: Final = "allocator-retention"
_HELP_OF_TRIM: Final = "trim"
_LONG_S: Final = 120.0
_SHORT_S: Final = 30.0
_MIN_TOLD: Final = 1 << 20
_MAX_CATEGORIES: Final = 8


def _parse_trim(text: str) -> Reading:
    lines = [line.strip() for line in text.strip().split("\n") if line.strip()]
    return Reading("alloc", "malloc_trim by the JVM (System.trim_native_heap)", {"answer": lines}, lines)


_PARSERS: Final[dict[str, Callable[[str], Reading]]] = {
    FLAGS: parse_flags,
    HEAP: parse_heap_info,
    CODE: parse_code_cache,
    HISTOGRAM: parse_histogram,
    MAP: parse_maps,
    TRIM: _parse_trim,
}


@dataclass(frozen=True, slots=True)
class Said:
    """One answer.

    Attributes:
        command: As jcmd takes it.
        reading: None where it could not be had; then ``why`` says why.
    """

    command: str
    reading: Reading | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Compared:
    """One amount, seen from outside and said by the JVM.

    Attributes:
        name: For people.
        seen_bytes: From outside.
        said_bytes: By the JVM.
        source: The command, and what in its answer.
        should_equal: False where the two count different things; ``note`` says which.
    """

    name: str
    seen_bytes: int
    said_bytes: int
    source: str
    should_equal: bool = True
    note: str = ""


@dataclass(slots=True)
class JvmWord:
    """All that a JVM said.

    Attributes:
        said: By command.
        refusal: Why it was not asked at all; empty where it was.
        can_trim: Whether it has ``System.trim_native_heap``; None where it was not asked.
    """

    said: list[Said] = field(default_factory=list)
    refusal: str = ""
    can_trim: bool | None = None

    def values(self, command: str) -> dict[str, Any]:
        """What an answer says; empty where there is none."""
        reading = next((each.reading for each in self.said if each.command == command), None)
        return reading.values if reading is not None else {}


def read_with_jvm(pid: int, more: Sequence[str] = ()) -> tuple[Ledger, JvmWord]:
    """Read a process, and ask its JVM just before; what it does not answer is said, and never an error.

    Args:
        pid: The process.
        more: Of ``ON_REQUEST``. A trim comes after the reading, all others before it.

    Raises:
        NativeleakError: There is no such process, or it may not be read.
    """
    word = JvmWord()
    try:
        jvm = Attached(pid)
    except NativeleakError as error:
        word.refusal = error.what
        return read_ledger(pid), word
    # A collection and a baseline change what the others say.
    for command in dict.fromkeys((*(each for each in more if each != TRIM), *ALWAYS)):
        word.said.append(_answer(jvm, command))
    try:
        word.can_trim = _HELP_OF_TRIM in jvm.ask(f"help {TRIM}")
    except NativeleakError:
        word.can_trim = False
    ledger = read_ledger(pid)
    if TRIM in more:
        word.said.append(_answer(jvm, TRIM))
    return ledger, word


def _answer(jvm: Attached, command: str) -> Said:
    try:
        text = jvm.ask(command, _LONG_S if command in ON_REQUEST else _SHORT_S)
    except UnknownCommandError:
        return Said(command, None, "this JVM does not have the command")
    except NativeleakError as error:
        return Said(command, None, error.what)
    return Said(command, _PARSERS.get(command, parse_nmt)(text))


def with_trim(verdicts: Sequence[Verdict], ledger: Ledger, word: JvmWord) -> list[Verdict]:
    """The verdicts, that on retention with what this very JVM can do."""
    if word.can_trim is None:
        return list(verdicts)
    n_bytes = sum(walk.total.trimmable_bytes for walk in ledger.walks)
    step = (
        f"nativeleak triage -p {ledger.target.pid} --jcmd-ask {TRIM}    gives {format_bytes(n_bytes)} back now"
        if word.can_trim
        else f"Restart it: this JVM has no {TRIM} (17.0.9 has it, and what came after)."
    )
    return [
        replace(verdict, next=(step, *verdict.next[1:])) if verdict.id == RETENTION else verdict for verdict in verdicts
    ]


def ask_categories(jvm: Attached) -> dict[str, int]:
    """Committed bytes by NMT category; empty where tracking is off.

    Raises:
        NativeleakError: It does not answer.
    """
    values = parse_nmt(jvm.ask(NMT)).values
    return {name: each.get("committed", 0) for name, each in values.get("categories", {}).items()}


def compare(ledger: Ledger, word: JvmWord) -> list[Compared]:
    """What is seen against what is said, where both are known."""
    java = ledger.java
    if java is None:
        return []
    heap, code, nmt = word.values(HEAP), word.values(CODE), word.values(NMT)
    found: list[Compared] = []

    def add(name: str, seen: int | None, said: int | None, source: str, note: str = "") -> None:
        if seen is not None and said is not None:
            found.append(Compared(name, seen, said, source, not note, note))

    add("Java heap, used", java.heap.used if java.heap else None, heap.get("heap_used"), HEAP)
    meta = heap.get("metaspace") or {}
    categories = nmt.get("categories", {})
    add("metaspace, used", java.metaspace_used, meta.get("used"), HEAP)
    committed = None
    if java.metaspace_committed is not None:
        committed = java.metaspace_committed + (java.class_space_committed or 0)
    add("metaspace, committed", committed, meta.get("committed") or _metaspace(categories), HEAP if meta else NMT)
    add("code cache, used", java.code_used, code.get("used"), CODE)
    add("-Xmx", java.flags.get("MaxHeapSize"), word.values(FLAGS).get("flags", {}).get("MaxHeapSize"), FLAGS)
    if not categories:
        return found
    add("Java heap, resident", ledger.resident("java-heap"), categories.get("Java Heap", {}).get("committed"), NMT,
        "committed need not be touched yet")  # fmt: skip
    threads = categories.get("Thread Stack", categories.get("Thread", {}))
    stacks = threads.get("stack_committed", threads.get("committed"))
    add("thread stacks, resident", ledger.resident("thread-stacks"), stacks, NMT,
        "NMT knows Java's threads; of others nothing")  # fmt: skip
    malloc = nmt.get("total", {}).get("malloc") or sum(each.get("malloc", 0) for each in categories.values())
    in_use = sum(walk.in_use_bytes for walk in ledger.walks)
    add("malloc, in use", in_use or None, malloc or None, NMT,
        "what is more here was asked for by native libraries: NMT does not see them")  # fmt: skip
    return found


def _metaspace(categories: dict[str, Any]) -> int | None:
    """Committed metaspace as NMT has it: its own category, with class space in Class, since 17."""
    own = categories.get("Metaspace")
    if own is None:
        return None
    mapped = [each.get("mmap_committed", 0) for each in (own, categories.get("Class", {}))]
    return sum(mapped) or None


def in_words(word: JvmWord, compared: Sequence[Compared]) -> list[str]:
    """The section of the page."""
    if word.refusal:
        return [f"the JVM was not asked: {word.refusal}"]
    lines = [f"{'the JVM itself (jcmd)':<27}{'seen here':>11}{'it says':>11}{'apart':>9}"]
    for each in compared:
        apart = (each.seen_bytes - each.said_bytes) / each.said_bytes if each.said_bytes else 0.0
        sizes = f"{format_bytes(each.seen_bytes):>11}{format_bytes(each.said_bytes):>11}"
        difference = f"{apart:+.1%}" if each.should_equal else ""
        lines.append(f"{each.name:<27}{sizes}{difference:>9}   {each.note or each.source}")
    lines += _nmt_lines(word)
    for said in word.said:
        if said.reading is None:
            lines.append(f"{said.command}: {said.why}")
        elif said.command in ON_REQUEST:
            lines.append(f"{said.command}: {said.reading.title}")
            lines += [f"  {line}" for line in said.reading.lines]
        if said.reading is not None and said.reading.n_unread:
            lines.append(f"{said.command}: {said.reading.n_unread} lines not understood: {said.reading.first_unread}")
    return lines


def _nmt_lines(word: JvmWord) -> list[str]:
    values = word.values(NMT)
    categories = values.get("categories", {})
    if not categories:
        if False in values.get("enabled", {}).values():
            return ["NMT is off: start the JVM with -XX:NativeMemoryTracking=summary; it costs about 2 %"]
        return []
    order = sorted(categories.items(), key=lambda item: -item[1].get("committed", 0))
    return [f"{'NMT, committed':<27}"] + [
        f"  {name:<25}{format_bytes(each.get('committed', 0)):>11}   {CATEGORIES.get(name, '')}".rstrip()
        for name, each in order[:_MAX_CATEGORIES]
        if each.get("committed", 0) >= _MIN_TOLD
    ]


def as_json(word: JvmWord, compared: Sequence[Compared]) -> dict[str, Any]:
    """The object under ``jvm_says``."""
    return {
        "refusal": word.refusal or None,
        "answers": [
            {
                "command": said.command,
                "is": said.reading.title if said.reading else None,
                "values": said.reading.values if said.reading else None,
                "unread_lines": said.reading.n_unread if said.reading else 0,
                "error": said.why or None,
            }
            for said in word.said
        ],
        "compared": [
            {
                "name": each.name, "seen_bytes": each.seen_bytes, "said_bytes": each.said_bytes,
                "source": each.source, "should_equal": each.should_equal, "note": each.note or None,
            }
            for each in compared
        ],
    }  # fmt: skip
