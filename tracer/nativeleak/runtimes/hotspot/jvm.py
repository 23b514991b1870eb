"""A running HotSpot JVM: its memory, its libjvm.so and its description of itself, opened together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from nativeleak.runtimes.hotspot.libjvm import Libjvm, read_libjvm
from nativeleak.runtimes.hotspot.memory import Memory, TargetMemory, UnreadableError
from nativeleak.runtimes.hotspot.vmstructs import EXPORTS, VmStructs

THREAD_CURRENT: Final = "_ZN6Thread12_thr_currentE"
RETURN_BARRIER: Final = "_ZN12StubRoutines19_cont_returnBarrierE"
ENTRY_RETURN_PC: Final = "_ZN17ContinuationEntry10_return_pcE"
THREAD_NAME: Final = "_ZN16java_lang_Thread12_name_offsetE"
# With an underscore since JDK 13, without before (javaClasses.hpp).
STRING_VALUE: Final = ("_ZN16java_lang_String13_value_offsetE", "_ZN16java_lang_String12value_offsetE")
STRING_CODER: Final = ("_ZN16java_lang_String13_coder_offsetE", "_ZN16java_lang_String12coder_offsetE")

_VARIABLES: Final = (
    *EXPORTS,
    THREAD_CURRENT,
    RETURN_BARRIER,
    ENTRY_RETURN_PC,
    THREAD_NAME,
    *STRING_VALUE,
    *STRING_CODER,
)


@dataclass(frozen=True, slots=True)
class HotSpot:
    """One JVM; a context manager, since its memory is held open.

    Attributes:
        pid: The process; 0 in tests without one.
        memory: Of the target.
        libjvm: The file, for what VMStructs leaves out.
        structs: The JVM's description of itself.
    """

    pid: int
    memory: Memory
    libjvm: Libjvm
    structs: VmStructs

    @classmethod
    def open(cls, pid: int, more_variables: Iterable[str] = ()) -> Self:
        """Look at the JVM of a process; takes 30 to 60 ms.

        Args:
            pid: The process.
            more_variables: Mangled names of variables of libjvm.so that are wanted beside those known here.

        Raises:
            UnreadableError: It runs none, it may not be read, or it is none that describes itself as HotSpot does.
        """
        libjvm = read_libjvm(pid, (*_VARIABLES, *more_variables))
        memory = TargetMemory(pid)
        try:
            return cls(pid, memory, libjvm, VmStructs(memory, libjvm.address))
        except UnreadableError:
            memory.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its memory."""
        if isinstance(self.memory, TargetMemory):
            self.memory.close()

    def refresh(self) -> None:
        """Forget the memory read so far, so that what is read next is what is there by then."""
        if isinstance(self.memory, TargetMemory):
            self.memory.flush()

    def pointer(self, *names: str) -> int | None:
        """What a static pointer points at, None where there is no such field, or it is null or unreadable."""
        address = self.structs.static(*names)
        if address is None:
            return None
        try:
            return self.memory.u64(address) or None
        except UnreadableError:
            return None

    def variable(self, *names: str) -> int | None:
        """The 8-byte value of a variable of libjvm.so, None where there is none of these names, or it is null."""
        for name in names:
            address = self.libjvm.address(name)
            if address is None:
                continue
            try:
                return self.memory.u64(address) or None
            except UnreadableError:
                return None
        return None
