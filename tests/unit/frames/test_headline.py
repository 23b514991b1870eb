"""The frame that tells most: above malloc and its wrappers, below nothing else."""

from __future__ import annotations

import pytest

import recording_fixtures as fixtures
from nativeleak.frames.headline import headline, headline_frame
from nativeleak.frames.roles import is_allocator
from nativeleak.frames.tables import RuntimeFrames
from nativeleak.model import Frame, FrameKind
from nativeleak.runtimes.hotspot.spec import HOTSPOT

TABLES = (HOTSPOT.frames,)


@pytest.mark.parametrize(
    "function",
    [
        "malloc",
        "__libc_malloc",
        "calloc",
        "posix_memalign@@GLIBC_2.2.5",
        "operator new(unsigned long)",
        "operator new[](unsigned long, std::nothrow_t const&)",
        "os::malloc(unsigned long, MEMFLAGS)",
        "AllocateHeap(unsigned long, MEMFLAGS, AllocFailStrategy::AllocFailEnum)",
        "Unsafe_AllocateMemory0(JNIEnv_*, _jobject*, long)",
        "jdk.internal.misc.Unsafe.allocateMemory",
        "java.nio.DirectByteBuffer.<init>",
        "java.nio.ByteBuffer.allocateDirect",
        "std::allocator_traits<std::allocator<int> >::allocate",
        "std::vector<int, std::allocator<int> >::_M_realloc_insert<int>",
        "io.netty.buffer.PoolArena$DirectArena.newChunk",
        "io.netty.util.internal.PlatformDependent0.allocateMemory",
        "deflateInit2_",
        "Java_java_util_zip_Deflater_init",
        "java.util.zip.Deflater.<init>",
        "mmap64",
        "sbrk",
        "__rust_alloc",
        "g_malloc0",
    ],
)
def test_is_allocator_knows_wrappers(function: str) -> None:
    assert is_allocator(function, TABLES)


@pytest.mark.parametrize(
    "function",
    [
        "main",
        "malloc_stats_reporter",
        "io.netty.handler.ssl.SslHandler.wrap",
        "java.util.zip.ZipFile.open",
        "inflate",
        "xml_new",
    ],
)
def test_is_allocator_leaves_the_program_alone(function: str) -> None:
    assert not is_allocator(function, TABLES)


def test_telling_frame_of_a_java_stack_is_the_first_real_caller() -> None:
    frame = headline_frame(fixtures.STACKS[0].frames, TABLES)
    assert frame is not None
    assert frame.function == "com.example.gateway.Codec.decode"


def test_headline_frame_of_a_program_without_symbols_is_its_nameless_frame() -> None:
    unknown = Frame("0x7f12 [a.so+0x12]", "a.so", 0x7F12, 0x12, FrameKind.UNRESOLVED)
    nowhere = Frame("0x7f12", None, 0x7F12, 0x12, FrameKind.UNRESOLVED)
    named = fixtures.native("parse", "app")
    found = headline([fixtures.native("malloc"), nowhere, unknown, named], TABLES)
    assert found is not None
    assert (found.index, found.for_index) == (2, 3)
    assert headline_frame([unknown], TABLES) == unknown
    assert headline_frame([fixtures.native("malloc")], TABLES) == fixtures.native("malloc")
    assert headline_frame([], TABLES) is None


def test_headline_frame_knows_the_allocators_of_the_runtimes_given():
    made_up = RuntimeFrames("libmadeup.so", allocators=r"mu_fetch\w*")
    frames = [fixtures.native("malloc"), fixtures.native("mu_fetch_object"), fixtures.native("work")]
    assert headline_frame(frames, (made_up,)) == frames[2]
    assert headline_frame(frames, TABLES) == frames[1]
