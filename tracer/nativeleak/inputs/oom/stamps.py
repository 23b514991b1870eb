"""What stands before a message in a log: wall clock in any form, host, program, seconds since the start.

Scope: dmesg (also ``-T`` and with callers), syslog, journalctl in all its forms, its JSON, /dev/kmsg, logcat, Talos,
nohang. Month names of a dozen languages.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple


class LogLine(NamedTuple):
    """A line taken apart.

    Attributes:
        time: As in ``Event.time``; None where the line has none.
        uptime_s: None where the line has none.
        program: Who logged it; empty where the line does not say.
        text: The message.
    """

    time: str | None
    uptime_s: float | None
    program: str
    text: str


_MONTH_NAMES: Final = (
    "jan janv янв ene gen sty oca",
    "feb févr фев февр fev lut şub",
    "mar mär märz mars мар mrt",
    "apr avr avril апр abr kwi nis",
    "may mai мая май mag maj mei",
    "jun juin июн giu cze haz",
    "jul juil июл lug lip tem",
    "aug août авг ago sie ağu",
    "sep sept сен сент set wrz eyl",
    "oct okt окт ott out paź eki",
    "nov ноя нояб lis kas",
    "dec dez déc дек dic gru ara",
)
MONTHS: Final = {name: i for i, names in enumerate(_MONTH_NAMES, 1) for name in names.split()}
_MONTH: Final = r"(?:(\d{1,2})[月월]|([^\W\d_]{3,9})\.?)"
_CLOCK: Final = r"(\d\d):(\d\d):(\d\d)(?:[.,]\d{1,9})?"
_ISO: Final = re.compile(
    rf"\[?(\d{{4}})-(\d\d)-(\d\d)[T ]{_CLOCK}(?: ?(Z|[+-]\d\d:?\d\d))?\]?(?: [A-Z]{{2,5}}(?= ))?[:,]?\s+"
)
_DAY_ISO: Final = re.compile(r"[^\W\d_]{2,4}\.? (?=\d{4}-\d\d-\d\d )")
_SYSLOG: Final = re.compile(rf"{_MONTH}\s+(\d{{1,2}})\s+{_CLOCK}\s+(?:(\d{{4}})\s+)?")
_DMESG_T: Final = re.compile(rf"\[\s*(?:[^\W\d_]{{1,9}}\.?,?\s+)?{_MONTH}\s+(\d{{1,2}})\s+{_CLOCK}\s+(\d{{4}})\]\s?")
_DMESG_T_DAY_FIRST: Final = re.compile(
    rf"\[\s*(?:[^\W\d_]{{1,9}}\.?,?\s+)?(\d{{1,2}})\.?\s+{_MONTH}\s+{_CLOCK}\s+(\d{{4}})\]\s?"
)
_LOGCAT: Final = re.compile(
    rf"(?:(\d{{4}})-)?(\d\d)-(\d\d)\s+{_CLOCK}\s+(?:\d+\s+\d+\s+)?[VDIWEF][ /]\s*([\w.-]{{1,64}})\s*(?:\(\s*\d+\))?:\s?"
)
_TALOS: Final = re.compile(r"\S+: +(kern|user|daemon|syslog): +\w+: (?=\[\d{4}-)")
_LEVEL: Final = re.compile(r"<\d{1,3}>")
_KMSG: Final = re.compile(r"(\d{1,9}),(\d{1,20}),(\d{1,18}),[^;]{0,200};(.*)")
_UPTIME: Final = re.compile(r"\[\s*(\d{1,10}\.\d{1,9})\](?:\[\s*[TC]\d{1,10}\])?:?\s?")
_EPOCH: Final = re.compile(r"(1\d{9}\.\d{1,9})\s+")
_PROGRAM: Final = re.compile(r"(?:(\S{1,255})\s+)?([\w.@/()-]{1,64}?)(?:\[\d{1,10}\])?:(?:\s+|$)")
_KERNEL_WORDS: Final = frozenset({"memory", "swap", "kmem", "Trace", "Mem-Info"})
"""What an OOM report says where host and program were cut out of a line."""
_COLOUR: Final = re.compile(r"\x1b\[[\d;]{0,16}m")
_JSON_BYTES: Final = 1 << 16


def parse_log_line(line: str) -> LogLine:
    """Take a line apart; one without any stamp is all text."""
    if line.startswith("\x1b["):  # dmesg --color=always
        line = _COLOUR.sub("", line)
    if line.startswith("{"):
        found = _of_json(line)
        if found is not None:
            return found
    kmsg = _KMSG.fullmatch(line)
    if kmsg:
        return LogLine(None, int(kmsg[3]) / 1e6, "kernel", kmsg[4])
    line = _LEVEL.sub("", line, count=1) if line.startswith("<") else line
    talos = _TALOS.match(line)
    if talos:
        line = line[talos.end() :]
    time, program, rest, is_clock = _wall_clock(line)
    if is_clock and not program and not talos:
        program, rest = _program(rest)
    uptime = _UPTIME.match(rest)
    if uptime is None:
        return LogLine(time, None, program, rest)
    rest = rest[uptime.end() :]
    if not program and not is_clock:  # journalctl -o short-monotonic has host and program behind it
        program, rest = _program(rest)
    return LogLine(time, float(uptime[1]), program, rest)


def _wall_clock(line: str) -> tuple[str | None, str, str, bool]:
    """(time, program, rest, whether host and program may follow)."""
    if found := _LOGCAT.match(line):
        year, month, day, hour, minute, second, program = found.groups()
        return _time(year, month, day, hour, minute, second), program, line[found.end() :], True
    day_name = _DAY_ISO.match(line)
    if found := _ISO.match(line, day_name.end() if day_name else 0):
        return _time(*found.groups()), "", line[found.end() :], not found[0].rstrip().endswith(":")
    if found := _DMESG_T.match(line):
        number, name, *rest = found.groups()
        return _named(number, name, *rest), "", line[found.end() :], False
    if found := _DMESG_T_DAY_FIRST.match(line):
        day, number, name, *rest = found.groups()
        return _named(number, name, day, *rest), "", line[found.end() :], False
    if (found := _SYSLOG.match(line)) and (found[1] or found[2].lower() in MONTHS):
        return _named(*found.groups()), "", line[found.end() :], True
    if found := _EPOCH.match(line):
        moment = datetime.fromtimestamp(float(found[1]), UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ"), "", line[found.end() :], True
    return None, "", line, False


def _named(*groups: str | None) -> str | None:
    """Time of (month number, month name, day, hour, minute, second, year)."""
    number, name, day, hour, minute, second, year = groups
    month = number or MONTHS.get((name or "").lower())
    return _time(year, str(month), day, hour, minute, second) if month else None


def _time(
    year: str | None,
    month: str | None,
    day: str | None,
    hour: str | None,
    minute: str | None,
    second: str | None,
    zone: str | None = None,
) -> str:
    date = f"{int(month or 0):02d}-{int(day or 0):02d}T{hour}:{minute}:{second}"
    if zone and zone != "Z":
        zone = f"{zone[:3]}:{zone[-2:]}"
        zone = "Z" if zone[1:] == "00:00" else zone
    return (f"{year}-" if year else "") + date + (zone or "")


def _program(rest: str) -> tuple[str, str]:
    """(program, message) of ``host program[pid]: message``; the host may be cut out."""
    found = _PROGRAM.match(rest)
    if found is None or (found[1] or "").endswith(":") or found[2] in _KERNEL_WORDS:
        return "", rest
    return found[2], rest[found.end() :]


def _of_json(line: str) -> LogLine | None:
    """An entry of ``journalctl -o json``; a message that is no UTF-8 is an array of bytes."""
    if len(line) > _JSON_BYTES:
        return None
    try:
        entry: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or "MESSAGE" not in entry:
        return None
    message = entry["MESSAGE"]
    if isinstance(message, list):
        message = bytes(b for b in message if isinstance(b, int) and 0 <= b < 256).decode("utf-8", "replace")
    program = entry.get("SYSLOG_IDENTIFIER") or ("kernel" if entry.get("_TRANSPORT") == "kernel" else "")
    return LogLine(_journal_time(entry), _journal_uptime(entry), str(program), str(message))


def _journal_time(entry: dict[str, Any]) -> str | None:
    stamp = str(entry.get("_SOURCE_REALTIME_TIMESTAMP") or entry.get("__REALTIME_TIMESTAMP") or "")
    if not stamp.isdigit() or len(stamp) > 17:
        return None
    return datetime.fromtimestamp(int(stamp) / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _journal_uptime(entry: dict[str, Any]) -> float | None:
    stamp = str(entry.get("_SOURCE_MONOTONIC_TIMESTAMP") or "")
    return int(stamp) / 1e6 if stamp.isdigit() and len(stamp) < 19 else None
