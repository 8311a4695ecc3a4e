"""Which Python files import which, read out of their text: `imports_of`.

Rule 1: nothing is ever imported or run; only `ast` looks at it, and only documents count, never what is installed here.
Rule 2: a file that cannot be read is skipped and told of; it still can be imported by others.
Rule 3: no guessing: a name that could mean two files means none.
"""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from posixpath import dirname
from posixpath import join as join_path
from typing import TYPE_CHECKING

from planloom.context.graph_parts import Found, GraphEdge, Skipped
from planloom.context.paths import path_of

if TYPE_CHECKING:
    from planloom.context.document import Document

SUFFIXES = (".py", ".pyi")
MAX_CHARACTERS = 2_000_000
"""A longer file is skipped: nobody writes one by hand, and its tree would take a gigabyte."""
MAX_PATH = 1_024
"""Characters of a path: nobody has a longer one, and every folder above it is looked into."""
MAX_DOTS = 1_000
"""Python itself reads `import a.b.c` in time that grows with the square of its dots: 100,000 take a minute."""
_DOTTED = re.compile(r"\b(?:\w++[\s\\]*+\.[\s\\]*+)++")
WITHIN = ("", "src", "lib")
"""Where in a folder above the importing file a module is looked for."""


@dataclass(frozen=True, slots=True)
class _Import:
    """One name that a file imports.

    Attributes:
        level: Dots before the module.
        module: What stands after `from`, or after `import`; "" for `from . import x`.
        name: What is imported from it; None for `import a.b`.
        for_types: Below `if TYPE_CHECKING`, so never when the file runs.
    """

    level: int
    module: str
    name: str | None
    for_types: bool


def imports_of(documents: Iterable[Document]) -> Found:
    """Return an edge "imports" from each Python document to those it imports.

    `from a import b` leads to the file of module `a.b` if there is one, else to that of `a`; `import a.b` likewise. An
    import that only type checkers follow has `{"for_types": True}` in its metadata.

    Args:
        documents: Those whose path (metadata "path", or the id) ends with .py or .pyi; others are left alone.
    """
    skipped: list[Skipped] = []
    by_path: dict[str, Document] = {}
    for document in documents:
        path = path_of(document)
        if path.endswith(SUFFIXES) and len(path) > MAX_PATH:
            skipped.append(Skipped(document.id, f"has a path of over {MAX_PATH:,} characters"))
        elif path.endswith(SUFFIXES) and by_path.setdefault(path, document) is not document:
            skipped.append(Skipped(document.id, f"stands where {by_path[path].id!r:.80} stands"))
    files = _Files({path: document.id for path, document in by_path.items()})
    edges: dict[tuple[str, str], GraphEdge] = {}
    for path, document in by_path.items():
        too_much = _too_much(document.content)
        if too_much:
            skipped.append(Skipped(document.id, too_much))
            continue
        try:
            imports = _read(document.content)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            skipped.append(Skipped(document.id, _why(error)))
            continue
        for one in imports:
            target = files.target(path, one)
            key = (document.id, target or "")
            if target is None or target == document.id or (key in edges and one.for_types):
                continue
            edges[key] = GraphEdge(*key, "imports", metadata={"for_types": True} if one.for_types else {})
    return Found(tuple(edges.values()), tuple(skipped))


def _too_much(text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        return f"has over {MAX_CHARACTERS:,} characters"
    for match in _DOTTED.finditer(text):
        if match.end() - match.start() > 2 * MAX_DOTS and match[0].count(".") > MAX_DOTS:
            return f"has a name with over {MAX_DOTS:,} dots"
    return ""


def _why(error: Exception) -> str:
    match error:
        case SyntaxError():
            return f"is no Python: {error.msg} at line {error.lineno}"
        case RecursionError() | MemoryError():
            return "is nested too deep to be read"
        case _:
            return f"is no Python: {error}"


def _read(text: str) -> list[_Import]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # e.g. "\d" in a text that is no raw one: the file's own affair
        tree = ast.parse(text)
    return [one for statement, for_types in _statements(tree) for one in _imports_in(statement, for_types)]


def _statements(tree: ast.Module) -> Iterator[tuple[ast.stmt, bool]]:
    """Yield every statement at any depth, and whether only type checkers come there."""
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, for_types = waiting.pop()
        if isinstance(node, ast.stmt):
            yield node, for_types
        within = for_types or (isinstance(node, ast.If) and _is_type_checking(node.test))
        waiting += [(one, within) for one in getattr(node, "body", ()) if isinstance(one, ast.AST)]
        for name in ("handlers", "cases", "orelse", "finalbody"):
            waiting += [(one, for_types) for one in getattr(node, name, ()) if isinstance(one, ast.AST)]


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else ""
    return name == "TYPE_CHECKING"


def _imports_in(statement: ast.stmt, for_types: bool) -> Iterator[_Import]:
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            yield _Import(0, alias.name, None, for_types)
    elif isinstance(statement, ast.ImportFrom):
        for alias in statement.names:
            yield _Import(statement.level, statement.module or "", alias.name, for_types)


class _Files:
    """The Python files there are, and which of them a name means."""

    def __init__(self, ids: Mapping[str, str]) -> None:
        self._ids = ids
        self._packages = {dirname(path) for path in ids if path.rpartition("/")[2].startswith("__init__.")}
        self._folders = {""}
        for path in ids:
            folder = dirname(path)
            while folder not in self._folders:
                self._folders.add(folder)
                folder = dirname(folder)
        # In which folders a package of a name stands: several, where a repository holds several projects.
        self._homes: dict[str, set[str]] = {}
        for package in self._packages:
            root = self._root(join_path(package, "__init__.py"))
            self._homes.setdefault(package.removeprefix(root).strip("/").partition("/")[0], set()).add(root)

    def target(self, importer: str, one: _Import) -> str | None:
        """Return the id of the document that an import of a file leads to, or None."""
        steps = one.module.split(".") if one.module else []
        if one.level:
            folders = dirname(importer).split("/") if dirname(importer) else []
            if one.level - 1 > len(folders):
                return None
            return self._under("/".join(folders[: len(folders) - one.level + 1]), steps, one.name)
        folder = self._root(importer)
        found = self._under(folder, steps, one.name)
        if found is not None or steps[0] in sys.stdlib_module_names:
            return found
        for above in (folder, *_folders_above(folder)):
            for within in WITHIN:
                if (found := self._under(join_path(above, within), steps, one.name)) is not None:
                    return found
        homes = [*self._homes.get(steps[0], ())]
        return self._under(homes[0], steps, one.name) if len(homes) == 1 else None

    def _root(self, path: str) -> str:
        """Return the folder that holds the outermost package a file is in; for one in no package, its own."""
        folder = dirname(path)
        while folder and folder in self._packages:
            folder = dirname(folder)
        return folder

    def _under(self, root: str, steps: list[str], name: str | None) -> str | None:
        folder, deepest = root, None
        for step in steps:
            if folder not in self._folders:
                return None if name else deepest
            folder = join_path(folder, step)
            deepest = self._module(folder) or deepest
        return (self._module(join_path(folder, name)) or self._module(folder)) if name else deepest

    def _module(self, stem: str) -> str | None:
        for suffix in SUFFIXES:
            for path in (join_path(stem, f"__init__{suffix}"), f"{stem}{suffix}"):
                if path in self._ids:
                    return self._ids[path]
        return None


def _folders_above(folder: str) -> Iterator[str]:
    while folder:
        folder = dirname(folder)
        yield folder
