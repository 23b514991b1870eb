"""The call from Go into C: where its two words are is read from the code."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from nativeleak.symbols.elf import ElfFile
from nativeleak.unwind import rules
from nativeleak.unwind.go import calls_of, go_pieces
from nativeleak.unwind.table import text_ranges
from support import require_program

NOPS = b"\x90" * 7
SWITCHED = bytes.fromhex("488b7c2430 488b7708 482b742428")
"""mov 0x30(%rsp), %rdi; mov 8(%rdi), %rsi; sub 0x28(%rsp), %rsi: Go 1.19."""
SWITCHED_AT_0 = bytes.fromhex("488b7c2408 488b7708 482b3424")
STAYED = bytes.fromhex("488b742428 4889f4")
INDIRECT, NEAR = b"\xff\xd0", b"\xe8\1\2\3\4"

PROGRAM = """
package main

// #include <stdlib.h>
import "C"

func main() { C.free(C.malloc(3)) }
"""


def test_both_calls_of_go_1_19_have_their_rule() -> None:
    code = NOPS + INDIRECT + SWITCHED + NOPS + INDIRECT + STAYED
    second = 7 + 2 + len(SWITCHED) + 7
    word = rules.pack_rule(rules.KIND_GO, 0x28)
    assert calls_of(code) == [(7, 9, word), (second, second + 2, word)]


def test_words_at_the_stack_pointer_and_a_landing_pad_are_understood() -> None:
    assert calls_of(NOPS + NEAR + SWITCHED_AT_0) == [(7, 12, rules.pack_rule(rules.KIND_GO, 0))]


@pytest.mark.parametrize(
    "code",
    [
        b"",
        SWITCHED,
        NOPS + SWITCHED,
        NOPS + INDIRECT + STAYED,  # nothing says where the words are
        NOPS + INDIRECT + SWITCHED.replace(b"\x30", b"\x38"),  # the two are not neighbours
    ],
)
def test_other_code_has_no_rule(code: bytes) -> None:
    assert calls_of(code) == []


def test_program_of_go_has_its_calls_into_c_and_the_root_of_goroutines(tmp_path: Path) -> None:
    require_program("go")
    (tmp_path / "main.go").write_text(PROGRAM)
    command = [shutil.which("go") or "go", "build", "-o", "program", "main.go"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "GO111MODULE": "off", "GOCACHE": str(tmp_path / "c")}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=240)
    with ElfFile.open(str(tmp_path / "program")) as elf:
        words = [rows[0][2] for _, _, _, rows in go_pieces(elf, text_ranges(elf))]
    assert words.count(rules.ROOT) == 1
    kinds = [rules.unpack_rule(word).kind for word in words]
    assert kinds.count(rules.KIND_GO) == 2
    with ElfFile.open("/bin/sh") as elf:
        assert go_pieces(elf, text_ranges(elf)) == []
