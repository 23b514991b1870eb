"""The frame that tells most: above malloc and its wrappers, below nothing else."""

from __future__ import annotations

import pytest

import recording_fixtures as fixtures
from nativeleak.frames.headline import headline_frame, is_allocator
from nativeleak.model import Frame, FrameKind


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
    assert is_allocator(function)


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
    assert not is_allocator(function)


def test_telling_frame_of_a_java_stack_is_the_first_real_caller() -> None:
    frame = headline_frame(fixtures.STACKS[0].frames)
    assert frame is not None
    assert frame.function == "com.example.gateway.Codec.decode"


def test_telling_frame_passes_over_frames_without_a_name() -> None:
    unknown = Frame("0x7f12 [a.so+0x12]", "a.so", 0x7F12, 0x12, FrameKind.UNRESOLVED)
    named = fixtures.native("parse", "app")
    assert headline_frame([fixtures.native("malloc"), unknown, named]) == named
    assert headline_frame([fixtures.native("malloc"), fixtures.native("os::malloc"), unknown]) == fixtures.native(
        "os::malloc"
    )
    assert headline_frame([unknown]) == unknown
    assert headline_frame([fixtures.native("malloc")]) == fixtures.native("malloc")
    assert headline_frame([]) is None
