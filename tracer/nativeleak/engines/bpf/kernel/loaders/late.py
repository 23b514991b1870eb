"""Programs that few traces need: verified and loaded at their first use, onto the maps of the object that is loaded.

The kernel's check of the two programs for exits takes 60 to 80 ms, which each trace would wait for; that of the two for
call sites as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from nativeleak.engines.bpf.kernel.loaders.libbpf import BpfObject
from nativeleak.errors import CannotTraceError


class LatePrograms:
    """The programs of an object, some of which are loaded late.

    Args:
        first: The object, loaded without them.
        open_object: Opens the same object file anew.
        late: Programs that are loaded late, those of a kind together: name -> the attach type that it is loaded for.
        explain: Makes the error of a load that the kernel refuses.
    """

    def __init__(
        self,
        first: BpfObject,
        open_object: Callable[[], BpfObject],
        late: Sequence[Mapping[str, int]],
        explain: Callable[[OSError], CannotTraceError],
    ) -> None:
        self._first, self._open, self._explain = first, open_object, explain
        self._late = {name: kind for kind in late for name in kind}
        self._loaded: dict[str, BpfObject] = {}

    def program_fd(self, name: str) -> int:
        """Descriptor of a program; loads it where it is late, with the others of its kind.

        Raises:
            CannotTraceError: The kernel refuses them.
        """
        if name not in self._late:
            return self._first.program_fd(name)
        if name not in self._loaded:
            kind = self._late[name]
            try:
                self._loaded |= dict.fromkeys(kind, self._load(kind))
            except OSError as error:
                raise self._explain(error) from error
        return self._loaded[name].program_fd(name)

    def loaded(self, names: Iterable[str]) -> list[str]:
        """Those of some programs that are in the kernel by now."""
        return [name for name in names if name not in self._late or name in self._loaded]

    def close(self) -> None:
        """Free what was loaded late; it goes with its last user."""
        for each in {id(each): each for each in self._loaded.values()}.values():
            each.close()
        self._loaded.clear()

    def _load(self, kind: Mapping[str, int]) -> BpfObject:
        second = self._open()
        try:
            for name in second.program_names():
                second.set_autoload(name, load=name in kind)
            for name, attach_type in kind.items():
                second.set_attach_type(name, attach_type)
            for full_name in self._first.map_names():
                # A section's map is named after its object too, which has no name where it was opened from memory.
                name = full_name[max(0, full_name.find(".")) :]
                second.reuse_map(name, self._first.map(name, 0, 0).fd)
            second.load()
        except BaseException:
            second.close()
            raise
        return second
