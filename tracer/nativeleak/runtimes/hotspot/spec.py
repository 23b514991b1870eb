"""HotSpot's row in the registry. What reads a living JVM is only imported when one is looked at."""

from __future__ import annotations

import ctypes
from typing import Final

from nativeleak.model import FrameKind
from nativeleak.runtimes.base import Runtime, RuntimeMemory, RuntimeSpec, RuntimeWords
from nativeleak.runtimes.hotspot.frames import FRAMES
from nativeleak.runtimes.hotspot.version import is_libjvm, read_version
from nativeleak.runtimes.hotspot.walker import Java


def _open(pid: int) -> Runtime:
    from nativeleak.runtimes.hotspot.runtime import HotSpotRuntime

    return HotSpotRuntime.open(pid)


HOTSPOT: Final = RuntimeSpec(
    name="hotspot",
    is_library=is_libjvm,
    read_version=read_version,
    open=_open,
    words=RuntimeWords(
        title="JVM",
        language="Java",
        whole="compiled, inlined and interpreted",
        remedy="for names of compiled methods run: jcmd {pid} Compiler.perfmap (JDK 17 and later)",
    ),
    frames=FRAMES,
    memory=RuntimeMemory(
        # HotSpot keeps what it has not committed as PROT_NONE beside what it has.
        structures="JVM: metaspace, GC and other structures",
        files=(("/memfd:java_heap", "Java heap (ZGC)"),),
    ),
    jit_kind=FrameKind.JAVA_COMPILED,
    config_map="javas",
    config_bytes=ctypes.sizeof(Java),
)
