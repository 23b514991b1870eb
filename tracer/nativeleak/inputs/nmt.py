"""Native Memory Tracking as ``jcmd PID VM.native_memory`` and hs_err files print it, JDK 8 to 25.

Scope: summary, detail, and the difference to a baseline, with any ``scale``; several answers in one file are a series.
Lines are read wherever they stand, for mails and web pages drop hyphens, blanks and empty lines.

Source: src/hotspot/share/services/memReporter.cpp (nmt/ since 22), and output of JDK 8, 11, 17, 21 and 25.
"""

from __future__ import annotations

import re
from typing import Any, Final

from nativeleak.inputs.reading import Reading, row, size
from nativeleak.inputs.words import CATEGORIES

_MAX_LINE: Final = 4096
_UNITS: Final = {"": 1, "B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
_NUM: Final = r"(\d{1,20})(KB|MB|GB|B)?"
_DELTA: Final = r"(?: ([+-]\d{1,20})(KB|MB|GB|B)?)?"
_PAIR: Final = rf"reserved={_NUM}{_DELTA}, {{0,2}}committed={_NUM}{_DELTA}"
_TOTAL: Final = re.compile(rf"Total: {{0,4}}{_PAIR}")
_TOTAL_MALLOC: Final = re.compile(rf"\s*malloc[:=] *{_NUM}{_DELTA}(?:,? #(\d{{1,15}}))?")
_TOTAL_MMAP: Final = re.compile(r"\s*mmap: +reserved=")
_CATEGORY: Final = re.compile(rf"\s*(?:[-*\u2022\u2013] *)?([A-Z][\w /.&-]{{0,60}}?) \({_PAIR}")
_MALLOC: Final = re.compile(
    rf"\(malloc={_NUM}(?: (?:tag|type)=([^#+()]{{1,60}}?))?{_DELTA}(?:,? #(\d{{1,15}})(?: [+-]\d{{1,15}})?)?\s*\)"
)
_MMAP: Final = re.compile(rf"\((mmap|stack): {{0,2}}{_PAIR}")
_ARENA: Final = re.compile(rf"\(arena={_NUM}{_DELTA}(?:,? #(\d{{1,15}}))?")
_CLASSES: Final = re.compile(r"\(classes #(\d{1,15})")
_THREADS: Final = re.compile(r"\(threads? #(\d{1,15})")
_PID: Final = re.compile(r"(\d{1,10}): *")
_FRAME: Final = re.compile(r"\[0x[0-9a-f]{6,16}\]\s*(.*)")
_REGION: Final = re.compile(
    r"\[(0x[0-9a-f]{1,16}) - (0x[0-9a-f]{1,16})\] reserved (and committed )?(\d{1,20})(?:KB|MB|GB|B)? for (.*?)"
    r"(?: from)?\s*"
)
_COMMITTED: Final = re.compile(r"\s+\[0x[0-9a-f]{1,16} - 0x[0-9a-f]{1,16}\] committed ")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d\S*|\w{3} \w{3} +\d{1,2} [\d:]{8} .*\d{4}")
_ANSWERS: Final = {
    "Native memory tracking is not enabled": False,
    "No baseline for comparison": True,
    "No baseline to compare": True,
    "Baseline succeeded": True,
    "Baseline taken": True,
    "Detail tracking is not enabled": True,
}
_KNOWN: Final = re.compile(
    r"\s*(?:$|[-*]?\s*$|Native Memory Tracking:|\(Omitting|Virtual memory map:|Details:|Memory file details"
    r"|\(.*(?:sites|omitted).*\)"
    r"|Preinit state:|pre-init mallocs|MallocLimit|Periodic native trim|```|Picked up |(?:: )?\(\s*(?:instance classes|"
    r"Metadata|Class space|reserved=|used=|free=|waste=|tracking overhead=|malloc|peak|at peak|live |adjust).*"
    r"|(?:sum|bytes|entries|live):?.*|from\s*$|\$ .*|#.*)"
)


def is_nmt(text: str) -> bool:
    """Whether there is a table of it in a text, or an answer in place of one."""
    return _TOTAL.search(text) is not None or any(answer in text for answer in _ANSWERS)


def parse_nmt(text: str) -> Reading:
    """All tables of a text; the values are those of the last."""
    reader = _Reader()
    for line in text.split("\n"):
        reader.feed(line)
    return reader.finish()


class _Reader:
    """Reads line by line."""

    def __init__(self) -> None:
        self.tables: list[dict[str, Any]] = []
        self.enabled: dict[str, bool] = {}
        self.reading = Reading("nmt", "Native Memory Tracking", {})
        self._pid: int | None = None
        self._time: str | None = None
        self._category: dict[str, Any] | None = None
        self._frames: list[str] = []
        self._in_region = False

    def feed(self, line: str) -> None:
        line = line[:_MAX_LINE].partition("<---")[0].rstrip()
        pid = _PID.fullmatch(line.strip())
        answer = next((word for word in _ANSWERS if word in line), None)
        total = _TOTAL.search(line)
        if pid:
            self._pid, self._category = int(pid[1]), None
        elif answer is not None:
            self.enabled[str(self._pid) if self._pid is not None else "?"] = _ANSWERS[answer]
        elif _TIME.fullmatch(line.strip()):
            self._time = line.strip()
        elif total:
            self._begin(total)
        elif not self.tables:
            self._unknown(line)
        else:
            self._in_table(line)

    def _begin(self, total: re.Match[str]) -> None:
        sums, has_delta = _pair(total.groups())
        unit = total[2] or ""
        self._category, self._frames, self._in_region = None, [], False
        self.tables.append(
            {"pid": self._pid, "unit": unit, "total": sums, "categories": {}, "is_diff": has_delta, "time": self._time,
             "sites": [], "regions": [], "site_frames": [], "is_detail": False}
        )  # fmt: skip
        self._time = None

    def _in_table(self, line: str) -> None:
        table = self.tables[-1]
        frame = _FRAME.fullmatch(line.strip())
        region = _REGION.fullmatch(line.strip())
        category = _CATEGORY.match(line)
        if region:
            self._region(table, region)
        elif _COMMITTED.match(line):
            self._frames = []
        elif frame:
            self._frames.append(frame[1])
        elif self._frames and "(" in line:
            self._site(table, line)
        elif category:
            sums, has_delta = _pair(category.groups()[1:])
            table["is_diff"] |= has_delta
            self._category = table["categories"].setdefault(category[1].strip(), {})
            self._category.update(sums)
            self._frames = []
        elif not line.strip():
            self._frames = []
        elif not self._details(table, line):
            self._unknown(line)
        if line.strip() in ("Details:", "Virtual memory map:"):
            table["is_detail"] = True

    def _details(self, table: dict[str, Any], line: str) -> bool:
        """Whether a line belongs to a category, or to the totals above the first one."""
        into = self._category
        if into is None:
            total = _TOTAL_MALLOC.match(line)
            if total:
                table["total"]["malloc"] = _bytes(total[1], total[2])
                table["total"]["malloc_count"] = int(total[5]) if total[5] else None
            return bool(total or _TOTAL_MMAP.match(line))
        n_before = len(into)
        if found := _MALLOC.search(line):
            into["malloc"] = _bytes(found[1], found[2])
            into["malloc_count"] = int(found[6]) if found[6] else None
            _take_delta(into, "malloc", found[4], found[5] or found[2])
        if found := _MMAP.search(line):
            _take_pair(into, found[1], found.groups()[1:])
        if found := _ARENA.search(line):
            into["arena"], into["arena_count"] = _bytes(found[1], found[2]), int(found[5]) if found[5] else None
            # JDK 8 prints the change without its unit.
            _take_delta(into, "arena", found[3], found[4] or found[2])
        if found := _CLASSES.search(line):
            into["classes"] = int(found[1])
        if found := _THREADS.search(line):
            into["threads"] = int(found[1])
        return len(into) > n_before or _KNOWN.match(line) is not None or line.strip().startswith("(")

    def _site(self, table: dict[str, Any], line: str) -> None:
        malloc = _MALLOC.search(line)
        table["is_detail"] = True
        if malloc:
            site = {
                "bytes": _bytes(malloc[1], malloc[2]),
                "count": int(malloc[6]) if malloc[6] else None,
                "tag": (malloc[3] or "").strip() or None,
            }
            _take_delta(site, "bytes", malloc[4], malloc[5] or malloc[2])
            table["is_diff"] |= "bytes_delta" in site
            table["sites"].append(site)
            table["site_frames"].append(self._frames)
        elif "reserved=" not in line:
            self._unknown(line)
        self._frames = []

    def _region(self, table: dict[str, Any], region: re.Match[str]) -> None:
        start, end, committed, _, tag = region.groups()
        table["is_detail"] = True
        self._frames, self._category = [], None
        n_bytes = int(end, 16) - int(start, 16)
        if n_bytes >= 0:
            table["regions"].append(
                {"start": start, "end": end, "bytes": n_bytes, "committed": bool(committed), "tag": tag}
            )

    def _unknown(self, line: str) -> None:
        if not _KNOWN.fullmatch(line) and not _KNOWN.match(line):
            self.reading.miss(line)

    def finish(self) -> Reading:
        """The reading, with what the tables do not show said."""
        reading = self.reading
        if not self.tables:
            reading.title = "answers of jcmd VM.native_memory, no table"
            reading.values = {"tables": 0, "enabled": self.enabled}
            reading.lines = [
                f"PID {pid}: Native Memory Tracking is {'on' if on else 'off'}" for pid, on in self.enabled.items()
            ]
            if False in self.enabled.values():
                reading.notes.append("start the JVM with -XX:NativeMemoryTracking=summary; it costs about 2 %")
            return reading
        table = self.tables[-1]
        values = _values(table)
        values["tables"] = len(self.tables)
        if self.enabled:
            values["enabled"] = self.enabled
        if len(self.tables) > 1:
            values["series"] = [_values(each) | {"time": each["time"]} for each in self.tables]
        reading.values = values
        reading.title = f"Native Memory Tracking, {values['mode']}" + (
            f" of PID {values['pid']}" if values["pid"] is not None else ""
        )
        _tell(reading, table, values)
        if len(self.tables) > 1:
            _tell_series(reading, self.tables)
        return reading


def _values(table: dict[str, Any]) -> dict[str, Any]:
    mode = ("detail" if table["is_detail"] else "summary") + (".diff" if table["is_diff"] else "")
    values = {key: table[key] for key in ("pid", "unit", "total", "categories")} | {"mode": mode}
    for category in values["categories"].values():
        # JDK 17's difference prints 0 threads, whatever there are.
        if category.get("threads") == 0 and category.get("stack_reserved"):
            category["threads"] = None
    if table["is_detail"]:
        values |= {key: table[key] for key in ("sites", "regions", "site_frames")}
    return values


def _bytes(number: str, unit: str | None) -> int:
    return int(number) * _UNITS[unit or ""]


def _pair(groups: tuple[str | None, ...]) -> tuple[dict[str, int], bool]:
    """Reserved and committed bytes with their changes; whether there are changes."""
    into: dict[str, Any] = {}
    _take_pair(into, "", groups)
    return into, any(key.endswith("_delta") for key in into)


def _take_pair(into: dict[str, Any], prefix: str, groups: tuple[str | None, ...]) -> None:
    head = f"{prefix}_" if prefix else ""
    for name, at in (("reserved", 0), ("committed", 4)):
        number, unit, delta, delta_unit = groups[at : at + 4]
        into[f"{head}{name}"] = _bytes(number or "0", unit)
        _take_delta(into, f"{head}{name}", delta, delta_unit or unit)


def _take_delta(into: dict[str, Any], name: str, delta: str | None, unit: str | None) -> None:
    if delta is not None:
        into[f"{name}_delta"] = int(delta) * _UNITS[unit or ""]


_MAX_ROWS: Final = 12


def _tell(reading: Reading, table: dict[str, Any], values: dict[str, Any]) -> None:
    total, categories = values["total"], values["categories"]
    is_diff = table["is_diff"]
    reading.lines.append(f"{size(total['committed'])} committed, {size(total['reserved'])} of address space reserved")
    if is_diff:
        change = total.get("committed_delta", 0)
        reading.lines.append(f"{'+' if change >= 0 else '-'}{size(abs(change))} committed since the baseline")
    order = sorted(
        categories.items(),
        key=lambda item: (-abs(item[1].get("committed_delta", 0)) if is_diff else 0, -item[1].get("committed", 0)),
    )
    for name, category in order[:_MAX_ROWS]:
        change = category.get("committed_delta")
        changed = f" ({'+' if change >= 0 else '-'}{size(abs(change))})" if change is not None else ""
        reading.lines.append(f"{row(name, category.get('committed'))}{changed}  {CATEGORIES.get(name, '')}".rstrip())
    if len(order) > _MAX_ROWS:
        reading.lines.append(f"{len(order) - _MAX_ROWS} smaller categories are in the JSON")
    for site, frames in list(zip(table["sites"], table["site_frames"], strict=True))[:5]:
        named = next((frame for frame in frames if frame), "a frame without a name")
        reading.lines.append(f"site: {size(site['bytes'])} in {site['count'] or '?'} blocks, {site['tag']}: {named}")
    short = total["committed"] - sum(category.get("committed", 0) for category in categories.values())
    if short > max(len(categories), 1) * _UNITS[table["unit"]]:
        reading.notes.append(f"the categories add up to {size(short)} less than the total: some are missing here")
    if table["unit"] in ("MB", "GB"):
        reading.notes.append(f"printed in whole {table['unit']}: small categories are 0 or missing; take scale=KB")
    reading.notes.append("committed is not resident: the JVM's RSS is another number, and NMT sees no foreign malloc")


def _tell_series(reading: Reading, tables: list[dict[str, Any]]) -> None:
    first, last = tables[0], tables[-1]
    if first["pid"] != last["pid"]:
        reading.notes.append(f"{len(tables)} tables, not all of one process")
        return
    growth = {
        name: category["committed"] - first["categories"].get(name, {}).get("committed", 0)
        for name, category in last["categories"].items()
    }
    reading.lines.append(f"{len(tables)} tables; from the first to the last:")
    for name, change in sorted(growth.items(), key=lambda item: -abs(item[1]))[:5]:
        if change:
            reading.lines.append(f"  {name}: {'+' if change > 0 else '-'}{size(abs(change))} committed")
