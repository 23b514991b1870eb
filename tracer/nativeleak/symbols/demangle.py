"""Names as in the source: C++ and Rust, without additions of the compiler.

Scope: one name at a time. A name that cannot be demangled is returned unchanged; nothing raises.
"""

from __future__ import annotations

import re
from functools import lru_cache
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Final

# Copies of a function by a compiler: GCC's clones, LLVM's promoted locals. A dot alone is no sign: Go writes
# runtime.mallocgc.
_CLONE: Final = re.compile(
    r"(?:\.(?:constprop|isra|part|lto_priv|llvm|localalias|specialized|__uniq)\.\d+|\.cold(?:\.\d+)?|\.localalias)+$"
)
# Rust's older mangling ends in a hash and spells characters that C++ does not know.
_RUST_HASH: Final = re.compile(r"::h[0-9a-f]{16}$")
_RUST_ESCAPE: Final = re.compile(r"\$(SP|BP|RF|LT|GT|LP|RP|C|u[0-9a-f]{1,6})\$")
_RUST_CHARACTER: Final = {"SP": "@", "BP": "*", "RF": "&", "LT": "<", "GT": ">", "LP": "(", "RP": ")", "C": ","}
_SCOPES: Final = re.compile(r"_ZN?[rVK]*(?P<std>St)?(?=[1-9])")
_LENGTH: Final = re.compile(r"[1-9]\d{0,3}")
_MAX_MANGLED: Final = 16 << 10
# A name may refer to its own earlier parts, each reference doubling it: 230 characters can stand for 134 MB, and the
# demangler has no limit. Of 156,194 names in libLLVM, libclang, libjvm, boost and cc1plus none is above this bound.
_MAX_BOUND: Final = 1 << 24
_CPP_REFERENCE: Final = re.compile(r"S([0-9A-Z]*)_")
_RUST_REFERENCE: Final = re.compile(r"B([0-9a-zA-Z]*)_")
_DIGITS: Final = {36: digits + ascii_uppercase, 62: digits + ascii_lowercase + ascii_uppercase}


# A person reads no more of a name, and a hostile file must not fill the memory with names.
_MAX_SHOWN: Final = 4096
_MAX_CACHED: Final = 1024
_MAX_CLONES: Final = 512
"""Characters at the end of a name in which additions of compilers are looked for: that takes the square of them."""


def demangle(name: str) -> str:
    """The name of a function as in its source; names that are not mangled come back unchanged.

    Suffixes of clones are dropped, except that of the unlikely part of a function: ``foo() [clone .cold]``. Control
    characters and lone surrogates are replaced, so that any name can be printed. Three dots replace everything after
    4,096 characters.
    """
    return _cached(name) if len(name) <= _MAX_CACHED else _shown(name)


@lru_cache(maxsize=16384)
def _cached(name: str) -> str:
    return _shown(name)


def _shown(name: str) -> str:
    clone = _CLONE.search(name, max(0, len(name) - _MAX_CLONES))
    base = name[: clone.start()] if clone is not None and clone.start() > 0 else name
    suffix = " [clone .cold]" if base is not name and ".cold" in name[len(base) :] else ""
    text = _demangled(base)
    return printable((text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}...") + suffix)


def printable(text: str) -> str:
    """The text with ``?`` for control characters and lone surrogates, which terminals and databases reject."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else "?" for each in text)


def _demangled(name: str) -> str:
    if not name.startswith(("_Z", "_R")) or len(name) > _MAX_MANGLED or _bound(name) > _MAX_BOUND:
        return name
    import pycxxfilt  # here: it takes a megabyte, and a program in C has no such names

    try:
        text = pycxxfilt.demangle(name) or name
    except ValueError:
        text = name
    if text == name:
        return _first_names(name)
    return _legacy_rust(text) if _RUST_HASH.search(text) else text


def _first_names(name: str) -> str:
    """The function and its scopes of a C++ name that the demangler refuses, without what follows; else the name.

    Source: Itanium C++ ABI, 5.1: ``_Z``, ``N`` for scopes, ``St`` for std, then each name behind its length.
    """
    start = _SCOPES.match(name)
    if start is None:
        return name
    parts, at = (["std"] if start["std"] else []), start.end()
    while (length := _LENGTH.match(name, at)) is not None:
        at = length.end() + int(length[0])
        if at > len(name):
            return name
        parts.append(name[length.end() : at])
    if len(parts) == bool(start["std"]):
        return name
    return "::".join(parts) + ("<...>" if name[at : at + 1] == "I" else "")


def _bound(name: str) -> int:
    """Maximum length of the demangled name, given its references to earlier parts.

    References to C++ template arguments (``T_``), which do not nest, are not counted.
    """
    return _rust_bound(name) if name.startswith("_R") else _cpp_bound(name)


def _cpp_bound(name: str) -> int:
    """Parts are numbered as they end: one can only hold references made before its own first, to lower numbers."""
    total = len(name)
    size_of: dict[int, int] = {}
    count_of: dict[int, int] = {}
    for match in _CPP_REFERENCE.finditer(name):
        part = _number(match[1], 36)
        if part not in size_of:
            size_of[part] = len(name) + sum(size_of[other] * n for other, n in count_of.items() if other < part)
        count_of[part] = count_of.get(part, 0) + 1
        total += size_of[part]
        if total > _MAX_BOUND:
            break
    return total


def _rust_bound(name: str) -> int:
    """With n references, growth is largest where each level holds three to the one before: 3 ** (n / 3).

    References to a crate (``C``), by far the most frequent ones, stand for a name and nothing else.
    """
    places = (len("_R") + _number(match[1], 62) for match in _RUST_REFERENCE.finditer(name))
    n_references = sum(1 for place in places if name[place : place + 1] != "C")
    return int(len(name) * 3 ** min(n_references / 3, 64))


def _number(text: str, base: int) -> int:
    """A reference's number; the bare form is 0, the digit 0 is 1."""
    value = 0
    for digit in text:
        value = value * base + _DIGITS[base].index(digit)
    return value + 1 if text else 0


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
