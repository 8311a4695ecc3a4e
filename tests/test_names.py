"""One concept, one name: no public class is defined twice, and what `planloom` offers can be had and is written up."""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

import planloom
from planloom.errors import PlanloomError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def classes(source: Path) -> Iterator[tuple[str, ast.ClassDef]]:
    for path in sorted(source.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield str(path.relative_to(source)), node


def test_no_public_class_is_defined_twice(root: Path) -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for path, node in classes(root / "src"):
        homes[node.name].append(path)

    doubled = {name: paths for name, paths in homes.items() if len(paths) > 1}

    assert doubled == {}


def test_errors_have_one_home(root: Path) -> None:
    known = {name for name, value in vars(__import__("planloom.errors").errors).items() if is_error(value)}

    elsewhere = [
        f"{path}: {node.name}"
        for path, node in classes(root / "src")
        if path != "planloom/errors.py" and any(isinstance(base, ast.Name) and base.id in known for base in node.bases)
    ]

    assert elsewhere == []


def is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, PlanloomError)


def test_the_public_names_are_sorted_and_are_there() -> None:
    names = [name for name in planloom.__all__ if not name.startswith("_")]

    assert names == sorted(names)
    assert [name for name in names if not hasattr(planloom, name)] == []


def test_the_types_of_the_public_names_are_those_of_the_same_names(root: Path) -> None:
    stub = ast.parse((root / "src/planloom/__init__.pyi").read_text(encoding="utf-8"))
    typed = {
        alias.asname: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }

    loaded = {name: planloom._HOME_OF[name] for name in planloom.__all__ if not name.startswith("_")}

    assert typed == loaded


@pytest.mark.parametrize("name", [name for name in planloom.__all__ if not name.startswith("_")])
def test_a_public_name_says_what_it_is(name: str) -> None:
    value = getattr(planloom, name)

    if callable(value):
        assert (inspect.getdoc(value) or "").strip(), f"planloom.{name} has no docstring"
