"""BCC as the loader: the same sources, compiled on this machine, where no prebuilt object fits.

Maps are made here, and their descriptors put into the instructions that name them by number; programs are loaded and
attached by the system calls themselves. So every way to attach that the kernel has is there, as with libbpf, whatever
the version of BCC knows. What is missing is the walk by unwind tables and through Java frames: BCC has no functions,
and all of it in each program is more than the verifier goes through.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from nativeleak import children
from nativeleak.engines.bpf.kernel import abi, bpf, syscalls, uprobes
from nativeleak.engines.bpf.kernel.features import NOTHING_MISSING
from nativeleak.engines.bpf.kernel.instructions import INSTRUCTION, LOAD_64, PSEUDO_MAP_FD
from nativeleak.engines.bpf.kernel.loaders import BCC_LIBRARY
from nativeleak.engines.bpf.kernel.loaders.headers import Headers, find_headers, stubs
from nativeleak.engines.bpf.kernel.loaders.libbpf import BpfMap, BpfObject, Libbpf, object_path
from nativeleak.engines.bpf.kernel.loaders.shape import MapShape
from nativeleak.errors import CannotTraceError
from nativeleak.runtimes.registry import RUNTIMES

_ARRAY: Final = 2
"""``BPF_MAP_TYPE_ARRAY``."""
_FIRST_NUMBER: Final = 0x4E4C0000
_COMPILE_TIMEOUT_S: Final = 120.0
_RUN: Final = "run_"


_DECLARED: Final = re.compile(r"^NL_(?:MAP|RINGBUF)\((\w+),", re.MULTILINE)
"""A map where the sources declare it; bpf/common.bpf.h."""
_OF_RUNTIMES: Final = tuple(spec.config_map for spec in RUNTIMES if spec.config_map)
_OF_TABLES: Final = (*_OF_RUNTIMES, "methods", "mappings", "cached_rules")
"""Maps of the walk by unwind tables, which no program here uses: one element each."""
_TABLES: Final = MapShape(_ARRAY, 4, 4, 1, 0)
"""In the place of the array of unwind tables."""


def source_path() -> Path:
    """The source that BCC compiles: in the package, or in the checkout that it is run from.

    Raises:
        CannotTraceError: This installation has none.
    """
    package = Path(__file__).parents[2]
    for folder in (package / "source", package.parents[3] / "bpf"):
        if (folder / "bcc.bpf.c").is_file():
            return folder / "bcc.bpf.c"
    raise CannotTraceError("the BPF sources that BCC compiles are missing in this installation", "reinstall nativeleak")


@functools.cache
def map_names() -> tuple[str, ...]:
    """Maps that the sources declare, in an order that numbers them.

    Raises:
        CannotTraceError: This installation has no sources.
    """
    sources = sorted(source_path().parent.glob("*.bpf.[ch]"))
    return tuple(name for source in sources for name in _DECLARED.findall(source.read_text()))


def read_shapes(libbpf: Libbpf) -> dict[str, MapShape]:
    """How the maps are made: as the prebuilt object declares them, which comes from the same lines of source.

    Raises:
        CannotTraceError: This installation has no sources, or no object for this machine.
    """
    with BpfObject(libbpf, object_path()) as prebuilt:
        shapes = {name: prebuilt.map_shape(name) for name in map_names()}
    shapes |= {name: replace(shapes[name], n=1) for name in _OF_TABLES}
    return {**shapes, "tables": _TABLES}


def has_bcc() -> bool:
    """Whether BCC's library is installed; it is not loaded for this."""
    command = children.python_code(f"import ctypes; ctypes.CDLL({BCC_LIBRARY!r})")
    return bool(children.run(command, capture_output=True).returncode == 0)


@dataclass(frozen=True, slots=True)
class Compiled:
    """What BCC has made.

    Attributes:
        programs: Instructions of each, with numbers in the place of maps.
        headers: What they were compiled with.
    """

    programs: Mapping[str, bytes]
    headers: Headers


@functools.cache
def compiled(*more_flags: str) -> Compiled:
    """The programs; compiled once, by a process of its own. With the kernel's own headers, else with stubs.

    Args:
        more_flags: Of the compiler.

    Raises:
        CannotTraceError: There is no BCC here, or it does not compile them.
    """
    return compile_with(find_headers(), *more_flags)


def compile_with(headers: Headers, *more_flags: str) -> Compiled:
    """The programs compiled with some headers; with stubs where that fails.

    Raises:
        CannotTraceError: There is no BCC here, or it does not compile them.
    """
    try:
        return Compiled(_compile(headers, more_flags), headers)
    except CannotTraceError as error:
        if not headers.is_real or not has_bcc():
            raise
        instead = stubs(f"with {headers.said} {error.what}")
        return Compiled(_compile(instead, more_flags), instead)


def _compile(headers: Headers, more_flags: Sequence[str]) -> Mapping[str, bytes]:
    flags = [*(f"-DNL_MAP_{name}={_FIRST_NUMBER + i}" for i, name in enumerate(map_names())), *more_flags]
    module = "nativeleak.engines.bpf.kernel.loaders.bcc_compiler"
    arguments = (str(source_path()), headers.tree, headers.generated, *flags)
    command = children.python_module(module, *arguments, folders=())
    try:
        done = children.run(command, capture_output=True, text=True, errors="replace", timeout=_COMPILE_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise CannotTraceError(f"BCC did not compile the BPF programs in {_COMPILE_TIMEOUT_S:.0f} s") from error
    if done.returncode == 0:
        return {name.removeprefix(_RUN): bytes.fromhex(code) for name, code in json.loads(done.stdout).items()}
    if not has_bcc():
        raise CannotTraceError(f"BCC was not found on this machine: no {BCC_LIBRARY}", "apt-get install python3-bpfcc")
    said = [line for line in done.stderr.splitlines() if "rror" in line] or done.stderr.splitlines() or ["no reason"]
    raise CannotTraceError(f"BCC does not compile the BPF programs: {said[0]}", "try another engine: --engine auto")


def with_descriptors(code: bytes, fds: Mapping[int, int]) -> bytes:
    """Instructions with the descriptors of maps in the place of their numbers."""
    patched = bytearray(code)
    for at in range(0, len(code), INSTRUCTION.size):
        operation, registers, offset, value = INSTRUCTION.unpack_from(code, at)
        if operation == LOAD_64 and registers >> 4 == PSEUDO_MAP_FD:
            INSTRUCTION.pack_into(patched, at, operation, registers, offset, fds[value])
    return bytes(patched)


class BccObject:
    """The programs and maps, with the surface of ``libbpf.BpfObject``.

    Attributes:
        notes: How they were made, a sentence each.
    """

    def __init__(self, libbpf: Libbpf, missing: abi.MissingFeature = NOTHING_MISSING) -> None:
        """``missing``: features that the kernel lacks which they are for."""
        self._libbpf, self._missing = libbpf, missing
        self._flags: tuple[str, ...] = ()
        self._shapes = read_shapes(libbpf)
        self._sizes = {name: shape.n for name, shape in self._shapes.items()}
        self._attach_types: dict[str, int] = {}
        self._left_out: set[str] = set()
        self._maps: dict[str, int] = {}
        self._programs: dict[str, int] = {}
        self._links: list[int] = []
        self.notes: list[str] = []

    def set_autoload(self, name: str, *, load: bool) -> None:
        """Whether ``load`` takes this program along."""
        (self._left_out.discard if load else self._left_out.add)(name)

    def set_attach_type(self, name: str, attach_type: int) -> None:
        """The kind of link the program will be attached by; 0 for perf events."""
        self._attach_types[name] = attach_type

    def set_max_entries(self, name: str, n: int) -> None:
        """Size of a map; before ``load``."""
        self._sizes[name] = n

    def set_constants(self, pid_namespace: tuple[int, int], tick_ns: int) -> None:
        """What stands fast once the programs run; before ``load``. As ``BpfObject`` has it."""
        device, inode = pid_namespace
        self._flags = (
            f"-DNL_PID_NS_DEVICE={device}",
            f"-DNL_PID_NS_INODE={inode}",
            f"-DNL_TICK_NS={tick_ns}",
            f"-DNL_KERNEL_LACKS={int(self._missing)}",
            f"-DNL_N_CPUS={self._libbpf.n_cpus}",
        )

    def load(self) -> None:
        """Create the maps, verify and load the programs.

        Raises:
            OSError: The kernel refused; ``Libbpf.messages`` says why.
        """
        made = compiled(*self._flags)
        self.notes = [
            f"BCC has compiled the programs with {made.headers.said}",
            "BCC's programs walk stacks by frame pointers only, and not through Java frames",
        ]
        for name, shape in self._shapes.items():
            self._maps[name] = self._libbpf.create_map(
                name, shape.kind, shape.key_bytes, shape.value_bytes, self._sizes[name], shape.flags
            )
        numbers = {_FIRST_NUMBER + i: self._maps[name] for i, name in enumerate(map_names())}
        for name, instructions in made.programs.items():
            if name in self._left_out:
                continue
            try:
                self._programs[name] = bpf.load_program(
                    name, _program_kind(name), with_descriptors(instructions, numbers), self._attach_types.get(name, 0)
                )
            except bpf.VerifierError as error:
                self._libbpf.messages.append(f"{name}: {error.log}")
                raise

    def program_fd(self, name: str) -> int:
        """Descriptor of a loaded program."""
        return self._programs[name]

    def loaded(self, names: Iterable[str]) -> list[str]:
        """Those of some programs that are in the kernel."""
        return [name for name in names if name in self._programs]

    def map(self, name: str, key_size: int, value_size: int) -> BpfMap:
        """A map, once loaded."""
        return BpfMap(self._libbpf, name, self._maps[name], key_size, value_size)

    def map_names(self) -> list[str]:
        """Names of all maps."""
        return list(self._maps)

    def attach_raw_tracepoint(self, name: str, tracepoint: str) -> None:
        """Attach to a raw tracepoint; it goes with ``detach_all``.

        Raises:
            OSError: ENOENT where the kernel has no such tracepoint.
        """
        self._links.append(bpf.attach_raw_tracepoint(self._programs[name], tracepoint))

    def detach_all(self) -> None:
        """Undo all attaches that were made here."""
        _close_all(self._links)

    def close(self) -> None:
        """Detach everything; maps and programs go with their last user."""
        self.detach_all()
        for fds in (self._programs, self._maps):
            _close_all(list(fds.values()))
            fds.clear()


def _program_kind(name: str) -> int:
    if name in syscalls.RAW_PROGRAMS:
        return bpf.PROG_RAW_TRACEPOINT
    return bpf.PROG_KPROBE if name in uprobes.ALL_PROGRAMS else bpf.PROG_TRACEPOINT


def _close_all(fds: list[int]) -> None:
    while fds:
        try:
            os.close(fds.pop())
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
