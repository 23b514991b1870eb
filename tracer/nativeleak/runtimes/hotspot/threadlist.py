"""The Java threads of a JVM: their Thread objects and what these say of the thread underneath.

Source: threadSMR.hpp (ThreadsList), threads.hpp before JDK 14 (a linked list), osThread_linux.hpp.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError

MAX_THREADS: Final = 1 << 17


class JavaThread(NamedTuple):
    """One thread that can run Java code.

    Attributes:
        address: Of its JavaThread object.
        tid: As the target's own PID namespace counts.
        pthread: Its pthread_t, 0 where the JVM does not say.
    """

    address: int
    tid: int
    pthread: int


def read_thread_list(vm: HotSpot) -> list[JavaThread]:
    """All Java threads that have begun; a thread that ends meanwhile is left out.

    Raises:
        UnreadableError: The JVM does not describe its list of threads, or it cannot be read.
    """
    structs, memory = vm.structs, vm.memory
    os_thread = structs.field("JavaThread::_osthread", "Thread::_osthread")
    tid_offset = structs.field("OSThread::_thread_id")
    pthread_offset = structs.field("OSThread::_pthread_id")
    if os_thread is None or tid_offset is None:
        raise UnreadableError("reading the Java threads failed: the JVM does not say which threads they are")
    threads = []
    for address in _addresses(vm):
        try:
            below = memory.u64(address + os_thread)
            tid = memory.i32(below + tid_offset)
            pthread = memory.u64(below + pthread_offset) if pthread_offset is not None else 0
        except UnreadableError:
            continue
        if tid > 0:
            threads.append(JavaThread(address, tid, pthread))
    return threads


def _addresses(vm: HotSpot) -> Iterator[int]:
    structs, memory = vm.structs, vm.memory
    array, length = structs.field("ThreadsList::_threads"), structs.field("ThreadsList::_length")
    threads_list = vm.pointer("ThreadsSMRSupport::_java_thread_list")
    if threads_list is not None and array is not None and length is not None:
        n_threads, first = memory.u32(threads_list + length), memory.u64(threads_list + array)
        if n_threads > MAX_THREADS:
            raise UnreadableError(f"reading the Java threads failed: {n_threads} of them")
        data = memory.read(first, 8 * n_threads)
        yield from (int.from_bytes(data[place : place + 8], "little") for place in range(0, len(data), 8))
        return
    following = structs.field("JavaThread::_next")
    if structs.static("Threads::_thread_list") is None or following is None:
        raise UnreadableError("reading the Java threads failed: the JVM does not describe its list of them")
    address = vm.pointer("Threads::_thread_list")
    for _ in range(MAX_THREADS):
        if not address:
            return
        yield address
        try:
            address = memory.u64(address + following)
        except UnreadableError:
            return
