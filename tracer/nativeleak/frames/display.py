"""Names of functions as a reader wants them: without return type, arguments, and what the compiler or the library adds.

Scope: pure strings, one name at a time; nothing raises. ``qualified`` and ``bare`` serve the rules of this package,
``display_name`` serves reports. All are cached: a recording has few names and many stacks.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from nativeleak.model import Frame, FrameKind

JAVA: Final = (FrameKind.JAVA_COMPILED, FrameKind.JAVA_INTERPRETED, FrameKind.JAVA_INLINED)
_CACHED: Final = 1 << 16

_OPERATOR: Final = re.compile(r"\boperator\s*(<=>|<<=|>>=|->\*|->|<<|>>|<=|>=|<|>|\(\)|\[\])")
_OPERATOR_WORD: Final = re.compile(r"\boperator (?=[\w\"])")
_MARK: Final = 0xE000
"""First of the private characters that stand for what must not be parsed."""
_ANONYMOUS: Final = "\ue0f0"
_SPACE: Final = "\ue0f1"
_PREFIXES: Final = (
    "non-virtual thunk to ",
    "virtual thunk to ",
    "covariant return thunk to ",
    "transaction clone for ",
)
_SUFFIX: Final = re.compile(r"(?: \[clone [^\]]*\]| \(\.\w[\w.]*\)|@@?[A-Z_a-z][\w.]*)+$")
_QUALIFIER: Final = re.compile(r"(?:\s*(?:const|volatile|noexcept|&&?))+(?=$|::)")
_ABI: Final = re.compile(r"\[abi:\w+\]")
_RUST_HASH: Final = re.compile(r"::h[0-9a-f]{16}$|\[[0-9a-f]{6,16}\](?=::|$|>| )")
_GO: Final = re.compile(r"^(?:[\w.~-]+/)+[\w.~-]+\.\S+$|^\w+\.\(\*\w+\)\.\S+$|^\w+\.\w+(?:\.func\d+[\w.]*)?$")
_JAVASCRIPT: Final = re.compile(r"^(?:LazyCompile|Function|JS|Script|Eval):[*~^+']?(\S*)(?: (\S+?))?$")
_PYTHON: Final = re.compile(r"^py::([^:]+)(?::(\S+))?$")
_TEXT: Final = (
    (re.compile(r"std::(?:__cxx11|__1|__ndk1|__debug)::"), "std::"),
    (re.compile(r"std::basic_string<char, std::char_traits<char>, std::allocator<char> ?>"), "std::string"),
    (re.compile(r"std::basic_(string_view|(?:[io]|io|)?(?:string|f)?stream|ostream|istream|(?:string|file)buf)"
                r"<char, std::char_traits<char>(?:, std::allocator<char>)? ?>"), r"std::\1"),
)  # fmt: skip
_DEFAULTS: Final = re.compile(
    r", std::(?:allocator|char_traits|less|equal_to|hash"
    r"|default_delete)<[^<>]*(?:<[^<>]*(?:<[^<>]*>[^<>]*)*>[^<>]*)*>"
)
_LONG_ARGUMENTS: Final = 32
"""Characters of template arguments that a name may show."""
_TEMPLATE_OPERATOR: Final = re.compile(r"(.*\boperator(?:<<|>>|\(\)|[=!+*/-]=?|->))<.*>")
_OPENING: Final = {"<": ">", "(": ")", "{": "}", "[": "]"}


@lru_cache(_CACHED)
def qualified(function: str) -> str:
    """A native function's name with its scopes and template arguments, without return type and arguments.

    Args:
        function: As the symbol tables give it, demangled.
    """
    if function.isidentifier() or _is_plain(function):
        return function
    text = _SUFFIX.sub("", function) or function
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    text = _RUST_HASH.sub("", _ABI.sub("", text)).replace("> >", ">>").replace("> >", ">>")
    if _GO.match(text):
        return text
    operators: list[str] = []

    def protect(match: re.Match[str]) -> str:
        operators.append(match[1])
        return f"operator{chr(_MARK + min(len(operators) - 1, 0xEF))}"

    text = _OPERATOR.sub(protect, text).replace(" <", "<")
    text = _OPERATOR_WORD.sub(f"operator{_SPACE}", text).replace("(anonymous namespace)", _ANONYMOUS)
    text = _without_groups(text)
    text = text.replace(_ANONYMOUS, "(anonymous namespace)").replace(_SPACE, " ")
    for index, operator in enumerate(operators):
        text = text.replace(chr(_MARK + min(index, 0xEF)), operator, 1)
    return text or function


def _is_plain(function: str) -> bool:
    """Names of other languages and of no function at all, which have no arguments to drop."""
    return function.startswith(("0x", "py::")) or function.endswith("init>") or _JAVASCRIPT.match(function) is not None


def _without_groups(text: str) -> str:
    """Drops what stands in parentheses, and all up to the last space, outside of other brackets."""
    kept: list[str] = []
    closing: list[str] = []
    n_parentheses = 0
    start = 0
    for place, char in enumerate(text):
        if closing and char == closing[-1] and not (char == ">" and place and text[place - 1] == "-"):
            closing.pop()
            if char == ")" and n_parentheses:
                n_parentheses -= 1
                if not closing:
                    continue
        elif char in _OPENING:
            closing.append(_OPENING[char])
            if char == "(" and (len(closing) == 1 or n_parentheses):
                n_parentheses += 1
        if n_parentheses:
            continue
        if char == " " and not closing:
            rest = text[place:]
            if not _QUALIFIER.match(rest):
                start = len(kept) + 1
        kept.append(char)
    return _QUALIFIER.sub("", "".join(kept[start:])).lstrip("*& ")


def _without_templates(text: str) -> str:
    """Drops template arguments; of a Rust name in angle brackets its type stays."""
    if text.startswith("<") and not text.startswith("<lambda"):
        inner = _first_group(text)
        rest = text[len(inner) + 2 :]
        subject, _, trait = _parted(inner, " as ")
        plain = subject.lstrip("&*[( ").removeprefix("mut ").removeprefix("dyn ").removeprefix("const ")
        if trait and (len(plain.split("<")[0]) <= 2 or "::" not in plain):
            plain = trait
        elif "::" not in plain:
            plain = f"core::{plain}"
        return _without_templates(plain) + _without_templates(rest)
    kept: list[str] = []
    depth = 0
    for place, char in enumerate(text):
        if char == "<" and not text.startswith("operator", max(place - 8, 0), place):
            depth += 1
        elif char == ">" and depth and text[place - 1] != "-":
            depth -= 1
        elif not depth:
            kept.append(char)
    return "".join(kept).replace("::::", "::").removesuffix("::")


def _first_group(text: str) -> str:
    depth = 0
    for place, char in enumerate(text):
        depth += (char == "<") - (char == ">" and text[place - 1] != "-")
        if not depth:
            return text[1:place]
    return text[1:]


def _parted(text: str, separator: str) -> tuple[str, str, str]:
    """As ``str.partition``, outside of angle brackets."""
    depth = 0
    for place, char in enumerate(text):
        depth += (char == "<") - (char == ">" and text[place - 1 : place] != "-")
        if not depth and text.startswith(separator, place):
            return text[:place], separator, text[place + len(separator) :]
    return text, "", ""


@lru_cache(_CACHED)
def bare(function: str) -> str:
    """``qualified`` without template arguments: what rules look at. ``std::vector::_M_realloc_insert``."""
    if function.isidentifier():
        return function
    text = qualified(function)
    for pattern, replacement in _TEXT[:1]:
        text = pattern.sub(replacement, text)
    if "<" not in text or _is_plain(text):
        return text
    return _without_templates(text)


@lru_cache(_CACHED)
def display_name(function: str, kind: FrameKind = FrameKind.NATIVE) -> str:
    """The name a reader sees: ``Deflater.<init>``, ``Orders::remember``, ``std::vector<double>::_M_realloc_insert``.

    Args:
        function: As a frame has it.
        kind: The frame's.
    """
    if kind in JAVA:
        return ".".join(function.replace("/", ".").rsplit(".", 2)[-2:]) if function else function
    for pattern in (_JAVASCRIPT, _PYTHON):
        if match := pattern.match(function):
            place = (match[2] or "").rsplit("/", 1)[-1]
            return f"{match[1] or '(anonymous)'} ({place})" if place else match[1] or "(anonymous)"
    if function.isidentifier() or kind is FrameKind.UNRESOLVED:
        return function
    name = qualified(function)
    if _GO.match(name):
        return name.rsplit("/", 1)[-1]
    for pattern, replacement in _TEXT:
        name = pattern.sub(replacement, name)
    return _shortened(_DEFAULTS.sub("", name))


def _shortened(name: str) -> str:
    """Without the function's own template arguments, and with dots for long ones of its scopes."""
    if "<" not in name or name.startswith("<"):
        return name
    if match := _TEMPLATE_OPERATOR.fullmatch(name):
        name = match[1]
    kept: list[str] = []
    place = 0
    while place < len(name):
        char = name[place]
        if char == "<" and kept and (kept[-1].isalnum() or kept[-1] == "_") and "".join(kept[-8:]) != "operator":
            arguments = _first_group(name[place:])
            place += len(arguments) + 2
            if place < len(name):
                kept.append(f"<{arguments}>" if len(arguments) <= _LONG_ARGUMENTS else "<...>")
            continue
        kept.append(char)
        place += 1
    return "".join(kept)


def frame_name(frame: Frame) -> str:
    """``display_name`` of a frame; without a symbol its module and the offset in it, ``app+0x135e``."""
    if frame.kind is not FrameKind.UNRESOLVED:
        return display_name(frame.function, frame.kind)
    return frame.function if frame.module is None else f"{frame.module}+{frame.offset:#x}"
