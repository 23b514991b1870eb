"""Java names as Java writes them.

Scope: text only: the JVM's own UTF-8, class names, and what the JVM adds to names of classes it makes up.
"""

from __future__ import annotations

import re
from typing import Final

from nativeleak.symbols.demangle import printable

# A hidden class is called by the class that it belongs to and its own address, Outer$$Lambda$14+0x0000000800c03000 or
# with a slash (ClassFileParser::mangle_hidden_class_name); the number before says which came first. Neither is the same
# in the next run.
_HIDDEN: Final = re.compile(r"[+/.]0x[0-9a-f]+$")
_LAMBDA: Final = re.compile(r"(\$\$Lambda)\$\d+$")


def decode_modified_utf8(data: bytes) -> str:
    """Text as class files and symbols hold it; bytes that are none are replaced.

    Source: JVMS 4.4.7: as UTF-8, but for NUL in two bytes, and characters beyond U+FFFF as two surrogates.
    """
    try:
        text = data.replace(b"\xc0\x80", b"\0").decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")
    if not any("\ud800" <= each <= "\udfff" for each in text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def class_name(internal: str) -> str:
    """A class's name in sources from its name in the JVM: ``java.util.Map$Entry`` from ``java/util/Map$Entry``.

    Of hidden classes the name of the class around them is kept: ``App$$Lambda``.
    """
    name = _HIDDEN.sub("", internal)
    return printable(_LAMBDA.sub(r"\1", name).replace("/", "."))


def method_name(class_internal: str, method: str) -> str:
    """Class and method, ``java.util.HashMap.put``; a constructor is ``<init>``, as in stack traces."""
    return f"{class_name(class_internal)}.{printable(method)}"
