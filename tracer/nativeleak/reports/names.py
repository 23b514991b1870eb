"""Makes names safe to print: no thread or function name of a traced process can control a terminal.

Scope: control characters, line ends, bidirectional overrides and all spaces but the ASCII one become visible escapes.
Angle brackets stay, because C++ names contain them; a markup format escapes them itself.
"""

from __future__ import annotations

from typing import Final

from nativeleak.model import Frame, FrameKind

_FOLDED_SUFFIXES: Final = {
    FrameKind.JAVA_COMPILED: "_[j]",
    FrameKind.JAVA_INLINED: "_[i]",
    FrameKind.JAVA_INTERPRETED: "_[0]",
    FrameKind.KERNEL: "_[k]",
}


def printable(text: str) -> str:
    """The text on one line, every character that would not show as itself written as an escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def folded_name(frame: Frame) -> str:
    """A frame's name in a folded stack, with the suffix of its kind."""
    return folded_text(frame.function) + ("_[i]" if frame.is_inlined else _FOLDED_SUFFIXES.get(frame.kind, ""))


def folded_text(text: str) -> str:
    """A name as a folded stack may hold it: not empty, and without the ``;`` between frames."""
    return printable(text).replace(";", ":").strip() or "[no name]"


def place(frame: Frame) -> str:
    """Module and source line of a frame; empty where unknown."""
    parts = []
    if frame.kind is FrameKind.UNRESOLVED:
        return ""  # the name of an unresolved frame says its module already
    if frame.module:
        parts.append(printable(frame.module))
    if frame.file:
        parts.append(printable(frame.file.rsplit("/", 1)[-1]) + (f":{frame.line}" if frame.line else ""))
    return "  ".join(parts)


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
