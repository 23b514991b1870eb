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
from nativeleak.model import BlockChunk, BlockFate, SiteFate, sum_of_fates
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


def _recorded(addresses: list[int], sites: list[int], keys: tuple[tuple[int, int], ...]) -> RecordedBlocks:
    n_bytes = np.full(len(addresses), 48, np.uint64)
    return RecordedBlocks(
        Path("/x/a.nlk").name, 2, 8.2, np.array(addresses, np.uint64), n_bytes, np.array(sites, np.int32), keys
    )


def test_each_site_is_told_what_became_of_its_blocks() -> None:
    starts = np.arange(HEAP, HEAP + 6 * 64, 64, dtype=np.uint64)
    table = make_table(starts, starts + np.uint64(64), [(HEAP, HEAP + 4096)])
    addresses = [HEAP, HEAP + 64, HEAP + 128 + 16, HEAP + 192, HEAP + 256, HEAP + 9000]
    recorded = _recorded(addresses, [0, 1, 1, 1, 1, 0], ((7, 1 << 63 | 5), (8, 6)))
    owners = np.array([1, NONE, 0, 1, 1, 0], np.uint32)
    assert join(recorded, table, owners, ["g_a in app", "thread b"], np.array([HEAP + 64], np.uint64)) == [
        SiteFate(2, 7, 1 << 63 | 5, BlockFate(2, 1, 0, 0, (("thread b", 1),))),
        SiteFate(2, 8, 6, BlockFate(4, 4, 1, 48, (("thread b", 2), ("g_a in app", 1)))),
    ]


def test_fates_of_several_sites_add_up_with_their_most_frequent_holders() -> None:
    fates = [
        BlockFate(5, 4, 1, 48, (("a", 2), ("b", 1))),
        BlockFate(6, 6, 0, 0, (("b", 4), ("c", 1), ("d", 1))),
    ]
    assert sum_of_fates(fates) == BlockFate(11, 10, 1, 48, (("b", 5), ("a", 2), ("c", 1)))
    assert sum_of_fates(fates).lost_pct == 10.0


def test_the_page_says_which_call_paths_lost_blocks() -> None:
    traced = [
        TracedCause(Cause("loses", "a.c:7", is_suspect=True), BlockFate(2, 2, 1, 48, (("g_a in app", 1),))),
        TracedCause(Cause("keeps", "", is_suspect=False), BlockFate(2, 1, 0, 0, (("thread b", 1),))),
    ]
    report = HoldersReport(
        target=TargetFacts(7, "app", "/usr/bin/app", 1, 7, same_mnt_ns=True, same_pid_ns=True),
        lost=[LostBlocks("lost", "proven", "", 1, 64, ())],
        completeness=Completeness(4, 4, 4, 256),
        recorded=replace(_recorded([HEAP], [0], ((7, 5),)), n_unlisted=1234),
        traced=traced,
    )
    page = render_text(report)
    assert "traced in a.nlk, which ended 8s ago" in page
    assert "without 1,234 blocks" in page
    assert "loses (a.c:7)" in page
    assert "leak, proven: 50 % of its blocks in use are lost, 48 B" in page


def test_a_look_that_found_no_block_joins_with_nothing_in_use() -> None:
    nothing = np.zeros(0, np.uint64)
    table, owners = make_table(nothing, nothing, []), np.zeros(0, np.uint32)
    fates = join(_recorded([HEAP], [0], ((7, 5),)), table, owners, [], np.zeros(0, np.uint64))
    assert fates == [SiteFate(2, 7, 5, BlockFate(1, 0, 0, 0, ()))]
