from __future__ import annotations

import random
import struct

import pytest

from nativeleak.unwind import pack
from nativeleak.unwind.pack import PackError, lookup
from nativeleak.unwind.rows import RowList

END = 1 << 24


def _rows(*rows: tuple[int, int]) -> RowList:
    made = RowList()
    for start, word in rows:
        made.put(start, word)
    return made


def _random_rows(chance: random.Random, n_rows: int, span: int, n_rules: int) -> RowList:
    starts = sorted(chance.sample(range(0x1000, 0x1000 + span), n_rows))
    return _rows(*((start, chance.randrange(n_rules) << 32 | 1) for start in starts))


@pytest.mark.parametrize(
    ("n_rows", "span", "shift"),
    [(1, 16, 16), (2, 1 << 20, 16), (998, 0xF000, 16), (1500, 30000, 14), (4000, 12000, 10), (20000, 1 << 21, 16)],
)
def test_lookup_every_boundary_and_random_addresses(n_rows: int, span: int, shift: int) -> None:
    chance = random.Random(n_rows)
    rows = _random_rows(chance, n_rows, span, 50)
    text_end = 0x1000 + span + (3 << 16)
    packed = pack.pack(rows, text_end)
    assert struct.unpack_from("<6I", packed.words)[2] == shift
    assert len(packed.words) % 4096 == 0
    assert packed.n_rows == len(rows)
    picked = list(rows.starts) if len(rows) < 2000 else chance.sample(list(rows.starts), 500)
    addresses = [start + delta for start in picked for delta in (-1, 0, 1)]
    addresses += [chance.randrange(0x1000, text_end) for _ in range(500)]
    addresses += [page << shift for page in range(0x1000 >> shift, text_end >> shift, max(1, span >> shift + 8))]
    known = sorted(zip(rows.starts, rows.words, strict=True))
    index, in_force = 0, 0
    for vaddr in sorted(addresses):
        while index < len(known) and known[index][0] <= vaddr:
            in_force, index = known[index][1], index + 1
        assert lookup(packed.words, vaddr) == in_force, hex(vaddr)


def test_lookup_reaches_to_the_end_of_the_text_and_not_beyond() -> None:
    packed = pack.pack(_rows((0x10000, 7)), 0x50000).words
    assert lookup(packed, 0xFFFF) == 0
    assert lookup(packed, 0x4FFFF) == 7
    assert lookup(packed, 0x50000) == 0
    assert lookup(packed, 1 << 47) == 0


def test_pack_layout() -> None:
    rows = _rows((0x1_0004, 0x8_0000_0001), (0x1_0010, 0), (0x3_0000, 0x8_0000_0001))
    words = struct.unpack("<1024I", pack.pack(rows, 0x3_1000).words)
    assert words[:6] == (3, 1, 16, 10, 2, pack.FORMAT_VERSION)
    assert words[6:9] == (14 << 10 | 3, 17 << 10 | 1, 18 << 10 | 1)
    assert words[10:14] == (0, 0, 1, 8)  # rule 0 is "none"
    assert words[14:19] == (0, 1 << 16 | 4, 0x10, 0, 1 << 16)


def test_pack_no_page_and_no_rule_straddles_a_chunk() -> None:
    chance = random.Random(1)
    rows = _random_rows(chance, 20000, 1 << 23, 3000)
    words = pack.pack(rows, END).words
    n_pages, _, _, rules_at, n_rules, _ = struct.unpack_from("<6I", words)
    assert rules_at % 2 == 0
    assert n_rules > 2900
    for (entry,) in struct.iter_unpack("<I", words[24 : 24 + 4 * n_pages]):
        start, count = entry >> 10, entry & 1023
        assert 1 <= count <= 1001
        assert start % 1024 + count <= 1024


def test_pack_rows_too_dense_reported() -> None:
    with pytest.raises(PackError, match="1000 rows"):
        pack.pack(_rows(*((0x1000 + n, n % 2 + 1) for n in range(1024))), END)


def test_pack_too_many_rules_reported() -> None:
    with pytest.raises(PackError, match="distinct rules"):
        pack.pack(_rows(*((0x1000 + 16 * n, n + 1) for n in range(1 << 16))), END)


def test_pack_span_too_wide_reported() -> None:
    with pytest.raises(PackError, match="spans"):
        pack.pack(_rows((0x1000, 1)), 1 << 40)


def test_pack_table_too_long_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "MAX_START_WORD", 2048)
    with pytest.raises(PackError, match="more than a table"):
        pack.pack(_random_rows(random.Random(2), 4000, 1 << 20, 9), END)


def test_pack_far_addresses() -> None:
    base = 0x7FFF_0000_0000
    packed = pack.pack(_rows((base, 5), (base + 0x20000, 6)), base + 0x30000).words
    assert [lookup(packed, base + offset) for offset in (-1, 0, 0x1FFFF, 0x2FFFF)] == [0, 5, 5, 6]
