"""Names of holders and of the ways to them, as people know them from sources."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import numpy as np

from nativeleak.runtimes.hotspot.heap.classes import ClassTable
from nativeleak.runtimes.hotspot.heap.fields import FieldReader
from nativeleak.runtimes.hotspot.heap.graph import State, Way
from nativeleak.runtimes.hotspot.heap.kinds import Kinds
from nativeleak.runtimes.hotspot.heap.pages import Flags, Indices
from nativeleak.runtimes.hotspot.heap.roots import HANDLE, STACK, STATIC, Root, Roots
from nativeleak.runtimes.hotspot.text import class_name
from nativeleak.symbols.demangle import printable

_PRIMITIVES: Final = {
    "B": "byte", "C": "char", "D": "double", "F": "float", "I": "int", "J": "long", "S": "short", "Z": "boolean",
}  # fmt: skip
_JDK: Final = ("java/", "jdk/", "sun/")
_COLLECTIONS: Final = ("java.util.", "jdk.internal.vm.StackChunk")
_NOT_INNER: Final = ("java.util.zip.", "java.util.jar.", "java.util.concurrent.ThreadPoolExecutor")
_NUMBERS: Final = re.compile(r"\d+")


class Names(NamedTuple):
    """A way in words.

    Attributes:
        path: Class and field of each reference upwards.
        root: What ends it.
        owner: The program's own field on it, with the type of what it refers to.
    """

    path: tuple[str, ...]
    root: str
    owner: str


class Namer:
    """Names fields and ways of one heap.

    Args:
        classes: Of the JVM.
        fields: Their fields.
        kinds: What is the program's own.
        roots: Outside of the heap.
    """

    def __init__(self, classes: ClassTable, fields: FieldReader, kinds: Kinds, roots: Roots) -> None:
        self._classes = classes
        self._fields = fields
        self._kinds = kinds
        self._roots = roots
        self._classes_of: dict[int, int] = {}

    def know(self, objects: list[int], classes: list[int]) -> None:
        """Learn the classes of objects."""
        self._classes_of.update(zip(objects, classes, strict=True))

    def are_of_jdk(self, classes: Indices) -> Flags:
        """Whether each class is the JDK's own."""
        found = {index: self._classes.names[index].startswith(_JDK) for index in np.unique(classes).tolist()}
        return np.array([found[index] for index in classes.tolist()], np.bool_)

    def type_name(self, index: int) -> str:
        """Name of a class: ``java.util.ArrayList``, ``long[]``."""
        name = self._classes.names[index]
        depth = len(name) - len(name.lstrip("["))
        if not depth:
            return class_name(name)
        element = name[depth:]
        element = class_name(element[1:].rstrip(";")) if element.startswith("L") else _PRIMITIVES.get(element, "?")
        return element + "[]" * depth

    def field_name(self, index: int, offset: int, address: int = 0) -> str:
        """Class and field; the class is the one that declares it."""
        if self._classes.is_array(index):
            return self.type_name(index)
        if index == self._classes.class_index and self._kinds.static_owner(offset):
            owner = self._roots.class_of_mirror(address)
            return self._static(owner, offset) if owner is not None else "static field of a class that is not listed"
        field = self._fields.instance(index).get(offset)
        if field is None:
            return f"{self.type_name(index)}+{offset}"
        return f"{self.type_name(index)}.{printable(field.name)}"

    def root_name(self, root: Root) -> str:
        """What holds an object from outside; numbers in names of threads are a ``*``."""
        if root.kind == STATIC:
            return self._static(root.owner, root.offset)
        name = _NUMBERS.sub("*", printable(root.name))
        if root.kind == STACK:
            return f"stack of thread {name}"
        return f"handle: {name}" if root.kind == HANDLE else f"thread {name}"

    def names(self, way: Way) -> Names:
        """A way in words."""
        if way.state is State.CLEANER:
            return self._cleaner(way)
        root = self.root_name(self._roots.roots[way.root]) if way.root >= 0 else ""
        path: list[str] = []
        owner = ""
        for number, step in enumerate(way.steps, 1):
            name = self.field_name(step.index, step.offset, step.parent)
            is_static = name.startswith("static ")
            if number == way.owner or (is_static and not owner and self._is_of_program(step.parent)):
                owner = name + self._type_of(step.child)
            if is_static:
                root = name
                continue
            if self._is_inner(step.index) or (path and path[-1] == name):
                continue
            path.append(name)
        if not owner and way.root >= 0:
            root_ = self._roots.roots[way.root]
            if root_.kind == STATIC and self._kinds.is_of_program(root_.owner):
                owner = root.removeprefix("static ") + self._type_of(way.steps[-1].parent if way.steps else 0)
        return Names(tuple(path), root, owner.removeprefix("static "))

    def _cleaner(self, way: Way) -> Names:
        """Up to the cleaner: how that is held does not matter."""
        path = []
        for step in way.steps:
            if self._kinds.is_cleaner(step.index):
                return Names((*path, self.type_name(step.index)), "", "")
            if not self._is_inner(step.index):
                path.append(self.field_name(step.index, step.offset, step.parent))
        return Names(tuple(path), "", "")

    def _is_of_program(self, mirror: int) -> bool:
        owner = self._roots.class_of_mirror(mirror)
        return owner is not None and self._kinds.is_of_program(owner)

    def _type_of(self, address: int) -> str:
        index = self._classes_of.get(address)
        return f" ({self.type_name(index)})" if index is not None else ""

    def _is_inner(self, index: int) -> bool:
        """Arrays, and what collections are made of."""
        name = self.type_name(index)
        return self._classes.is_array(index) or (name.startswith(_COLLECTIONS) and not name.startswith(_NOT_INNER))

    def _static(self, owner: int, offset: int) -> str:
        field = self._fields.static(owner, offset)
        return f"static {self.type_name(owner)}.{printable(field.name) if field else f'+{offset}'}"
