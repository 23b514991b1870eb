"""Checks that every column of a recording holds what belongs there.

SQLite keeps a value of any type in any column, so that a damaged or made-up file may hold a text where a number of
bytes belongs. One query a table finds such values before they are used.
"""

from __future__ import annotations

import functools
import json
import math
import sqlite3
from collections.abc import Mapping
from typing import Final

_MOST: Final = (1 << 63) - 1
"""The largest number that SQLite keeps; totals beyond it are recorded as it."""
_MOST_S: Final = 1e16
"""Seconds. No span is as long; damaged output of strace adds up to less."""
_LAST_YEAR_S: Final = 2.5e11
"""Seconds from 1970 to the year 9892: later ones are no dates for Python."""

_NUMBER: Final = "typeof({c}) = 'integer' AND {c} >= 0"
_SMALL: Final = f"typeof({{c}}) = 'integer' AND {{c}} BETWEEN 0 AND {(1 << 32) - 1}"
_WORD: Final = "typeof({c}) = 'integer'"
"""64 bits that stand for an unsigned number: an address, the key of a stack."""
_SECONDS: Final = f"typeof({{c}}) IN ('real', 'integer') AND abs({{c}}) <= {_MOST_S}"
_REAL: Final = "typeof({c}) IN ('real', 'integer') AND abs({c}) <= 1e300"
_TEXT: Final = "typeof({c}) = 'text'"
_BLOB: Final = "typeof({c}) = 'blob'"


# Each of these is true or false of every value, never NULL: the type comes first, and that of NULL is 'null'.
def _or_null(condition: str) -> str:
    return f"({{c}} IS NULL OR ({condition}))"


CONDITIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "trace": {"name": _TEXT, "value": _TEXT},
    "targets": {
        "slot": _SMALL,
        "pid": _SMALL,
        "comm": _TEXT,
        "exe": _TEXT,
        "jvm_version": _or_null(_TEXT),
        "allocators": _TEXT,
        "end": _TEXT,
        "end_signal": _SMALL,
    },
    "runtimes": {"slot": _SMALL, "name": _TEXT, "version": _TEXT},
    "unwatched": {
        "slot": _SMALL,
        "number": _NUMBER,
        "object": _TEXT,
        "allocator": _TEXT,
        "prefix": _TEXT,
        "why": _TEXT,
    },
    "children": {
        "slot": _SMALL,
        "pid": _SMALL,
        "comm": _TEXT,
        "rss_bytes": _NUMBER,
        "growth_bytes": _WORD,
        "alive": _SMALL,
        "as_much": _SMALL,
    },
    "threads": {"uid": _NUMBER, "slot": _SMALL, "tid": _SMALL, "name": _TEXT, "alive": _SMALL},
    "frames": {
        "id": _NUMBER,
        "function": _TEXT,
        "module": _or_null(_TEXT),
        "ip": _WORD,
        "offset": _WORD,
        "kind": _TEXT,
        "file": _or_null(_TEXT),
        "line": _or_null(_SMALL),
        "build_id": _TEXT,
        "module_offset": _WORD,
        "found": _TEXT,
    },
    "stacks": {"key": _WORD, "frames": _BLOB, "truncated": _SMALL, "end": _TEXT},
    "sites": {
        "id": _NUMBER,
        "kind": _TEXT,
        "slot": _SMALL,
        "thread_uid": _NUMBER,
        "stack_key": _WORD,
        "owner": _TEXT,
        "functions": _TEXT,
        "allocated_bytes": _NUMBER,
        "allocated_count": _NUMBER,
        "freed_bytes": _NUMBER,
        "freed_count": _NUMBER,
        "resident_bytes": _or_null(_NUMBER),
        "reserved_bytes": _NUMBER,
        "born_s": _or_null(_SECONDS),
        "slices": _BLOB,
    },
    "sampling": {"site_id": _NUMBER, "n_sampled": _NUMBER, "variance_bytes": _REAL, "variance_count": _REAL},
    "retired": {
        "kind": _TEXT,
        "slot": _SMALL,
        "owner": _TEXT,
        "allocated_bytes": _NUMBER,
        "allocated_count": _NUMBER,
        "freed_bytes": _NUMBER,
        "freed_count": _NUMBER,
    },
    "unmapped": {
        "slot": _SMALL,
        "number": _NUMBER,
        "thread_uid": _NUMBER,
        "stack_key": _WORD,
        "owner": _TEXT,
        "functions": _TEXT,
        "n_calls": _NUMBER,
        "freed_bytes": _NUMBER,
        "other_threads_bytes": _NUMBER,
        "reserved_bytes": _NUMBER,
        "older_bytes": _NUMBER,
    },
    "snapshots": {
        "id": _NUMBER,
        "elapsed_s": _SECONDS,
        "rss_bytes": _NUMBER,
        "slice_s": _SECONDS,
        "probe_hits": _NUMBER,
        "probe_cost_ns": _REAL,
        "target_cpu_s": _SECONDS,
        "tracer_cpu_s": _SECONDS,
        "tracer_max_rss_bytes": _NUMBER,
        "counters": _TEXT,
        "n_samples": _NUMBER,
        "samples": _BLOB,
    },
    "limits": {"id": _NUMBER, "slot": _SMALL, "kind": _TEXT, "name": _TEXT, "limit_bytes": _NUMBER},
    "limit_usage": {"snapshot_id": _NUMBER, "limit_id": _NUMBER, "usage_bytes": _NUMBER},
    "process_memory": {
        "snapshot_id": _NUMBER,
        "slot": _SMALL,
        "rss_bytes": _NUMBER,
        "anon_bytes": _NUMBER,
        "swap_bytes": _NUMBER,
        "peak_rss_bytes": _NUMBER,
        "n_threads": _SMALL,
    },
    "memory_lines": {"elapsed_s": _SECONDS, "slot": _SMALL, "line": _TEXT, "n_bytes": _NUMBER},
    "blocks": {"number": _NUMBER, "n": _SMALL, "columns": _BLOB},
    "looks": {"slot": _SMALL, "after_s": _SECONDS, "certainty": _TEXT, "why_not": _TEXT, "n_unlisted": _NUMBER},
    "fates": {
        "slot": _SMALL,
        "thread_uid": _NUMBER,
        "stack_key": _WORD,
        "n_recorded": _NUMBER,
        "n_in_use": _NUMBER,
        "n_lost": _NUMBER,
        "lost_bytes": _NUMBER,
        "held_by": _TEXT,
    },
    "census": {
        "slot": _SMALL,
        "blocks_before": _NUMBER,
        "bytes_before": _NUMBER,
        "unread_before": _NUMBER,
        "blocks_after": _NUMBER,
        "bytes_after": _NUMBER,
        "unread_after": _NUMBER,
        "why_not": _TEXT,
        "before_at": _SECONDS,
        "after_at": _SECONDS,
    },
    "events": {"id": _NUMBER, "elapsed_s": _SECONDS, "what": _TEXT, "text": _TEXT},
}


def check_columns(db: sqlite3.Connection) -> None:
    """Look through all tables; those and the columns that an older recording lacks are passed over.

    Raises:
        ValueError: A column holds what does not belong there; the message names it.
        sqlite3.Error: The file cannot be read.
    """
    for table, conditions in CONDITIONS.items():
        there = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        checks = {name: condition.format(c=f'"{name}"') for name, condition in conditions.items() if name in there}
        if not checks:
            continue
        wrong = " OR ".join(f"NOT ({condition})" for condition in checks.values())
        if db.execute(f"SELECT 1 FROM {table} WHERE {wrong} LIMIT 1").fetchone() is not None:
            raise ValueError(f"{table}.{_first_wrong(db, table, checks)} holds a value that does not belong there")


def _first_wrong(db: sqlite3.Connection, table: str, checks: Mapping[str, str]) -> str:
    for name, condition in checks.items():
        if db.execute(f"SELECT 1 FROM {table} WHERE NOT ({condition}) LIMIT 1").fetchone() is not None:
            return name
    return "?"


@functools.lru_cache(maxsize=256)
def parse_texts(text: str) -> tuple[str, ...]:
    """A JSON array of texts.

    Raises:
        ValueError: It is something else.
    """
    values = json.loads(text)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("no list of texts")
    return tuple(values)


def parse_seconds(value: str | float) -> float:
    """A number of seconds.

    Raises:
        ValueError: It is none, or beyond all reason.
        TypeError: It is none.
    """
    seconds = float(value)
    if not math.isfinite(seconds) or abs(seconds) > _MOST_S:
        raise ValueError(f"{seconds} seconds")
    return seconds


def parse_moment(value: str) -> float:
    """A point of time, seconds since 1970.

    Raises:
        ValueError: It is none, or no date.
    """
    moment_s = parse_seconds(value)
    if abs(moment_s) > _LAST_YEAR_S:
        raise ValueError(f"the time {moment_s}")
    return moment_s


def parse_number(value: str | int) -> int:
    """A number of bytes or calls.

    Raises:
        ValueError: It is none, negative, or beyond all reason.
        TypeError: It is none.
    """
    if isinstance(value, float) and not math.isfinite(value):  # a damaged column may hold any type
        raise ValueError(f"the number {value}")
    number = int(value)
    if not 0 <= number <= _MOST:
        raise ValueError(f"the number {number}")
    return number
