"""Names of the Java threads, in full: the kernel's own are cut to 15 characters.

Scope: names at this moment; a thread that ended has none any more, so they are to be read while it lives.

Caveat: after ZGC has moved a thread's name, and until the JVM itself looks at it or the next collection, it can only be
found by ZGC's own tables, which are not read here. A name that was read before is kept over that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from nativeleak.errors import NativeleakError
from nativeleak.process.procfs import parse_status, read_status
from nativeleak.runtimes.hotspot.jvm import THREAD_NAME, HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError
from nativeleak.runtimes.hotspot.methods import MethodReader
from nativeleak.runtimes.hotspot.oops import StringReader, field_offset
from nativeleak.runtimes.hotspot.threadlist import JavaThread, read_thread_list
from nativeleak.symbols.demangle import printable

_OOP_HANDLE: Final = "OopHandle"


class ThreadNamer:
    """Reads names of Java threads of one JVM.

    Args:
        vm: The JVM.

    Raises:
        UnreadableError: It does not say what is needed to read them.
    """

    def __init__(self, vm: HotSpot) -> None:
        self._vm = vm
        self._strings = StringReader(vm, MethodReader(vm))
        self._name = field_offset(vm, THREAD_NAME)
        thread = vm.structs.field("JavaThread::_threadObj")
        if thread is None:
            raise UnreadableError("reading names of Java threads failed: the JVM does not say JavaThread::_threadObj")
        self._thread = thread
        self._known: dict[tuple[int, int], str] = {}
        self._is_handle = vm.structs.type_of("JavaThread::_threadObj") == _OOP_HANDLE

    def read(self) -> dict[int, str]:
        """Names of the threads alive, by tid as our PID namespace counts.

        One that cannot be read keeps the name that it had before, and is left out where it had none.

        Raises:
            UnreadableError: The list of threads cannot be read.
        """
        self._vm.refresh()
        known = {}
        for thread in read_thread_list(self._vm):
            key = (thread.address, thread.tid)
            name = self._name_of(thread) or self._known.get(key)
            if name:
                known[key] = name
        self._known = known
        return _translated(self._vm.pid, {tid: printable(name) for (_, tid), name in known.items()})

    def _name_of(self, thread: JavaThread) -> str | None:
        place = thread.address + self._thread
        try:
            # Before JDK 16 the reference itself is in the thread, since then that is where the reference is.
            handle = self._vm.memory.u64(place) if self._is_handle else place
        except UnreadableError:
            return None
        return self._strings.read_at(handle, self._name) if handle else None


def _translated(pid: int, names: dict[int, str]) -> dict[int, str]:
    """The names by the tids that we see, where the target counts its threads in a PID namespace of its own."""
    try:
        if len(read_status(pid).get("NSpid", "").split()) < 2:
            return names
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except (NativeleakError, OSError):
        return names
    ours = {}
    for task in tasks:
        try:
            ids = parse_status((task / "status").read_text(errors="replace")).get("NSpid", "").split()
        except OSError:
            continue
        if ids and ids[-1].isdigit() and int(ids[-1]) in names:
            ours[int(task.name)] = names[int(ids[-1])]
    return ours
