"""Programs of the corpus in Python: ``service.py SCENARIO PACE`` beside its extension; ``labels.py`` says what leaks.

Prints the lines that corpus.h describes.
"""

from __future__ import annotations

import importlib
import os
import random
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

TICKS = 100
KEPT: dict[str, list[int]] = {}


def keep(function: str, n_bytes: int, blocks: int = 1) -> None:
    sums = KEPT.setdefault(function, [0, 0])
    sums[0] += n_bytes
    sums[1] += blocks


def work() -> int:
    return sum(x * x for x in range(random.randrange(300)))


def tokens(ext: Any, now: int) -> None:
    if now % 3 == 0:
        ext.tokenize(b"a,b;c" * 40)
        keep("tokenize", 3001)


def memo(ext: Any, now: int) -> None:
    for _ in range(4):
        ext.memoize(random.randrange(900))


def references(ext: Any, now: int) -> None:
    if now % 5 == 0:
        ext.encode_frame(6000)
        keep("encode_frame", 6033)


def cursor_and_rows(ext: Any, now: int) -> None:
    if now % 4 == 0:
        ext.open_cursor()
        keep("open_cursor", 1501)
    ext.read_row()
    keep("read_row", 611)


def buffers(ext: Any, now: int) -> None:
    ext.acquire_buffer(random.randrange(40) + random.randrange(40) + random.randrange(40))


def broken_documents(ext: Any, now: int) -> None:
    for _ in range(3):
        part = b"item" + b"".join(b"[%s]" % (b"v" * random.randrange(60)) for _ in range(random.randrange(1, 8)))
        document = b"list" + b"".join(b"[%s]" % part for _ in range(random.randrange(1, 4)))
        broken = random.randrange(15) == 0
        try:
            ext.decode_document(document[:-1] if broken else document)
        except ValueError as error:
            nodes = int(str(error))
            # Each node has 24 bytes and its text, which ends in a zero; brackets are in no text.
            keep("decode_document", 25 * nodes + len(document) - 2 * nodes + 2, 2 * nodes)
    RECENT.append(str(now) * random.randrange(200))


def streams(ext: Any, now: int) -> None:
    level = random.randrange(2, 6)
    if now % 7 == 0:
        ext.open_stream(level)
        keep("open_stream", (1024 << level) + 616, 3)
    RECENT.append(ext.open_reader(level))


def column_batches(ext: Any, now: int) -> None:
    for i in range(80):
        ext.append_row(b"%d,%d" % (now, i))


RECENT: deque[object] = deque(maxlen=50)
SCENARIOS: dict[str, tuple[str, Callable[[Any, int], None]]] = {
    "tokens": ("ext_open", tokens),
    "memo": ("ext_open", memo),
    "references": ("ext_held", references),
    "cursor_and_rows": ("ext_held", cursor_and_rows),
    "buffers": ("ext_held", buffers),
    "broken_documents": ("ext_blind", broken_documents),
    "streams": ("ext_blind", streams),
    "column_batches": ("ext_blind", column_batches),
}


def main() -> None:
    module, scenario = SCENARIOS[sys.argv[1]]
    pace = float(sys.argv[2])
    random.seed(5)
    ext = importlib.import_module(module)
    print(f"READY {os.getpid()}", flush=True)
    start, now = time.monotonic(), 0
    while True:
        work()
        scenario(ext, now)
        now += 1
        time.sleep(max(0.0, start + now * pace / TICKS - time.monotonic()))
        if now % (TICKS // 4) == 0:
            sums = (f" {name}={n_bytes}/{blocks}" for name, (n_bytes, blocks) in KEPT.items())
            print(f"T {time.time() * 1000:.0f}{''.join(sums)}", flush=True)


if __name__ == "__main__":
    main()
