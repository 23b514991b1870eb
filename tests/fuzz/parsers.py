"""The parsers that read what others wrote: what each is fed with, how it is used, what it may raise."""

from __future__ import annotations

import io
import json
import lzma
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

import recording_fixtures as made
from fuzz.elves import debugdata_object, elf_seeds
from fuzz.harness import Parser
from fuzz.values import with_a_wrong_value
from nativeleak.analysis.select import By, Metric, Selection
from nativeleak.analysis.shared_paths import SharedPaths
from nativeleak.engines.bpf.blocks import read_blocks
from nativeleak.engines.bpf.kernel.abi import SLOT_SHIFT
from nativeleak.engines.options import TraceOptions
from nativeleak.engines.pmap.ledger import PmapLedger
from nativeleak.engines.pmap.listing import has_rows, parse_listings
from nativeleak.engines.pmap.recorded import RecordedPmap
from nativeleak.engines.pmap.regions import StackPointer, Surroundings
from nativeleak.engines.pmap.smaps import Mapping, parse_smaps
from nativeleak.engines.strace.lines import MAX_LINE
from nativeleak.engines.strace.program_lines import LineSplitter
from nativeleak.engines.strace.recorded import RecordedStrace, looks_like_strace
from nativeleak.engines.threads import ThreadTable
from nativeleak.engines.userspace import TracedProcess
from nativeleak.errors import NativeleakError, RecordingError, UsageError
from nativeleak.holders.recorded import unpack
from nativeleak.inputs.jvm_answers import parse_code_cache, parse_flags, parse_histogram
from nativeleak.inputs.registry import Input, as_json, read_text
from nativeleak.inputs.source import InputFile
from nativeleak.inputs.strace import is_strace, parse_strace
from nativeleak.inputs.text import as_text
from nativeleak.model import BlockChunk, BlockFate, HeapCensus, InUse, Kind, Look, SiteFate, TargetInfo
from nativeleak.peek.look import Found, recognise
from nativeleak.peek.reading import Block
from nativeleak.peek.stream import masked
from nativeleak.peek.strings import StringCounter
from nativeleak.probes.cache import PlacementCache
from nativeleak.probes.calls import AllocCall
from nativeleak.probes.emulation import CONSERVATIVE
from nativeleak.probes.exits import UNSEEN, find_exits
from nativeleak.probes.families import PLAIN_NAMES
from nativeleak.probes.flow import FlowReader
from nativeleak.probes.image import Callee
from nativeleak.probes.placement import place
from nativeleak.probes.returns import Returns, plan_returns
from nativeleak.probes.search import find_allocators
from nativeleak.process.procfs import parse_maps, parse_stat, parse_status
from nativeleak.recording import Recording, open_recording
from nativeleak.recording.fates import add_census, add_look
from nativeleak.reports.formats import FORMAT_NAMES, WriteOptions, find_format
from nativeleak.reports.merged.merge import Merger
from nativeleak.reports.merged.read import Pools, read_part
from nativeleak.reports.merged.sites import MergedTable
from nativeleak.reports.names import folded_text, printable
from nativeleak.runtimes.hotspot.spec import HOTSPOT
from nativeleak.runtimes.hotspot.streams import read_line_table
from nativeleak.runtimes.hotspot.text import decode_modified_utf8, method_name
from nativeleak.session.replay import Replay
from nativeleak.symbols.debugfiles import find_debug_file, read_debugdata
from nativeleak.symbols.demangle import demangle
from nativeleak.symbols.elf import ElfError, ElfFile
from nativeleak.symbols.functions import function_symbols
from nativeleak.symbols.objects import SymbolizedObject
from nativeleak.symbols.perfmap import parse_perf_map
from nativeleak.symbols.source import BytesSource
from nativeleak.unwind.bare import disassemble, rows_of
from nativeleak.unwind.eh_frame import FrameSection, find_eh_frame, read_fdes
from nativeleak.unwind.pack import lookup
from nativeleak.unwind.table import build_table, decode, encode
from rendering import render
from unit.unwind import objects

ADDRESSES = (0, 1, 0x1000, 0x1010, 0x1FFF, 0x3000, 0x7F00_0000_0000, (1 << 64) - 1)


# ---- ELF ----


def use_elf(data: bytes) -> None:
    """Everything that is asked of an object of the target."""
    with ElfFile(BytesSource(data)) as elf:
        _ = elf.sections, elf.build_id, elf.debug_link
        for address in ADDRESSES:
            elf.vaddr_to_offset(address)
            elf.offset_to_vaddr(address)
        function_symbols(elf, PLAIN_NAMES)
        mapped = SymbolizedObject(ElfFile(BytesSource(data)), "/usr/lib/x.so")
        for address in ADDRESSES:
            symbol = mapped.lookup(address)
            assert symbol is None or printable(demangle(symbol.name)).isprintable()
        mapped.close()


def use_debug_file(data: bytes) -> None:
    """A debug file that is found for a sound object, whatever is in it; the object's own link may be damaged too."""
    for elf in (ElfFile(BytesSource(elf_seeds()[0])), _elf_or_none(data)):
        if elf is None:
            continue
        found = find_debug_file(elf, "/usr/lib/x.so", [partial(memory_file, data)])
        if found is not None:
            use_elf(found.source.read(0, found.source.size))
            found.close()


def _elf_or_none(data: bytes) -> ElfFile | None:
    try:
        return ElfFile(BytesSource(data))
    except ElfError:
        return None


def memory_file(data: bytes, path: str) -> int:
    if "\0" in path:
        raise ValueError("embedded null byte")  # as open() does
    fd = os.memfd_create("fuzz")
    os.pwrite(fd, data, 0)
    return fd


def use_debugdata(data: bytes) -> None:
    """What ``.gnu_debugdata`` holds, in a sound object."""
    with ElfFile(BytesSource(debugdata_object(data))) as elf:
        found = read_debugdata(elf)
        if found is not None:
            use_elf(found.source.read(0, found.source.size))


def packed_seeds() -> Sequence[bytes]:
    return [lzma.compress(elf_seeds()[0]), lzma.compress(bytes(1 << 20))]


def use_table(data: bytes) -> None:
    for full in (False, True):
        table = build_table(BytesSource(data), full=full)
        assert bool(table.words) != bool(table.reason)
        for address in ADDRESSES if table.words else ():
            lookup(table.words, address)
        assert decode(encode(table)) is not None


EXITS_CODE = bytes.fromhex(
    "534889fbe80a0000004885c074034889185bc3c34c8b1f4939f374074889374c89d8c3e8ebffffff4889f0c383ff02771d488d151c00000048"
    "6304ba4801d0ffe04889f0eb0731c0eb034889d0c331c0c30f1f00edfffffff2fffffff6ffffff4883ec18e8aaffffff4889442408e8a0ffff"
    "ff488b442408eb004883c418c3554889e54883e4c0e887ffffffeb00c9c353c3"
)


def use_placement(data: bytes) -> None:
    """Where probes go in a damaged library."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        points = find_allocators(file.name).points
        placed = place(file.name, points, CONSERVATIVE, moved_arguments=True)
        plan = plan_returns(file.name, placed, Returns.EXITS, CONSERVATIVE)
        assert len(plan.functions) + len(plan.unseen) <= len(placed)


class CodeImage:
    """Code at address 0, as ``probes.image.Image`` has it."""

    elf = SimpleNamespace(segments=())

    def __init__(self, code: bytes) -> None:
        self._code = code

    def read_code(self, vaddr: int, n_bytes: int) -> bytes:
        return self._code[vaddr : vaddr + n_bytes] if vaddr >= 0 else b""

    read_data = read_code

    def name_at(self, vaddr: int) -> str:
        return "memset" if vaddr == 64 else ""

    def callee_in_slot(self, vaddr: int) -> Callee:
        return Callee(None, "abort" if vaddr % 3 else "")


def use_exits(data: bytes) -> None:
    """The exits of damaged code: none, with a reason, or places in it."""
    for kind in (AllocCall.MALLOC, AllocCall.POSIX_MEMALIGN):
        exits = find_exits(FlowReader(CodeImage(data)), 0, kind, CONSERVATIVE, {48})  # type: ignore[arg-type]
        assert bool(exits.reason) or exits.places or exits.goes_on_in
        assert all(0 <= place.vaddr < len(data) and 0 <= place.register <= UNSEEN for place in exits.places)


@cache
def frame_seeds() -> Sequence[bytes]:
    with ElfFile(BytesSource(elf_seeds()[0])) as elf:
        found = find_eh_frame(elf)
    assert found is not None
    codes = ("0e10410d06", "41 0e10 4a 0e18 0b 0a", "0f0377080616", "10060276 78", "2e10", "07ff 0305 01")
    functions = [(objects.TEXT + 16 * n, 16, bytes.fromhex(code)) for n, code in enumerate(codes)]
    return [found.data, objects.frames(*functions)]


def use_eh_frame(data: bytes) -> None:
    for section in (
        FrameSection(data, objects.FRAMES),
        FrameSection(data, objects.FRAMES, n_fdes=1 << 40, data_base=0x4000),
        FrameSection(data, is_debug=True),
    ):
        try:
            for start, _, rows in read_fdes(section):
                assert start >= 0
                assert rows is not None
        except ElfError:
            continue


def use_code(data: bytes) -> None:
    """Rows of a function follow each other from its start to its end."""
    reached = 0
    for start, end, _ in rows_of(disassemble(data), len(data)):
        assert start == reached < end
        reached = end
    assert reached in (0, len(data))


# ---- caches ----


@cache
def table_seeds() -> Sequence[bytes]:
    return [encode(build_table(BytesSource(data), full=full)) for data in elf_seeds() for full in (False, True)]


def use_kept_table(data: bytes) -> None:
    table = decode(data)
    if table is not None:
        for address in ADDRESSES if table.words else ():
            lookup(table.words, address)


@cache
def placement_seeds() -> Sequence[bytes]:
    with tempfile.TemporaryDirectory() as room:
        _place_library(Path(room))
        return [Path(room, "placements.json").read_bytes()]


def use_kept_placements(data: bytes) -> None:
    """Whatever is in the file, probes go only where they may."""
    with tempfile.TemporaryDirectory() as room:
        path = Path(room, "placements.json")
        path.write_bytes(data)
        path.chmod(0o600)
        Path(room).chmod(0o700)
        _place_library(Path(room))


def _place_library(room: Path) -> None:
    library = room / "library.so"
    library.write_bytes(elf_seeds()[0])
    points = find_allocators(str(library)).points
    assert points
    for probe in place(str(library), points, CONSERVATIVE, moved_arguments=True, cache=PlacementCache(room)):
        assert 0 <= probe.placement.offset < 64


# ---- what the kernel and the target say ----

CODE = tuple(
    bytes.fromhex(code)
    for code in (
        "4154 53 4883ec28 0f05 4883c428 5b 415c c3",
        "55 4889e5 53 4829c4 e800000000 488d65f8 5b 5d c3",
        "0f05 85c0 7507 31ed 5f 41ffd1 f4 c3",
    )
)
MAPS = b"""\
55d0c0a00000-55d0c0a28000 r--p 00000000 fd:01 1313 /usr/bin/java
55d0c0a28000-55d0c0b00000 r-xp 00028000 fd:01 1313 /usr/bin/java (deleted)
55d0c1000000-55d0c1021000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000021000 rw-p 00000000 00:00 0
7f0001000000-7f0001100000 rw-s 00000000 00:05 77                         /a\\012b;c\x1b[31m (deleted) (deleted)
7f0002000000-7f0002001000 r-xp 00000000 00:00 0                          [anon:\xff\xfe name]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""
STAT = b"1 (a ) b) S 1 1 1 0 -1 4194560 1 1 1 1 1 1 1 1 20 0 1 0 5 1 1 18446744073709551615 1 1 1 0 0 0 0 0 0\n"
STATUS = b"Name:\ta\\nb\nUmask:\t0022\nState:\tS (sleeping)\nUid:\t0\t0\t0\t0\nNSpid:\t1\t1\nVmHWM:\t 12 kB\n"


def use_maps(data: bytes) -> None:
    for entry in parse_maps(data.decode("utf-8", "surrogateescape")):
        assert len(entry.perms) == 4
        assert entry.inode >= 0
        assert printable(entry.path).isprintable()


def use_stat(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    parse_status(text)
    assert len(parse_stat(text)) > 19


PERF_MAP = b"""\
7f0000001000 40 Lcom/example/Main;::run
0x7f0000001040 0x20 Interpreter
7f0000001010 10 nested ; name \x1b[2J
7f0000002000 ffffffffffff huge
zz 10 no address
"""


def use_perf_map(data: bytes) -> None:
    table = parse_perf_map(data)
    for ip in (0, 0x7F0000001000, 0x7F0000001018, 0x7F0000001050, 0x7F00FFFFFFFF, (1 << 64) - 1):
        found = table.lookup(ip)
        assert found is None or found[1] >= 0


# ---- what other programs print: strace, pmap; and smaps, which is read like pmap's ----

STRACE = sorted((Path(__file__).resolve().parents[1] / "unit/engines/data").glob("strace_*.txt"))
SMAPS = (Path(__file__).resolve().parent / "seeds/smaps.txt").read_bytes()
PMAP = (Path(__file__).resolve().parent / "seeds/pmap.txt").read_bytes()
LARGEST = (1 << 64) - 1


def strace_seeds() -> Sequence[bytes]:
    return [path.read_bytes() for path in STRACE]


def use_strace(data: bytes) -> None:
    """A recorded file, from the first look at it to the report; in pieces too, as it comes from a pipe."""
    in_pieces_as_whole(data)
    with closing(RecordedStrace(Path("strace"), memory_file(data, "strace"))) as replay:
        use_replay(replay)


def in_pieces_as_whole(data: bytes) -> None:
    whole, pieces = LineSplitter(), LineSplitter()
    lines = whole.feed(data + b"\n")
    third = len(data) // 3 + 1
    in_pieces = [line for i in range(0, len(data) + 1, third) for line in pieces.feed((data + b"\n")[i : i + third])]
    assert [line for line in in_pieces if len(line) <= MAX_LINE] == [line for line in lines if len(line) <= MAX_LINE]
    looks_like_strace(lines)


def use_replay(replay: RecordedStrace | RecordedPmap) -> None:
    """The recording made of it, and the report made of that."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as room:
        path = record_replay(replay, Path(room, "replay.nlk"))
        with open_recording(path) as recording:
            json.loads(render(recording, "json"))
            render(recording, "text")


def record_replay(replay: RecordedStrace | RecordedPmap, path: Path) -> Path:
    return Replay(TraceOptions((), path, interval_s=10.0), replay, _Reporter()).run().path


def use_contents(data: bytes) -> None:
    """A look into memory that holds it: in two blocks, masked, every format tried."""
    middle = len(data) // 2
    blocks = [Block(0x1000, data[:middle], False, True), Block(0x1000 + middle, data[middle:], True, False)]
    found: dict[str, Found] = {}
    strings = StringCounter()
    parts = list(masked(blocks, raw=False))
    assert sum(len(part.data) for part in parts) == len(data)
    for part in parts:
        recognise(part, found)
        strings.add(part.address, part.data)
    assert all(each.count > 0 and isinstance(each.example, str) for each in found.values())
    assert len(strings.most()) == strings.n_texts


def contents_seeds() -> Sequence[bytes]:
    """Contents that are recognised, and text that has the look of secrets again and again."""
    return [
        b"eyJ" * 3000 + b"password=" * 1000 + b"\n\x02" * 1000 + b"x\x9c" * 1000 + b'{"a":' * 1000,
        b"GET / HTTP/1.1\r\nAuthorization: Bearer abcdefgh\r\n\r\n" + zlib.compress(b"the quick brown fox" * 50),
        json.dumps({"password": "hunter22", "card": "4111 1111 1111 1111"}).encode() + "wide text".encode("utf-16-le"),
        b"\x0a\x0dorder-1234567\x10\x80\x80\x01\x1a\x04open\x29" + bytes(8) + b"\x16\x03\x01\x00\x40\x01\x00\x00\x3c",
        bytes.fromhex("28b52ffd0458090000") + b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(8) + b"eyJhbGciOiJI" * 40,
        b"\xac\xed\x00\x05sr\x00\x11java.util.HashMap\x05\xca\xfe\xba\xbe\x00\x00\x00\x3d\x00\x20\x0a\x00",
    ]


class _Reporter:
    def say(self, text: str) -> None:
        assert printable(text).isprintable()

    warn = say


def use_smaps(data: bytes) -> None:
    """Two readings of a process: half of its mappings, then all of them."""
    mappings = parse_smaps(data.decode("utf-8", "replace"))
    use_mappings(mappings)
    process = TracedProcess(0, TargetInfo(0, 1, "java", ""))
    stacks = [StackPointer(mapping.start + 8, 7, "\x1b[2J") for mapping in mappings[::3]]
    ledger = PmapLedger(process, ThreadTable())
    ledger.begin(Surroundings(mappings[::2], runtime=HOTSPOT))
    around = Surroundings(mappings, stacks, runtime=HOTSPOT)
    ledger.take(mappings, lambda: around, 1.0)
    ledger.growth_notes(around)
    use_snapshot_of(process)


def use_pmap(data: bytes) -> None:
    """Recorded listings, from the first look at them to the report."""
    use_replay(read_pmap(data))


def read_pmap(data: bytes) -> RecordedPmap:
    lines = data.decode("utf-8", "replace").split("\n")
    has_rows(lines)
    reader = parse_listings(lines)
    listings = [listing for listing in reader.listings if listing.source != "smaps_rollup"]
    for listing in listings:
        use_mappings(listing.mappings)
    return RecordedPmap(listings, written=[float(i) for i in range(len(listings))], reader=reader)


def use_mappings(mappings: Sequence[Mapping]) -> None:
    """In order, none over another: what all that is done with them relies on."""
    end = 0
    for mapping in mappings:
        assert end <= mapping.start < mapping.end <= LARGEST + 1
        assert len(mapping.perms) == 4
        end = mapping.end


def use_snapshot_of(process: TracedProcess) -> None:
    for site in process.sites(1.0):
        assert site.key.kind is Kind.MAP
        assert site.allocated_bytes >= site.freed_bytes >= 0


# ---- HotSpot ----


def use_hotspot_text(data: bytes) -> None:
    half = len(data) // 2
    name = method_name(decode_modified_utf8(data[:half]), decode_modified_utf8(data[half:]))
    assert name.isprintable()
    read_line_table(data, 1 << 16)


HOTSPOT_TEXT = (
    b"java/util/HashMap$Node;put\xc0\x80\xed\xa0\xbd\xed\xb8\x80",
    b"App$$Lambda$14+0x0000000800c03000<init>",
    bytes.fromhex("1a 22 ff 40 c1 c1 1a 00"),
)


# ---- names ----


def use_name(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for name in (printable(text), printable(demangle(text)), folded_text(text), folded_text(demangle(text))):
        assert not set(name) & set("\n\r\x1b\x00\u2028\u202e")
        name.encode()
    assert ";" not in folded_text(text)


NAMES = (
    b"_ZN3foo3barEv.constprop.0.cold",
    b"_ZNSt6vectorIiSaIiEE9push_backEOi",
    b"_RNvMs0_NtCs5l0EXMQXRMU_21rustc_data_structures9flock",
    b"_ZN4core3ptr13drop_in_place17h0123456789abcdefE",
    b"main;\x1b]0;title\x07\n\xff",
)


# ---- files at hand ----


FILES = Path(__file__).resolve().parents[1] / "data/files"


def file_seeds(folder: str) -> Sequence[bytes]:
    return [path.read_bytes() for path in sorted((FILES / folder).iterdir()) if path.suffix != ".json"]


def use_file(data: bytes) -> None:
    """Any file: recognised or named, never an error; harmless for a terminal, and sound JSON."""
    file = InputFile(Path("file"), data)
    found = [read_text(file)]
    if is_strace(file):
        found.append(Input([file.path], parse_strace([file])))
    json.loads(json.dumps(as_json(found), allow_nan=False))
    for line in as_text(found):
        assert printable(line).isprintable()


JVM_ANSWERS = (
    b"CodeHeap 'non-profiled nmethods': size=120032Kb used=15Kb max_used=15Kb free=120016Kb\n"
    b"CodeCache: size=245760Kb, used=1532Kb, max_used=1545Kb, free=244227Kb\n",
    b" num     #instances         #bytes  class name\n-------\n   1:          2196         122448  [B (java.base)\n"
    b"  47:            50           3200  java.util.zip.Deflater\nTotal         12345        9876543\n",
    b"-XX:CICompilerCount=2 -XX:MaxHeapSize=134217728 -XX:-UseSerialGC -XX:+UseG1GC -XX:HeapDumpPath=/x\n",
)


def use_jvm_answer(data: bytes) -> None:
    """Sound JSON, whatever is in it."""
    text = data.decode("utf-8", "replace")
    for parse in (parse_code_cache, parse_histogram, parse_flags):
        json.dumps(parse(text).values, allow_nan=False)


# ---- recordings ----


@cache
def recording_seeds() -> Sequence[bytes]:
    with tempfile.TemporaryDirectory() as room:
        path = made.write_gateway(Path(room) / "seed.nlk", 3)
        with open_recording(path) as recording:
            key = recording.sites[0].key
        fate = BlockFate(9, 8, 4, 4096, (("g_sessions in app", 3), ("thread main", 1)))
        add_look(path, Look(key.slot, 1.5, "proven"), [SiteFate(key.slot, key.thread_uid, key.stack_key, fate)])
        add_census(path, [HeapCensus(key.slot, InUse(9, 900, 0), InUse(99, 9900, 0), "", 1e9, 1e9 + 60)])
        return [path.read_bytes()]


def block_seeds() -> Sequence[bytes]:
    """Blocks as a trace packs them: one and many."""
    seeds = []
    for n in (1, 300):
        keys = b"".join((0x7F00_0000_0000 + 64 * i | i % 2 << SLOT_SHIFT).to_bytes(8, "little") for i in range(n))
        values = n * struct.pack("=QQIIII", 211, 1 << 63 | 5, 7, 900, 1, 0)
        (chunk,) = read_blocks([(memoryview(keys), memoryview(values), n)])
        seeds.append(chunk.n.to_bytes(4, "little") + chunk.columns)
    return seeds


def use_blocks(data: bytes) -> None:
    """Columns of outstanding blocks: as many as the recording says, or the one error."""
    n = int.from_bytes(data[:4], "little", signed=True)
    columns = unpack(BlockChunk(n, data[4:]), "a.nlk")
    assert [len(column) for column in columns] == 5 * [n]


MERGED = ("text", "json", "html", "csv", "pprof", "firefox", "otlp")


def use_recording(data: bytes) -> None:
    """Every format of a report, or the one error; never half of one.

    Each format counts the sites anew, so a quarter of the inputs tries one of the exports.
    """
    formats, number = FORMAT_NAMES[:4], crc32(data)
    exports = [name for name in FORMAT_NAMES[4:] if name != "parquet"]  # csv has its rows, and needs no other package
    if not number % 4:
        formats += (exports[number // 4 % len(exports)],)
    with Recording.from_bytes(data) as recording:
        for format_name in formats:
            render(recording, format_name)
        by_thread = Selection(Metric.GROWTH, By.THREAD)
        json.loads(render(recording, "json", selection=by_thread))
        use_merged(recording, MERGED[number % len(MERGED)])


def use_merged(recording: Recording, format_name: str) -> None:
    """The report of several recordings, of which this is one."""
    paths, pools = SharedPaths(), Pools()
    merger = Merger(paths, pools.names)
    merger.add(read_part(recording, paths, pools, Selection()))
    table = MergedTable(merger.finish(()), Selection(by=By.PROCESS))
    find_format(format_name).load_merged_writer()(table, io.BytesIO(), WriteOptions())


def fixed(*inputs: bytes) -> Callable[[], Sequence[bytes]]:
    return lambda: inputs


PARSERS = (
    Parser("elf", use_elf, elf_seeds, (ElfError,), 1500),
    Parser("debug_file", use_debug_file, elf_seeds, (ElfError,), 400),
    Parser("debugdata", use_debugdata, packed_seeds, (ElfError,), 300),
    Parser("table", use_table, elf_seeds, n_inputs=400),
    Parser("placement", use_placement, elf_seeds, (ElfError, OSError), 300),
    Parser("exits", use_exits, fixed(*CODE, EXITS_CODE), n_inputs=600),
    Parser("eh_frame", use_eh_frame, frame_seeds, n_inputs=1500),
    Parser("code", use_code, fixed(*CODE), n_inputs=1000),
    Parser("kept_table", use_kept_table, table_seeds, n_inputs=500),
    Parser("kept_placements", use_kept_placements, placement_seeds, n_inputs=150),
    Parser("contents", use_contents, contents_seeds, n_inputs=150),
    Parser("maps", use_maps, fixed(MAPS), n_inputs=800),
    Parser("stat", use_stat, fixed(STAT, STATUS), (ValueError,), 1000),
    Parser("perf_map", use_perf_map, fixed(PERF_MAP), n_inputs=1000),
    Parser("strace", use_strace, strace_seeds, n_inputs=300),
    Parser("smaps", use_smaps, fixed(SMAPS), n_inputs=500),
    Parser("pmap", use_pmap, fixed(PMAP), (NativeleakError,), 500),
    *(
        Parser(f"file_{folder}", use_file, partial(file_seeds, folder), (NativeleakError,), 150)
        for folder in ("alloc", "heap", "maps", "nmt", "oom", "strace")
    ),
    Parser("jvm_answers", use_jvm_answer, fixed(*JVM_ANSWERS), n_inputs=600),
    Parser("hotspot_text", use_hotspot_text, fixed(*HOTSPOT_TEXT), n_inputs=1000),
    Parser("names", use_name, fixed(*NAMES), n_inputs=600),
    Parser("blocks", use_blocks, block_seeds, (UsageError,), 500),
    Parser("recording", use_recording, recording_seeds, (RecordingError,), 100),
    Parser("recording_values", use_recording, recording_seeds, (RecordingError,), 100, with_a_wrong_value),
)
