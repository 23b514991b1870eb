"""Measures the HTML report of recordings with very many sites: time to make it, its size, and time until it is drawn.

    benchmarks/html_page.py [native=10000] [large=50000] [java=10000] [snapshots=60]

Makes the page of ``native`` and of ``large`` call sites of native code, and of ``java`` sites with stacks of a JVM,
each in a process of its own, and opens it in a headless Chromium: from the navigation to the moment when the curve, the
flame graph and the first call sites are drawn. Needs Chromium, no root.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from report import java_stack, native_stack, run_report, write

from support.browser import Browser

DEFAULTS = {"native": 10_000, "large": 50_000, "java": 10_000, "snapshots": 60}
TARGETS = {"native": "3 s, 5 MB, 1 s", "large": "10 s, 20 MB, 3 s", "java": "-"}
N_OPENED = 3


def main() -> None:
    """Write, make, open."""
    wanted = DEFAULTS | {name: int(value) for name, _, value in (each.partition("=") for each in sys.argv[1:])}
    with tempfile.TemporaryDirectory(prefix="nativeleak-html-") as folder, Browser() as browser:
        for name, target in TARGETS.items():
            recording, page = Path(folder) / f"{name}.nlk", Path(folder) / f"{name}.html"
            write(recording, wanted[name], wanted["snapshots"], java_stack if name == "java" else native_stack)
            figures, _ = run_report(recording, "--format", "html", "-o", str(page))
            opened = [browser.open(page) for _ in range(N_OPENED)]
            if browser.complaints or browser.run("document.documentElement.dataset.ready") != "yes":
                raise SystemExit(f"html_page.py: the page complains: {browser.complaints}")
            print(
                f"{name}, {wanted[name]:,} sites: made in {figures}; {page.stat().st_size / 1e6:.1f} MB; drawn after "
                f"{', '.join(f'{each:.2f}' for each in opened)} s (aims: {target})"
            )


if __name__ == "__main__":
    main()
