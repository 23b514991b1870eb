"""What the stack walker in the kernel has to know of a JVM, read from the JVM's description of itself.

Scope: numbers and addresses. Each part may be missing: it is then 0 or empty, and a note says what and why. The walker
does without that part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nativeleak.runtimes.hotspot.codecache import CodeCache, read_code_cache
from nativeleak.runtimes.hotspot.jvm import ENTRY_RETURN_PC, RETURN_BARRIER, HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError
from nativeleak.runtimes.hotspot.methods import archive_range, symbol_mask
from nativeleak.runtimes.hotspot.tls import read_thread_location

# continuationEntry: enterSpecial keeps a ContinuationEntry as its whole frame, below the saved rbp and return address
# (continuationEntry.hpp, gen_continuation_enter in sharedRuntime_x86_64.cpp).
_ENTER_SPECIAL_LINK_BYTES: Final = 16
# mov rsp, [r15 + disp32]: the return barrier goes back to the entry frame, r15 is the thread (generate_cont_thaw in
# stubGenerator_x86_64.cpp).
_LOAD_ENTRY: Final = b"\x49\x8b\xa7"
_BARRIER_BYTES: Final = 96
_MAX_ENTRY_BYTES: Final = 4096
_MAX_THREAD_BYTES: Final = 1 << 16
_MAX_BUFFER_BYTES: Final = 1 << 26
_MAX_LENGTH_OFFSET: Final = 6  # the walker reads the length with a Symbol's first 8 bytes
# The slots of an interpreter frame that the walker counts on; only these two are published (frame_x86.hpp).
_INTERPRETER_SLOTS: Final = {
    "frame::interpreter_frame_sender_sp_offset": -1,
    "frame::interpreter_frame_last_sp_offset": -2,
}


@dataclass(frozen=True, slots=True)
class WalkerConfig:
    """Facts for the walker; mirrored by a C struct of the same names.

    Attributes:
        code_low: First address of the code cache.
        code_high: Its end; with ``code_low`` 0 nothing of Java can be walked.
        heaps: (first address, end, address of the segment map) of each of its heaps.
        segment_shift: Logarithm of a segment's size.
        heap_block_bytes: From the start of a heap block to its blob.
        blob_frame_size: Offset in a CodeBlob of its frame's size in words (int).
        nmethod_compile_id: Offset in an nmethod of its compile id (int); 0 where it is unknown.
        deopt_handler: Offset in an nmethod of what tells where its deoptimization handler is; 0 where it is unknown. A
            frame that returns there was deoptimized: it goes on at the address kept at ``sp + *(nmethod + orig_pc)``.
        deopt_mh_handler: The same for calls of method handles; 0 where there is none.
        deopt_handler_bytes: Width of both: 8 for an address, 4 for an int counted from the nmethod's start.
        orig_pc: Offset in an nmethod of the int that says where in its frame, from sp, the old return address is kept.
        interpreter_low: First address of the interpreter.
        interpreter_high: Its end; 0 where interpreted frames cannot be walked.
        call_stub_return: Where Java code returns to native code; 0 where it is unknown.
        call_wrapper_offset: From an entry frame's fp to its JavaCallWrapper*, bytes; negative.
        call_wrapper_anchor: Offset of the frame anchor in a JavaCallWrapper.
        anchor_sp: Offset of the stack pointer in a JavaFrameAnchor.
        anchor_pc: Offset of the program counter in it.
        anchor_fp: Offset of the frame pointer in it.
        thread_anchor: Offset of the anchor in a JavaThread; 0 where it is unknown.
        return_barrier: Address to which a virtual thread's lowest thawed frame returns; 0 where there is none.
        cont_entry: Offset in a JavaThread of its ContinuationEntry*; 0 where there is none.
        cont_entry_bytes: Size of a ContinuationEntry; 0 where it is not known yet, see ``awaits_virtual_threads``.
        archive_low: First address of the classes from the JVM's archive; both 0 where it has none.
        archive_high: Its end.
        method_const: Offset of the ConstMethod* in a Method; 0 where interpreted frames cannot be named. It and the
            others lead to the names of a method and its class, which tell it from one that has its addresses later.
        const_pool: Offset of the ConstantPool* in a ConstMethod.
        const_name: Offset in it of the index of its name (16 bits).
        pool_holder: Offset of the class in a ConstantPool.
        pool_bytes: Size of a ConstantPool; the entries follow.
        class_name: Offset of the Symbol* in a Klass.
        symbol_length: Offset in a Symbol of the length of its text (16 bits).
        symbol_body: Offset of the text.
        symbol_mask: Bits of a Symbol's first 8 bytes that stay the same as long as it lives.
        tls_module: Number of libjvm.so in the thread's vector of thread-local blocks; 0 where it is unknown.
        tls_offset: Offset of the current Thread* in that block.
        dtv_stride: Bytes of an entry of the vector: 16 in glibc, 8 in musl.
        notes: What is missing, and why, for people.
    """

    code_low: int = 0
    code_high: int = 0
    heaps: tuple[tuple[int, int, int], ...] = ()
    segment_shift: int = 0
    heap_block_bytes: int = 0
    blob_frame_size: int = 0
    nmethod_compile_id: int = 0
    deopt_handler: int = 0
    deopt_mh_handler: int = 0
    deopt_handler_bytes: int = 0
    orig_pc: int = 0
    interpreter_low: int = 0
    interpreter_high: int = 0
    call_stub_return: int = 0
    call_wrapper_offset: int = 0
    call_wrapper_anchor: int = 0
    anchor_sp: int = 0
    anchor_pc: int = 0
    anchor_fp: int = 0
    thread_anchor: int = 0
    return_barrier: int = 0
    cont_entry: int = 0
    cont_entry_bytes: int = 0
    archive_low: int = 0
    archive_high: int = 0
    method_const: int = 0
    const_pool: int = 0
    const_name: int = 0
    pool_holder: int = 0
    pool_bytes: int = 0
    class_name: int = 0
    symbol_length: int = 0
    symbol_body: int = 0
    symbol_mask: int = 0
    tls_module: int = 0
    tls_offset: int = 0
    dtv_stride: int = 0
    notes: tuple[str, ...] = ()

    @property
    def can_walk_java(self) -> bool:
        """Whether compiled Java frames can be walked at all."""
        return self.code_low != 0 and self.blob_frame_size != 0

    @property
    def awaits_virtual_threads(self) -> bool:
        """Whether to read again later: JDK 21 makes the code that tells of virtual threads when the first one runs."""
        return self.return_barrier != 0 and self.cont_entry_bytes == 0


class _Parts(dict[str, int]):
    """Fields of the configuration as they are found, and notes on those that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def take(self, what: str, **values: int | None) -> bool:
        """Keep the values if all are known, none of them otherwise, with a note; say whether."""
        missing = sorted(name for name, value in values.items() if value is None)
        if missing:
            self.notes.append(f"{what}: the JVM does not say {', '.join(missing)}")
            return False
        self.update({name: value for name, value in values.items() if value is not None})
        return True


def read_walker_config(vm: HotSpot) -> WalkerConfig:
    """Everything the walker needs of a JVM; never fails, see ``notes`` for what is missing."""
    parts = _Parts()
    heaps: tuple[tuple[int, int, int], ...] = ()
    structs = vm.structs
    try:
        cache = read_code_cache(vm)
    except UnreadableError as error:
        cache = None
        parts.notes.append(f"Java frames: {error}")
    frame_size = structs.field("CodeBlob::_frame_size")
    low, high = vm.pointer("CodeCache::_low_bound"), vm.pointer("CodeCache::_high_bound")
    if cache is not None and parts.take("Java frames", code_low=low, code_high=high, blob_frame_size=frame_size):
        heaps = tuple((heap.low, heap.high, heap.segmap) for heap in cache.heaps)
        parts.take("", segment_shift=cache.segment_shift, heap_block_bytes=cache.header_bytes)
        parts.take("check for replaced code", nmethod_compile_id=structs.field("nmethod::_compile_id"))
        _take_deoptimization(vm, parts)
        _take_interpreter(vm, parts)
        _take_names(vm, parts)
        _take_entry_frames(vm, parts)
        _take_continuations(vm, cache, parts)
    _take_anchor(vm, parts)
    return WalkerConfig(**parts, heaps=heaps, notes=tuple(parts.notes))


def _take_deoptimization(vm: HotSpot, parts: _Parts) -> None:
    """Deoptimized frames; source: nmethod.hpp (deopt_handler_begin, orig_pc_addr)."""
    field = vm.structs.field
    address = field("CompiledMethod::_deopt_handler_begin")
    is_known = parts.take(
        "deoptimized frames",
        deopt_handler=field("nmethod::_deopt_handler_offset") if address is None else address,
        deopt_handler_bytes=4 if address is None else 8,
        orig_pc=field("nmethod::_orig_pc_offset"),
    )
    second = field("CompiledMethod::_deopt_mh_handler_begin", "nmethod::_deopt_mh_handler_offset")
    if is_known and second is not None:
        parts.take("", deopt_mh_handler=second)


def _take_interpreter(vm: HotSpot, parts: _Parts) -> None:
    structs = vm.structs
    queue = vm.pointer("AbstractInterpreter::_code")
    buffer, limit = structs.field("StubQueue::_stub_buffer"), structs.field("StubQueue::_buffer_limit")
    if queue is None or buffer is None or limit is None:
        parts.notes.append("interpreted frames: the JVM does not say where its interpreter is")
        return
    for name, slot in _INTERPRETER_SLOTS.items():
        if structs.constant(name) not in (slot, None):
            parts.notes.append(f"interpreted frames: {name} is {structs.constant(name)}, not {slot}")
            return
    try:
        low, n_bytes = vm.memory.u64(queue + buffer), vm.memory.i32(queue + limit)
    except UnreadableError as error:
        parts.notes.append(f"interpreted frames: {error}")
        return
    if not parts["code_low"] <= low < low + n_bytes <= parts["code_high"] or n_bytes > _MAX_BUFFER_BYTES:
        parts.notes.append(f"interpreted frames: no interpreter can be at {low:#x}")
        return
    parts.take("", interpreter_low=low, interpreter_high=low + n_bytes)


def _take_names(vm: HotSpot, parts: _Parts) -> None:
    """The way from a Method to its name and its class's."""
    structs = vm.structs
    length = structs.field("Symbol::_length")
    is_known = parts.take(
        "names of interpreted frames",
        method_const=structs.field("Method::_constMethod"),
        const_pool=structs.field("ConstMethod::_constants"),
        const_name=structs.field("ConstMethod::_name_index"),
        pool_holder=structs.field("ConstantPool::_pool_holder"),
        pool_bytes=structs.size("ConstantPool"),
        class_name=structs.field("Klass::_name"),
        symbol_length=length if length is not None and length <= _MAX_LENGTH_OFFSET else None,
        symbol_body=structs.field("Symbol::_body", "Symbol::_body[0]"),
    )
    if is_known:
        low, high = archive_range(vm)
        parts.take("", symbol_mask=symbol_mask(vm), archive_low=low, archive_high=high)


def _take_entry_frames(vm: HotSpot, parts: _Parts) -> None:
    words = vm.structs.constant("frame::entry_frame_call_wrapper_offset")
    parts.take(
        "calls from native code into Java",
        call_stub_return=vm.pointer("StubRoutines::_call_stub_return_address"),
        call_wrapper_offset=None if words is None else words * 8,
        call_wrapper_anchor=vm.structs.field("JavaCallWrapper::_anchor"),
    )


def _take_anchor(vm: HotSpot, parts: _Parts) -> None:
    is_described = parts.take(
        "entry into Java through the frame anchor",
        anchor_sp=vm.structs.field("JavaFrameAnchor::_last_Java_sp"),
        anchor_pc=vm.structs.field("JavaFrameAnchor::_last_Java_pc"),
        anchor_fp=vm.structs.field("JavaFrameAnchor::_last_Java_fp"),
        thread_anchor=vm.structs.field("JavaThread::_anchor"),
    )
    if not is_described:
        return
    location = read_thread_location(vm)
    if isinstance(location, str):
        parts.notes.append(f"entry into Java through the frame anchor: {location}")
        return
    parts.take("", tls_module=location.module, tls_offset=location.offset, dtv_stride=location.stride)


def _take_continuations(vm: HotSpot, cache: CodeCache, parts: _Parts) -> None:
    """The return barrier of virtual threads; a JVM without them (before 21) has nothing here, and no note."""
    has_them = vm.structs.field("JavaThread::_vthread") is not None
    barrier = vm.variable(RETURN_BARRIER)
    if barrier is None:
        if has_them:
            parts.notes.append("virtual threads: libjvm.so has no symbol for the return barrier; is it stripped?")
        return
    if not parts["code_low"] <= barrier < parts["code_high"]:
        parts.notes.append(f"virtual threads: no return barrier can be at {barrier:#x}")
        return
    entry = vm.structs.field("JavaThread::_cont_entry") or _entry_in_code(vm, barrier)
    n_bytes = vm.structs.size("ContinuationEntry") or _entry_size(vm, cache, parts["blob_frame_size"])
    if parts.take("virtual threads", return_barrier=barrier, cont_entry=entry) and n_bytes is not None:
        parts.take("", cont_entry_bytes=n_bytes)


def _entry_in_code(vm: HotSpot, barrier: int) -> int | None:
    """Offset of ``JavaThread::_cont_entry``, from the instruction of the return barrier that loads it."""
    if not vm.libjvm.is_x86:
        return None
    try:
        code = vm.memory.read(barrier, _BARRIER_BYTES)
    except UnreadableError:
        return None
    place = code.find(_LOAD_ENTRY)
    if not 0 <= place <= _BARRIER_BYTES - 7:
        return None
    offset = int.from_bytes(code[place + 3 : place + 7], "little", signed=True)
    return offset if 0 < offset < (vm.structs.size("JavaThread") or _MAX_THREAD_BYTES) else None


def _entry_size(vm: HotSpot, cache: CodeCache, frame_size: int) -> int | None:
    """Size of a ContinuationEntry, from the frame of the code that holds one."""
    try:
        return_pc = vm.pointer("ContinuationEntry::_return_pc") or vm.variable(ENTRY_RETURN_PC)
        blob = cache.find_blob(vm.memory, return_pc) if return_pc else None
        if blob is None:
            return None
        n_bytes = vm.memory.i32(blob + frame_size) * 8 - _ENTER_SPECIAL_LINK_BYTES
    except UnreadableError:
        return None
    return n_bytes if 0 < n_bytes <= _MAX_ENTRY_BYTES else None
