"""A map as libbpf shows it, without a kernel."""

from __future__ import annotations

import struct
from collections.abc import Iterator


class MadeUpMap:
    """In chunks of two, in the order in which they were put in."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self.rows = rows

    def batches(self, _chunk: int = 0) -> Iterator[tuple[memoryview, memoryview, int]]:
        rows = [*self.rows.items()]
        for i in range(0, len(rows), 2):
            part = rows[i : i + 2]
            keys, values = (memoryview(bytearray(b"".join(row[k] for row in part))) for k in (0, 1))
            yield keys, values, len(part)

    def lookup(self, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def update(self, key: bytes, value: bytes) -> None:
        self.rows[key] = value

    def delete(self, key: bytes) -> bool:
        return self.rows.pop(key, None) is not None

    def delete_many(self, keys: list[bytes]) -> None:
        for key in keys:
            self.delete(key)

    def clear(self) -> None:
        self.rows.clear()

    def fill_with_zeros(self) -> None:
        self.rows = {key: bytes(len(value)) for key, value in self.rows.items()}


def array(values: list[bytes]) -> MadeUpMap:
    return MadeUpMap({struct.pack("=I", i): value for i, value in enumerate(values)})
