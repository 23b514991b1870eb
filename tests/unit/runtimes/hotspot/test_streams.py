from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nativeleak.runtimes.hotspot.memory import UnreadableError
from nativeleak.runtimes.hotspot.streams import CODES, LineTable, read_line_table, read_signed5, read_unsigned5


def write_unsigned5(value, excluded):
    """The other direction, from its description: every byte below the limit ends the number, the fifth always does."""
    data = bytearray()
    for _ in range(4):
        if value < 192 - excluded:
            break
        value -= 192 - excluded
        data.append(192 + value % 64)
        value >>= 6
    data.append(value + excluded)
    return bytes(data)


def write_signed5(value, excluded):
    return write_unsigned5((value << 1 ^ value >> 31) & 0xFFFF_FFFF, excluded)


def pack_lines(pairs, excluded):
    data, bci, line = b"", 0, 0
    for next_bci, next_line in pairs:
        bci_step, line_step = next_bci - bci, next_line - line
        byte = bci_step << 3 | line_step if 0 <= bci_step < 32 and 0 <= line_step < 8 else 0xFF
        if byte in (0, 0xFF):
            data += b"\xff" + write_signed5(bci_step, excluded) + write_signed5(line_step, excluded)
        else:
            data += bytes([byte])
        bci, line = next_bci, next_line
    return data + b"\0"


@pytest.mark.parametrize("excluded", CODES)
@given(value=st.integers(0, (1 << 32) - 1))
def test_unsigned5_what_was_written_is_read(excluded, value):
    data = write_unsigned5(value, excluded)
    assert 1 <= len(data) <= 5
    assert read_unsigned5(data + b"\x55", 0, excluded) == (value, len(data))


@pytest.mark.parametrize("excluded", CODES)
@given(value=st.integers(-(1 << 31), (1 << 31) - 1))
def test_signed5_what_was_written_is_read(excluded, value):
    data = write_signed5(value, excluded)
    assert read_signed5(data, 0, excluded) == (value, len(data))


@pytest.mark.parametrize(
    ("data", "excluded", "value"),
    [
        (b"\x00", 0, 0),
        (b"\xbf", 0, 191),
        (b"\xc0\x00", 0, 192),
        (b"\xc0\x01", 0, 256),
        (b"\x01", 1, 0),
        (b"\xbf", 1, 190),
        (b"\xc0\x01", 1, 191),
    ],
)
def test_unsigned5_knows_both_codes(data, excluded, value):
    assert read_unsigned5(data, 0, excluded) == (value, len(data))


@pytest.mark.parametrize(
    ("data", "place", "excluded"), [(b"", 0, 0), (b"\xff\xff", 0, 0), (b"\0", 0, 1), (b"a", -1, 0)]
)
def test_unsigned5_damaged_stream_is_refused(data, place, excluded):
    with pytest.raises(UnreadableError):
        read_unsigned5(data, place, excluded)


LINES = st.lists(
    st.tuples(st.integers(0, 4000), st.integers(1, 65535)), min_size=1, max_size=50, unique_by=lambda pair: pair[0]
).map(sorted)


@pytest.mark.parametrize("excluded", CODES)
@given(pairs=LINES)
def test_line_table_in_order_is_read_in_either_code(excluded, pairs):
    assert read_line_table(pack_lines(pairs, excluded), 4001).pairs == tuple(pairs)


def test_line_table_line_is_that_of_the_last_entry_before():
    table = LineTable(((0, 10), (8, 12), (4, 11)))
    assert [table.line(bci) for bci in (0, 3, 4, 7, 8, 99)] == [10, 10, 11, 11, 12, 12]
    assert LineTable(((4, 11),)).line(3) is None
    assert LineTable(()).line(0) is None


@pytest.mark.parametrize("data", [b"", b"\x09", b"\xff\xff\xff", b"\xff\x04\xbf\xff"])
def test_line_table_damaged_is_empty(data):
    assert read_line_table(data, 100) == LineTable(())


def test_line_table_beyond_the_code_is_empty():
    assert read_line_table(pack_lines([(0, 5), (50, 6)], 1), 50) == LineTable(())


def test_line_table_of_random_bytes_never_fails():
    generator = random.Random(7)
    for _ in range(5000):
        table = read_line_table(generator.randbytes(generator.randrange(200)), generator.randrange(65536))
        assert all(0 <= bci < 65536 and 0 <= line < 65536 for bci, line in table.pairs)
