"""strace's output, line by line: real text in all the forms that its options give it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nativeleak.engines.strace.arguments import (
    MAP,
    PROT,
    Result,
    parse_flags,
    parse_number,
    parse_result,
    split_arguments,
)
from nativeleak.engines.strace.lines import (
    MAX_LINE,
    Clock,
    parse_ending,
    parse_leader,
    parse_mode,
    unescape,
    without_remarks_inside,
)
from nativeleak.engines.strace.program_lines import LineSplitter
from nativeleak.engines.strace.reader import MAX_FRAMES, Ended, Entered, Left, Mode, Named, StraceReader
from nativeleak.engines.strace.stacks import PrintedFrame, parse_frame

DATA = Path(__file__).parents[1] / "data"


def steps(text, main_tid=0):
    reader = StraceReader(main_tid)
    found = [step for line in text.splitlines() for step in reader.feed(line)]
    return [*found, *reader.flush()], reader


def steps_of(name):
    return steps((DATA / name).read_text())


@pytest.mark.parametrize(
    ("line", "tid", "comm", "stamp"),
    [
        ("munmap(0x1000, 4096) = 0", 0, "", ""),
        ("31312 munmap(0x1000, 4096) = 0", 31312, "", ""),
        ("[pid 32546] munmap(0x1000, 4096) = 0", 32546, "", ""),
        ("[pid 32546<java>] 20:57:48 munmap(0x1000, 4096) = 0", 32546, "java", "20:57:48"),
        (
            "405<C1 CompilerThre> 1795640304.668025 munmap(0x1000, 4096) = 0",
            405,
            "C1 CompilerThre",
            "1795640304.668025",
        ),
        (r"32475<wor\"k)er> munmap(0x1000, 4096) = 0", 32475, 'wor"k)er', ""),
        (r"7<a\74b\76> munmap(0x1000, 4096) = 0", 7, "a<b>", ""),
        ("1795640304 munmap(0x1000, 4096) = 0", 0, "", "1795640304"),
        ("31312 1795640304 munmap(0x1000, 4096) = 0", 31312, "", "1795640304"),
        ("     0.000123 munmap(0x1000, 4096) = 0", 0, "", "0.000123"),
        ("12 20:57:48.226483 (+     0.000071) munmap(0x1000, 4096) = 0", 12, "", "20:57:48.226483"),
        ("12 [   11] [00007f90e1a4a3b7] munmap(0x1000, 4096) = 0", 12, "", ""),
    ],
)
def test_leader_of_every_form_is_taken_off(line, tid, comm, stamp):
    assert parse_leader(line) == (tid, comm, stamp, "munmap(0x1000, 4096) = 0")


def test_arguments_with_quotes_braces_paths_and_comments_are_told_apart():
    text = r'3</a,b)c>, "x\",)(", {a=[1, 2], b=0x3}, 0x3 /* PROT_READ|PROT_WRITE */, -1) = 0x7f00 <0.000013>'
    values, rest = split_arguments(text)
    assert values == ("3</a,b)c>", r'"x\",)("', "{a=[1, 2], b=0x3}", "0x3", "-1")
    assert rest == " = 0x7f00 <0.000013>"
    assert split_arguments("0x7fe4d8538000, 4096 <unfinished ...>") == (("0x7fe4d8538000", "4096"), None)


@pytest.mark.parametrize(
    ("text", "names", "value"),
    [
        ("PROT_NONE", PROT, 0),
        ("PROT_READ|PROT_WRITE|PROT_EXEC", PROT, 7),
        ("PROT_READ|0x40", PROT, 0x41),
        ("0x3", PROT, 3),
        ("MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS|MAP_NORESERVE", MAP, 0x4032),
        ("MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB|21<<MAP_HUGE_SHIFT", MAP, 0x40022 | 21 << 26),
        ("MAP_SHARED|MAP_FROM_THE_FUTURE", MAP, 1),
    ],
)
def test_flags_by_name_and_number(text, names, value):
    assert parse_flags(text, names) == value


@pytest.mark.parametrize(
    ("text", "number"),
    [("NULL", 0), ("0x7fe4d8538000", 0x7FE4D8538000), ("16781312", 16781312), ("-1", -1), ("3</etc/passwd>", 3),
     ("0", 0), ("IPC_PRIVATE", None), ("", None), ("0600", None)],
)  # fmt: skip
def test_numbers(text, number):
    assert parse_number(text) == number


@pytest.mark.parametrize(
    ("rest", "result"),
    [
        (" = 0x7fe4d7b4b000", Result(0x7FE4D7B4B000, False, "")),
        ("          = 0 <0.000007>", Result(0, False, "")),
        (" = -1 EINVAL (Invalid argument)", Result(-1, True, "EINVAL")),
        (" = ? ERESTARTSYS (To be restarted if SA_RESTART is set)", Result(None, True, "ERESTARTSYS")),
        (" = ?", Result(None, False, "")),
        (" = 32475<m>", Result(32475, False, "")),
        (" nonsense", None),
    ],
)
def test_results(rest, result):
    assert parse_result(rest) == result


def test_endings_and_modes():
    assert parse_ending("+++ exited with 3 +++") == (3, "")
    assert parse_ending("+++ killed by SIGSEGV (core dumped) +++") == (0, "SIGSEGV")
    assert parse_ending("--- SIGSEGV {si_signo=SIGSEGV} ---") is None
    assert parse_mode("[ Process PID=25990 runs in 32 bit mode. ]") == (25990, "32")
    assert parse_mode("[ Process PID=25990 runs in x32 mode. ]") == (25990, "x32")


def test_clock_past_midnight_and_relative_stamps_goes_on():
    clock = Clock()
    assert [clock.seconds(stamp) for stamp in ("23:59:59.5", "00:00:01.5", "", "00:00:03")] == [0.0, 2.0, 2.0, 3.5]
    clock = Clock()
    assert [round(clock.seconds(stamp), 3) for stamp in ("0.000000", "0.250000", "1.000000")] == [0.0, 0.25, 1.25]
    clock = Clock(origin_s=1795640304.0)
    assert [clock.seconds(stamp) for stamp in ("1795640303.0", "1795640304.5")] == [0.0, 0.5]


def test_interrupted_calls_of_three_threads_are_put_together():
    found, reader = steps_of("strace_threads.txt")
    assert (reader.n_unread, reader.n_orphans) == (0, 0)
    calls = [step for step in found if isinstance(step, Left)]
    assert sum(step.name == "mmap" for step in calls) == 16
    n_entered = sum(isinstance(step, Entered) and step.name == "munmap" for step in found)
    assert sum(step.name == "munmap" for step in calls) == n_entered == 9
    assert next(step for step in calls if step.name == "mremap").args == (
        "0x7fe4d6b3b000", "16384", "32768", "MREMAP_MAYMOVE",
    )  # fmt: skip
    failed = [step for step in calls if step.failed]
    assert [(step.name, step.args[:2]) for step in failed] == [("mmap", ("0x1", "5"))]
    ends = {step.tid: step.status for step in found if isinstance(step, Ended)}
    assert ends[31312] == 3
    assert len(ends) == 5
    # A munmap that another thread interrupts is known when it begins.
    (entry,) = (i for i, step in enumerate(found) if isinstance(step, Entered) and step.args[0] == "0x7fe4d8538000")
    (left,) = (i for i, step in enumerate(calls) if step.name == "munmap" and step.args[0] == "0x7fe4d8538000")
    assert found.index(calls[left]) > entry


def test_stacks_follow_the_call_they_belong_to():
    found, reader = steps_of("strace_stacks.txt")
    assert reader.n_unread == 0
    first = next(step for step in found if isinstance(step, Left))
    assert (first.name, len(first.frames)) == ("mmap", 6)
    assert first.frames[0] == "/usr/lib/x86_64-linux-gnu/libc.so.6(__mmap+0x13) [0x1019b3]"
    assert Named(32475, 'wor"k)er') in found
    assert all(step.frames for step in found if isinstance(step, Left) and step.name == "mmap")


def test_output_to_a_terminal_and_a_32_bit_process_are_read():
    found, reader = steps_of("strace_terminal.txt")
    assert reader.n_unread == 0
    large = {step.tid for step in found if isinstance(step, Left) and "16781312" in step.args}
    assert large == {32544, 32545, 32546}
    found, reader = steps_of("strace_32bit.txt")
    assert reader.n_unread == 0
    assert Mode(25990, "32") in found
    assert [step.name for step in found if isinstance(step, Left)][:5] == ["mmap2", "munmap", "brk", "brk", "mmap"]


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ("/usr/lib/libc.so.6(__mmap+0x13) [0x1019b3]", PrintedFrame("/usr/lib/libc.so.6", "__mmap", 0x13, 0x1019B3)),
        (
            "/jdk/lib/server/libjvm.so(os::malloc(unsigned long, MEMFLAGS)+0x85) [0xc21b65]",
            PrintedFrame("/jdk/lib/server/libjvm.so", "os::malloc(unsigned long, MEMFLAGS)", 0x85, 0xC21B65),
        ),
        ("/opt/m() [0x131b]", PrintedFrame("/opt/m", "", 0, 0x131B)),
        ("unexpected_backtracing_error [0x7fafd49455ba]", PrintedFrame("", "", 0, 0x7FAFD49455BA)),
        ("nonsense", None),
    ],
)
def test_frames(text, frame):
    assert parse_frame(text) == frame


NONSENSE = (
    *("", "(", "mmap(", "mmap()", "mmap() = ", "mmap(((((((", "1 mmap(1, 2", "\0\x1b[31m", '9 prctl(PR_SET_NAME, "'),
    *("<... mmap resumed>", "<... mmap resumed>) = 1", "[pid 1] ", "[pid 99999999999] mmap(1) = 1", "+++ exited with"),
    *("mmap(NULL, 1, PROT_READ, MAP_PRIVATE, -1, 0) = x", "9 munmap(-1, -1) = 0", "9 mremap(1) = 0", "9 shmdt() = 0"),
    *("9 brk() = ?", "mmap(" * 5000, '9 execve("' + "\\" * 9000, " > " + "(" * 60000, "9 mmap(" + "{" * 60000),
    *("[" * 65000, " " * 65000, "x" * (MAX_LINE + 1), "9 mmap(" + "1<" * 30000, "<" * 60000, '"' * 60000),
)


@pytest.mark.parametrize("line", NONSENSE, ids=lambda line: line[:20])
def test_nonsense_is_passed_over(line):
    found, reader = steps("9 munmap(0x1000, 4096 <unfinished ...>\n" + line)
    assert reader.n_lines <= 2
    assert len(found) <= 4


def test_half_a_call_whose_other_half_never_came_is_counted():
    _, reader = steps("9 <... mmap resumed>) = 0x1000\n9 mmap(NULL, 4096 <unfinished ...>\n9 munmap(0x1000, 1) = 0")
    assert reader.n_orphans == 1
    _, reader = steps("9 mmap(NULL, 4096 <unfinished ...>\n9 <... munmap resumed>) = 0")
    assert reader.n_orphans == 1


def test_stack_without_end_is_bounded():
    found, _ = steps("9 brk(NULL) = 0x1000\n" + " > /opt/m(f+0x1) [0x2]\n" * (MAX_FRAMES + 7))
    assert len(found[-1].frames) == MAX_FRAMES


def test_lines_are_cut_out_of_any_pieces_and_long_ones_are_not_kept():
    splitter = LineSplitter()
    assert splitter.feed(b"a\nb") == ["a"]
    assert splitter.feed(b"c\n\xff\n") == ["bc", "�"]
    found = [line for _ in range(5) for line in splitter.feed(b"x" * 40000)] + splitter.feed(b"\nnext\n")
    assert [len(line) for line in found] == [MAX_LINE + 1, 4]


def test_unescape():
    assert unescape(r"a\tb\33[31m\303\244\x41\q") == "a\tb\x1b[31mäAq"


def test_without_remarks_inside_call_broken_by_a_new_thread_is_whole_again():
    call = "clone3({flags=CLONE_VM|CLONE_THREAD, child_tid=0x7f9b98b64990}"
    rest = " => {parent_tid=[12]}, 88) = 12"
    lines = ["mmap(NULL, 4096) = 0x7f00", f"{call}strace: Process 12 attached", "strace: Process 13 attached", rest]
    whole = ["strace: Process 12 attached", "strace: Process 13 attached", call + rest]
    assert list(without_remarks_inside([*lines, "munmap(0x7f00, 4096) = 0"])) == [
        lines[0],
        *whole,
        "munmap(0x7f00, 4096) = 0",
    ]
    assert list(without_remarks_inside(["[pid 7] strace: Process 9 attached", "x"])) == [
        "[pid 7] strace: Process 9 attached",
        "x",
    ]
    assert list(without_remarks_inside([lines[1]])) == ["strace: Process 12 attached", call]


def test_reader_call_begun_without_a_number_is_of_the_thread_that_resumes_it():
    reader = StraceReader()
    lines = [
        "clone3({flags=CLONE_VM|CLONE_THREAD} <unfinished ...>",
        "[pid 12] munmap(0x7f00, 4096) = 0",
        "[pid 11] <... clone3 resumed> => {parent_tid=[12]}, 88) = 12",
    ]
    steps = [step for line in [*lines, ""] for step in reader.feed(line)] + list(reader.flush())
    made = [step for step in steps if isinstance(step, Left) and step.name == "clone3"]
    assert [(step.tid, step.value) for step in made] == [(11, 12)]
    assert reader.n_orphans == 0
