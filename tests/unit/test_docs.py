"""The documentation holds together: links, anchors, options, files and tests that it names exist."""

from __future__ import annotations

import ast
import errno
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import click
import pytest

from nativeleak.cli.main import cli

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
LINKED = (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", ROOT / "vagrant/README.md")
MAX_README_LINES = 130
MAX_COLUMNS = 160

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE_SPAN = re.compile(r"`([^`\n]+)`")
_OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]+)")
_TEST_NAME = re.compile(r"(?:tests/)?((?:[a-z]+/)*test_[a-z0-9_]+)(?:\.py)?")
_REPOSITORY_PATH = re.compile(r"(?:tests|bpf|benchmarks|scripts|docs|vagrant)/[\w./-]+|\.ci/run")


def all_options() -> frozenset[str]:
    """Every option of every command."""
    context = click.Context(cli)
    options = {"--help"}
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        options.update(option for each in command.params for option in (*each.opts, *each.secondary_opts))
    return frozenset(options | {option for parameter in cli.params for option in parameter.opts})


def prose(path: Path) -> str:
    """The text without blocks of code; links and code spans stay."""
    return re.sub(r"^( *)```.*?^\1```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)


@functools.cache
def anchors(path: Path) -> frozenset[str]:
    """What ``#...`` may name in a page: its headings, as GitHub spells them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(path), flags=re.MULTILINE):
        text = _LINK.sub(lambda link: link[0].partition("[")[2].partition("]")[0], heading)
        found.add(re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-"))
    return frozenset(found)


def local_links(path: Path) -> Iterator[tuple[Path, str]]:
    """(file, anchor) of each link of a page that stays in the repository."""
    for link in _LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        yield (path.parent / name).resolve() if name else path, anchor


def commands(path: Path) -> Iterator[str]:
    """Each place of a page that calls nativeleak: a line of a code block, or a code span."""
    text = path.read_text().replace("\\\n", " ")
    for part in (*text.splitlines(), *_CODE_SPAN.findall(text)):
        called = re.search(
            r"(?:^|[\s/`])nativeleak +(trace|report|triage|watch|oom|maps|peek|top|doctor|demo)\b(.*)", part
        )
        if called:
            yield called[0].partition("|")[0]


def messages() -> str:
    """Every string of the package, and the system's errors, one a line, with ``…`` in place of each value."""
    found = [os.strerror(number) for number in errno.errorcode]
    for path in (ROOT / "tracer/nativeleak").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_local_links_and_anchors_exist(page):
    broken = []
    for target, anchor in local_links(page):
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{target.name}#{anchor}")
    assert broken == []


def test_every_page_is_in_the_readmes_index():
    linked = {target for target, _ in local_links(README)}
    assert [page.name for page in PAGES[1:] if page not in linked] == []


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_of_nativeleak_exist(page):
    known = all_options()
    named = {option for command in commands(page) for option in _OPTION.findall(command)}
    assert sorted(named - known) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_spans_that_are_options_belong_to_a_command(page):
    """An option in a sentence is nativeleak's own unless a page says otherwise here."""
    others = {
        "containers.md": {"--privileged", "--security-opt"},
        "engines.md": {"--cap-add"},
        "kernels.md": {"--cpus", "--set"},
        "performance.md": {"--rounds", "--plot", "--only"},
    }.get(page.name, set())
    spans = [span for span in _CODE_SPAN.findall(prose(page)) if span.startswith("--")]
    named = {option for span in spans for option in _OPTION.findall(span)}
    assert sorted(named - all_options() - others) == []


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_tests_that_are_named_exist(page):
    tests = {str(path.relative_to(ROOT / "tests").with_suffix("")) for path in (ROOT / "tests").rglob("test_*.py")}
    missing = []
    for span in _CODE_SPAN.findall(prose(page)):
        for word in span.split():
            name = _TEST_NAME.fullmatch(word.partition("::")[0])
            if name:
                is_there = any(test == name[1] or test.endswith(f"/{name[1]}") for test in tests)
            elif _REPOSITORY_PATH.fullmatch(word) and not set(word) & set("*N"):
                is_there = (ROOT / word).exists()
            else:
                continue
            if not is_there:
                missing.append(word)
    assert missing == []


def test_messages_of_troubleshooting_are_printed_by_the_package():
    printed = messages()
    rows = re.findall(r"^\| (.+?) \|", (ROOT / "docs/troubleshooting.md").read_text(), flags=re.MULTILINE)
    quoted = [span for row in rows if row.startswith("`") for span in _CODE_SPAN.findall(row)]
    assert len(quoted) > 10
    # What failed and why are strings of their own.
    parts = {part.strip() for message in quoted for part in re.split(r"…|: ", message)}
    assert sorted(part for part in parts if part not in printed) == []


def test_table_of_packages_is_that_of_the_tree():
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("| package |")[2].partition("\n\n")[0]
    listed = {name for row in section.splitlines()[2:] for name in re.findall(r"`([a-z]+)/`", row.split("|")[1])}
    assert listed == {path.parent.name for path in (ROOT / "tracer/nativeleak").glob("*/__init__.py")}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_are_short(page):
    assert [line for line in page.read_text().splitlines() if len(line) > MAX_COLUMNS] == []


def test_readme_is_short_and_names_the_two_commands_of_a_checkout_first():
    text = README.read_text()
    assert len(text.splitlines()) <= MAX_README_LINES
    quick_start = text.partition("## Quick start")[2].partition("\n## ")[0]
    called = [line.split()[0] for line in quick_start.splitlines() if line.startswith("    ")]
    assert called[:2] == ["scripts/demo", "scripts/test"]


def test_pictures_are_whole_and_load_nothing():
    pictures = list((ROOT / "docs").glob("*.svg"))
    assert pictures
    for path in pictures:
        root = ET.parse(path).getroot()  # noqa: S314 - a file of ours
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert re.findall(r"(?:href=|url\()['\"]?(?!#)", path.read_text()) == []
        assert re.findall(r"https?://(?!www\.w3\.org/)", path.read_text()) == []
