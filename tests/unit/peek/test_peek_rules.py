"""Rules of a look into memory on made-up bytes: secrets, borders of blocks, pages, contents, texts."""

from __future__ import annotations

import gzip
import json
import os
import random
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nativeleak.errors import UsageError
from nativeleak.peek.kinds import KINDS
from nativeleak.peek.pages import PAGE, PageCounter
from nativeleak.peek.protobuf import is_protobuf
from nativeleak.peek.ranges import parse_range
from nativeleak.peek.reading import Block
from nativeleak.peek.secrets import find_secrets, mask, shorten
from nativeleak.peek.stream import masked
from nativeleak.peek.strings import StringCounter
from support import IS_LONG

_JWT = b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"


def _masked(data: bytes, *, is_cut: bool = False) -> str:
    return shorten(mask(data, find_secrets(data, is_cut=is_cut)).decode("latin-1"))


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"password=hunter22;x", "password=****;x"),
        (b'{"dbPassword": "open sesame", "n": 3}', '{"dbPassword": "****", "n": 3}'),
        (b"MYSQL_PWD=abcdef PATH=/bin", "MYSQL_PWD=**** PATH=/bin"),
        (b"AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI", "AWS_SECRET_ACCESS_KEY=****"),
        (b"Authorization: Bearer abcdefgh\r\nHost: x", "Authorization: ****\r\nHost: x"),
        (b"Set-Cookie: a=b; Path=/\r\n", "Set-Cookie: ****\r\n"),
        (b"jdbc:postgresql://app:pass1@db/x", "jdbc:postgresql://app:****@db/x"),
        (b"-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc=\n-----END", "-----BEGIN RSA PRIVATE KEY-----****-----END"),
        (b"x " + _JWT + b" y", "x **** y"),
        (b"AKIAIOSFODNN7EXAMPLE", "****"),
        (b"ghp_" + b"a1" * 18, "****"),
        (b"card 4111 1111 1111 1111.", "card ****."),
        (b"card 4111111111111111,", "card ****,"),
        (b"number 4111111111111112,", "number 4111111111111112,"),
        (b"api_key = 0123456789", "api_key = ****"),
    ],
)  # fmt: skip
def test_secrets_are_masked_by_name_and_by_form(data: bytes, shown: str) -> None:
    assert _masked(data) == shown


@pytest.mark.parametrize(
    "data",
    [b"monkey: 4", b"keyboard=3", b"http://host:8080/a", b"the password is long", b"tokenizer v2", b"GET / HTTP/1.1"],
)
def test_what_is_no_secret_stays(data: bytes) -> None:
    assert find_secrets(data) == []


def test_secrets_in_utf_16_are_masked_in_place() -> None:
    data = b"\x07\x00" + "password=hunter22;".encode("utf-16-le") + b"\x05\x06"
    hidden = mask(data, find_secrets(data))
    assert len(hidden) == len(data)
    assert "hunter".encode("utf-16-le") not in hidden
    assert "password=".encode("utf-16-le") in hidden


def test_the_first_word_of_a_cut_text_is_taken_for_a_secret() -> None:
    assert _masked(b"unter22 and more", is_cut=True) == "**** and more"
    assert _masked(b"unter22 and more") == "unter22 and more"


@settings(max_examples=100 if IS_LONG else 25)
@given(st.integers(0, 12_000), st.integers(1, 9_000), st.booleans())
def test_a_secret_across_blocks_is_masked_wherever_they_meet(at: int, size: int, is_text: bool) -> None:
    filler = b"some words of text " if is_text else b"\x00\x01\x02\x03\xff"
    secret = b"password=hunter22hunter22"
    data = (filler * 700)[:at] + b" " + secret + b" " + (filler * 700)
    blocks = [Block(0x1000 + i, data[i : i + size], i > 0, False) for i in range(0, len(data), size)]
    parts = list(masked(blocks, raw=False))
    whole = b"".join(part.data for part in parts)
    assert whole == data.replace(b"hunter22hunter22", b"*" * 16)
    assert [part.address for part in parts] == [
        0x1000 + sum(len(before.data) for before in parts[:index]) for index in range(len(parts))
    ]
    assert sum(part.n_secrets for part in parts) == 1


def test_blocks_that_do_not_follow_each_other_are_not_joined() -> None:
    blocks = [Block(0, b"password=", False, False), Block(0x9000, b"hunter22 x", False, True)]
    parts = list(masked(blocks, raw=False))
    assert [(part.address, part.data) for part in parts] == [(0, b"password="), (0x9000, b"******** x")]


def test_raw_bytes_pass_as_they_are() -> None:
    parts = list(masked([Block(7, b"password=hunter22", False, True)], raw=True))
    assert [(part.address, part.data, part.n_secrets) for part in parts] == [(7, b"password=hunter22", 0)]


def test_each_page_is_in_one_class() -> None:
    counter = PageCounter([(0x7F00_0000_0000, 0x7F00_1000_0000)])
    pointers = struct.pack("<512Q", *(0x7F00_0000_0000 + 64 * n for n in range(512)))
    mixed = struct.pack("<1024I", *(n * 3 for n in range(1024)))
    dense = random.Random(1).randbytes(PAGE)
    data = bytes(PAGE) + b"\xa5" * PAGE + dense + (b"a line of a log\n" * 256) + pointers + mixed
    assert counter.add(0x10_0000, data) == [0x10_0000 + 2 * PAGE]
    assert counter.n_bytes == dict.fromkeys(("zero", "pattern", "dense", "text", "pointers", "mixed"), PAGE)
    assert 0 < counter.entropy_bits < 8


def test_parts_of_pages_at_the_ends_are_counted_to_the_byte() -> None:
    counter = PageCounter([])
    counter.add(0x1000 - 5, b"hello" + bytes(PAGE) + b"bye")
    assert counter.n_bytes["zero"] == PAGE
    assert sum(counter.n_bytes.values()) == PAGE + 8


def _kinds(data: bytes) -> dict[str, str]:
    found = {}
    for kind in KINDS:
        for match in kind.pattern.finditer(data):
            example = kind.check(data, match.start())
            if example is not None:
                assert not kind.hints or any(hint in data for hint in kind.hints)
                found.setdefault(kind.id, example)
    return found


def _varint(number: int) -> bytes:
    return bytes([number & 0x7F | 0x80]) + _varint(number >> 7) if number > 0x7F else bytes([number])


def _message() -> bytes:
    fields = [(1, 2, b"\x0dorder-1234567"), (2, 0, _varint(3_000_000)), (3, 2, b"\x04open"), (5, 1, b"\x00" * 8)]
    return b"".join(_varint(number << 3 | wire) + value for number, wire, value in fields)


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        ("http-request", b"GET /a/b?c=1 HTTP/1.1\r\nHost: x\r\n", "GET /a/b?c=1 HTTP/1.1"),
        ("http-response", b"HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK"),
        ("json", json.dumps({"a": [1, 2]}).encode(), '{"a": [1, 2]}'),
        ("xml", b'<?xml version="1.0"?><a/>', '<?xml version="1.0"?><a/>'),
        ("sql", b"SELECT id FROM orders WHERE a = 1\0", "SELECT id FROM orders WHERE a = 1"),
        ("log", b"2026-11-30 10:00:00.123 INFO started\n", "2026-11-30 10:00:00.123 INFO started"),
        ("pem", b"-----BEGIN CERTIFICATE-----\nMII", "-----BEGIN CERTIFICATE-----"),
        ("protobuf", _message(), "4 fields"),
        ("java-class", b"\xca\xfe\xba\xbe\x00\x00\x00\x3d\x00\x20\x0a\x00", "of Java 17"),
        ("java-serialised", b"\xac\xed\x00\x05sr\x00\x11java.util.HashMap\x05", "of java.util.HashMap"),
        ("zlib", zlib.compress(b"the quick brown fox " * 100) + b"\xff" * 9, "holds 'the quick brown fox"),
        ("gzip", gzip.compress(b"a,b,c,d\n" * 100, mtime=0), "800 bytes and more"),
        ("zstd", bytes.fromhex("28b52ffd0458090000") + b"x" * 20, "frame"),
        ("png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", 640, 480), "640 x 480 pixels"),
        ("jpeg", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "picture"),
        ("tls", b"\x16\x03\x01\x00\x40\x01\x00\x00\x3c\x03\x03" + b"r" * 58, "handshake, 64 bytes"),
        ("elf", b"\x7fELF\x02\x01\x01\x00", "program or library"),
        ("sqlite", b"SQLite format 3\x00", "database"),
        ("zip", b"PK\x03\x04\x14\x00\x00\x00", "entry"),
    ],
)  # fmt: skip
def test_contents_are_recognised(kind: str, data: bytes, said: str) -> None:
    assert said in _kinds(bytes(5) + data + bytes(70))[kind]


def test_a_secret_in_compressed_text_is_masked_in_the_example() -> None:
    packed = zlib.compress(b'{"password": "hunter22"}' + b" " * 600)
    assert _kinds(packed)["zlib"].startswith('holds \'{"password": "********"}')


def test_random_bytes_are_nothing() -> None:
    found: dict[str, str] = {}
    for seed in range(64):
        found |= _kinds(random.Random(seed).randbytes(64 << 10))
    assert found == {}


def test_text_is_no_protobuf() -> None:
    assert is_protobuf(b"\nAll these lines are text, and nothing else but text at all, line by line.\n" * 4, 0) == 0


def test_texts_that_differ_in_numbers_alone_are_one() -> None:
    counter = StringCounter()
    lines = [b"order 17 of customer 4 is open", b"order 18 of customer 5 is open", b"utf8 stays", "größer als".encode()]
    counter.add(0x1000, b"\0".join(lines) + b"\1\1" + "wide text".encode("utf-16-le") + b"\0\0\1short\1")
    texts = {text.text: (text.n_seen, text.address, text.encoding) for text in counter.most()}
    assert texts == {
        "order # of customer # is open": (2, 0x1000, "ascii"),
        "utf8 stays": (1, 0x1000 + 62, "ascii"),
        "größer als": (1, 0x1000 + 73, "ascii"),
        "wide text": (1, 0x1000 + 87, "utf-16"),
    }


def test_names_of_java_classes_are_counted_in_both_spellings() -> None:
    counter = StringCounter()
    counter.add(0, b"\0java/util/HashMap\0Lcom/acme/shop/Order$Line;\0java.util.HashMap\0usr/lib/x\0")
    assert counter.classes == {"java.util.HashMap": 2, "com.acme.shop.Order$Line": 1}


def test_the_table_of_texts_is_bounded_and_says_what_it_may_have_missed() -> None:
    counter = StringCounter()
    words = [bytes(random.Random(n).choices(b"abcdefghijklmnop", k=12)) for n in range(50_000)]
    counter.add(0, b"\0".join(word + b"\0often seen" for word in words))
    assert counter.n_texts <= 40_000
    assert counter.max_missed >= 1
    assert counter.most(1)[0].n_seen >= 50_000 - counter.max_missed
    assert counter.n_strings == 100_000


def test_ranges_are_written_as_maps_writes_them() -> None:
    assert parse_range("7f00-0x7fff") == (0x7F00, 0x7FFF)
    assert parse_range("0x7f00+4K") == (0x7F00, 0x7F00 + 4096)
    assert parse_range("7f00") == (0x7F00, None)


@pytest.mark.parametrize("text", ["", "xyz", "10-", "10-5", "10+0", "10+much", "-5", "1" * 17])
def test_ranges_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_range(text)


@given(st.binary(max_size=5000))
def test_no_bytes_break_a_look(data: bytes) -> None:
    hidden = mask(data, find_secrets(data, is_cut=True))
    assert len(hidden) == len(data)
    _kinds(hidden)
    StringCounter().add(0, hidden)
    PageCounter([(0, 1 << 40)]).add(123, hidden or os.urandom(1))
