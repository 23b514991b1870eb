"""NMT's categories in words.

Source: src/hotspot/share/nmt/memTag.hpp (services/memflags.hpp before 24).
"""

from __future__ import annotations

from typing import Final

CATEGORIES: Final = {
    "Java Heap": "the heap of -Xmx",
    "Class": "class metadata; grows with loaded classes",
    "Thread": "stacks and structures of threads",
    "Thread Stack": "stacks of threads",
    "Code": "code compiled by the JIT",
    "GC": "the collector's own tables",
    "GCCardSet": "G1's remembered sets",
    "Compiler": "working memory of the JIT",
    "JVMCI": "working memory of a JIT in Java",
    "Internal": "the JVM's own; up to JDK 8 direct buffers too (MaxDirectMemorySize)",
    "Other": "direct buffers and Unsafe.allocateMemory (MaxDirectMemorySize)",
    "Symbol": "names of classes, methods and interned strings",
    "Native Memory Tracking": "the tracking itself",
    "Shared class space": "the class data archive, shared with the file",
    "Arena Chunk": "pooled chunks of the JVM's arenas, mostly the JIT's",
    "Tracing": "JFR",
    "Logging": "-Xlog",
    "Statistics": "performance counters",
    "Arguments": "the command line",
    "Module": "the module system",
    "Safepoint": "the polling page",
    "Synchronizer": "monitors of locked objects",
    "Synchronization": "locks of the JVM",
    "Serviceability": "JVMTI, jcmd, agents",
    "Metaspace": "class metadata; grows with class loaders",
    "String Deduplication": "the table of deduplicated strings",
    "Object Monitors": "monitors of locked objects",
    "Test": "tests of the JVM",
    "Unknown": "not attributed by the JVM",
}
