"""Files of other kinds, named for what they are, with the command that reads them."""

from __future__ import annotations

import re
from typing import Final, NamedTuple


class Other(NamedTuple):
    """A kind of file that is not read here.

    Attributes:
        what: What it is, in words.
        use: The command that reads it, or that makes what can be read.
    """

    what: str
    use: str


_USE_STRACE: Final = "strace -f -k -Y -ttt -o FILE -e trace=%memory,%process -p PID"
_BINARY: Final = (
    (b"SQLite format 3\0", Other("recording of nativeleak (SQLite)", "nativeleak report FILE")),
    (b"\x7fELF", Other("ELF file: a program, a library or a core dump", "gdb PROGRAM CORE")),
    (b"JAVA PROFILE 1.0", Other("Java heap dump (hprof)", "Eclipse MAT, or jhat of JDK 8")),
    (b"FLR\0", Other("JDK Flight Recorder file", "jfr print FILE")),
    (b"PERFILE2", Other("recording of perf", "perf report -i FILE, or perf script")),
    (b"\x28\xb5\x2f\xfd", Other("file packed with zstd", "zstd -d FILE, then this command again")),
    (b"PK\x03\x04", Other("ZIP archive", "unzip FILE, then this command again")),
    (b"ustar", Other("tar archive", "tar xf FILE, then this command again")),
    (b"LPKSHHRH", Other("journal of systemd", "journalctl --file FILE -k > LOG, then nativeleak oom --log LOG")),
    (b"\x89PNG", Other("picture", "")),
    (b"\x0a", Other("", "")),
)
_TEXTS: Final = (
    (r"% time +seconds +usecs/call +calls", Other("summary of strace -c", f"record calls, not sums: {_USE_STRACE}")),
    (
        r"^ *\d+\.\d+ \( *(?:\d+\.\d+ ms *)?\): |^ *\d+\.\d+ \(.{0,40}\): .{1,64}/\d+ \w+\(",
        Other("output of perf trace", f"record with strace: {_USE_STRACE}"),
    ),
    (
        r"^(?:\[pid \d+\] )?(?:\d+ )?(?:malloc|free|calloc|realloc|strlen|memcpy|__libc_start_main|SYS_\w+)\(.*",
        Other("output of ltrace", f"record with strace: {_USE_STRACE}; or trace: nativeleak trace -p PID"),
    ),
    (r"^Full thread dump |^\"[^\"]+\" #\d+ .*tid=0x", Other("Java thread dump", "a text editor; it has no sizes")),
    (
        r"^ *num +#instances +#bytes +class name",
        Other("Java class histogram (jmap -histo, GC.class_histogram)", "a text editor; it is of the Java heap only"),
    ),
    (
        r"^\[\d+[.,]\d+s\].*\[gc|^(?:\S+: )?\[(?:Full )?GC |^\[\S+\]\[gc",
        Other("GC log of a JVM", "a viewer of GC logs; jcmd PID GC.heap_info is read here"),
    ),
    (r"^desc: .*\n(?:.*\n)?cmd: ", Other("massif output of valgrind", "ms_print FILE")),
    (r"^==\d+== (?:Memcheck|HEAP SUMMARY|Massif)", Other("output of valgrind", "a text editor")),
    (r"^=+\d+=+ ?ERROR: (?:Address|Leak)Sanitizer", Other("report of AddressSanitizer", "a text editor")),
    (r"^v \d+ .*\n(?:[a-zX] .*\n)", Other("recording of heaptrack", "heaptrack_print FILE")),
    (r"^MemTotal: +\d+ kB", Other("/proc/meminfo", "free; it is of the machine, not of a process")),
    (r"^VmPeak:\s+\d+ kB|^VmRSS:\s+\d+ kB", Other("/proc/PID/status", "pmap -x PID > FILE says where it is")),
    (r"^ +total +used +free +shared", Other("output of free", "pmap -x PID > FILE, of the process")),
    (r"^top - \d\d:\d\d", Other("output of top", "pmap -x PID > FILE, of the process")),
    (r"^USER +PID +%CPU|^ *PID +TTY", Other("output of ps", "pmap -x PID > FILE, of the process")),
    (r"^CONTAINER ID +NAME +CPU %", Other("output of docker stats", "pmap -x PID > FILE, of the process")),
    (r"VmStat|^procs -+memory-+", Other("output of vmstat", "pmap -x PID > FILE, of the process")),
    (r"^(?:Samples|# Overhead|Total time|# To display the perf)", Other("report of perf", "a text editor")),
    (r"^[^\s;]+(?:;[^\s;]+)+ \d+$", Other("folded stacks", "flamegraph.pl FILE, or speedscope")),
    (r'\A\s*+\{\s*+"schema": *"nativeleak\.', Other("JSON report of nativeleak", "jq, or nativeleak report FILE.nlk")),
    (r"^java version |^openjdk version ", Other("output of java -version", "")),
    (r"\A\s*+<(?:!DOCTYPE )?html", Other("web page", "save the text, not the page")),
    (r"^-XX:|^VM Flags:|^[ \t]+\w+ \w+ +:?= ", Other("flags of a JVM", "nativeleak oom --jvm-flags '-Xmx… …'")),
)
_COMPILED: Final = tuple((re.compile(pattern, re.MULTILINE), other) for pattern, other in _TEXTS)
_HEAD: Final = 1 << 16


def identify(magic: bytes, text: str) -> Other:
    """What a file is that no reader knows.

    Args:
        magic: Its first bytes.
        text: As much of its text as is at hand.
    """
    for beginning, other in _BINARY[:-1]:
        if magic.startswith(beginning):
            return other
    if not text.strip():
        return Other("empty file", "record it again; was its output on stderr?")
    head = text[:_HEAD]
    for pattern, other in _COMPILED:
        if pattern.search(head):
            return other
    if "\0" in head or head.count("\ufffd") > len(head) // 20:
        return Other("binary file of an unknown kind", "file FILE")
    return Other("text of an unknown kind", "nativeleak triage --help names what is read")
