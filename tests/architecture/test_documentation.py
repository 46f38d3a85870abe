"""What the documents name exists: files, headings, functions, tests; and no kernel is left out."""

from __future__ import annotations

import ast
import functools
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MATHEMATICS = ROOT / "docs" / "mathematics.md"
GENERATED = {"build", "dist", "runs"}  # and whatever begins with a dot

FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[((?:`[^`]*`|[^\]`])*)\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
NAME = re.compile(r"`([A-Za-z_][\w.]*)(\[.*\])?`")  # a function, Class.method, or test[parameter]
DOTTED_NAME = re.compile(r"`((?:ddp|launch)(?:\.\w+)+)`")
NODE_ID = re.compile(r"\btests/[\w/]+\.py::\w+(?:\[[^\]]*\])?")


@dataclass(frozen=True)
class Link:
    """A link within the repository."""

    text: str
    file: Path
    fragment: str


def documents() -> list[Path]:
    found = []
    for folder, subfolders, files in os.walk(ROOT):
        subfolders[:] = [name for name in subfolders if not name.startswith(".") and name not in GENERATED]
        found += [Path(folder, name) for name in files if name.endswith(".md")]
    return sorted(found)


def text_of(document: Path) -> str:
    """The document without its fenced blocks, which hold programs and output."""
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def links(document: Path) -> Iterator[Link]:
    for text, target in LINK.findall(text_of(document)):
        path, _, fragment = target.partition("#")
        if "://" not in target and not target.startswith("mailto:"):
            yield Link(text, (document.parent / path).resolve() if path else document, fragment)


def anchors(document: Path) -> set[str]:
    """The fragments by which GitHub makes a document's headings reachable."""
    titles = [re.sub(r"[^\w\- ]", "", title.lower()) for title in HEADING.findall(text_of(document))]
    return {title.replace(" ", "-") for title in titles}


@functools.cache
def definitions(file: Path) -> set[str]:
    """Functions and classes of a Python file, and the methods as Class.method."""
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
    return names


def named_code(document: Path) -> Iterator[tuple[str, str, Path]]:
    """(name, parameter, file) of each function, class or test that a link to a Python file shows."""
    for link in links(document):
        if link.file.suffix == ".py" and (match := NAME.fullmatch(link.text)) and match[1] != link.file.name:
            yield match[1], match[2] or "", link.file


def public_functions(file: Path) -> set[str]:
    return {name for name in definitions(file) if "." not in name and not name.startswith("_")}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


every_document = pytest.mark.parametrize("document", documents(), ids=relative)


@every_document
def test_links_lead_somewhere(document: Path) -> None:
    missing = [link for link in links(document) if not link.file.exists()]
    assert missing == []
    headless = [link for link in links(document) if link.fragment and link.file.suffix == ".md"]
    assert [link for link in headless if link.fragment not in anchors(link.file)] == []


@every_document
def test_linked_names_are_defined_in_the_linked_file(document: Path) -> None:
    assert [(name, file) for name, _, file in named_code(document) if name not in definitions(file)] == []


@every_document
def test_dotted_names_can_be_resolved(document: Path) -> None:
    unresolved = []
    for name in DOTTED_NAME.findall(text_of(document)):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            unresolved.append(name)
    assert unresolved == []


def test_pytest_finds_every_test_that_is_named() -> None:
    """With its parameter, which only pytest knows."""
    named = {match for document in documents() for match in NODE_ID.findall(text_of(document))}
    for document in documents():
        for name, parameter, file in named_code(document):
            if name.startswith("test_"):
                named.add(f"{relative(file)}::{name}{parameter}")
    assert len(named) > 20
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    command = [*collect, *sorted(named)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_equation_of_the_kernels_is_in_the_mathematics() -> None:
    kernels = ROOT / "ddp" / "kernels"
    shown = {(name, file) for name, _, file in named_code(MATHEMATICS)}
    no_equations = {
        "__init__.py",
        "dot.py",
        "jit.py",
        "memory.py",
        "peak.py",
        "shard_tile.py",
        "tile.py",
        "types.py",
        "vector.py",
    }
    no_equations.add("winograd_patches.py")  # parts of what is shown
    files = [file for file in kernels.glob("*.py") if file.name not in no_equations]
    assert len(files) > 8
    missing = [(name, file) for file in files for name in public_functions(file) if (name, file) not in shown]
    assert missing == []


def test_decisions_are_numbered_in_order() -> None:
    files = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [file.name[:5] for file in files] == [f"{number:04d}-" for number in range(1, len(files) + 1)]
    for file in files:
        sections = HEADING.findall(text_of(file))
        assert sections[0].startswith(f"{int(file.name[:4])}. ")
        assert sections[1:] == ["Context", "Decision", "Consequences"]
