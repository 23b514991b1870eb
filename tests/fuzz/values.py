"""Damages a recording value by value: one column of one table gets what does not belong there."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing

VALUES = (
    None, "", "abc", "[1,2]", '["\\ud800"]', '{"a":1}', '{"a":[]}', "nan", "inf", "-1e309", b"\xff\xfe\x00", 0, 1, -1,
    3.5, 2**63 - 1, -(2**63), float("inf"), 1e308, "x" * 100_000, "\x1b[2J",
    "[[0,1,\"exact\",0,0,0,1e999]]", "[" * 5000,
)  # fmt: skip


def with_a_wrong_value(recordings: Sequence[bytes], chance: random.Random) -> bytes:
    """A recording with one value, or one column, that does not belong there; now and then text that is no UTF-8."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.deserialize(chance.choice([data for data in recordings if data.startswith(b"SQLite format 3\0")]))
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        table = chance.choice(tables)
        column = chance.choice([row[1] for row in db.execute(f"PRAGMA table_info({table})")])
        value = _value(db, table, column, chance)
        number = _any_row(db, table, chance)
        one = f" WHERE rowid = (SELECT rowid FROM {table} LIMIT 1 OFFSET {number})" if chance.random() < 0.5 else ""
        with contextlib.suppress(sqlite3.Error):  # a table without row ids, a key that exists
            cast = "CAST(? AS TEXT)" if isinstance(value, bytes) and chance.random() < 0.5 else "?"
            db.execute(f"UPDATE OR IGNORE {table} SET {column} = {cast}{one}", (value,))
        return db.serialize()


def _value(db: sqlite3.Connection, table: str, column: str, chance: random.Random) -> object:
    """One of the values, or JSON of the column with a part of it replaced."""
    row = db.execute(f"SELECT {column} FROM {table} LIMIT 1 OFFSET ?", (_any_row(db, table, chance),)).fetchone()
    present = row[0] if row else None
    if isinstance(present, str) and present.startswith(("[", "{")) and chance.random() < 0.7:
        with contextlib.suppress(ValueError):
            content = json.loads(present)
            where = content
            while isinstance(where, (list, dict)) and where:
                key = chance.choice(list(where) if isinstance(where, dict) else range(len(where)))
                if not isinstance(where[key], (list, dict)) or not where[key] or chance.random() < 0.3:
                    where[key] = chance.choice([value for value in VALUES if not isinstance(value, bytes)])
                    break
                where = where[key]
            return json.dumps(content)
    return chance.choice(VALUES)


def _any_row(db: sqlite3.Connection, table: str, chance: random.Random) -> int:
    n_rows: int = db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return chance.randrange(max(1, n_rows))
