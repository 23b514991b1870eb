"""Memory of a process: read as it is, cut where it ends, refused with a reason."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess

import pytest

from nativeleak.errors import CannotTraceError
from nativeleak.process.memory import open_memory, read_into
from nativeleak.process.procfs import PAGE_BYTES, TargetGoneError


@pytest.fixture
def own_memory():
    fd = open_memory(os.getpid())
    yield fd
    os.close(fd)


def test_bytes_are_those_of_the_process(own_memory):
    text = ctypes.create_string_buffer(b"in the process", 14)
    room = bytearray(14)
    assert read_into(own_memory, memoryview(room), ctypes.addressof(text)) == 14
    assert room == b"in the process"


def test_a_read_ends_where_the_memory_does(own_memory):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 4)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    start = libc.mmap(None, 2 * PAGE_BYTES, mmap.PROT_READ | mmap.PROT_WRITE, private, -1, 0)
    assert libc.munmap(start + PAGE_BYTES, PAGE_BYTES) == 0
    room = bytearray(2 * PAGE_BYTES)
    assert read_into(own_memory, memoryview(room), start) == PAGE_BYTES
    assert read_into(own_memory, memoryview(room), start + PAGE_BYTES) == 0
    assert libc.munmap(start, PAGE_BYTES) == 0


def test_a_process_that_is_gone_is_said():
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    with pytest.raises(TargetGoneError, match=f"process {ended.pid} is gone"):
        open_memory(ended.pid)


@pytest.mark.root
def test_memory_without_the_right_to_it_is_refused_with_what_to_do():
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setresuid(65534, 65534, 65534)
            open_memory(os.getppid())
        except CannotTraceError as error:
            status = 0 if error.remedy else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
