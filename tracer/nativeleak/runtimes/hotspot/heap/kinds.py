"""What the fields of a heap's classes are for: which may hold an address, which a reference, and how strong that is.

Source: the documentation of java.lang.ref: an object is strongly reachable, else softly, else weakly. A phantom
reference or a finalizer runs after a collection found that nothing else holds its object.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Final

import numpy as np

from nativeleak.frames.libraries import BUILT_IN, Libraries
from nativeleak.model import Frame, FrameKind
from nativeleak.runtimes.hotspot.heap.classes import REFERENCE, ClassTable
from nativeleak.runtimes.hotspot.heap.fields import Field, FieldReader
from nativeleak.runtimes.hotspot.heap.pages import Flags, Indices
from nativeleak.runtimes.hotspot.text import class_name

_SOFT: Final = "java/lang/ref/SoftReference"
_CLEANERS: Final = frozenset({"java/lang/ref/PhantomReference", "java/lang/ref/FinalReference"})
STACK_CHUNK: Final = "jdk/internal/vm/StackChunk"
_OFFSET_BITS: Final = 32


class Strength(IntEnum):
    """How a reference holds an object; the smaller, the stronger."""

    STRONG = 0
    SOFT = 1
    WEAK = 2
    CLEANER = 3
    """A phantom reference, a Cleaner or a finalizer, with all that hangs on it."""
    NONE = 4
    """The JVM's own link between references: holds nothing."""


class Kinds:
    """Tells fields apart; the answers are kept.

    Args:
        classes: Of the JVM.
        fields: Their fields.
        libraries: Whose classes are walked through.
    """

    def __init__(self, classes: ClassTable, fields: FieldReader, libraries: Libraries = BUILT_IN) -> None:
        self._classes = classes
        self._fields = fields
        self._libraries = libraries
        self._longs: dict[int, bool] = {}
        self._references: dict[int, bool] = {}
        self._strengths: dict[int, Strength] = {}
        self._of_program: dict[int, bool] = {}
        self._statics_at = int(classes.helpers[classes.class_index]) & ~1

    def hold_addresses(self, classes: Indices, offsets: Indices) -> Flags:
        """Whether there is a ``long`` at each offset: nothing else can hold an address."""
        return self._each(classes, offsets, self._longs, self._is_long)

    def hold_references(self, classes: Indices, offsets: Indices) -> Flags:
        """Whether there is a reference at each offset."""
        return self._each(classes, offsets, self._references, self._is_reference)

    def strengths(self, classes: Indices, offsets: Indices) -> Indices:
        """``Strength`` of the reference at each offset."""
        codes, inverse = np.unique(classes << _OFFSET_BITS | offsets, return_inverse=True)
        values = [self._strength_of(code) for code in codes.tolist()]
        return np.array(values, np.int64)[inverse] if values else np.zeros(0, np.int64)

    def is_cleaner(self, index: int) -> bool:
        """Whether a class is a phantom reference or a finalizer."""
        return bool(self._classes.above(index) & _CLEANERS)

    def is_of_program(self, index: int) -> bool:
        """Whether a class is the program's, not the JDK's or a library's."""
        found = self._of_program.get(index)
        if found is None:
            name = self._classes.names[index].lstrip("[")
            if self._classes.is_array(index):
                name = name[1:].rstrip(";") if name.startswith("L") else ""
            frame = Frame(class_name(name), None, 0, 0, FrameKind.JAVA_COMPILED) if name else None
            found = False
            if frame is not None:
                by_user = self._libraries.of_user(frame)
                found = self._libraries.find(frame) is None if by_user is None else not by_user
            self._of_program[index] = found
        return found

    def static_owner(self, offset: int) -> bool:
        """Whether an offset of a java.lang.Class is a static field of the class it stands for."""
        return offset >= self._statics_at

    @staticmethod
    def _each(classes: Indices, offsets: Indices, known: dict[int, bool], ask: Callable[[int, int], bool]) -> Flags:
        codes, inverse = np.unique(classes << _OFFSET_BITS | offsets, return_inverse=True)
        answers = []
        for code in codes.tolist():
            answer = known.get(code)
            if answer is None:
                answer = known[code] = ask(code >> _OFFSET_BITS, code & (1 << _OFFSET_BITS) - 1)
            answers.append(answer)
        return np.array(answers, np.bool_)[inverse] if answers else np.zeros(0, np.bool_)

    def _field(self, index: int, offset: int) -> Field | None:
        return self._fields.instance(index).get(offset)

    def _is_long(self, index: int, offset: int) -> bool:
        if self._classes.is_array(index):
            return self._classes.names[index] == "[J"
        if index == self._classes.class_index and self.static_owner(offset):
            return True
        field = self._field(index, offset)
        return field is not None and field.type == "J"

    def _is_reference(self, index: int, offset: int) -> bool:
        if self._classes.is_array(index):
            return self._classes.refers(index)
        if index == self._classes.class_index and self.static_owner(offset):
            return True
        field = self._field(index, offset)
        if field is None:
            return self._classes.names[index] == STACK_CHUNK
        return field.refers

    def _strength_of(self, code: int) -> Strength:
        found = self._strengths.get(code)
        if found is None:
            found = self._strengths[code] = self._strength(code >> _OFFSET_BITS, code & (1 << _OFFSET_BITS) - 1)
        return found

    def _strength(self, index: int, offset: int) -> Strength:
        if self._classes.is_array(index) or index == self._classes.class_index:
            return Strength.STRONG
        above = self._classes.above(index)
        if REFERENCE not in above:
            return Strength.STRONG
        field = self._field(index, offset)
        owner = self._classes.names[field.owner] if field is not None else ""
        if field is not None and owner == REFERENCE and field.name in ("discovered", "next"):
            return Strength.NONE
        if above & _CLEANERS:
            return Strength.CLEANER
        if field is not None and owner == REFERENCE and field.name == "referent":
            return Strength.SOFT if _SOFT in above else Strength.WEAK
        return Strength.STRONG
