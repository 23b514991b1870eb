"""Reads profiles of pprof for tests: a decoder of Protocol Buffers that shares no code with the encoder."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass

Field = tuple[int, int | bytes]


def fields(data: bytes) -> Iterator[Field]:
    """Number and value of each field: an int of a varint, bytes of all that has a length."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
        elif wire == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("a field is longer than its message")
            yield number, data[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {wire}")


def numbers(data: bytes) -> list[int]:
    """Packed int64."""
    found, at = [], 0
    while at < len(data):
        number, at = _varint(data, at)
        found.append(number - (1 << 64) if number >> 63 else number)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return number, at


@dataclass
class Sample:
    """One sample: frames leaf first as ``function file:line``, values by type, labels."""

    frames: list[str]
    values: dict[str, int]
    labels: dict[str, str]


@dataclass
class Profile:
    """What a profile says; mappings are (name, build id, start, limit, file offset) by id."""

    samples: list[Sample]
    units: dict[str, str]
    mappings: dict[int, tuple[str, str, int, int, int]]
    addresses: dict[int, tuple[int, int]]
    comments: list[str]
    default: str
    duration_ns: int
    period: int


def read_profile(packed: bytes) -> Profile:
    """The profile in these bytes, whose every reference must lead somewhere."""
    message = list(fields(gzip.decompress(packed)))
    strings = [_bytes(value).decode() for number, value in message if number == 6]
    assert strings[0] == ""

    def nested(number: int) -> list[dict[int, list[int | bytes]]]:
        found = []
        for of, value in message:
            if of == number:
                row: dict[int, list[int | bytes]] = {}
                for field, content in fields(_bytes(value)):
                    row.setdefault(field, []).append(content)
                found.append(row)
        return found

    def text(row: dict[int, list[int | bytes]], field: int) -> str:
        return strings[_int(row.get(field, [0])[0])]

    def single(field: int) -> int:
        return next((_int(value) for number, value in message if number == field), 0)

    types = [(text(row, 1), text(row, 2)) for row in nested(1)]
    functions = {_int(row[1][0]): (text(row, 2), text(row, 4)) for row in nested(5)}
    mappings = {
        _int(row[1][0]): (
            text(row, 5), text(row, 6), _int(row.get(2, [0])[0]), _int(row[3][0]), _int(row.get(4, [0])[0])
        )
        for row in nested(3)
    }  # fmt: skip
    locations: dict[int, list[str]] = {}
    addresses = {}
    for row in nested(4):
        lines = []
        for line in row.get(4, []):
            content = dict(fields(_bytes(line)))
            name, file = functions[_int(content[1])]
            lines.append(f"{name} {file}:{_int(content.get(2, 0))}")
        mapping = _int(row.get(2, [0])[0])
        assert not mapping or mapping in mappings
        locations[_int(row[1][0])] = lines
        addresses[_int(row[1][0])] = (mapping, _int(row.get(3, [0])[0]))
    samples = []
    for row in nested(2):
        values = numbers(_bytes(row[2][0]))
        samples.append(
            Sample(
                [line for number in numbers(_bytes(row[1][0])) for line in locations[number]],
                dict(zip([name for name, _ in types], values, strict=True)),
                {strings[_int(label[1])]: strings[_int(label[2])] for label in
                 (dict(fields(_bytes(each))) for each in row.get(3, []))},
            )
        )  # fmt: skip
    comments = [strings[i] for number, value in message if number == 13 for i in numbers(_bytes(value))]
    return Profile(samples, dict(types), mappings, addresses, comments, strings[single(14)], single(10), single(12))


def _bytes(value: int | bytes) -> bytes:
    assert isinstance(value, bytes)
    return value


def _int(value: int | bytes) -> int:
    assert isinstance(value, int)
    return value
