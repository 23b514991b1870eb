"""Names as programmers write them: C++ and Rust, without what compilers add for themselves.

Scope: one name at a time, never failing: what cannot be demangled is returned as it is.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import pycxxfilt

# Copies of a function that a compiler makes for itself: GCC's clones, LLVM's promoted locals. A dot alone says
# nothing: Go writes runtime.mallocgc.
_CLONE: Final = re.compile(
    r"(?:\.(?:constprop|isra|part|lto_priv|llvm|localalias|specialized|__uniq)\.\d+|\.cold(?:\.\d+)?|\.localalias)+$"
)
# Rust's older mangling ends in a hash and spells characters that C++ does not know.
_RUST_HASH: Final = re.compile(r"::h[0-9a-f]{16}$")
_RUST_ESCAPE: Final = re.compile(r"\$(SP|BP|RF|LT|GT|LP|RP|C|u[0-9a-f]{1,6})\$")
_RUST_CHARACTER: Final = {"SP": "@", "BP": "*", "RF": "&", "LT": "<", "GT": ">", "LP": "(", "RP": ")", "C": ","}
_MAX_MANGLED: Final = 16 << 10


@lru_cache(maxsize=16384)
def demangle(name: str) -> str:
    """The name of a function as its source has it; names that are not mangled come back unchanged.

    Suffixes of clones are dropped, but for the part of a function that was moved away as unlikely, which is marked:
    ``foo() [clone .cold]``. Control characters and lone surrogates are replaced, so that any name can be printed.
    """
    clone = _CLONE.search(name)
    base = name[: clone.start()] if clone is not None and clone.start() > 0 else name
    suffix = " [clone .cold]" if base is not name and ".cold" in name[len(base) :] else ""
    return printable(_demangled(base) + suffix)


def printable(text: str) -> str:
    """The text with ``?`` for what would upset a terminal or a database: control characters and lone surrogates."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else "?" for each in text)


def _demangled(name: str) -> str:
    if not name.startswith(("_Z", "_R")) or len(name) > _MAX_MANGLED:
        return name
    try:
        text = pycxxfilt.demangle(name) or name
    except ValueError:
        return name
    return _legacy_rust(text) if _RUST_HASH.search(text) else text


def _legacy_rust(text: str) -> str:
    text = _RUST_HASH.sub("", text)
    text = _RUST_ESCAPE.sub(_rust_character, text).replace("..", "::")
    return re.sub(r"(^|::)_(?=[<&*(\[@])", r"\1", text)


def _rust_character(match: re.Match[str]) -> str:
    code = match[1]
    if code in _RUST_CHARACTER:
        return _RUST_CHARACTER[code]
    value = int(code[1:], 16)
    return chr(value) if value < 0x11_0000 else match[0]
