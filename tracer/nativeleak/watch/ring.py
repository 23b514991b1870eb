"""The last minutes of a watch, kept in memory and written when the process ends."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from nativeleak.reports.output import encode_text, open_file

KEPT_S: Final = 600.0
MAX_ENTRIES: Final = 4096
"""Some 3 MiB at most, at the shortest time between two looks."""

Entry = Mapping[str, Any]


class Ring:
    """Entries of the last ten minutes; each is an object of the JSON lines.

    Args:
        path: Where they are written; None: nowhere.
        head: The first line of the file, whatever was dropped.
    """

    def __init__(self, path: Path | None, head: Entry) -> None:
        self._path, self._head = path, _as_line(head)
        self._lines: deque[tuple[float, bytes]] = deque(maxlen=MAX_ENTRIES)

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, elapsed_s: float, entry: Entry) -> None:
        """Keep an entry, and drop what is older than ten minutes."""
        if self._path is None:
            return
        self._lines.append((elapsed_s, _as_line(entry)))  # a fifth of the memory of the objects
        while elapsed_s - self._lines[0][0] > KEPT_S:
            self._lines.popleft()

    def write(self) -> None:
        """Write all that is kept, one object a line; the file is whole or as it was before.

        Raises:
            NativeleakError: It cannot be written.
        """
        if self._path is None:
            return
        with open_file(self._path) as file:
            file.write(self._head)
            file.writelines(line for _, line in self._lines)


def _as_line(entry: Entry) -> bytes:
    return encode_text(json.dumps(entry) + "\n")
