"""Profiles of OpenTelemetry: the message ``opentelemetry.proto.profiles.v1development.ProfilesData``.

Source: https://github.com/open-telemetry/opentelemetry-proto, opentelemetry/proto/profiles/v1development. The signal is
in development: a later version may change the message. The package opentelemetry-proto knows the fields of its version.

A resource is a process of a host, with one profile for each sample type. Growth is in bytes a minute.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, BinaryIO, Final

from nativeleak import __version__
from nativeleak.analysis.select import Metric, pool_of
from nativeleak.errors import UsageError
from nativeleak.model import Frame
from nativeleak.reports.folded import metric_value
from nativeleak.reports.formats import WriteOptions
from nativeleak.reports.names import printable
from nativeleak.reports.report import SiteReport, SiteTable

SAMPLE_TYPES: Final = (
    ("inuse_space", "bytes"),
    ("inuse_objects", "count"),
    ("alloc_space", "bytes"),
    ("alloc_objects", "count"),
    ("growth_per_minute", "bytes"),
)
"""Names and units of the profiles of a process, in order."""
_PROTO: Final = "opentelemetry.proto.profiles.v1development"
_NS: Final = 1_000_000_000
_MOST: Final = (1 << 63) - 1


def write(report: SiteTable, stream: BinaryIO, options: WriteOptions) -> None:
    """The serialized message.

    Raises:
        UsageError: opentelemetry-proto, which knows the message, is not installed.
    """
    del options
    if not _is_there():
        raise UsageError(
            "report --format otlp failed: it needs the Python package opentelemetry-proto, which is not installed",
            "Install it where nativeleak is: pip install opentelemetry-proto. Or take --format pprof.",
        )
    stream.write(_Profiles(report).data.SerializeToString())


def _is_there() -> bool:
    try:
        return find_spec(f"{_PROTO}.profiles_pb2") is not None
    except ModuleNotFoundError:  # of a package above it
        return False


class _Profiles:
    """The message, and the tables that fill while it is made. Entry 0 of each table is empty, and means none."""

    def __init__(self, report: SiteTable) -> None:
        from opentelemetry.proto.profiles.v1development import profiles_pb2

        self._pb: Any = profiles_pb2
        self.data: Any = profiles_pb2.ProfilesData()
        self._tables: Any = self.data.dictionary
        self._strings: dict[str, int] = {}
        self._attributes: dict[tuple[str, str | int], int] = {}
        self._functions: dict[tuple[str, str], int] = {}
        self._mappings: dict[tuple[str, str], int] = {}
        self._locations: dict[int, int] = {}
        self._stacks: dict[tuple[int, ...], int] = {(): 0}
        self._string("")
        for table in ("mapping_table", "location_table", "function_table", "link_table", "attribute_table"):
            getattr(self._tables, table).add()
        self._tables.stack_table.add()
        self._report = report
        by_process: dict[tuple[str, str, int], list[SiteReport]] = {}
        for site in report.rows.sites.rows:
            by_process.setdefault((site.host, site.process, site.pid), []).append(site)
        for (host, process, pid), sites in by_process.items():
            self._add_process(host, process, pid, sites)

    def _add_process(self, host: str, process: str, pid: int, sites: Sequence[SiteReport]) -> None:
        resource = self.data.resource_profiles.add()
        named: dict[str, str | int] = {
            "host.name": printable(host),
            "process.executable.name": printable(process),
            "process.pid": pid,
        }
        for key, value in named.items():
            if value:
                self._set(resource.resource.attributes.add(), key, value)
        scope = resource.scope_profiles.add()
        scope.scope.name, scope.scope.version = "nativeleak", __version__
        samples = [(self._stack(site.stack.frames), self._site_attributes(site), _values(site)) for site in sites]
        trace = self._report.trace
        for number, (name, unit) in enumerate(SAMPLE_TYPES):
            profile = scope.profiles.add()
            profile.sample_type.type_strindex = self._string(name)
            profile.sample_type.unit_strindex = self._string(unit)
            profile.time_unix_nano = min(max(0, round(trace.info.started * _NS)), _MOST)
            profile.duration_nano = min(max(0, round(trace.duration_s * _NS)), _MOST)
            profile.period_type.type_strindex = self._string("space")
            profile.period_type.unit_strindex = self._string("bytes")
            profile.period = trace.sample_bytes or 1
            told = f"{trace.name}\0{trace.info.started}\0{host}\0{process}\0{pid}\0{name}"
            profile.profile_id = hashlib.blake2b(told.encode("utf-8", "surrogateescape"), digest_size=16).digest()
            for stack, attributes, values in samples:
                if values[number]:
                    profile.samples.add(stack_index=stack, attribute_indices=attributes, values=[values[number]])

    def _site_attributes(self, site: SiteReport) -> list[int]:
        named: dict[str, str | int] = {
            "thread.name": printable(site.thread),
            "thread.id": site.tid,
            "nativeleak.pool": printable(pool_of(site.thread)),
            "nativeleak.kind": site.kind.value,
            "nativeleak.owner": site.owner.value,
        }
        return [self._attribute(key, value) for key, value in named.items() if value]

    def _stack(self, frames: Sequence[Frame]) -> int:
        locations = tuple(map(self._location, frames))
        number = self._stacks.setdefault(locations, len(self._stacks))
        if number == len(self._tables.stack_table):
            self._tables.stack_table.add(location_indices=locations)
        return number

    def _location(self, frame: Frame) -> int:
        number = self._locations.get(id(frame))
        if number is None:
            number = self._locations[id(frame)] = len(self._tables.location_table)
            address = frame.module_offset or frame.ip
            location = self._tables.location_table.add(mapping_index=self._mapping(frame), address=address)
            location.lines.add(function_index=self._function(frame), line=frame.line or 0)
        return number

    def _mapping(self, frame: Frame) -> int:
        if frame.module is None:
            return 0
        key = printable(frame.module), printable(frame.build_id)
        number = self._mappings.setdefault(key, len(self._mappings) + 1)
        if number == len(self._tables.mapping_table):
            mapping = self._tables.mapping_table.add(filename_strindex=self._string(key[0]))
            if key[1]:
                mapping.attribute_indices.append(self._attribute("process.executable.build_id.gnu", key[1]))
        return number

    def _function(self, frame: Frame) -> int:
        key = printable(frame.function) or "[no name]", printable(frame.file or "")
        number = self._functions.setdefault(key, len(self._functions) + 1)
        if number == len(self._tables.function_table):
            name, file = map(self._string, key)
            self._tables.function_table.add(name_strindex=name, system_name_strindex=name, filename_strindex=file)
        return number

    def _attribute(self, key: str, value: str | int) -> int:
        number = self._attributes.setdefault((key, value), len(self._attributes) + 1)
        if number == len(self._tables.attribute_table):
            attribute = self._tables.attribute_table.add(key_strindex=self._string(key))
            self._set_value(attribute.value, value)
        return number

    def _set(self, attribute: Any, key: str, value: str | int) -> None:
        attribute.key = key
        self._set_value(attribute.value, value)

    def _set_value(self, target: Any, value: str | int) -> None:
        if isinstance(value, int):
            target.int_value = value
        else:
            target.string_value = value

    def _string(self, text: str) -> int:
        # Text that is no UTF-8 cannot be in the message.
        safe = text.encode("utf-8", "backslashreplace").decode()
        number = self._strings.setdefault(safe, len(self._strings))
        if number == len(self._tables.string_table):
            self._tables.string_table.append(safe)
        return number


def _values(site: SiteReport) -> tuple[int, ...]:
    totals = site.totals
    values = (
        totals.outstanding_bytes,
        totals.outstanding_count,
        totals.allocated_bytes,
        totals.allocated_count,
        metric_value(site, Metric.GROWTH),
    )
    return tuple(max(-_MOST, min(_MOST, value)) for value in values)
