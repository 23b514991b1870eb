"""Where the running kernel's headers are, for BCC: a tree beside its modules or sources, or the archive in the kernel.

Scope: which to take; nothing is unpacked or compiled here. Headers of another kernel are none: its build says in
``utsrelease.h`` which it is for. Where there are none the stubs of ``bcc_compiler.py`` do.

Source: Makefile (``modules_install``) and Debian's ``linux-headers`` for the places; kernel/gen_kheaders.sh.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ARCHIVE: Final = "sys/kernel/kheaders.tar.xz"
_RELEASE_FILES: Final = (
    "include/generated/utsrelease.h",
    "include/generated/uapi/linux/utsrelease.h",
    "include/linux/utsrelease.h",
)
_RELEASE: Final = re.compile(r'^#define\s+UTS_RELEASE\s+"([^"\n]{1,256})"', re.MULTILINE)
_MAX_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Headers:
    """Headers to compile with.

    Attributes:
        tree: What is to be compiled against; empty for stubs. An archive where its name ends in ``.tar.xz``.
        generated: Where the files are that a build generates, if not in ``tree``; empty otherwise.
        said: Which these are, and for stubs why, as the end of a sentence.
    """

    tree: str
    generated: str
    said: str

    @property
    def is_real(self) -> bool:
        """Whether they are the kernel's own."""
        return bool(self.tree)


def stubs(why: str) -> Headers:
    """No headers of the kernel."""
    return Headers("", "", f"stubs of kernel headers: {why}")


def find_headers(release: str = "", root: Path = Path("/")) -> Headers:
    """The headers of a kernel, or stubs where there are none that match.

    Args:
        release: As ``uname -r`` prints it; empty for the running kernel's.
        root: The folder that paths are looked for in.
    """
    release = release or platform.release()
    modules = root / "lib/modules" / release
    others = []
    for build in (modules / "build", root / "usr/src" / f"linux-headers-{release}"):
        if not (build / "include").is_dir():
            continue
        is_for = read_release(build)
        if is_for != release:
            others.append(f"those in {build} are for {is_for or 'no kernel that they name'}")
            continue
        # Debian keeps what is generated apart from what is not.
        source = build if (build / "include/linux/kconfig.h").exists() else _source_of(build, modules, release)
        if source is None:
            others.append(f"those in {build} are not whole")
            continue
        return Headers(str(source), "" if source == build else str(build), f"the kernel's own headers in {build}")
    archive = root / ARCHIVE
    if archive.is_file():
        return Headers(str(archive), "", f"the kernel's own headers in {archive}")
    return stubs(", and ".join(others) or f"none of {release} are here")


def read_release(build: Path) -> str:
    """Which kernel a tree is for, empty where it does not say."""
    for name in _RELEASE_FILES:
        try:
            with (build / name).open(encoding="utf-8", errors="replace") as file:
                match = _RELEASE.search(file.read(_MAX_BYTES))
        except OSError:
            continue
        if match:
            return match[1]
    return ""


def _source_of(build: Path, modules: Path, release: str) -> Path | None:
    words = release.split("-")
    common = ["-".join(words[:n]) for n in range(len(words), 0, -1)]
    places = [modules / "source", build / "source"]
    places += [build.parent / f"linux-headers-{version}-common" for version in common]
    return next((path for path in places if (path / "include/linux/kconfig.h").exists()), None)
