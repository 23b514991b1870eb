"""Names of Java frames in handmade JVMs, in both layouts and both codes, and in memory that makes no sense."""

from __future__ import annotations

import struct
import time

import pytest

from nativeleak.model import FrameKind
from nativeleak.runtimes.hotspot.identity import UNKNOWN, packed
from nativeleak.runtimes.hotspot.layout import WalkerConfig, read_walker_config
from nativeleak.runtimes.hotspot.methods import MethodReader, symbol_mask
from nativeleak.runtimes.hotspot.names import STALE, UNREADABLE, JavaNamer
from nativeleak.runtimes.hotspot.oops import _SCHEMES
from nativeleak.runtimes.hotspot.runtime import HotSpotRuntime
from unit.runtimes.hotspot.fakes import HEAP, N_SEGMENTS, NEW_FIELDS, OLD_FIELDS, SHIFT, FakeJvm, Noise, Space, fake_vm
from unit.runtimes.hotspot.test_streams import pack_lines, write_unsigned5

SHAPES = [(is_new, excluded) for is_new in (False, True) for excluded in (0, 1)]
COMPILE_ID = 41


class Compiled:
    """``App.outer`` (line 10 on), into which ``Lib.middle`` and ``Lib.inner`` (line 20) are inlined at 32."""

    def __init__(self, *, is_new, excluded):
        self.jvm = FakeJvm(is_new=is_new, excluded=excluded)
        outer_lines = pack_lines([(0, 10), (5, 11), (9, 300)], excluded)
        self.outer, _ = self.jvm.method("com/x/App", "outer", lines=outer_lines)
        self.middle, _ = self.jvm.method("com/x/Lib$$Lambda$3+0x00007f00", "middle", file="Lib.java")
        self.inner, self.inner_code = self.jvm.method("com/x/Lib", "inner", lines=pack_lines([(0, 20)], excluded))
        scopes = bytearray(b"\0")
        self.places = []
        sender = 0
        for index, bci in ((1, 6), (2, 3), (3, 4)):
            self.places.append(len(scopes))
            for value in (sender, index, bci + 1):
                scopes += write_unsigned5(value, excluded)
            sender = self.places[-1]
        self.entry = len(scopes)
        for value in (0, 1, 0):
            scopes += write_unsigned5(value, excluded)
        self.blob = self.jvm.nmethod(
            self.outer,
            COMPILE_ID,
            [(8, self.places[0]), (16, 0), (24, self.entry), (32, self.places[2]), (40, self.places[1])],
            bytes(scopes),
            [self.outer, self.middle, self.inner],
        )
        self.vm = self.jvm.vm()
        self.namer = JavaNamer(self.vm)

    def at(self, pc_offset, compile_id=COMPILE_ID):
        return self.namer.compiled(self.blob, compile_id, 128 + pc_offset)


@pytest.fixture(params=SHAPES, ids=lambda shape: f"{'new' if shape[0] else 'old'}-{shape[1]}")
def compiled(request):
    is_new, excluded = request.param
    return Compiled(is_new=is_new, excluded=excluded)


def shown(frames):
    return [(frame.function, frame.kind, frame.file, frame.line, frame.offset) for frame in frames]


def test_compiled_inlined_methods_are_expanded_innermost_first(compiled):
    assert shown(compiled.at(32)) == [
        ("com.x.Lib.inner", FrameKind.JAVA_INLINED, "App.java", 20, 4),
        ("com.x.Lib$$Lambda.middle", FrameKind.JAVA_INLINED, "Lib.java", None, 3),
        ("com.x.App.outer", FrameKind.JAVA_COMPILED, "App.java", 11, 6),
    ]
    assert {frame.ip for frame in compiled.at(32)} == {compiled.blob + 160}


def test_compiled_chain_that_makes_sense_in_both_codes_is_read_in_the_right_one(compiled):
    assert compiled.places[0] == 1
    assert shown(compiled.at(40)) == [
        ("com.x.Lib$$Lambda.middle", FrameKind.JAVA_INLINED, "Lib.java", None, 3),
        ("com.x.App.outer", FrameKind.JAVA_COMPILED, "App.java", 11, 6),
    ]


def test_compiled_without_inlining_is_one_frame(compiled):
    assert shown(compiled.at(8)) == [("com.x.App.outer", FrameKind.JAVA_COMPILED, "App.java", 11, 6)]


def test_compiled_on_entry_has_the_first_line(compiled):
    assert shown(compiled.at(24)) == [("com.x.App.outer", FrameKind.JAVA_COMPILED, "App.java", 10, 0)]


@pytest.mark.parametrize("place", [0, 16, 33, 200])
def test_compiled_place_without_a_record_is_the_method_alone(compiled, place):
    assert shown(compiled.at(place)) == [("com.x.App.outer", FrameKind.JAVA_COMPILED, "App.java", None, 0)]


def test_compiled_code_of_another_compilation_is_stale(compiled):
    assert [frame.function for frame in compiled.at(32, COMPILE_ID + 1)] == [STALE]
    assert compiled.namer.n_stale == 1


def test_compiled_code_that_was_freed_is_stale(compiled):
    compiled.jvm.space.write(compiled.blob - 8, b"\0")
    assert [frame.function for frame in compiled.at(32)] == [STALE]


def test_compiled_code_whose_class_was_unloaded_is_stale(compiled):
    fields = NEW_FIELDS if compiled.jvm.is_new else OLD_FIELDS
    offset = fields.get("nmethod::_method", fields.get("CompiledMethod::_method"))
    compiled.jvm.space.u64(compiled.blob + offset, 0)
    assert [frame.function for frame in compiled.at(32)] == [STALE]


def test_compiled_is_remembered_when_the_code_is_gone(compiled):
    before = compiled.at(32)
    compiled.jvm.space.write(compiled.blob - 8, b"\0")
    assert compiled.at(32) == before


def test_compiled_code_whose_place_a_stub_has_by_now_is_stale(compiled):
    fields = NEW_FIELDS if compiled.jvm.is_new else OLD_FIELDS
    space, name = compiled.jvm.space, HEAP + (N_SEGMENTS << SHIFT)
    space.write(name, b"AdapterBlob\0")
    space.u64(compiled.blob + fields["CodeBlob::_name"], name)
    space.u32(compiled.blob + fields["nmethod::_compile_id"], 0x4C8B_5424)  # its code
    assert [frame.function for frame in compiled.at(32)] == [STALE]


def test_compiled_damaged_scopes_leave_the_method(compiled):
    space = compiled.jvm.space
    table = [address for address, byte in space.data.items() if byte == compiled.places[2]]
    for address in table:
        if space.read(address - 4, 4) == (32).to_bytes(4, "little"):
            space.u32(address, 1 << 20)
    assert [frame.function for frame in compiled.at(32)] == [UNREADABLE, "com.x.App.outer"]
    assert compiled.namer.n_unreadable == 1


def test_native_wrapper_is_compiled_and_stub_is_a_stub():
    jvm = FakeJvm(is_new=False, excluded=0)
    method, _ = jvm.method("java/io/Native", "go", code=b"", access=0x100)
    wrapper = jvm.nmethod(method, 7, [], b"\0", [], name="native nmethod")
    stub = jvm.blob("StubRoutines (1)")
    namer = JavaNamer(jvm.vm())
    assert shown(namer.compiled(wrapper, 7, 130)) == [
        ("java.io.Native.go", FrameKind.JAVA_COMPILED, "App.java", None, 0)
    ]
    assert shown(namer.compiled(stub, 0, 64)) == [("<StubRoutines (1)>", FrameKind.STUB, None, None, 64)]
    assert [frame.function for frame in namer.compiled(0x1234, 7, 0)] == [UNREADABLE]


def place_in(jvm, method, bcp):
    """What the kernel side would have said of a frame of a method."""
    facts = MethodReader(jvm.vm()).read(method)
    return packed(bcp - facts.const_method, facts.cookie)


def test_interpreted_has_its_line():
    jvm = FakeJvm(is_new=True, excluded=1)
    method, code = jvm.method("App", "main", lines=pack_lines([(0, 3), (7, 4)], 1))
    frame = JavaNamer(jvm.vm()).interpreted(method, place_in(jvm, method, code + 7))
    assert shown([frame]) == [("App.main", FrameKind.JAVA_INTERPRETED, "App.java", 4, 7)]
    assert frame.ip == code + 7


def test_interpreted_bytecode_of_another_method_is_stale():
    jvm = FakeJvm(is_new=True, excluded=1)
    method, code = jvm.method("App", "main")
    namer = JavaNamer(jvm.vm())
    assert namer.interpreted(method, place_in(jvm, method, code + 20)).function == STALE
    assert namer.interpreted(method, place_in(jvm, method, 0)).function == STALE
    assert namer.interpreted(0, 0).function == UNREADABLE


def test_interpreted_native_method_needs_no_bytecode():
    jvm = FakeJvm(is_new=True, excluded=1)
    method, _ = jvm.method("App", "go", code=b"", access=0x100)
    assert JavaNamer(jvm.vm()).interpreted(method, place_in(jvm, method, 0)).function == "App.go"


def test_interpreted_method_whose_addresses_another_class_has_by_now_is_stale():
    jvm = FakeJvm(is_new=True, excluded=1)
    method, code = jvm.method("App", "main")
    place = place_in(jvm, method, code + 7)
    facts = MethodReader(jvm.vm()).read(method)
    pool = struct.unpack("<Q", jvm.space.read(facts.const_method + 16, 8))[0]
    holder = struct.unpack("<Q", jvm.space.read(pool + 8, 8))[0]
    owner = struct.unpack("<Q", jvm.space.read(holder + 24, 8))[0]
    namer = JavaNamer(jvm.vm())
    assert namer.interpreted(method, place).function == "App.main"
    jvm.space.write(owner + 6, b"Z")
    namer.begin()
    # By its cookie the frame is one that had its name before the class was gone.
    assert namer.interpreted(method, place).function == "App.main"
    assert JavaNamer(jvm.vm()).interpreted(method, place).function == STALE
    assert namer.interpreted(method, place_in(jvm, method, facts.code + 7)).function == "Zpp.main"


def test_symbol_mask_leaves_the_reference_count_out():
    jvm = FakeJvm(is_new=True, excluded=1)
    assert symbol_mask(jvm.vm()) == 0xFFFF << 32  # no reference count described: the length alone
    with_count = fake_vm(Space(), fields={"Symbol::_hash_and_refcount": 0, "Symbol::_length": 4}, sizes={"Symbol": 8})
    assert symbol_mask(with_count) == (1 << 64) - (1 << 16)
    older = fake_vm(Space(), fields={"Symbol::_refcount": 2, "Symbol::_length": 0}, sizes={"Symbol": 8})
    assert symbol_mask(older) == (1 << 64) - 1 - (0xFFFF << 16)


def test_interpreted_method_without_a_cookie_is_not_named():
    jvm = FakeJvm(is_new=True, excluded=1)
    method, code = jvm.method("App", "main")
    facts = MethodReader(jvm.vm()).read(method)
    assert JavaNamer(jvm.vm()).interpreted(method, packed(code - facts.const_method, UNKNOWN)).function == UNREADABLE


@pytest.mark.parametrize("field", ["Method::_constMethod", "nmethod::_compile_id", "CodeHeap::_memory"])
def test_namer_without_a_field_says_so_and_names_nothing(field):
    jvm = FakeJvm(is_new=False, excluded=0)
    namer = JavaNamer(jvm.vm(without=[field]))
    assert len(namer.missing) == 1
    assert [frame.function for frame in namer.compiled(HEAP + 16, 1, 0)] == [UNREADABLE]


def test_namer_without_line_fields_still_names():
    compiled = Compiled(is_new=False, excluded=0)
    without = ["ConstMethod::_flags", "ConstantPool::_source_file_name_index", "Method::_access_flags"]
    frames = JavaNamer(compiled.jvm.vm(without=without)).compiled(compiled.blob, COMPILE_ID, 160)
    assert (frames[0].function, frames[0].file, frames[0].line) == ("com.x.Lib.inner", None, None)


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("is_new", [False, True])
def test_random_memory_never_fails_nor_hangs(seed, is_new):
    jvm = FakeJvm(is_new=is_new, excluded=1)
    noise = Noise(seed)
    vm = jvm.vm()
    namer = JavaNamer(vm)
    for reader_of in (namer._methods, namer._nmethods):
        reader_of._memory._reader = noise
    begin = time.monotonic()
    for place in range(30):
        frames = namer.compiled(HEAP + 16 * place, place, place)
        assert frames
        assert all(frame.function for frame in frames)
        assert namer.interpreted(HEAP + place, place).function
    assert HotSpotRuntime(vm).thread_names() == {}
    assert isinstance(read_walker_config(vm), WalkerConfig)
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("seed", range(40))
def test_scribbled_code_cache_never_makes_a_wrong_name(seed):
    compiled = Compiled(is_new=bool(seed % 2), excluded=seed // 2 % 2)
    space, generator = compiled.jvm.space, Noise(seed).random
    known = {"com.x.App.outer", "com.x.Lib$$Lambda.middle", "com.x.Lib.inner", STALE, UNREADABLE}
    for _ in range(60):
        address = HEAP + generator.randrange(N_SEGMENTS << SHIFT)
        if not compiled.blob + 24 <= address < compiled.blob + 32:  # the name of the stub that it then is, rightly
            space.write(address, generator.randbytes(1))
    namer = JavaNamer(compiled.vm)
    for offset in range(128, 220):
        assert {frame.function for frame in namer.compiled(compiled.blob, COMPILE_ID, offset)} <= known


def test_layout_of_what_is_described_is_kept_and_the_rest_is_noted():
    jvm = FakeJvm(is_new=False, excluded=0)
    config = read_walker_config(jvm.vm())
    assert config.can_walk_java
    assert (config.code_low, config.code_high) == (HEAP, HEAP + (N_SEGMENTS << SHIFT))
    assert [heap[:2] for heap in config.heaps] == [(HEAP, HEAP + (N_SEGMENTS << SHIFT))]
    assert (config.segment_shift, config.heap_block_bytes, config.blob_frame_size) == (SHIFT, 16, 12)
    assert config.nmethod_compile_id == 40
    assert (config.interpreter_low, config.call_stub_return, config.thread_anchor, config.tls_module) == (0, 0, 0, 0)
    assert {note.partition(":")[0] for note in config.notes} == {
        "deoptimized frames",
        "interpreted frames",
        "calls from native code into Java",
        "entry into Java through the frame anchor",
    }


def test_layout_without_a_code_cache_cannot_walk_and_says_why():
    config = read_walker_config(FakeJvm(is_new=False, excluded=0).vm(without=["CodeHeap::_segmap"]))
    assert not config.can_walk_java
    assert config.heaps == ()
    assert config.notes[0].startswith("Java frames: ")


def test_schemes_of_objects_are_all_different():
    assert len(set(_SCHEMES)) == len(_SCHEMES) == 9
