"""BCC as a compiler: our BPF sources to instructions. A program of its own, since it takes over 100 MB.

Scope: no more than libbcc's ``bpf_module_create_c_from_string`` by ctypes, and the tree of kernel headers that it wants
to see: the kernel's own, or stubs. Debian has it in libbpfcc, which python3-bpfcc brings; its Python module is not
needed, so that a virtual environment is no obstacle. Prints JSON: name of a program -> its instructions in hexadecimal
digits.
"""

from __future__ import annotations

import ctypes
import json
import lzma
import os
import platform
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from nativeleak import arch
from nativeleak.arch import Machine
from nativeleak.engines.bpf.kernel.btf import read_offsets
from nativeleak.engines.bpf.kernel.loaders import BCC_LIBRARY
from nativeleak.engines.bpf.kernel.loaders.headers import read_release

_P: Final = ctypes.c_void_p
# name -> (result type, argument types). Source: bcc 0.26, src/cc/bcc_common.h.
_FUNCTIONS: Final = {
    "bpf_module_create_c_from_string": (
        _P,
        (ctypes.c_char_p, ctypes.c_uint, ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, ctypes.c_bool, ctypes.c_char_p),
    ),
    "bpf_num_functions": (ctypes.c_size_t, (_P,)),
    "bpf_function_name": (ctypes.c_char_p, (_P, ctypes.c_size_t)),
    "bpf_function_start_id": (_P, (_P, ctypes.c_size_t)),
    "bpf_function_size_id": (ctypes.c_size_t, (_P, ctypes.c_size_t)),
}
_FIELDS: Final = (
    ("task_struct", "pid"),
    ("task_struct", "tgid"),
    ("task_struct", "mm"),
    ("task_struct", "exit_code"),
    ("task_struct", "signal"),
    ("task_struct", "stack"),
    ("mm_struct", "brk"),
    ("signal_struct", "group_exit_code"),
)

_INTEGERS: Final = "\n".join(
    f"typedef {kind} __{sign}{bits};\ntypedef __{sign}{bits} {sign}{bits};"
    for bits, name in ((8, "char"), (16, "short"), (32, "int"), (64, "long long"))
    for sign, kind in (("s", f"signed {name}"), ("u", f"unsigned {name}"))
)
_BYTE_ORDERS: Final = "\n".join(
    f"typedef __u{bits} __{order}{bits};" for bits in (16, 32, 64) for order in ("be", "le")
)
_TYPES_H: Final = f"""#pragma once
{_INTEGERS}
{_BYTE_ORDERS}
typedef __u16 __sum16;
typedef __u32 __wsum;
typedef unsigned long size_t, uintptr_t;
typedef long ssize_t;
typedef int pid_t;
typedef _Bool bool;
enum {{ false, true }};
#define NULL ((void *)0)
#define __bitwise
#define __aligned_u64 __u64 __attribute__((aligned(8)))
"""
_STUBS: Final = {
    "include/linux/kconfig.h": "#define CONFIG_BPF_SYSCALL 1\n",
    "include/linux/types.h": _TYPES_H,
    "include/linux/log2.h": "#define roundup_pow_of_two(n) (1UL << (64 - __builtin_clzl((unsigned long)(n) - 1)))\n",
    "include/linux/version.h": "#define LINUX_VERSION_CODE 0\n#define KERNEL_VERSION(a, b, c) 0\n",
    "include/linux/bpf_common.h": "",
    "include/linux/compiler.h": "",
    "include/asm/page.h": "",
    "include/uapi/linux/bpf.h": "",
    "include/uapi/linux/bpf_common.h": "",
    "include/uapi/linux/if_ether.h": "",
    "include/uapi/linux/if_packet.h": "",
    "include/uapi/linux/ptrace.h": "",
    "include/uapi/linux/types.h": "#include <linux/types.h>\n",
}
"""What BCC's own headers include of a kernel's; all that our sources need besides they bring along."""


def write_stubs(folder: Path, machine: Machine) -> None:
    """Write a tree that BCC takes for the kernel's headers."""
    for name, text in _STUBS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "arch" / machine.kernel_name / "include").mkdir(parents=True)


def offset_flags() -> list[str]:
    """What the sources have to be told of the kernel's structures; that nothing is known, where that is so."""
    try:
        offsets = read_offsets(_FIELDS)
    except (OSError, ValueError):
        return ["-DNL_BLIND"]
    return [f"-DNL_AT_{name}_{field}={offset}" for (name, field), offset in offsets.items()]


def compile_programs(source: Path, flags: list[str]) -> dict[str, bytes]:
    """Instructions of each program in a source.

    Raises:
        OSError: There is no BCC.
        RuntimeError: It refuses the source; its reasons are on stderr.
    """
    library = ctypes.CDLL(BCC_LIBRARY)
    for function, (result, arguments) in _FUNCTIONS.items():
        entry = getattr(library, function)
        entry.restype, entry.argtypes = result, arguments
    array = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
    module = library.bpf_module_create_c_from_string(source.read_bytes(), 0, array, len(flags), False, None)
    if not module:
        raise RuntimeError(f"BCC does not compile {source}")
    programs = {}
    for i in range(library.bpf_num_functions(module)):
        name = library.bpf_function_name(module, i).decode()
        start, size = library.bpf_function_start_id(module, i), library.bpf_function_size_id(module, i)
        programs[name] = ctypes.string_at(start, size)
    return programs


def use_headers(room: Path, tree: str, generated: str, machine: Machine) -> list[str]:
    """Have BCC see headers; flags of the compiler that belong to them.

    Args:
        room: An empty folder, for what has to be written.
        tree: As ``headers.Headers``.
        generated: The same.
        machine: The machine that they are for.

    Raises:
        RuntimeError: They are for another kernel.
        OSError: They cannot be read.
    """
    if tree.endswith(".tar.xz"):
        with tarfile.open(tree) as archive:
            archive.extractall(room, filter="data")
        is_for = read_release(room)
        if is_for not in ("", platform.release()):
            raise RuntimeError(f"error: {tree} is for {is_for}")
        tree = str(room)
    elif not tree:
        write_stubs(room, machine)
        tree = str(room)
    os.environ["BCC_KERNEL_SOURCE"] = tree
    folders = (
        f"arch/{machine.kernel_name}/include/generated/uapi",
        f"arch/{machine.kernel_name}/include/generated",
        "include",
    )
    return [f"-I{generated}/{folder}" for folder in (*folders, "include/generated/uapi")] if generated else []


def main() -> int:
    """Arguments: the source, the headers' tree and what is generated (see ``use_headers``), then flags."""
    source, tree, generated, flags = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]
    machine = arch.here()
    with tempfile.TemporaryDirectory(prefix="nativeleak-bcc-") as room:
        try:
            flags += use_headers(Path(room), tree, generated, machine)
            flags += [f"-I{source.parent}", f"-D__TARGET_ARCH_{machine.kernel_name}", *offset_flags()]
            programs = compile_programs(source, flags)
        except (OSError, RuntimeError, tarfile.TarError, lzma.LZMAError) as error:
            print(error, file=sys.stderr)  # noqa: T201 - a program of its own
            return 1
    json.dump({name: code.hex() for name, code in programs.items()}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
