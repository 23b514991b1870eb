"""Where each thread of a JVM keeps the pointer to its own Thread object, found and proved from outside.

Scope: thread-local storage as the kernel side reads it: from the thread pointer to the vector of blocks, from there to
libjvm.so's block, in it the Thread*. Proved on the JVM's own threads, so that neither the C library nor a symbol that
was stripped has to be guessed at.

Source: "ELF Handling For Thread-Local Storage" (Drepper), variants I and II; dtv_t in glibc's dl-tls.h is 16 bytes,
musl's dtv (pthread_impl.h) holds plain pointers. The vector's address is the second word of the thread control block,
which pthread_t points at (glibc: tcbhead_t; musl: struct pthread).
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from nativeleak.runtimes.hotspot.jvm import THREAD_CURRENT, HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError
from nativeleak.runtimes.hotspot.threadlist import JavaThread, read_thread_list

_VECTOR_OFFSET: Final = 8
_STRIDES: Final = (16, 8)
_MAX_MODULE: Final = 4096
_MAX_BLOCK_BYTES: Final = 1 << 16
_MAX_WITNESSES: Final = 8


class ThreadLocation(NamedTuple):
    """Way to a Thread*: ``*(*(dtv + module * stride) + offset)``, all in bytes."""

    module: int
    offset: int
    stride: int


def read_thread_location(vm: HotSpot) -> ThreadLocation | str:
    """Where the Thread* of a thread is, or why it cannot be told."""
    if not vm.libjvm.is_x86:
        return "thread-local storage is only understood on x86-64"
    slot = vm.libjvm.tls_module_slot
    if not slot:
        return "libjvm.so was not linked for dynamic thread-local storage"
    try:
        module = vm.memory.u64(slot)
        threads = read_thread_list(vm)
    except UnreadableError as error:
        return str(error)
    if not 0 < module <= _MAX_MODULE:
        return f"{module} is no number of a module"
    witnesses = [each for each in threads if each.pthread][:_MAX_WITNESSES]
    variable = vm.libjvm.variables.get(THREAD_CURRENT)
    known = variable.address if variable is not None and variable.is_thread_local else None
    if not witnesses:
        return "no thread of the JVM has begun" if known is None else ThreadLocation(module, known, _STRIDES[0])
    for stride in _STRIDES:
        votes = Counter(offset for each in witnesses for offset in _offsets(vm, each, module, stride))
        agreed = {offset for offset, n_votes in votes.items() if 2 * n_votes > len(witnesses)}  # one may be ending
        if known in agreed:
            return ThreadLocation(module, known, stride)
        if known is None and agreed:
            return ThreadLocation(module, min(agreed), stride)
    return "the threads' own storage does not hold their Thread*"


def _offsets(vm: HotSpot, thread: JavaThread, module: int, stride: int) -> set[int]:
    """Offsets in the thread's block for libjvm.so at which its Thread* stands."""
    try:
        vector = vm.memory.u64(thread.pthread + _VECTOR_OFFSET)
        block = vm.memory.u64(vector + module * stride)
        data = vm.memory.read(block, min(vm.libjvm.tls_bytes, _MAX_BLOCK_BYTES) & ~7)
    except UnreadableError:
        return set()
    wanted = thread.address.to_bytes(8, "little")
    return {place for place in range(0, len(data), 8) if data[place : place + 8] == wanted}
