"""Memory of a JVM that was never there: a writable address space, and a VMStructs description to go with it."""

from __future__ import annotations

import random
import struct

from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.libjvm import Libjvm, Variable
from nativeleak.runtimes.hotspot.memory import Memory, UnreadableError
from nativeleak.runtimes.hotspot.vmstructs import VmStructs


class Space:
    """Sparse memory; what was never written cannot be read."""

    def __init__(self):
        self.data = {}
        self.next = 0x10000
        self.n_reads = 0

    def read(self, address, n_bytes):
        self.n_reads += 1
        try:
            return bytes(self.data[address + index] for index in range(n_bytes))
        except KeyError:
            raise UnreadableError(f"{address:#x}") from None

    def write(self, address, data):
        self.data.update(zip(range(address, address + len(data)), data, strict=True))
        return address

    def add(self, data, align=16):
        address = self.next
        self.next += (len(data) + align) // align * align
        return self.write(address, data)

    def text(self, text):
        # Padded: a text is read in pieces up to the end of its page.
        address = self.next
        self.next += 4096
        return self.write(address, text.encode() + bytes(4096 - len(text.encode())))

    def u64(self, address, value):
        self.write(address, struct.pack("<Q", value & (1 << 64) - 1))

    def u32(self, address, value):
        self.write(address, struct.pack("<I", value & (1 << 32) - 1))

    def u16(self, address, value):
        self.write(address, struct.pack("<H", value))


class Noise:
    """Memory full of random bytes, another each time it is read."""

    def __init__(self, seed, share_unreadable=0.1):
        self.random = random.Random(seed)
        self.share_unreadable = share_unreadable
        self.n_reads = 0

    def read(self, address, n_bytes):
        self.n_reads += 1
        if self.random.random() < self.share_unreadable or n_bytes > 1 << 20 or n_bytes < 0:
            raise UnreadableError(f"{address:#x}")
        if self.random.random() < 0.3:
            return bytes(n_bytes)
        return self.random.randbytes(n_bytes)


STRUCT_COLUMNS = ("TypeName", "FieldName", "TypeString", "IsStatic", "Offset", "Address")


def describe(space, fields=(), statics=(), sizes=(), constants=(), types=()):
    """Write the tables of a VMStructs; give the addresses of the exported variables."""
    exports = {}
    types = dict(types)

    def variable(name, value):
        exports[name] = space.add(struct.pack("<Q", value))

    rows = [(name, 0, offset, 0) for name, offset in dict(fields).items()]
    rows += [(name, 1, 0, address) for name, address in dict(statics).items()]
    data = b""
    for name, is_static, offset, address in rows:
        owner, _, field = name.rpartition("::")
        texts = [space.text(each) for each in (owner, field, types.get(name, "int"))]
        data += struct.pack("<QQQi4xQQ", *texts, is_static, offset, address)
    variable("gHotSpotVMStructs", space.add(data + bytes(48)))
    variable("gHotSpotVMStructEntryArrayStride", 48)
    for column, place in zip(STRUCT_COLUMNS, (0, 8, 16, 24, 32, 40), strict=True):
        variable(f"gHotSpotVMStructEntry{column}Offset", place)
    for table, column, values in (
        ("Type", "Size", dict(sizes)),
        ("IntConstant", "Value", dict(constants)),
        ("LongConstant", "Value", {}),
    ):
        data = b"".join(struct.pack("<Qq", space.text(name), value) for name, value in values.items())
        variable(f"gHotSpotVM{table}s", space.add(data + bytes(16)))
        variable(f"gHotSpotVM{table}EntryArrayStride", 16)
        variable(f"gHotSpotVM{table}Entry{'TypeName' if table == 'Type' else 'Name'}Offset", 0)
        variable(f"gHotSpotVM{table}Entry{column}Offset", 8)
    return exports


def fake_vm(space, *, reader=None, variables=(), **tables):
    """A JVM of these tables; its memory is read from ``reader`` where one is given."""
    exports = describe(space, **tables)
    variables = {name: Variable(address, is_thread_local=False) for name, address in dict(variables).items()}
    libjvm = Libjvm("/lib/libjvm.so", 0, True, False, variables, 0, 0)
    return HotSpot(0, Memory(reader or space), libjvm, VmStructs(Memory(space), exports.get))


FIELDS = {
    "Method::_constMethod": 8,
    "Method::_access_flags": 40,
    "ConstMethod::_constants": 16,
    "ConstMethod::_constMethod_size": 24,
    "ConstMethod::_flags": 28,
    "ConstMethod::_code_size": 30,
    "ConstMethod::_name_index": 32,
    "ConstantPool::_pool_holder": 8,
    "ConstantPool::_length": 16,
    "ConstantPool::_source_file_name_index": 20,
    "Klass::_name": 24,
    "Symbol::_length": 4,
    "Symbol::_body": 6,
    "GrowableArrayBase::_len": 0,
    "GrowableArray<int>::_data": 8,
    "CodeHeap::_memory": 8,
    "CodeHeap::_segmap": 48,
    "CodeHeap::_log2_segment_size": 88,
    "VirtualSpace::_low": 8,
    "VirtualSpace::_high_boundary": 16,
    "HeapBlock::Header::_length": 0,
    "HeapBlock::Header::_used": 8,
    "CodeBlob::_frame_size": 12,
    "CodeBlob::_size": 16,
    "CodeBlob::_name": 24,
    "nmethod::_compile_id": 40,
    "PcDesc::_pc_offset": 0,
    "PcDesc::_scope_decode_offset": 4,
}
OLD_FIELDS = {
    **FIELDS,
    "CodeBlob::_code_begin": 48,
    "CompiledMethod::_method": 56,
    "CompiledMethod::_scopes_data_begin": 64,
    "nmethod::_scopes_pcs_offset": 72,
    "nmethod::_dependencies_offset": 76,
    "nmethod::_metadata_offset": 80,
}
NEW_FIELDS = {
    **FIELDS,
    "CodeBlob::_code_offset": 48,
    "CodeBlob::_mutable_data": 56,
    "CodeBlob::_relocation_size": 64,
    "nmethod::_method": 72,
    "nmethod::_immutable_data": 80,
    "nmethod::_immutable_data_size": 88,
    "nmethod::_scopes_pcs_offset": 92,
    "nmethod::_scopes_data_offset": 96,
}
SIZES = {"ConstMethod": 48, "ConstantPool": 32, "PcDesc": 16, "HeapBlock": 16}
CONSTANTS = {"ConstMethod::_has_linenumber_table": 1}
HEAP, SEGMAP, SHIFT, N_SEGMENTS = 0x7F00_0000_0000, 0x7E00_0000_0000, 7, 64


class FakeJvm:
    """A JVM with one code heap, whose code and methods a test adds.

    Args:
        is_new: Whether its nmethods keep their tables outside, as since JDK 23, or inside.
        excluded: Which code its packed numbers are in.
    """

    def __init__(self, *, is_new, excluded):
        self.is_new, self.excluded = is_new, excluded
        self.space = space = Space()
        space.write(SEGMAP, b"\xff" * N_SEGMENTS)
        space.write(HEAP, bytes(N_SEGMENTS << SHIFT))
        heap = space.add(bytes(96))
        for place, value in ((16, HEAP), (24, HEAP + (N_SEGMENTS << SHIFT)), (56, SEGMAP), (64, SEGMAP + N_SEGMENTS)):
            space.u64(heap + place, value)
        space.u32(heap + 88, SHIFT)
        heaps = space.add(struct.pack("<QQ", 1, space.add(struct.pack("<Q", heap))))
        self.statics = {
            "CodeCache::_heaps": space.add(struct.pack("<Q", heaps)),
            "CodeCache::_low_bound": space.add(struct.pack("<Q", HEAP)),
            "CodeCache::_high_bound": space.add(struct.pack("<Q", HEAP + (N_SEGMENTS << SHIFT))),
        }
        self.segment = 0

    def vm(self, reader=None, without=()):
        fields = NEW_FIELDS if self.is_new else OLD_FIELDS
        return fake_vm(
            self.space,
            reader=reader,
            fields={name: offset for name, offset in fields.items() if name not in without},
            statics=self.statics,
            sizes=SIZES,
            constants=CONSTANTS,
            types={"HeapBlock::Header::_length": "size_t"},
        )

    def symbol(self, text):
        raw = text.encode()
        return self.space.add(bytes(4) + struct.pack("<H", len(raw)) + raw)

    def method(self, owner, name, *, code=b"\0" * 20, lines=b"", file="App.java", access=0):
        """Give the addresses of a Method and of its bytecode."""
        space = self.space
        pool = space.add(bytes(32 + 8 * 4))
        space.u64(pool + 8, space.add(bytes(24) + struct.pack("<Q", self.symbol(owner))))
        space.u32(pool + 16, 4)
        space.u16(pool + 20, 2)
        space.u64(pool + 32 + 8, self.symbol(name))
        space.u64(pool + 32 + 16, self.symbol(file))
        body = code + lines
        const_method = space.add(bytes(48) + body + bytes(-len(body) % 8))
        space.u64(const_method + 16, pool)
        space.u32(const_method + 24, (48 + len(body) + 7) // 8)
        space.u16(const_method + 28, 1 if lines else 0)
        space.u16(const_method + 30, len(code))
        space.u16(const_method + 32, 1)
        method = space.add(bytes(8) + struct.pack("<Q", const_method) + bytes(24) + struct.pack("<I", access))
        return method, const_method + 48

    def blob(self, name, n_segments=4):
        """Give the address of a blob in the heap."""
        space = self.space
        block = HEAP + (self.segment << SHIFT)
        space.write(SEGMAP + self.segment, bytes(range(n_segments)))
        self.segment += n_segments
        space.u64(block, n_segments)
        space.write(block + 8, b"\1")
        blob = block + 16
        space.u32(blob + 16, (n_segments << SHIFT) - 16)
        space.u64(blob + 24, space.text(name))
        return blob

    def nmethod(self, method, compile_id, places, scopes, metadata, name="nmethod"):
        """Give the address of an nmethod; ``places`` are (offset from its code, scope), its code begins at 128."""
        space, blob = self.space, self.blob(name, 8)
        table = b"".join(struct.pack("<iiii", pc, scope, 0, 0) for pc, scope in [(-1, 0), *places, (1 << 30, 0)])
        pointers = b"".join(struct.pack("<Q", each) for each in metadata)
        space.u32(blob + 40, compile_id)
        if self.is_new:
            space.u32(blob + 48, 128)
            space.u64(blob + 56, space.add(bytes(8) + pointers))
            space.u32(blob + 64, 8)
            space.u64(blob + 72, method)
            space.u64(blob + 80, space.add(bytes(16) + table + scopes))
            space.u32(blob + 88, 16 + len(table) + len(scopes))
            space.u32(blob + 92, 16)
            space.u32(blob + 96, 16 + len(table))
        else:
            space.u64(blob + 48, blob + 128)
            space.u64(blob + 56, method)
            space.u64(blob + 64, blob + 300)
            space.write(blob + 300, scopes)
            space.u32(blob + 72, 300 + len(scopes))
            space.write(blob + 300 + len(scopes), table)
            space.u32(blob + 76, 300 + len(scopes) + len(table))
            space.u32(blob + 80, 800)
            space.write(blob + 800, pointers)
        return blob
