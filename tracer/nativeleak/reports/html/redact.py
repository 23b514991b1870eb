"""Hides in a page what its reader shall not see: paths, arguments, addresses and names of hosts, names by pattern.

A name that is hidden by a pattern gets a number in the order of appearance, so that equal names stay equal.

Caveat: what looks like none of these stays. Names of functions, threads and libraries stay unless a pattern names them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

_PATH: Final = re.compile(r"(?<![\w.\]])~?(?:/[^\s/:;,'\"()<>|]+)+/?")
_ADDRESS: Final = re.compile(
    r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])"
    r"|(?<![\w:])(?=[0-9a-f:]*\d)(?:[0-9a-f]{1,4}:){1,7}(?::[0-9a-f]{1,4}|[0-9a-f]{1,4})(?::[0-9a-f]{1,4}){2,6}(?![\w:])",
    re.IGNORECASE,
)
_HOST: Final = re.compile(
    r"(?<![\w.-])[\w.+-]+@[\w.-]+|(?<![\w.$-])(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+"
    r"(?:com|net|org|edu|gov|int|info|biz|io|dev|app|cloud|local|localdomain|internal|intranet|lan|corp|home|svc|arpa"
    r"|de|uk|fr|nl|eu|us|ca|ch|at|be|it|es|pl|se|no|fi|dk|ru|ua|jp|cn|kr|in|au|nz|br)(?::\d+)?(?![\w.(-])",
    re.IGNORECASE,
)
HIDDEN_PATH: Final = "[path]"
HIDDEN_HOST: Final = "[host]"
HIDDEN_ARGUMENTS: Final = "[arguments]"


class Redactor:
    """Hides what it is asked to hide; without being asked it changes nothing.

    Attributes:
        is_on: Whether paths, arguments, addresses and hosts are hidden.
    """

    def __init__(self, *, is_on: bool = False, patterns: Sequence[str] = ()) -> None:
        self.is_on = is_on
        self._patterns = _compiled(patterns)
        self._numbers: dict[str, int] = {}
        self._learned: dict[str, str] = {}
        self._of_learned: re.Pattern[str] | None = None

    @property
    def n_names(self) -> int:
        """Names that patterns have hidden so far."""
        return len(self._numbers)

    def learn(self, function: str, names: Iterable[str]) -> None:
        """Hide what a function is called in short, where its full name matches a pattern.

        Args:
            function: The full name, with its package or namespace.
            names: The short forms that the page may show, and its source file; empty ones do not count.
        """
        if self._patterns is None or not self._patterns.search(function):
            return
        hidden = f"hidden-{self._numbers.setdefault(function, len(self._numbers) + 1)}"
        for name in filter(None, (function, *names)):
            self._learned.setdefault(name, hidden)
        self._of_learned = None

    def learn_title(self, title: str) -> None:
        """Hide the arguments in the title of a process, wherever the title stands."""
        first, space, rest = title.partition(" ")
        if self.is_on and space and rest:
            self._learned.setdefault(title, f"{first} {HIDDEN_ARGUMENTS}")
            self._of_learned = None

    def text(self, text: str) -> str:
        """A sentence, or a name of anything but a function."""
        if self._learned:
            if self._of_learned is None:
                longest_first = sorted(self._learned, key=len, reverse=True)
                names = "|".join(map(re.escape, longest_first))
                self._of_learned = re.compile(rf"(?<![\w$])(?:{names})(?![\w$])")
            text = self._of_learned.sub(lambda match: self._learned[match[0]], text)
        if self.is_on:
            text = _HOST.sub(HIDDEN_HOST, _ADDRESS.sub(HIDDEN_HOST, _PATH.sub(HIDDEN_PATH, text)))
        return self._patterns.sub(self._hidden, text) if self._patterns is not None else text

    def name(self, text: str) -> str:
        """The name of a function, a module or a source file, as the page shows it."""
        if text in self._learned:
            return self._learned[text]
        if self.is_on and "/" in text:
            text = _PATH.sub(HIDDEN_PATH, text)
        return self._patterns.sub(self._hidden, text) if self._patterns is not None else text

    def _hidden(self, match: re.Match[str]) -> str:
        return f"hidden-{self._numbers.setdefault(match[0], len(self._numbers) + 1)}"


def _compiled(patterns: Sequence[str]) -> re.Pattern[str] | None:
    """One expression for all patterns; ``*`` and ``?`` match within a name.

    ``com.example.*`` hides ``com.example.Orders.remember`` whole; ``billing`` hides the word alone.
    """
    if not patterns:
        return None
    longest_first = sorted(patterns, key=len, reverse=True)
    parts = [re.escape(each).replace(r"\*", r"[\w.$<>:/~-]*").replace(r"\?", r"[\w.$]") for each in longest_first]
    return re.compile(rf"(?<![A-Za-z0-9_])(?:{'|'.join(parts)})(?![A-Za-z0-9_])")
