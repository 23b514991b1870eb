"""Mappings of a process: pmap of every flavour, smaps, maps, smaps_rollup and System.map, as sums by kind."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from nativeleak.engines.pmap.listing import Listing, ListingReader, has_rows, parse_listings
from nativeleak.engines.pmap.smaps import Mapping
from nativeleak.inputs.reading import Reading, row, size

_ARENA_REST_KIB: Final = 65404
"""What an arena of glibc that was never grown leaves without access: 64 MiB less 132 KiB."""
_MAX_ROWS: Final = 8


def is_listing(text: str) -> bool:
    """Whether a text has rows of mappings."""
    lines = text.split("\n")
    return has_rows(lines) and bool(parse_listings(lines).listings)


def parse_maps(text: str) -> Reading:
    """The listings of a text; the values are those of the first, with the second's and the growth beside them."""
    reader = parse_listings(text.split("\n"))
    return reading_of(reader.listings, reader)


def reading_of(listings: list[Listing], reader: ListingReader | None = None) -> Reading:
    """What some listings of one process say; at least one."""
    first = listings[0]
    values = values_of(first)
    reading = Reading("maps", _title(first), values)
    if reader is not None:
        reading.n_unread, reading.first_unread = reader.n_unread, reader.first_unread
    _tell(reading, first)
    if len(listings) > 1:
        last = listings[-1]
        values["second"] = values_of(last)
        values["growth_kb"] = (last.mapped_bytes - first.mapped_bytes) >> 10
        values["rss_growth_kb"] = _difference(values["second"]["rss_kb"], values["rss_kb"])
        values["new_blocks"] = _new_blocks(first, last)
        grown = [f"mapped {values['growth_kb']:+,} KiB"]
        grown += [f"resident {values['rss_growth_kb']:+,} KiB"] if values["rss_growth_kb"] is not None else []
        reading.lines.append(f"from the first to the last of {len(listings)} listings: {', '.join(grown)}")
    return reading


def values_of(listing: Listing) -> dict[str, Any]:
    """Sums of one listing, in KiB; None where it does not say."""
    rss, pss, swap = (_sum(listing, name) for name in ("rss", "pss", "swap"))
    if listing.source == "smaps_rollup":
        return {"refuse_as_regions": True, "pid": listing.pid or None, "rss_kb": rss, "pss_kb": pss, "swap_kb": swap}
    mappings = listing.mappings
    closed = [mapping for mapping in mappings if not mapping.is_accessible]
    values: dict[str, Any] = {
        "pid": listing.pid or None,
        "command": listing.command or None,
        "mappings": len(mappings),
        "mapped_kb": listing.mapped_bytes >> 10 if listing.has_sizes else None,
        "rss_kb": rss,
        "pss_kb": pss,
        "swap_kb": swap,
        "no_access_kb": sum(m.end - m.start for m in closed) >> 10 if listing.has_sizes else None,
        "largest_resident": None,
        "regions_65404_kb_no_access": (
            sum((m.end - m.start) >> 10 == _ARENA_REST_KIB for m in closed) if listing.has_sizes else None
        ),
        "complete": listing.is_complete is True,
    }
    if listing.total_kib is not None:
        values["mapped_kb_total_line"] = listing.total_kib
    if rss is not None:
        largest = max(mappings, key=lambda mapping: mapping.rss)
        values["largest_resident"] = {"start": f"0x{largest.start:x}", "rss_kb": largest.rss >> 10}
    if listing.owners:
        values["owners"] = _owners(listing)
    return values


def _sum(listing: Listing, name: str) -> int | None:
    known = [value for mapping in listing.mappings if (value := getattr(mapping, name)) >= 0]
    return sum(known) >> 10 if known else None


def _owners(listing: Listing) -> dict[str, dict[str, int]]:
    """What the JVM says its mappings are for; stacks of threads together."""
    found: dict[str, Counter[str]] = {}
    for mapping in listing.mappings:
        owner = listing.owners.get(mapping.start)
        if owner is not None:
            sums = found.setdefault("STACK" if owner.startswith("STACK") else owner, Counter())
            sums["mapped_kb"] += (mapping.end - mapping.start) >> 10
            sums["rss_kb"] += max(0, mapping.rss) >> 10
    return {owner: dict(sums) for owner, sums in found.items()}


def _new_blocks(first: Listing, last: Listing) -> dict[str, int | None]:
    """Blocks of one size that the new memory divides into, the size that malloc's mmapped blocks of 2^n have."""
    grown = last.mapped_bytes - first.mapped_bytes
    for shift in range(30, 19, -1):
        each = (1 << shift) + 4096
        if grown >= each and grown % each == 0 and grown // each <= 4096:
            return {"count": grown // each, "bytes": each}
    return {"count": None, "bytes": None}


def _difference(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before


def _title(listing: Listing) -> str:
    name = {"smaps_rollup": "smaps_rollup: one entry over all mappings", "System.map": "System.map of a JVM"}
    who = f" of PID {listing.pid}" if listing.pid else ""
    return name.get(listing.source, f"mappings ({listing.source})") + who


def _kb(value: int | None) -> str:
    return size(None if value is None else value << 10)


def _tell(reading: Reading, listing: Listing) -> None:
    values, notes = reading.values, reading.notes
    if listing.source == "smaps_rollup":
        reading.lines.append(f"{_kb(values['rss_kb'])} resident, {_kb(values['pss_kb'])} proportional")
        notes.append("it has sums only: which mapping holds them is in smaps, or pmap -x")
        return
    reading.lines.append(
        f"{values['mappings']} mappings, {_kb(values['mapped_kb'])} mapped, {_kb(values['no_access_kb'])} of it "
        f"without access; {_kb(values['rss_kb'])} resident"
        + (f", {_kb(values['pss_kb'])} proportional (PSS)" if values["pss_kb"] is not None else "")
    )
    for name, (mapped, rss) in _kinds(listing)[:_MAX_ROWS]:
        reading.lines.append(row(name, mapped, rss if values["rss_kb"] is not None else None) + "  mapped, resident")
    for owner, sums in sorted(values.get("owners", {}).items(), key=lambda item: -item[1]["rss_kb"])[:_MAX_ROWS]:
        reading.lines.append(f"{owner}: {_kb(sums['rss_kb'])} resident of {_kb(sums['mapped_kb'])}")
    if arenas := values["regions_65404_kb_no_access"]:
        reading.lines.append(f"{arenas} arenas of glibc that were never grown (65404 KiB without access each)")
    if not listing.has_sizes:
        notes.append("all sizes are printed as 0 (a fault of procps 3.2.8): taken for what is resident")
    if listing.is_complete is None:
        notes.append("no line of totals: rows may be missing")
    elif not listing.is_complete:
        difference = (listing.total_kib or 0) - (listing.mapped_bytes >> 10)
        notes.append(f"the rows add up to {difference:,} KiB less than the listing's own total: some are missing")
    if not listing.pid:
        notes.append("no line names the process")
    if values["rss_kb"] is None and values["pss_kb"] is not None:
        notes.append("PSS is not RSS: shared pages count in part")


def _kinds(listing: Listing) -> list[tuple[str, tuple[int, int]]]:
    """(name, (mapped, resident) bytes) by file or kind, most resident first."""
    sums: dict[str, tuple[int, int]] = {}
    for mapping in listing.mappings:
        name = _kind(mapping)
        mapped, rss = sums.get(name, (0, 0))
        sums[name] = mapped + mapping.end - mapping.start, rss + max(0, mapping.rss, mapping.pss)
    return sorted(sums.items(), key=lambda item: (-item[1][1], -item[1][0]))


def _kind(mapping: Mapping) -> str:
    if not mapping.is_accessible:
        return "without access"
    return mapping.path.rsplit("/", 1)[-1] if mapping.path else "anonymous"
