"""Every column of a recording has a condition; a value that breaks it is named."""

from __future__ import annotations

import sqlite3

import pytest

from nativeleak.recording.columns import CONDITIONS, check_columns, parse_number, parse_seconds, parse_texts
from nativeleak.recording.schema import TABLES


@pytest.fixture
def db():
    connection = sqlite3.connect(":memory:")
    connection.executescript(TABLES)
    yield connection
    connection.close()


def test_every_column_of_the_schema_has_a_condition(db):
    tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    columns = {table: [row[1] for row in db.execute(f"PRAGMA table_info({table})")] for table in tables}
    assert {table: list(conditions) for table, conditions in CONDITIONS.items()} == columns


@pytest.mark.parametrize(
    ("table", "column", "values"),
    [
        ("threads", "name", (7, 0, 8, b"bytes", 1)),
        ("threads", "tid", (7, 0, -8, "main", 1)),
        ("events", "elapsed_s", (1, float("inf"), "exit", "text")),
        ("events", "text", (1, 0.5, "exit", None)),
    ],
)
def test_value_of_the_wrong_kind_is_named(db, table, column, values):
    check_columns(db)
    db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)
    with pytest.raises(ValueError, match=rf"^{table}\.{column} holds a value that does not belong there$"):
        check_columns(db)


def test_tables_of_an_older_recording_may_be_missing(db):
    db.execute("DROP TABLE unmapped")
    check_columns(db)


@pytest.mark.parametrize("text", ['{"a": 1}', "[1]", "nan", "", "null"])
def test_texts_are_a_list_of_texts(text):
    with pytest.raises(ValueError):
        parse_texts(text)


def test_numbers_and_seconds_are_within_reason():
    assert (parse_texts('["malloc", "free"]'), parse_number("7"), parse_seconds("0.5")) == (("malloc", "free"), 7, 0.5)
    for parse, value in (
        (parse_number, "-1"),
        (parse_number, 1 << 63),
        (parse_seconds, "nan"),
        (parse_seconds, "1e300"),
    ):
        with pytest.raises(ValueError):
            parse(value)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_number_without_end_is_refused(value):
    with pytest.raises(ValueError):
        parse_number(value)
