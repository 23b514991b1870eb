"""The walls of the package: sizes of modules and classes, and the rooms that know a language runtime by its name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nativeleak

PACKAGE = Path(nativeleak.__file__).parent
MAX_MODULE_LINES = 450
MAX_CLASS_LINES = 350
MAX_METHODS = 30
REASON = re.compile(r"\bone idea\b", re.IGNORECASE)
"""Words in the docstring of a class that says why it is larger."""

MODULES = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def test_no_module_is_longer_than_it_may_be():
    long = {name: n for name, text in MODULES.items() if (n := text.count("\n")) > MAX_MODULE_LINES}
    assert long == {}


def test_no_class_is_larger_than_it_may_be_without_its_reason():
    large = {}
    for name, text in MODULES.items():
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.ClassDef):
                continue
            n_lines = (node.end_lineno or 0) - node.lineno + 1
            n_methods = sum(isinstance(child, ast.FunctionDef) for child in node.body)
            is_large = n_lines > MAX_CLASS_LINES or n_methods > MAX_METHODS
            if is_large and not REASON.search(ast.get_docstring(node) or ""):
                large[f"{name}: {node.name}"] = (n_lines, n_methods)
    assert large == {}
