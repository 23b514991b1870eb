"""The system's libbpf by ctypes: load the prebuilt object, reach its maps, attach programs.

No compiler, headers or Python binding is needed on the production host. Works with libbpf 1.0 and later; what newer
kernels offer and libbpf 1.1 does not know is done in ``bpf.py``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

from nativeleak import arch
from nativeleak.engines.bpf.kernel.abi import MissingFeature
from nativeleak.engines.bpf.kernel.features import NOTHING_MISSING, without_fetching
from nativeleak.engines.bpf.kernel.loaders.shape import MapShape
from nativeleak.errors import CannotTraceError

_LIBRARIES: Final = ("libbpf.so.1",)
_P = ctypes.c_void_p

# name -> (result type, argument types). Source: libbpf 1.1, src/libbpf.h and src/bpf.h.
_FUNCTIONS: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "libbpf_version_string": (ctypes.c_char_p, ()),
    "libbpf_set_print": (_P, (_P,)),
    "bpf_object__open_file": (_P, (ctypes.c_char_p, _P)),
    "bpf_object__open_mem": (_P, (_P, ctypes.c_size_t, _P)),
    "bpf_object__load": (ctypes.c_int, (_P,)),
    "bpf_object__close": (None, (_P,)),
    "bpf_object__find_program_by_name": (_P, (_P, ctypes.c_char_p)),
    "bpf_object__find_map_by_name": (_P, (_P, ctypes.c_char_p)),
    "bpf_object__next_program": (_P, (_P, _P)),
    "bpf_program__name": (ctypes.c_char_p, (_P,)),
    "bpf_program__fd": (ctypes.c_int, (_P,)),
    "bpf_program__set_autoload": (ctypes.c_int, (_P, ctypes.c_bool)),
    "bpf_program__set_expected_attach_type": (ctypes.c_int, (_P, ctypes.c_int)),
    "bpf_program__attach_raw_tracepoint": (_P, (_P, ctypes.c_char_p)),
    "bpf_link__destroy": (ctypes.c_int, (_P,)),
    "bpf_object__next_map": (_P, (_P, _P)),
    "bpf_map__name": (ctypes.c_char_p, (_P,)),
    "bpf_map__fd": (ctypes.c_int, (_P,)),
    **{
        f"bpf_map__{field}": (ctypes.c_uint32, (_P,))
        for field in ("type", "key_size", "value_size", "max_entries", "map_flags")
    },
    "bpf_map__set_max_entries": (ctypes.c_int, (_P, ctypes.c_uint32)),
    "bpf_map__reuse_fd": (ctypes.c_int, (_P, ctypes.c_int)),
    "bpf_map__initial_value": (_P, (_P, _P)),
    "bpf_map_lookup_elem": (ctypes.c_int, (ctypes.c_int, _P, _P)),
    "bpf_map_update_elem": (ctypes.c_int, (ctypes.c_int, _P, _P, ctypes.c_uint64)),
    "bpf_map_delete_elem": (ctypes.c_int, (ctypes.c_int, _P)),
    "bpf_map_get_next_key": (ctypes.c_int, (ctypes.c_int, _P, _P)),
    "bpf_map_create": (
        ctypes.c_int,
        (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32, _P),
    ),
    "bpf_map_update_batch": (ctypes.c_int, (ctypes.c_int, _P, _P, _P, _P)),
    "bpf_map_delete_batch": (ctypes.c_int, (ctypes.c_int, _P, _P, _P)),
    "bpf_map_lookup_batch": (ctypes.c_int, (ctypes.c_int, _P, _P, _P, _P, _P, _P)),
    "bpf_map_lookup_and_delete_batch": (ctypes.c_int, (ctypes.c_int, _P, _P, _P, _P, _P, _P)),
    "libbpf_num_possible_cpus": (ctypes.c_int, ()),
    "ring_buffer__new": (_P, (ctypes.c_int, _P, _P, _P)),
    "ring_buffer__epoll_fd": (ctypes.c_int, (_P,)),
    "ring_buffer__consume": (ctypes.c_int, (_P,)),
    "ring_buffer__free": (None, (_P,)),
}

_PRINT_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, _P)
_ENOSPC_GROWTH: Final = 4
_BPF_MAP_TYPE_ARRAY: Final = 2
_BPF_F_INNER_MAP: Final = 1 << 12
_CONSTANTS: Final = struct.Struct("=QQQQQ")
"""The ``const volatile`` variables of bpf/common.bpf.h, in their order."""


class _MapCreateOpts(ctypes.Structure):
    """``struct bpf_map_create_opts``, as far as libbpf 1.0 knows it."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("btf_fd", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("map_extra", ctypes.c_uint64),
        ("numa_node", ctypes.c_uint32),
        ("map_ifindex", ctypes.c_uint32),
    )


class _BatchOpts(ctypes.Structure):
    """``struct bpf_map_batch_opts``."""

    _fields_ = (("sz", ctypes.c_size_t), ("elem_flags", ctypes.c_uint64), ("flags", ctypes.c_uint64))


def object_path() -> Path:
    """The prebuilt object for this machine.

    Raises:
        CannotTraceError: There is none for this architecture, or the package was not built.
    """
    path = Path(__file__).parents[2] / f"nativeleak.{arch.here().name}.bpf.o"
    if not path.exists():
        raise CannotTraceError(
            f"no BPF object for {arch.here().name} in this installation: {path.name} is missing",
            "reinstall nativeleak with clang and libbpf-dev present (in a checkout: scripts/setup)",
        )
    return path


class Libbpf:
    """The library, its functions typed, its messages kept for error reports."""

    def __init__(self) -> None:
        failures: list[OSError] = []
        for name in _LIBRARIES:
            try:
                library = ctypes.CDLL(name, use_errno=True)
                break
            except OSError as error:
                failures.append(error)
        else:
            missing = CannotTraceError("libbpf.so.1 was not found on this machine", "apt-get install libbpf1 libelf1")
            raise missing from failures[0]
        for function, (result, arguments) in _FUNCTIONS.items():
            entry = getattr(library, function)
            entry.restype, entry.argtypes = result, arguments
        self.messages: list[str] = []
        self._print = _PRINT_FUNCTION(self._keep_message)
        # libbpf formats with a va_list, which Python cannot read: vsnprintf can.
        self._vsnprintf = ctypes.CDLL(None).vsnprintf
        self._vsnprintf.argtypes = (_P, ctypes.c_size_t, ctypes.c_char_p, _P)
        library.libbpf_set_print(ctypes.cast(self._print, _P))
        self.lib = library

    @property
    def version(self) -> str:
        """As the library says: ``v1.1``."""
        return str(self.lib.libbpf_version_string().decode())

    @property
    def n_cpus(self) -> int:
        """Processors that the machine may have, present or not: as many values has an element of a per-CPU map."""
        return int(self.lib.libbpf_num_possible_cpus())

    def _keep_message(self, level: int, text: bytes, arguments: int) -> int:
        if level >= 2:  # LIBBPF_DEBUG
            return 0
        buffer = ctypes.create_string_buffer(1 << 16)
        self._vsnprintf(buffer, len(buffer), text, arguments)
        self.messages.append(buffer.value.decode(errors="replace").rstrip())
        del self.messages[:-200]
        return 0

    def create_map(self, name: str, kind: int, key_bytes: int, value_bytes: int, n: int, flags: int) -> int:
        """Make a map that no object describes; returns its descriptor.

        Raises:
            OSError: No memory, or no right.
        """
        options = _MapCreateOpts(sz=ctypes.sizeof(_MapCreateOpts), map_flags=flags)
        text = name.encode()[:15]
        return check(self.lib.bpf_map_create(kind, text, key_bytes, value_bytes, n, ctypes.byref(options)), name)

    def create_table_map(self, n: int, words: bytes) -> int:
        """An array of n elements of 4 KiB for use inside of an array of maps, filled; returns its descriptor.

        Raises:
            OSError: No memory, or no right.
        """
        options = _MapCreateOpts(sz=ctypes.sizeof(_MapCreateOpts), map_flags=_BPF_F_INNER_MAP)
        element_bytes = len(words) // n
        fd = check(
            self.lib.bpf_map_create(_BPF_MAP_TYPE_ARRAY, b"nl_table", 4, element_bytes, n, ctypes.byref(options)),
            "unwind table",
        )
        keys = (ctypes.c_uint32 * n)(*range(n))
        count, batch = ctypes.c_uint32(n), _BatchOpts(ctypes.sizeof(_BatchOpts), 0, 0)
        result = self.lib.bpf_map_update_batch(fd, keys, words, ctypes.byref(count), ctypes.byref(batch))
        if result < 0:
            os.close(fd)
            check(result, "unwind table")
        return fd


def check(result: int, what: str) -> int:
    """The result of a function of libbpf.

    Raises:
        OSError: It is an error.
    """
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result


def _check_link(link: int | None, what: str) -> int:
    if not link:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return link


class BpfMap:
    """One map of a loaded object, with keys and values as ctypes structures or integers."""

    def __init__(self, libbpf: Libbpf, name: str, fd: int, key_size: int, value_size: int) -> None:
        self._lib = libbpf.lib
        self.name, self.fd, self.key_size, self.value_size = name, fd, key_size, value_size

    def lookup(self, key: bytes) -> bytes | None:
        """The value at a key, None where there is none."""
        value = ctypes.create_string_buffer(self.value_size)
        result = self._lib.bpf_map_lookup_elem(self.fd, key, value)
        if result == -errno.ENOENT:
            return None
        check(result, f"lookup in {self.name}")
        return value.raw

    def update(self, key: bytes, value: bytes) -> None:
        """Put a value in, new or in the place of an old one.

        Raises:
            OSError: E2BIG when the map is full.
        """
        if len(key) != self.key_size or len(value) % self.value_size:
            raise ValueError(f"{self.name}: key of {len(key)} and value of {len(value)} bytes")
        check(self._lib.bpf_map_update_elem(self.fd, key, value, 0), f"update of {self.name}")

    def delete(self, key: bytes) -> bool:
        """Remove a key; False where it was not there."""
        result = self._lib.bpf_map_delete_elem(self.fd, key)
        if result == -errno.ENOENT:
            return False
        check(result, f"delete from {self.name}")
        return True

    def delete_many(self, keys: Sequence[bytes]) -> None:
        """Remove keys of a hash; those that are not there are passed over.

        Raises:
            OSError: The kernel refuses; EINVAL before Linux 5.6.
        """
        done = 0
        while done < len(keys):
            left = keys[done:]
            n, options = ctypes.c_uint32(len(left)), _BatchOpts(ctypes.sizeof(_BatchOpts), 0, 0)
            result = self._lib.bpf_map_delete_batch(self.fd, b"".join(left), ctypes.byref(n), ctypes.byref(options))
            if result == 0:
                return
            if result != -errno.ENOENT:
                check(result, f"delete from {self.name}")
            done += n.value + 1  # the one after those that were deleted is not there

    def clear(self) -> None:
        """Remove all pairs of a hash that nobody else writes to.

        Raises:
            OSError: The kernel refuses.
        """
        for _ in self.batches(1 << 15, read="bpf_map_lookup_and_delete_batch"):
            pass

    def fill_with_zeros(self) -> None:
        """Set all elements of an array to zero, while nobody else writes to it.

        Raises:
            OSError: The kernel refuses.
        """
        for keys, _, n in self.batches():
            count, options = ctypes.c_uint32(n), _BatchOpts(ctypes.sizeof(_BatchOpts), 0, 0)
            numbers = keys[: n * self.key_size].tobytes()
            zeros = bytes(n * self.value_size)
            result = self._lib.bpf_map_update_batch(self.fd, numbers, zeros, ctypes.byref(count), ctypes.byref(options))
            check(result, f"update of {self.name}")

    def batches(
        self, chunk: int = 4096, *, read: str = "bpf_map_lookup_batch"
    ) -> Iterator[tuple[memoryview, memoryview, int]]:
        """All pairs, in chunks of (keys, values, n), each buffer valid until the next chunk.

        A map that changes meanwhile may give a pair twice or not at all, as the kernel says of batches; a pair that
        stays is given at least once.

        Raises:
            OSError: The kernel refuses; EINVAL before Linux 5.6.
        """
        in_batch, out_batch = ctypes.c_uint64(0), ctypes.c_uint64(0)
        options = _BatchOpts(ctypes.sizeof(_BatchOpts), 0, 0)
        keys = ctypes.create_string_buffer(chunk * self.key_size)
        values = ctypes.create_string_buffer(chunk * self.value_size)
        first = True
        while True:
            n = ctypes.c_uint32(chunk)
            result = getattr(self._lib, read)(
                self.fd,
                None if first else ctypes.byref(in_batch),
                ctypes.byref(out_batch),
                keys,
                values,
                ctypes.byref(n),
                ctypes.byref(options),
            )
            if result == -errno.ENOSPC:  # one bucket holds more than a chunk
                chunk *= _ENOSPC_GROWTH
                keys = ctypes.create_string_buffer(chunk * self.key_size)
                values = ctypes.create_string_buffer(chunk * self.value_size)
                continue
            if result not in (0, -errno.ENOENT):
                check(result, f"reading {self.name}")
            if n.value:
                yield memoryview(keys).cast("B"), memoryview(values).cast("B"), n.value
            if result == -errno.ENOENT:
                return
            in_batch.value, first = out_batch.value, False


class BpfObject:
    """One object file, opened, adjusted, loaded. A context manager: what was loaded goes with it."""

    def __init__(self, libbpf: Libbpf, path: Path, missing: MissingFeature = NOTHING_MISSING) -> None:
        """``missing``: features that the kernel lacks which it is for."""
        self._libbpf, self._lib, self._missing = libbpf, libbpf.lib, missing
        if MissingFeature.ATOMICS in missing:
            content = without_fetching(path.read_bytes())
            self._object = self._lib.bpf_object__open_mem(content, len(content), None)
        else:
            self._object = self._lib.bpf_object__open_file(os.fsencode(path), None)
        if not self._object:
            error = ctypes.get_errno()
            raise OSError(error, f"open of {path.name}: {os.strerror(error)}")
        self._links: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def program_names(self) -> list[str]:
        """Names of all programs in the object."""
        names, program = [], self._lib.bpf_object__next_program(self._object, None)
        while program:
            names.append(self._lib.bpf_program__name(program).decode())
            program = self._lib.bpf_object__next_program(self._object, program)
        return names

    def _program(self, name: str) -> int:
        program = self._lib.bpf_object__find_program_by_name(self._object, name.encode())
        if not program:
            raise LookupError(f"no BPF program {name}")
        return int(program)

    def _map(self, name: str) -> int:
        found = self._lib.bpf_object__find_map_by_name(self._object, name.encode())
        if not found:
            raise LookupError(f"no BPF map {name}")
        return int(found)

    def set_autoload(self, name: str, *, load: bool) -> None:
        """Whether ``load`` takes this program along."""
        check(self._lib.bpf_program__set_autoload(self._program(name), load), name)

    def set_attach_type(self, name: str, attach_type: int) -> None:
        """The kind of link the program will be attached by; 0 for perf events."""
        check(self._lib.bpf_program__set_expected_attach_type(self._program(name), attach_type), name)

    def set_max_entries(self, name: str, n: int) -> None:
        """Size of a map; before ``load``."""
        check(self._lib.bpf_map__set_max_entries(self._map(name), n), name)

    def reuse_map(self, name: str, fd: int) -> None:
        """Take a map that exists in the place of a new one; before ``load``."""
        check(self._lib.bpf_map__reuse_fd(self._map(name), fd), name)

    def set_constants(self, pid_namespace: tuple[int, int], tick_ns: int) -> None:
        """What stands fast once the programs run; before ``load``.

        Args:
            pid_namespace: Device and inode of the one whose PIDs are meant; (0, 0): the machine's own.
            tick_ns: Nanoseconds from one tick of the kernel's clock to the next; 0: not known.
        """
        size = ctypes.c_size_t()
        values = self._lib.bpf_map__initial_value(self._map(".rodata"), ctypes.byref(size))
        if not values or size.value != _CONSTANTS.size:
            raise LookupError(f"constants of {size.value} bytes")
        constants = _CONSTANTS.pack(*pid_namespace, tick_ns, self._missing, self._libbpf.n_cpus)
        ctypes.memmove(values, constants, _CONSTANTS.size)

    def load(self) -> None:
        """Create the maps, verify and load the programs.

        Raises:
            OSError: The kernel refused; ``Libbpf.messages`` says why.
        """
        check(self._lib.bpf_object__load(self._object), "load of the BPF programs")

    def program_fd(self, name: str) -> int:
        """Descriptor of a loaded program."""
        return check(self._lib.bpf_program__fd(self._program(name)), name)

    def map(self, name: str, key_size: int, value_size: int) -> BpfMap:
        """A map of the loaded object."""
        return BpfMap(self._libbpf, name, check(self._lib.bpf_map__fd(self._map(name)), name), key_size, value_size)

    def map_names(self) -> list[str]:
        """Names of all maps."""
        names, at = [], None
        while at := self._lib.bpf_object__next_map(self._object, at):
            names.append(self._lib.bpf_map__name(at).decode())
        return names

    def map_shape(self, name: str) -> MapShape:
        """How the object declares a map; nothing need be loaded."""
        at = self._map(name)
        fields = ("type", "key_size", "value_size", "max_entries", "map_flags")
        return MapShape(*(getattr(self._lib, f"bpf_map__{field}")(at) for field in fields))

    def attach_raw_tracepoint(self, name: str, tracepoint: str) -> None:
        """Attach to a raw tracepoint; it goes with ``detach_all``.

        Raises:
            OSError: ENOENT where the kernel has no such tracepoint.
        """
        link = self._lib.bpf_program__attach_raw_tracepoint(self._program(name), tracepoint.encode())
        self._links.append(_check_link(link, f"tracepoint {tracepoint}"))

    def detach_all(self) -> None:
        """Undo all attaches that were made here."""
        for link in self._links:
            self._lib.bpf_link__destroy(link)
        self._links.clear()

    def close(self) -> None:
        """Detach everything and free the object; maps and programs go with their last user."""
        self.detach_all()
        if self._object:
            self._lib.bpf_object__close(self._object)
            self._object = None
