"""Names of holders and of the ways to them, as people know them from sources.

Scope: text. An object's way is that of its referrer and one step more, so that equal ways are named once: a list of a
million elements has one way.
"""

from __future__ import annotations

import re
from array import array
from typing import Final, NamedTuple

import numpy as np

from nativeleak.arrays import pick
from nativeleak.runtimes.hotspot.heap.classes import ClassTable
from nativeleak.runtimes.hotspot.heap.climb import Column
from nativeleak.runtimes.hotspot.heap.fields import FieldReader
from nativeleak.runtimes.hotspot.heap.graph import Graph
from nativeleak.runtimes.hotspot.heap.kinds import Kinds, Strength
from nativeleak.runtimes.hotspot.heap.pages import Addresses, Flags, Indices, Numbers
from nativeleak.runtimes.hotspot.heap.roots import HANDLE, STACK, STATIC, Root, Roots
from nativeleak.runtimes.hotspot.text import class_name
from nativeleak.symbols.demangle import printable

MAX_STEPS: Final = 16
_MAX_WAYS: Final = 20_000
_PRIMITIVES: Final = {
    "B": "byte", "C": "char", "D": "double", "F": "float", "I": "int", "J": "long", "S": "short", "Z": "boolean",
}  # fmt: skip
_JDK: Final = ("java/", "jdk/", "sun/")
_COLLECTIONS: Final = ("java.util.", "jdk.internal.vm.StackChunk")
_NOT_INNER: Final = ("java.util.zip.", "java.util.jar.", "java.util.concurrent.ThreadPoolExecutor")
_NUMBERS: Final = re.compile(r"\d+")
_STATIC: Final = "static "


def handle_name(storage: str) -> str:
    """A reference that native code has, by the name of the JVM's storage of it; the JVM's own keep that name.

    Source: jniHandles.cpp ("JNI Global" since JDK 11).
    """
    if storage == "JNI Global":
        return "JNI global reference"
    if storage.startswith("JNI local"):
        return storage.replace("JNI local", "JNI local reference", 1)
    return f"handle: {storage}"


class Names(NamedTuple):
    """A way in words.

    Attributes:
        path: Class and field of each reference upwards, the first ones.
        root: What ends it; empty where nothing was reached.
        owner: The program's own field that is nearest on it, with the type of what it refers to.
    """

    path: tuple[str, ...]
    root: str
    owner: str


NOWHERE: Final = Names((), "", "")


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
        self._ways: list[Names] = [NOWHERE]
        self._index: dict[Names, int] = {NOWHERE: 0}
        self._types: dict[int, str] = {}

    def are_of_jdk(self, classes: Numbers) -> Flags:
        """Whether each class is the JDK's own."""
        found = np.array([name.startswith(_JDK) for name in self._classes.names], np.bool_)
        return pick(found, classes)

    def type_name(self, index: int) -> str:
        """Name of a class: ``java.util.ArrayList``, ``long[]``."""
        found = self._types.get(index)
        if found is None:
            name = self._classes.names[index]
            depth = len(name) - len(name.lstrip("["))
            element = name[depth:]
            if not depth:
                found = class_name(name)
            elif element.startswith("L"):
                found = class_name(element[1:].rstrip(";")) + "[]" * depth
            else:
                found = _PRIMITIVES.get(element, "?") + "[]" * depth
            self._types[index] = found
        return found

    def field_name(self, index: int, offset: int, address: int = 0) -> str:
        """Class of the object, and field; of a mirror the static field of the class that it stands for."""
        if self._classes.is_array(index):
            return self.type_name(index)
        if self.is_static(index, offset):
            owner = self._roots.class_of_mirror(address)
            return self._static(owner, offset) if owner is not None else "static field of a class that is not listed"
        field = self._fields.instance(index).get(offset)
        if field is None:
            return f"{self.type_name(index)}+{offset}"
        return f"{self.type_name(index)}.{printable(field.name)}"

    def are_arrays(self, classes: Numbers) -> Flags:
        """Whether each is a class of arrays."""
        found = np.array([name.startswith("[") for name in self._classes.names], np.bool_)
        return pick(found, classes)

    def is_static(self, index: int, offset: int) -> bool:
        """Whether the field is a static one, in the mirror of its class."""
        return index == self._classes.class_index and self._kinds.static_owner(offset)

    def root_name(self, root: Root) -> str:
        """What holds an object from outside; numbers in names of threads are a ``*``."""
        if root.kind == STATIC:
            return self._static(root.owner, root.offset)
        name = _NUMBERS.sub("*", printable(root.name))
        if root.kind == STACK:
            return f"stack of thread {name}"
        return handle_name(name) if root.kind == HANDLE else f"thread {name}"

    def name(self, number: int) -> Names:
        """A way by its number in ``ways``."""
        return self._ways[number]

    def ways(self, graph: Graph, objects: Addresses) -> Indices:
        """How each object is held: the number of its ``name``."""
        whole = np.zeros(len(graph.nodes), np.int32)
        self._follow(graph, graph.order, graph.via, whole, whole)
        near = np.zeros(len(graph.nodes), np.int32)
        self._follow(graph, graph.near_order, graph.near_via, near, whole)
        has_near = np.zeros(len(graph.nodes), np.bool_)
        has_near[np.frombuffer(graph.near_order, np.int32)] = True
        at = graph.numbers(objects)
        best = np.where(has_near[at], near[at], whole[at])
        return np.where(at >= 0, best, 0)

    def _follow(self, graph: Graph, order: array[int], via: Column, ways: Column, whole: Column) -> None:
        """Name the way of each object after that of its referrer.

        Args:
            graph: Of the objects.
            order: Each after the one that its way comes from.
            via: The reference by which it comes.
            ways: Filled: the number of each one's way.
            whole: Ways up to what is outside; a way from a field of the program goes on with its.
        """
        is_near = ways is not whole
        known: dict[tuple[int, int, int, int], int] = {}
        edges, classes = graph.edges, graph.classes.data
        edge_classes, offsets = edges.classes.data, edges.offsets.data
        parents, strengths = graph.parents.data, edges.strengths.data
        via_, ways_, whole_, labels = via.data, ways.data, whole.data, graph.labels.data
        of_roots: dict[int, int] = {}
        for node in order:
            edge = via_[node]
            if edge < 0:
                label = labels[node]
                number = of_roots.get(label)
                if number is None:
                    number = of_roots[label] = self._of_root(label, classes[node] if is_near else -1)
                ways_[node] = number
                continue
            parent, index = parents[edge], edge_classes[edge]
            is_own = is_near and self._kinds.is_of_program(index)
            above = whole_[parent] if is_own or not is_near else ways_[parent]
            is_class = index == self._classes.class_index
            # Of a mirror each static field is a way of its own.
            key = above, index, offsets[edge] | (parent << 32 if is_class else 0), classes[node] if is_own else -1
            number = known.get(key)
            if number is None:
                address = int(graph.nodes[parent])
                strength = Strength(strengths[edge])
                number = self._with_step(above, index, offsets[edge], address, key[3], strength)
                known[key] = number
            ways_[node] = number

    def _of_root(self, label: int, index: int) -> int:
        """The way of an object that something outside holds."""
        if label < 0:
            return 0
        root = self._roots.roots[label]
        name = self.root_name(root)
        own = root.kind == STATIC and self._kinds.is_of_program(root.owner)
        return self._number(Names((), name, name.removeprefix(_STATIC) + self._type_of(index) if own else ""))

    def _with_step(self, above: int, index: int, offset: int, address: int, child: int, strength: Strength) -> int:
        """A way with one reference more in front."""
        if strength == Strength.CLEANER:
            return self._number(Names((self.type_name(index),), "", ""))
        names = self._ways[above]
        step = self.field_name(index, offset, address)
        if strength != Strength.STRONG:
            return self._number(Names((step,), "", ""))
        if step.startswith(_STATIC):
            owner = self._roots.class_of_mirror(address)
            own = owner is not None and self._kinds.is_of_program(owner)
            return self._number(Names((), step, step.removeprefix(_STATIC) if own else ""))
        owner_name = step + self._type_of(child) if child >= 0 else names.owner
        path = names.path
        if not self._is_inner(index) and (not path or path[0] != step):
            path = (step, *path)[:MAX_STEPS]
        return self._number(Names(path, names.root, owner_name))

    def _number(self, names: Names) -> int:
        found = self._index.get(names)
        if found is None:
            if len(self._ways) >= _MAX_WAYS:
                return self._number(NOWHERE._replace(root=names.root)) if names.path or names.owner else 0
            found = self._index[names] = len(self._ways)
            self._ways.append(names)
        return found

    def _type_of(self, index: int) -> str:
        return f" ({self.type_name(index)})" if index >= 0 else ""

    def _is_inner(self, index: int) -> bool:
        """Arrays, and what collections are made of."""
        name = self.type_name(index)
        return self._classes.is_array(index) or (name.startswith(_COLLECTIONS) and not name.startswith(_NOT_INNER))

    def _static(self, owner: int, offset: int) -> str:
        field = self._fields.static(owner, offset)
        return f"{_STATIC}{self.type_name(owner)}.{printable(field.name) if field else f'+{offset}'}"
