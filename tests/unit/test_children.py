"""Children are started by one helper, and get nothing of the caller that steers what they run."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nativeleak
from nativeleak import children

PACKAGE = Path(nativeleak.__file__).parent
STARTERS = {
    "subprocess": {"run", "Popen", "call", "check_call", "check_output", "getoutput", "getstatusoutput"},
    "os": {"system", "popen", "posix_spawn", "posix_spawnp", "execv", "execve", "execvp", "execvpe", "spawnv"},
}
REPORT = "import json,os,sys;print(json.dumps([sys.path, os.getcwd(), dict(os.environ)]))"


def _started(tree: ast.AST) -> list[str]:
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [
        f"{func.value.id}.{func.attr}"
        for func in calls
        if isinstance(func, ast.Attribute)
        and isinstance(func.value, ast.Name)
        and func.attr in STARTERS.get(func.value.id, ())
    ]


def test_package_only_children_start_processes():
    starting = {
        str(path.relative_to(PACKAGE)): calls
        for path in sorted(PACKAGE.rglob("*.py"))
        if (calls := _started(ast.parse(path.read_text())))
    }
    assert starting == {"children.py": ["subprocess.Popen", "subprocess.run"]}


def test_python_child_in_a_foreign_folder_has_neither_it_nor_the_callers_variables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("PYTHONPATH", "PYTHONSTARTUP", "LD_LIBRARY_PATH", "LD_PRELOAD_X", "GLIBC_TUNABLES", "BASH_ENV"):
        monkeypatch.setenv(name, str(tmp_path))
    done = children.run(children.python_code(REPORT), stdout=subprocess.PIPE)
    path, folder, environment = json.loads(done.stdout)
    assert folder == "/"
    assert str(tmp_path) not in path
    assert "" not in path
    assert str(tmp_path) not in environment.values()
    assert environment["PATH"] == ":".join(children.SYSTEM_FOLDERS)


def test_environment_keeps_terminal_and_language(monkeypatch):
    for name in ("TERM", "COLUMNS", "LC_TIME", "NO_COLOR"):
        monkeypatch.setenv(name, "given")
    kept = children.environment(LC_ALL="C")
    assert {name: kept.get(name) for name in ("TERM", "COLUMNS", "LC_TIME", "NO_COLOR", "LC_ALL")} == {
        "TERM": "given", "COLUMNS": "given", "LC_TIME": "given", "NO_COLOR": "given", "LC_ALL": "C",
    }  # fmt: skip


@pytest.mark.parametrize("folders", [None, ()])
def test_python_module_runs_the_code_of_this_package(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nativeleak").mkdir()
    (tmp_path / "nativeleak" / "__init__.py").write_text("raise SystemExit(77)")
    command = children.python_module("nativeleak.errors", folders=folders)
    assert children.run(command).returncode == 0


def test_python_module_has_its_arguments_and_name():
    command = children.python_module("nativeleak", "--version")
    done = children.run(command, stdout=subprocess.PIPE, text=True)
    assert done.stdout == f"nativeleak, version {nativeleak.__version__}\n"


def test_find_program_passes_over_relative_folders_and_those_of_others(tmp_path, monkeypatch):
    for folder, mode in (("open", 0o777), ("ours", 0o755)):
        place = tmp_path / folder
        place.mkdir()
        place.chmod(mode)
        for name in ("true", "planted"):
            (place / name).write_text("#!/bin/sh\n")
            (place / name).chmod(0o755)
    monkeypatch.chdir(tmp_path / "ours")
    monkeypatch.setenv("PATH", f".::{tmp_path / 'open'}:ours:/usr/bin")
    assert children.find_program("planted") is None
    assert children.find_program("true") == "/usr/bin/true"
    monkeypatch.setenv("PATH", f"{tmp_path / 'ours'}:/usr/bin")
    assert children.find_program("planted") == str(tmp_path / "ours" / "planted")
    (tmp_path / "ours" / "planted").chmod(0o757)
    assert children.find_program("planted") is None


def test_find_program_without_path_searches_the_systems_folders(monkeypatch):
    monkeypatch.delenv("PATH")
    assert children.find_program("sh") in ("/usr/bin/sh", "/bin/sh")


def test_start_of_a_relative_program_is_refused():
    with pytest.raises(ValueError, match="not an absolute path: sh"):
        children.start(["sh", "-c", "true"])


def test_python_is_the_interpreter_of_this_environment():
    assert children.python_code("")[0] == os.path.abspath(sys.executable)  # noqa: PTH100 - links stay as they are
