"""Objects with known CFI, assembled from .cfi directives; ``objects`` has those that need no assembler."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support import require_program


@pytest.fixture(scope="session")
def assemble(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Assembles text into a shared library at a fixed layout: its ``.text`` begins with the first instruction."""

    def run(text: str, *flags: str) -> Path:
        require_program("gcc")
        folder = tmp_path_factory.mktemp("object")
        source, library = folder / "code.s", folder / "libcode.so"
        source.write_text(text + '\n.section .note.GNU-stack,"",@progbits\n')
        command = ["gcc", "-shared", "-nostdlib", "-Wl,--build-id=sha1", *flags, "-o", str(library), str(source)]
        subprocess.run(command, check=True, capture_output=True)
        return library

    return run
