"""Readings as text for people. Everything that comes from a file is made harmless for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nativeleak.inputs.registry import Input


def as_text(inputs: Sequence[Input]) -> Iterator[str]:
    """Lines without newlines; a blank one between files."""
    for i, each in enumerate(inputs):
        if i:
            yield ""
        name = str(each.paths[0]) + (f" and {len(each.paths) - 1} more" if len(each.paths) > 1 else "")
        if each.reading is None:
            other = each.other
            yield f"{name}: not read: {other.what if other else 'unknown'}"
            if other and other.use:
                yield f"  use: {other.use}"
            continue
        reading = each.reading
        yield f"{name}: {reading.title}"
        for line in reading.lines:
            yield f"  {line}"
        if reading.n_unread:
            yield f"  NOT UNDERSTOOD: {reading.n_unread:,} lines, first: {reading.first_unread}"
        for note in reading.notes:
            yield f"  note: {note}"
