"""Contents that are recognised by their first bytes and checked by what follows: the table that grows.

Scope: one row a kind. A pattern finds a candidate; a check looks at what follows and may say more about it. Formats of
compressed data are tried by decompressing a little of them.

Source: RFC 9112 (HTTP), RFC 1950 and 1952 (zlib, gzip), RFC 8878 (zstd), RFC 8446 (TLS records), the PNG, JPEG, PDF,
ZIP, SQLite and ELF specifications, the Java Virtual Machine Specification 4.1 (class files), the Java Object
Serialization Specification 6.4.2, the Protocol Buffers encoding guide, the LZ4 frame format, the xz file format.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import Final, NamedTuple

from nativeleak.peek.protobuf import is_protobuf
from nativeleak.peek.secrets import find_secrets, mask

_TRIED_BYTES: Final = 16 << 10
_MIN_INFLATED: Final = 512
_MAX_RECORD: Final = 16384 + 256
_MAX_ZSTD_BLOCK: Final = 128 << 10
_HANDSHAKES: Final = frozenset((0, 1, 2, 4, 5, 8, 11, 12, 13, 14, 15, 16, 20, 22, 24))
_EXAMPLE_BYTES: Final = 80

Check = Callable[[bytes, int], str | None]
"""Bytes and the place of a candidate -> what to say of it; None where it is not of this kind."""


class Kind(NamedTuple):
    """A kind of contents.

    Attributes:
        id: For scripts.
        label: For people.
        pattern: Finds candidates.
        check: Looks closer.
        hints: One of these is in all bytes that hold the kind: looked for first, where the pattern is slow.
    """

    id: str
    label: str
    pattern: re.Pattern[bytes]
    check: Check
    hints: tuple[bytes, ...] = ()


def _line(data: bytes, place: int) -> str:
    """The text from a place on up to the end of its line."""
    text = data[place : place + _EXAMPLE_BYTES]
    end = re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", text)
    return text[: end.start() if end else None].decode("utf-8", "replace")


def _said(text: str) -> Check:
    return lambda _data, _place: text


def _inflated(window_bits: int) -> Check:
    def check(data: bytes, place: int) -> str | None:
        stream = zlib.decompressobj(window_bits)
        try:
            text = stream.decompress(data[place : place + _TRIED_BYTES], _TRIED_BYTES)
        except zlib.error:
            return None
        if not stream.eof and len(text) < _MIN_INFLATED:
            return None
        # What was compressed was not masked with the rest of the memory.
        said = _line(mask(text, find_secrets(text)), 0)
        return f"holds {said[:40]!r}" if len(said) > 8 else f"{len(text):,} bytes and more"

    return check


def _zstd(data: bytes, place: int) -> str | None:
    if place + 9 > len(data):
        return None
    descriptor = data[place + 4]
    if descriptor & 8:
        return None
    is_single = descriptor >> 5 & 1
    n_size = (is_single, 2, 4, 8)[descriptor >> 6]
    block = place + 5 + (1 - is_single) + (0, 1, 2, 4)[descriptor & 3] + n_size
    header = int.from_bytes(data[block : block + 3], "little")
    if block + 3 > len(data) or header >> 1 & 3 == 3 or header >> 3 > _MAX_ZSTD_BLOCK:
        return None
    return "frame"


def _png(data: bytes, place: int) -> str | None:
    if data[place + 12 : place + 16] != b"IHDR":
        return None
    width, height = (int.from_bytes(data[place + at : place + at + 4], "big") for at in (16, 20))
    return f"{width} x {height} pixels"


def _tls(data: bytes, place: int) -> str | None:
    kind, minor = data[place], data[place + 2]
    size = int.from_bytes(data[place + 3 : place + 5], "big")
    body = data[place + 5 : place + 5 + size]
    if not 0 < size <= _MAX_RECORD or len(body) < min(size, 64):
        return None
    if kind == 0x16:
        is_plain = body[0] in _HANDSHAKES and int.from_bytes(body[1:4], "big") <= _MAX_RECORD
        return f"handshake, {size:,} bytes" if is_plain and minor in (1, 3) and size >= 4 else None
    following = data[place + 5 + size : place + 8 + size]
    is_chained = len(following) == 3 and following[0] in (0x14, 0x15, 0x16, 0x17) and following[1:] == b"\3\3"
    # What is encrypted has nearly all byte values: of 256 random bytes about 162 differ.
    is_dense = len(body) >= 256 and len(set(body[:256])) > 130
    # In the midst of random bytes any three of them may be a header: a record begins a buffer.
    is_dense = is_dense and len(set(data[max(0, place - 16) : place])) < 12
    if minor != 3 or size < 17 or not (is_dense or is_chained):
        return None
    return f"application data, {size:,} bytes"


def _class_file(data: bytes, place: int) -> str | None:
    major = int.from_bytes(data[place + 6 : place + 8], "big")
    tag = data[place + 10 : place + 11]
    if not 45 <= major <= 80 or not tag or tag[0] not in (1, *range(3, 13), 15, 16, 17, 18, 19, 20):
        return None
    return f"of Java {major - 44}"


def _jpeg(data: bytes, place: int) -> str | None:
    return "picture" if data[place + 6 : place + 10] in (b"JFIF", b"Exif") or data[place + 3] == 0xDB else None


def _serialised(data: bytes, place: int) -> str | None:
    if data[place + 4] != 0x73:
        return "stream"
    size = int.from_bytes(data[place + 6 : place + 8], "big")
    name = data[place + 8 : place + 8 + size]
    is_name = data[place + 5 : place + 6] == b"r" and re.fullmatch(rb"[\w.$\[;]{1,200}", name) is not None
    return f"of {name.decode('ascii')}" if is_name else None


def _protobuf(data: bytes, place: int) -> str | None:
    n_fields = is_protobuf(data, place)
    return f"{n_fields} fields" if n_fields else None


def _row(name: str, label: str, pattern: bytes, check: Check = _line, hints: tuple[bytes, ...] = ()) -> Kind:
    return Kind(name, label, re.compile(pattern), check, hints)


KINDS: Final = (
    _row("http-request", "HTTP requests",
         rb"(?:GET|POST|PUT|DELETE|HEAD|OPTIONS|PATCH|CONNECT) [^\s\x00-\x1f\x7f]{1,2000} HTTP/[12]\.\d",
         hints=(b" HTTP/",)),
    _row("http-response", "HTTP responses", rb"HTTP/[12](?:\.\d)? [1-5]\d\d[ \r]"),
    _row("json", "JSON objects", rb"\{\s{0,32}\"[^\"\\\x00-\x1f]{1,100}\"\s{0,4}:\s{0,4}[\"\d\[{tfn-]"),
    _row("xml", "XML, HTML documents", rb"<\?xml [^>]{1,80}>|<!DOCTYPE html|<(?:soap|soapenv|s):Envelope"),
    _row("sql", "SQL statements",
         rb"(?:SELECT|select) [^\x00-\x08\x0b-\x1f\x7f]{1,400}? (?:FROM|from) |(?:INSERT INTO|insert into) \w"
         rb"|(?:DELETE FROM|delete from) \w|(?:UPDATE|update) \w{1,80} (?:SET|set) ",
         hints=(b" FROM ", b" from ", b"INTO ", b"into ", b" SET ", b" set ")),
    _row("log", "log lines",
         rb"(?:19|20)\d\d-[01]\d-[0-3]\d[T ][0-2]\d:[0-5]\d:[0-6]\d[^\x00-\x08\x0a-\x1f\x7f]{8,}"),
    _row("pem", "PEM blocks", rb"-----BEGIN [A-Z0-9 ]{3,40}-----"),
    _row("protobuf", "protobuf messages (likely)", rb"\x0a[\x02-\x7f]", _protobuf),
    _row("java-class", "Java class files", rb"\xca\xfe\xba\xbe\x00[\x00\x03]\x00[\x2d-\x50]", _class_file),
    _row("java-serialised", "serialised Java objects", rb"\xac\xed\x00\x05[\x70-\x7e]", _serialised),
    _row("zlib", "zlib streams", rb"x[\x01\x5e\x9c\xda]", _inflated(15)),
    _row("gzip", "gzip streams", rb"\x1f\x8b\x08[\x00-\x1f]", _inflated(31)),
    _row("zstd", "zstd frames", rb"\x28\xb5\x2f\xfd", _zstd),
    _row("lz4", "LZ4 frames", rb"\x04\x22\x4d\x18[\x40-\x7f]", _said("frame")),
    _row("xz", "xz streams", rb"\xfd7zXZ\x00\x00[\x00\x01\x04\x0a]", _said("stream")),
    _row("bzip2", "bzip2 streams", rb"BZh[1-9]1AY&SY", _said("stream")),
    _row("zip", "ZIP entries", rb"PK\x03\x04[\x0a-\x3f]\x00", _said("entry")),
    _row("png", "PNG pictures", rb"\x89PNG\r\n\x1a\n", _png),
    _row("jpeg", "JPEG pictures", rb"\xff\xd8\xff[\xdb\xe0\xe1]", _jpeg),
    _row("gif", "GIF pictures", rb"GIF8[79]a", _said("picture")),
    _row("pdf", "PDF documents", rb"%PDF-[12]\.\d"),
    _row("tls", "TLS records", rb"[\x16\x17]\x03[\x01-\x03]", _tls),
    _row("elf", "ELF files", rb"\x7fELF[\x01\x02][\x01\x02]\x01", _said("program or library")),
    _row("sqlite", "SQLite databases", rb"SQLite format 3\x00", _said("database")),
)  # fmt: skip
"""All kinds, in the order of the page."""
