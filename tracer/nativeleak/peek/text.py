"""Contents of a range as a page for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nativeleak.peek.look import Contents
from nativeleak.peek.pages import CLASSES
from nativeleak.process.check import TargetFacts
from nativeleak.units import format_bytes

_WIDTH: Final = 118
_N_CLASSES: Final = 8


def render_text(target: TargetFacts, contents: Contents) -> str:
    """The page, with a newline at its end; names in it may hold characters that a terminal must not see."""
    parts = [list(_head(target, contents)), list(_pages(contents)), list(_found(contents)), list(_classes(contents)),
             list(_strings(contents)), list(_notes(contents))]  # fmt: skip
    return "\n\n".join("\n".join(line[:_WIDTH].rstrip() for line in part) for part in parts if part) + "\n"


def render_strings(contents: Contents) -> str:
    """One text a line behind its count, the most frequent first: as ``strings | sort | uniq -c | sort -rn`` prints."""
    return "".join(f"{text.n_seen:>9} {text.text}\n" for text in contents.strings)


def _head(target: TargetFacts, contents: Contents) -> Iterator[str]:
    span = contents.span
    what = _what(contents)
    yield f"{target.comm} (PID {target.pid}): {span.start:x}-{span.end:x}, {what}"
    swap = f", {format_bytes(contents.swap_bytes)} swapped out" if contents.swap_bytes else ""
    yield f"{format_bytes(span.n_bytes)} of addresses, {format_bytes(contents.resident_bytes)} in memory{swap}"
    if contents.one_in > 1:
        yield (
            f"read: {format_bytes(contents.read_bytes)}, spread over it, one of {contents.one_in:,} blocks of 64 KiB; "
            "--whole reads all"
        )
    else:
        yield f"read: {format_bytes(contents.read_bytes)}, all that is in memory"


def _what(contents: Contents) -> str:
    regions = contents.span.regions
    paths = list(dict.fromkeys(region.entry.path or "anonymous" for region in regions))
    perms = list(dict.fromkeys(region.entry.perms for region in regions))
    more = f" and {len(paths) - 2} more" if len(paths) > 2 else ""
    n_maps = f", {len(regions)} mappings" if len(regions) > 1 else ""
    return f"{', '.join(paths[:2])}{more}, {', '.join(perms[:3])}{n_maps}"


def _pages(contents: Contents) -> Iterator[str]:
    if not contents.read_bytes:
        yield "Nothing of it is in memory: there is nothing to see."
        return
    yield f"{'pages':<34}{'share':>8}{'read':>12}"
    for name, n_bytes in sorted(contents.page_bytes.items(), key=lambda item: -item[1]):
        if n_bytes:
            yield f"{CLASSES[name]:<34}{n_bytes / contents.read_bytes:>8.1%}{format_bytes(n_bytes):>12}"
    yield f"entropy {contents.entropy_bits:.1f} bits a byte"


def _found(contents: Contents) -> Iterator[str]:
    if not contents.found:
        return
    is_sample = contents.one_in > 1
    yield f"{'recognised':<28}{'found':>9}" + (f"{'in all':>12}" if is_sample else "") + "  example"
    for each in contents.found:
        estimate = f"{'~' + format(round(each.count * contents.scale), ','):>12}" if is_sample else ""
        yield f"{each.kind.label:<28}{each.count:>9,}{estimate}  {each.address:x}: {each.example}"


def _classes(contents: Contents) -> Iterator[str]:
    if not contents.classes:
        return
    yield f"{'names of Java classes':<28}{'found':>9}"
    for name, count in contents.classes[:_N_CLASSES]:
        yield f"{name:<28}{count:>9,}" if len(name) < 28 else f"{name} {count:,}"


def _strings(contents: Contents) -> Iterator[str]:
    if not contents.strings:
        return
    yield f"{contents.n_strings:,} texts; the most frequent (# stands for numbers that differ)"
    for text in contents.strings:
        yield f"{text.n_seen:>9,} {text.text}"


def _notes(contents: Contents) -> Iterator[str]:
    span = contents.span
    if contents.n_secrets:
        are = "secret is" if contents.n_secrets == 1 else "secrets are"
        yield f"note: {contents.n_secrets:,} {are} masked (****); --raw shows what they are"
    if span.is_private and not contents.is_raw:
        yield "note: the program keeps this memory out of core dumps, as keys are kept: no texts without --raw"
    if span.unmapped_bytes:
        yield f"note: {format_bytes(span.unmapped_bytes)} of the range are not mapped"
    if span.device_bytes:
        yield f"note: {format_bytes(span.device_bytes)} belong to a device or the kernel, and were left alone"
    if contents.has_ended:
        yield "note: the process ended meanwhile; what was not read by then is missing"
    if contents.failed_bytes:
        yield f"note: {format_bytes(contents.failed_bytes)} went away while they were read"
    if contents.max_missed:
        yield f"note: too many different texts for the table: counts may be too low by {contents.max_missed:,}"
