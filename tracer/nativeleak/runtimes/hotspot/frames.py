"""Names that HotSpot and the Java class library bring to stacks."""

from __future__ import annotations

import re
from typing import Final

from nativeleak.frames.tables import RuntimeFrames

LIBRARY: Final = "libjvm.so"

_REQUESTS: Final = ("Unsafe_AllocateMemory", "Unsafe_ReallocateMemory")
_ALLOCATORS: Final = r"""
    os::(?:malloc|realloc|strdup|reserve_memory|commit_memory|pd_\w+|Linux::\w+).*
    | (?:Allocate|Reallocate)Heap.* | resource_allocate_bytes.* | (?:Chunk|Arena|CHeapObj|ArrayAllocator)\b.*
    | Unsafe_(?:Re)?[aA]llocateMemory0?.*
    | (?:jdk[./]internal|sun)[./]misc[./]Unsafe[.:]+(?:re)?allocateMemory0?.*
    | java[./]nio[./](?:DirectByteBuffer[.:]+<init>|ByteBuffer[.:]+allocateDirect|Bits[.:]+\w+).*
    | Java_java_util_zip_\w+ | java[./]util[./]zip[./](?:Deflater|Inflater)[.:]+\S+
    | io[./]netty[./](?:buffer[./]|util[./]internal[./]PlatformDependent)\S+
    """
_PURPOSES: Final = (
    ("Java heap", r"ReservedHeapSpace|Universe::|G1PageBasedVirtualSpace|G1RegionToSpaceMapper|MutableSpace::|ZPhysical"
                  r"|ShenandoahHeap::|PSVirtualSpace|VirtualSpace::expand_by|ZPageAllocator"),
    ("thread stacks", r"os::create_thread|pthread_create|os::Posix::|os::create_stack_guard|JavaThread::JavaThread"),
    ("JIT compilers", r"^(C2Compiler|Compiler|C1|Compilation|CompileBroker|Compile|PhaseChaitin|Phase)::"),
    ("code cache", r"CodeCache::|CodeHeap::|BufferBlob::|AdapterHandlerLibrary"),
    ("metaspace and classes", r"[Mm]etaspace|ClassLoaderData|SymbolTable|ClassFileParser|SystemDictionary"
                              r"|ConstantPool"),
    ("garbage collector", r"^(G1|Parallel|PS|Z|Shenandoah|Serial|DefNew|Tenured|Card|CollectedHeap|WorkGang|GC|Task"
                          r"|Concurrent|Mark|RefProc|BarrierSet|DirtyCard|SATB)\w*::|VM_G1|VM_Collect|VM_GC"),
    ("threads", r"Thread::|ObjectMonitor|Handle"),
)  # fmt: skip

FRAMES: Final = RuntimeFrames(
    library=LIBRARY,
    requests=_REQUESTS,
    allocators=_ALLOCATORS,
    purposes=tuple((purpose, re.compile(pattern)) for purpose, pattern in _PURPOSES),
)
