"""What the JVM uses its own native memory for, told by the functions of libjvm on the stack."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from nativeleak.model import Frame

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
_PATTERNS: Final = tuple((purpose, re.compile(pattern)) for purpose, pattern in _PURPOSES)


def jvm_purpose(frames: Sequence[Frame]) -> str:
    """What the memory of a stack is for: the first purpose, in the order of the table, that any of its functions tells.

    Args:
        frames: Leaf first, of a site that the JVM owns.
    """
    functions = [frame.function for frame in frames]
    for purpose, pattern in _PATTERNS:
        if any(pattern.search(function) for function in functions):
            return purpose
    return "other"
