"""Empty BPF programs on the instructions where nativeleak puts its probes: no tracer by uprobes can cost less."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from hatch_build import compile_object

from nativeleak.engines.bpf.kernel import bpf
from nativeleak.engines.bpf.kernel.loaders.libbpf import BpfObject, Libbpf
from nativeleak.probes.families import PLAIN_NAMES, choose_points
from nativeleak.probes.placement import place
from nativeleak.process import procfs
from nativeleak.process.mapped import executable_objects
from nativeleak.symbols.functions import find_function_offsets

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = {"on_call": bpf.ATTACH_UPROBE_SESSION, "on_declined_call": bpf.ATTACH_UPROBE_SESSION}


@contextlib.contextmanager
def attached(pid: int, functions: tuple[str, ...] = ("malloc", "free"), *, declined: bool = False) -> Iterator[None]:
    """Empty probes on entry and return of malloc and on the entry of free, in the target's C library.

    Args:
        declined: The entry program declines the return, as for a call that is not sampled.
    """
    with tempfile.TemporaryDirectory() as room, contextlib.ExitStack() as stack:
        path = Path(room) / "empty.bpf.o"
        compile_object(ROOT / "benchmarks" / "empty.bpf.c", path, "x86")
        libbpf = Libbpf()
        session = stack.enter_context(BpfObject(libbpf, path))
        for name, attach_type in PROGRAMS.items():
            session.set_attach_type(name, attach_type)
        session.load()
        plain = stack.enter_context(BpfObject(libbpf, path))
        for name in PROGRAMS:
            plain.set_attach_type(name, bpf.ATTACH_UPROBE_MULTI)
        plain.load()
        for mapped in executable_objects(pid, procfs.read_maps(pid)):
            if not mapped.file_path or not mapped.name.startswith("libc.so"):
                continue
            points = choose_points(find_function_offsets(mapped.file_path, PLAIN_NAMES))
            for probe in place(mapped.file_path, points, moved_arguments=True):
                if probe.point.function not in functions:
                    continue
                is_free = probe.point.function == "free"
                program = "on_declined_call" if declined and not is_free else "on_call"
                fd = bpf.link_uprobes(
                    (plain if is_free else session).program_fd(program),
                    bpf.ATTACH_UPROBE_MULTI if is_free else bpf.ATTACH_UPROBE_SESSION,
                    mapped.file_path,
                    [probe.offset],
                    [0],
                    pid,
                )
                stack.callback(os.close, fd)
        yield
