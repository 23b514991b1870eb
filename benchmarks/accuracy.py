"""Measures precision and recall of the suspects on the labelled corpus (tests/corpus).

    benchmarks/accuracy.py [--half HALF] [--jobs N] [--window PACES] [--keep FOLDER [--again]] [--json FILE]
                           [PROGRAM ...]

PROGRAM is LANGUAGE:SCENARIO, or a language; without one all of a half run: open (the default), held, blind. The held
half is opened for final measurements only; the blind one was measured once, when it was new. Each program is traced
with default options for a window of 12 of its paces: 60 s of a service whose pace is 5 s. --keep leaves recordings,
reports and truth in a folder; with --again the reports are made anew from these recordings, and nothing runs. A suspect
counts as right if its name or its caller is a leaking function; a second row for one leak counts as wrong. Run as root
in a checkout after scripts/setup --tests. See docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from corpus.labels import PROGRAMS, Half, Program
from corpus.programs import CorpusError, build_all, rates, report, started, trace
from corpus.score import score, wilson

RATE_TOLERANCE = 0.1
"""A stated growth counts as right within a tenth of the truth, or where its interval holds the truth."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one program's trace said.

    Attributes:
        rates: Leak -> bytes a second: stated, true.
        wrong, twice: Names of suspects.
        error: Why there is no result; "" else.
    """

    program: str
    half: str
    leaks: int
    found: list[str]
    missed: list[str]
    wrong: list[str]
    twice: list[str]
    rates: dict[str, tuple[float, float, bool]]
    seconds: float
    error: str = ""


def name_of(suspect: Any) -> str:
    """Name, caller and verdict, for people."""
    caller = suspect.get("called_by")
    return f"{suspect['name']}{f' < {caller}' if caller else ''}"


def traced(program: Program, window: float | None, folder: Path) -> dict[str, Any]:
    """Run and trace a program; its recording, its report and the true rates go to a folder."""
    with started(program) as running:
        said = trace(running.process.pid, (window or program.window) * program.pace, folder / f"{program.name}.nlk")
        ended = time.time()
    true = rates(running.truths, ended - said["window"]["duration_s"], ended)
    (folder / f"{program.name}.truth.json").write_text(json.dumps(true))
    return said


def measure(program: Program, window: float | None, folder: Path, again: bool) -> Result:
    """Trace one program, or read its recording again, and compare."""
    began = time.monotonic()
    try:
        said = report(folder / f"{program.name}.nlk") if again else traced(program, window, folder)
    except CorpusError as error:
        missed = [leak[0] for leak in program.leaks]
        return Result(program.name, program.half, len(missed), [], missed, [], [], {}, 0.0, str(error))
    (folder / f"{program.name}.json").write_text(json.dumps(said))
    true = json.loads((folder / f"{program.name}.truth.json").read_text())
    compared = score(said.get("suspects", []), program)
    return Result(
        program.name,
        program.half,
        len(program.leaks),
        sorted(compared.found),
        compared.missed,
        [name_of(suspect) for suspect in compared.wrong],
        [name_of(suspect) for suspect in compared.twice],
        {leak: rate_of(suspect, true.get(leak, 0.0)) for leak, suspect in compared.found.items()},
        time.monotonic() - began,
    )


def rate_of(suspect: Any, true: float) -> tuple[float, float, bool]:
    """Stated rate, true rate, and whether they agree."""
    stated = suspect["growth"]["slope_bytes_per_s"]
    low, high = suspect["growth"]["ci95"] or (0.0, 0.0)
    return stated, true, abs(stated - true) <= RATE_TOLERANCE * abs(true) or low <= true <= high


def chosen(half: str, names: list[str]) -> list[Program]:
    """The programs of a half that are named, or all of it."""
    of_half = [program for program in PROGRAMS if program.half == half]
    if not names:
        return of_half
    found = [program for program in of_half if program.name in names or program.language.lower() in names]
    if not found:
        sys.exit(f"no program {' '.join(names)} in the {half} half; known: {' '.join(p.name for p in of_half)}")
    return found


def share(right: int, n: int) -> str:
    """A proportion with its interval."""
    low, high = wilson(right, n)
    return f"{right} of {n} = {100 * right / max(1, n):.0f} % ({100 * low:.0f} - {100 * high:.0f})"


def summary(results: list[Result]) -> list[str]:
    """The lines that docs/accuracy.md takes."""
    found = sum(len(result.found) for result in results)
    leaks = sum(result.leaks for result in results)
    said = found + sum(len(result.wrong) + len(result.twice) for result in results)
    rates = [right for result in results for _, _, right in result.rates.values()]
    clean = [result for result in results if not result.leaks]
    return [
        f"recall     {share(found, leaks)}",
        f"precision  {share(found, said)}",
        f"bounded    {share(sum(not result.wrong for result in clean), len(clean))} without a suspect",
        f"rate       {share(sum(rates), len(rates))} within a tenth of the truth or with it in the interval",
    ]


def show(result: Result) -> None:
    """One line a program; more where something is wrong."""
    bad = result.missed or result.wrong or result.twice or result.error
    print(f"{'FAULT' if bad else 'ok':<6}{result.program:<32}{result.seconds:>5.0f} s", end="")
    for leak, (stated, true, right) in result.rates.items():
        print(f"  {leak} {stated:,.0f} B/s of {true:,.0f}{'' if right else ' !'}", end="")
    print()
    for word, names in (("missed", result.missed), ("wrong", result.wrong), ("twice", result.twice)):
        for name in names:
            print(f"{'':<6}{word:<8}{name}")
    if result.error:
        print(f"{'':<6}{result.error}")
    sys.stdout.flush()


def main() -> int:
    """Measure what is asked for; status 1 where a program could not be traced."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM")
    parser.add_argument("--half", choices=get_args(Half), default="open", help="which programs")
    parser.add_argument("--jobs", type=int, default=2, help="programs at one time")
    parser.add_argument("--window", type=float, help="in paces, instead of each program's")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep recordings, reports and truth there")
    parser.add_argument("--again", action="store_true", help="report from the recordings of --keep, run nothing")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    programs = chosen(options.half, options.programs)
    if options.again and options.keep is None:
        parser.error("--again needs --keep FOLDER")
    if not options.again:
        build_all(programs)
    results = []
    with tempfile.TemporaryDirectory(prefix="nativeleak-corpus-") as room, ThreadPoolExecutor(options.jobs) as pool:
        folder = options.keep or Path(room)
        folder.mkdir(parents=True, exist_ok=True)
        for result in pool.map(lambda program: measure(program, options.window, folder, options.again), programs):
            results.append(result)
            show(result)
    print("\n".join(summary(results)))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1))
    return 1 if any(result.error for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
