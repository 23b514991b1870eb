"""musl's malloc (mallocng, 1.2.1 and later) from outside.

Scope: groups of slots and the slots in use. Metadata lie in pages that begin with a secret, which the kernel handed to
the process with its auxiliary vector; each group points back at its metadata, so that nothing is guessed.

Source: src/malloc/mallocng/meta.h and glue.h of musl (struct meta, struct meta_area, size_classes).
"""

from __future__ import annotations

import bisect
import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from nativeleak.heaps.blocks import BlockList
from nativeleak.heaps.census import ArenaCensus, Census, HeapWalk
from nativeleak.heaps.memory import WORD_BYTES, HeapError, HeapMemory
from nativeleak.process.procfs import PAGE_BYTES, MapEntry

_OBJECT: Final = re.compile(r"/(ld-musl|libc\.musl)-[^/]*$|/musl/[^/]*/libc\.so$|-linux-musl/libc\.so$")
_AT_RANDOM: Final = 25
_AREA_HEADER_WORDS: Final = 3
_META_WORDS: Final = 5
_MAX_METAS: Final = (PAGE_BYTES // WORD_BYTES - _AREA_HEADER_WORDS) // _META_WORDS
_UNIT: Final = 16
_GROUP_HEADER_BYTES: Final = 16
# size_classes of mallocng: slots of so many units of 16 bytes.
_CLASSES: Final = (
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 18, 20, 25, 31, 36, 42, 50, 63, 72, 84, 102, 127, 146, 170, 204, 255, 292,
    340, 409, 511, 584, 682, 818, 1023, 1169, 1364, 1637, 2047, 2340, 2730, 3276, 4095, 4680, 5460, 6552, 8191,
)  # fmt: skip


class _Group(NamedTuple):
    """A group: address, slots' size, number of slots, bits of slots in use, bytes of its own mapping (0 for none)."""

    address: int
    stride: int
    n_slots: int
    in_use: int
    mapped: int


def has_musl(maps: Sequence[MapEntry]) -> bool:
    """Whether its shared library is mapped."""
    return any(_OBJECT.search(entry.path) for entry in maps)


def walk_musl(memory: HeapMemory, maps: Sequence[MapEntry], blocks: BlockList | None = None) -> HeapWalk:
    """Blocks of musl's malloc; sizes are those of slots.

    Args:
        memory: Of the process.
        maps: Its mappings.
        blocks: Where blocks in use are added one by one.

    Raises:
        HeapError: The process has no such allocator, or has not used it.
    """
    secret = _secret(memory)
    groups = [group for area in _areas(memory, maps, secret) for group in _groups(memory, area)]
    if not groups:
        raise HeapError("walking the heap failed: no metadata of musl's malloc were found")
    hosts = _hosting_slots(groups)
    census = Census()
    for group in groups:
        n_hosting = len(hosts.get(group.address, ()))
        n_used = group.in_use.bit_count() - n_hosting
        census.in_use.add(n_used, n_used * group.stride)
        census.sizes[group.stride] += n_used
        n_free = group.n_slots - group.in_use.bit_count()
        census.free.add(n_free, n_free * group.stride)
        census.retained_resident_bytes += _resident_free(memory, group)
    census.sizes = Counter({size: count for size, count in census.sizes.items() if count})
    if blocks is not None:
        _add_blocks(blocks, groups, hosts)
    path = next((entry.path for entry in maps if _OBJECT.search(entry.path)), "")
    ranges = [(group.address, group.address + group.mapped) for group in groups if group.mapped]
    return HeapWalk(
        kind="musl",
        object=path,
        arenas=(ArenaCensus("main", None, census),),
        mapped=Counter(),
        mapped_bytes=0,
        n_mapped=0,
        system_bytes=census.walked_bytes,
        ranges=tuple((start, end, "group") for start, end in sorted(ranges)),
    )


def _secret(memory: HeapMemory) -> int:
    """The second word of the 16 random bytes that the kernel gave the process."""
    try:
        vector = dict(struct.iter_unpack("<QQ", Path(f"/proc/{memory.pid}/auxv").read_bytes()))
        secret = memory.words(int(vector[_AT_RANDOM]) + WORD_BYTES & ~7, 2)
    except (OSError, KeyError, struct.error) as error:
        raise HeapError(f"walking the heap failed: its secret cannot be read: {error}") from error
    shift = int(vector[_AT_RANDOM]) % WORD_BYTES
    raw = secret.tobytes()
    return int.from_bytes(raw[shift : shift + WORD_BYTES], "little")


def _areas(memory: HeapMemory, maps: Sequence[MapEntry], secret: int) -> Iterable[int]:
    """Pages of metadata: those whose first word is the secret."""
    for entry in maps:
        if not entry.perms.startswith("rw") or entry.inode:
            continue
        pages = [
            page for low, high in memory.present_runs(entry.start, entry.end) for page in range(low, high, PAGE_BYTES)
        ]
        yield from (page for page, (first, _) in zip(pages, memory.heads(pages), strict=True) if first == secret)


def _groups(memory: HeapMemory, area: int) -> Iterable[_Group]:
    words = memory.words(area, PAGE_BYTES // WORD_BYTES).tolist()
    n_metas = min(words[2] & 0xFFFF_FFFF, _MAX_METAS)
    for index in range(n_metas):
        place = _AREA_HEADER_WORDS + index * _META_WORDS
        address, masks, bits = words[place + 2 : place + 5]
        if not address or address % _UNIT:
            continue
        try:
            back = memory.words(address, 1).tolist()[0]
        except HeapError:
            continue
        if back != area + place * WORD_BYTES:
            continue
        available, freed = masks & 0xFFFF_FFFF, masks >> 32
        last, size_class, pages = bits & 31, bits >> 6 & 63, bits >> 12
        if not last and pages:
            stride = pages * PAGE_BYTES - _GROUP_HEADER_BYTES
        elif size_class < len(_CLASSES):
            stride = _UNIT * _CLASSES[size_class]
        else:
            continue
        in_use = (2 << last) - 1 & ~(available | freed)
        yield _Group(address, stride, last + 1, in_use, pages * PAGE_BYTES)


def _add_blocks(blocks: BlockList, groups: Sequence[_Group], hosts: Mapping[int, set[int]]) -> None:
    """Slots in use that hold no smaller group. The last four bytes of a slot are the next one's header."""
    starts: list[int] = []
    sizes: list[int] = []
    for group in groups:
        first = group.address + _GROUP_HEADER_BYTES
        blocks.spans.append((group.address, first + group.n_slots * group.stride))
        hosting = hosts.get(group.address, ())
        used = [slot for slot in range(group.n_slots) if group.in_use >> slot & 1 and slot not in hosting]
        starts += [first + slot * group.stride for slot in used]
        sizes += [group.stride] * len(used)
    first_addresses = np.array(starts, np.int64)
    blocks.add(first_addresses, first_addresses + np.array(sizes, np.int64))


def _hosting_slots(groups: Sequence[_Group]) -> dict[int, set[int]]:
    """The slots of each group, by its address, that are not the program's but hold a smaller group."""
    ordered = sorted(groups)
    starts = [group.address for group in ordered]
    hosts: dict[int, set[int]] = {}
    for group in groups:
        if group.mapped:
            continue
        # A host lies before what it holds; groups inside of other slots of it may lie between.
        for place in range(bisect.bisect_left(starts, group.address) - 1, -1, -1):
            host = ordered[place]
            offset = group.address - host.address - _GROUP_HEADER_BYTES
            slot = offset // host.stride
            if host.stride > group.stride and 0 <= slot < host.n_slots and host.in_use >> slot & 1:
                hosts.setdefault(host.address, set()).add(slot)
                break
            if host.mapped and offset >= host.mapped:
                break
    return hosts


def _resident_free(memory: HeapMemory, group: _Group) -> int:
    """Bytes in memory of its free slots."""
    if group.in_use.bit_count() == group.n_slots:
        return 0
    first = group.address + _GROUP_HEADER_BYTES
    runs = memory.present_runs(first, first + group.n_slots * group.stride)
    n_bytes = 0
    for slot in range(group.n_slots):
        if group.in_use >> slot & 1:
            continue
        low, high = first + slot * group.stride, first + (slot + 1) * group.stride
        n_bytes += sum(max(0, min(high, end) - max(low, start)) for start, end in runs)
    return n_bytes
