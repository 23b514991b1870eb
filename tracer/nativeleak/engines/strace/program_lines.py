"""Bytes of strace's output as lines."""

from __future__ import annotations

from nativeleak.engines.strace.lines import MAX_LINE


class LineSplitter:
    """Lines of a stream of bytes; one beyond ``MAX_LINE`` is cut there and said to be so by its length."""

    def __init__(self) -> None:
        self._rest = b""
        self._skips = False

    def feed(self, data: bytes) -> list[str]:
        """The lines that are whole by now, without their newlines."""
        pieces = (self._rest + data).split(b"\n")
        self._rest = pieces.pop()
        found = []
        for piece in pieces:
            if self._skips:
                self._skips = False
                continue
            found.append(piece[: MAX_LINE + 1].decode("utf-8", "replace"))
        if len(self._rest) > MAX_LINE:
            if not self._skips:
                found.append(self._rest[: MAX_LINE + 1].decode("utf-8", "replace"))
            self._rest, self._skips = b"", True
        return found
