"""Blocks of a recording: packed and read back, joined with the blocks of a look, told on the page."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nativeleak.engines.bpf import blocks
from nativeleak.engines.bpf.blocks import read_blocks
from nativeleak.engines.bpf.kernel import abi
from nativeleak.errors import UsageError
from nativeleak.holders.recorded import Cause, RecordedBlocks, TracedCause, join, unpack
from nativeleak.holders.result import Completeness, HoldersReport, LostBlocks
from nativeleak.holders.table import NONE, make_table
from nativeleak.holders.text import render_text
from nativeleak.model import BlockChunk
from nativeleak.process.check import TargetFacts

HEAP = 0x7F00_0000_0000


def test_blocks_of_the_kernel_come_back_from_their_columns() -> None:
    keys = struct.pack("=2Q", HEAP | 3 << abi.SLOT_SHIFT, HEAP + 64)
    values = struct.pack("=QQIIII", 211, 1 << 63 | 5, 7, 900, 1, 0) + struct.pack("=QQIIII", 1 << 40, 6, 8, 1, 1, 0)
    (chunk,) = read_blocks([(memoryview(keys), memoryview(values), 2)])
    columns = [column.tolist() for column in unpack(chunk, "a.nlk")]
    assert columns == [[HEAP, HEAP + 64], [1 << 63 | 5, 6], [211, 1 << 40], [3, 0], [7, 8]]


def test_blocks_beyond_the_limit_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MAX_BLOCKS", 3)
    keys = struct.pack("=2Q", HEAP, HEAP + 64)
    values = 2 * struct.pack("=QQIIII", 48, 5, 7, 900, 1, 0)
    chunks = list(blocks.read_blocks(3 * [(memoryview(keys), memoryview(values), 2)]))
    assert [chunk.n for chunk in chunks] == [2, 1, 3]
    assert [bool(chunk.columns) for chunk in chunks] == [True, True, False]


@pytest.mark.parametrize("chunk", [BlockChunk(2, b"no zlib"), BlockChunk(1 << 31, b""), BlockChunk(0, b"")])
def test_damaged_columns_are_an_error_that_names_the_recording(chunk: BlockChunk) -> None:
    with pytest.raises(UsageError, match=r"reading a\.nlk failed: its addresses of blocks are damaged"):
        unpack(chunk, "a.nlk")


def _recorded(addresses: list[int], causes: list[int], found: tuple[Cause, ...]) -> RecordedBlocks:
    n_bytes = np.full(len(addresses), 48, np.uint64)
    return RecordedBlocks(
        Path("/x/a.nlk").name, 8.2, np.array(addresses, np.uint64), n_bytes, np.array(causes, np.int64), found
    )


def test_each_cause_is_told_what_became_of_its_blocks() -> None:
    starts = np.arange(HEAP, HEAP + 4 * 64, 64, dtype=np.uint64)
    table = make_table(starts, starts + np.uint64(64), [(HEAP, HEAP + 4096)])
    found = (Cause("keeps", "", is_suspect=False), Cause("loses", "a.c:7", is_suspect=True))
    addresses = [HEAP, HEAP + 64, HEAP + 128 + 16, HEAP + 192, HEAP + 9000]
    recorded = replace(_recorded(addresses, [0, 1, 1, -1, 0], found), n_unlisted=1234)
    owners = np.array([1, NONE, 0, 0], np.uint32)
    traced = join(recorded, table, owners, ["g_a in app", "thread b"], [HEAP + 64])
    assert traced == [
        TracedCause(found[1], 2, 2, 1, 48, (("g_a in app", 1),)),
        TracedCause(found[0], 2, 1, 0, 0, (("thread b", 1),)),
    ]
    report = HoldersReport(
        target=TargetFacts(7, "app", "/usr/bin/app", 1, 7, same_mnt_ns=True, same_pid_ns=True),
        lost=[LostBlocks("lost", "proven", "", 1, 64, ())],
        completeness=Completeness(4, 4, 4, 256),
        recorded=recorded,
        traced=traced,
    )
    page = render_text(report)
    assert "traced in a.nlk, which ended 8s ago" in page
    assert "without 1,234 blocks" in page
    assert "loses (a.c:7)" in page
    assert "leak, proven: 50 % of its blocks in use are lost, 48 B" in page


def test_a_look_that_found_no_block_joins_with_nothing_in_use() -> None:
    nothing = np.zeros(0, np.uint64)
    cause = Cause("gone", "", is_suspect=False)
    table, owners = make_table(nothing, nothing, []), np.zeros(0, np.uint32)
    assert join(_recorded([HEAP], [0], (cause,)), table, owners, [], []) == [TracedCause(cause, 1, 0, 0, 0, ())]
