"""Well-known allocators by their functions: glibc's, musl's, jemalloc, tcmalloc, mimalloc.

Their malloc leaves its stack for no other one, and no signal handler may enter it again. Nothing is known about any
other allocator: one of the program's own, a shim around the C library's, one of a sanitizer. A copy that is linked into
a program counts as the allocator itself; a changed copy has the same names.

Source: glibc, malloc/malloc.c; musl, src/malloc/lite_malloc.c and ldso/dynlink.c; gperftools,
src/libc_override_gcc_and_weak.h; mimalloc, src/alloc-override.c; jemalloc, include/jemalloc/jemalloc_protos.h.in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from nativeleak.probes.families import Affix

_SECOND_NAMES: Final = ("__libc_malloc", "default_malloc", "tc_malloc", "mi_malloc")
"""What glibc, musl, tcmalloc and mimalloc call their malloc beside ``malloc``: the same address."""
_BESIDE: Final = ("mallocx", "__dls3")
"""What stands beside malloc in jemalloc and in musl's shared library, which has no second name for it."""
EVIDENCE: Final = frozenset({"malloc", *_SECOND_NAMES, *_BESIDE})
"""Functions that tell a well-known allocator under the standard names."""
_JEMALLOC: Final = frozenset({"mallocx", "sdallocx", "mallctl"})


def is_known_plain(offsets: Mapping[str, int]) -> bool:
    """Whether ``malloc`` of an object is a well-known allocator's.

    Args:
        offsets: Function name -> file offset, of the names in ``EVIDENCE`` that the object defines.
    """
    malloc = offsets.get("malloc")
    if malloc is None:
        return False
    return any(offsets.get(name) == malloc for name in _SECOND_NAMES) or any(name in offsets for name in _BESIDE)


def is_known_family(affix: Affix, defined: Iterable[str]) -> bool:
    """Whether a family with an affix is a well-known allocator's.

    Args:
        affix: Of the family.
        defined: Functions that the object defines.
    """
    has = frozenset(defined)
    if any(affix.name(stem) in has for stem in _JEMALLOC):
        return True
    if affix.prefix.endswith("mi_"):
        return affix.name("malloc_aligned") in has
    return affix.prefix == "tc_" and affix.name("malloc_skip_new_handler") in has
