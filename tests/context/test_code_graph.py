"""Which Python files import which: as Python would find them, and whatever else a file may hold."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import grimp
import pytest

from planloom.context.code_graph import imports_of
from planloom.context.document import Document
from planloom.context.graph import DependencyGraph


def edges(files: dict[str, str]) -> dict[str, set[str]]:
    """Return by importing file what it imports; nothing may be skipped."""
    found = imports_of([Document(path, text) for path, text in files.items()])
    made: dict[str, set[str]] = {}
    for edge in found.edges:
        assert edge.relationship_type == "imports"
        made.setdefault(edge.src, set()).add(edge.dst)
    assert found.skipped == ()
    return made


@pytest.mark.slow
def test_the_graph_of_this_project_is_the_one_that_import_linter_sees(root: Path) -> None:
    graph = DependencyGraph.build_from_repository(root / "src", [".py"])
    theirs = grimp.build_graph("planloom", cache_dir=None)

    def module(path: str) -> str:
        return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")

    mine = {(module(edge.src), module(edge.dst)) for edge in graph.edges if edge.relationship_type == "imports"}

    assert graph.skipped == ()
    assert {module(node) for node in graph.nodes} == theirs.modules
    assert mine == {(one, other) for one in theirs.modules for other in theirs.find_modules_directly_imported_by(one)}
    assert ("planloom.core.machine", "planloom.core.fold") in mine


def test_a_repository_with_src_tests_and_scripts_hangs_together() -> None:
    found = edges(
        {
            "src/pkg/__init__.py": "from pkg.core import run",
            "src/pkg/core.py": "",
            "tests/core/test_core.py": "import pkg\nfrom pkg.core import run\nfrom tests.core.helping import x",
            "tests/core/helping.py": "",
            "scripts/tool.py": "import other, pkg.core",
            "scripts/other.py": "",
        }
    )

    assert found == {
        "src/pkg/__init__.py": {"src/pkg/core.py"},
        "tests/core/test_core.py": {"src/pkg/__init__.py", "src/pkg/core.py", "tests/core/helping.py"},
        "scripts/tool.py": {"scripts/other.py", "src/pkg/core.py"},
    }


@pytest.mark.parametrize(
    ("statement", "imported"),
    [
        ("import p.q.m", {"p/q/m.py"}),
        ("import p.q.m as m", {"p/q/m.py"}),
        ("import p.q.gone", {"p/q/__init__.py"}),
        ("from p import q", {"p/q/__init__.py"}),
        ("from p.q import m", {"p/q/m.py"}),
        ("from p.q.m import name", {"p/q/m.py"}),
        ("from p.q import m, name", {"p/q/m.py", "p/q/__init__.py"}),
        ("from p.q import *", {"p/q/__init__.py"}),
        ("from . import q", {"p/q/__init__.py"}),
        ("from .q import m as n", {"p/q/m.py"}),
        ("from .q.m import name", {"p/q/m.py"}),
        ("from . import name", {"p/__init__.py"}),
        ("from .. import beside", {"beside.py"}),
        ("from ... import beside", set()),
        ("from .......x import beside", set()),
        ("from .gone import x", set()),
        ("import beside", {"beside.py"}),
        ("import p.here", set()),
        ("import json, nowhere.at.all", set()),
        ("from __future__ import annotations", set()),
        ("def later():\n  class C:\n    import beside", {"beside.py"}),
        (
            "try:\n  import gone\nexcept ImportError:\n  import beside\nelse:\n  import p\nfinally:\n  import p.q",
            {"beside.py", "p/__init__.py", "p/q/__init__.py"},
        ),
        ("match 1:\n  case 1:\n    import beside", {"beside.py"}),
        ("async def f():\n  async with a:\n    for b in c:\n      import beside", {"beside.py"}),
        ("while a:\n  pass\nelse:\n  import beside", {"beside.py"}),
        ("'import beside'\n# import beside\nimport_beside = 1", set()),
        ("__import__('beside')", set()),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_import_leads_where_python_would_find_it(statement: str, imported: set[str]) -> None:
    files = {"p/__init__.py": "", "p/q/__init__.py": "", "p/q/m.py": "", "beside.py": "", "p/here.py": statement}

    assert edges(files).get("p/here.py", set()) == imported


def test_a_package_goes_before_a_module_of_its_name_and_text_before_a_stub() -> None:
    files = {"a.py": "import b, c", "b/__init__.py": "", "b.py": "", "c.pyi": "", "c.py": ""}

    assert edges(files) == {"a.py": {"b/__init__.py", "c.py"}}


def test_a_file_in_a_package_does_not_import_its_neighbour_by_its_bare_name() -> None:
    assert edges({"p/__init__.py": "", "p/a.py": "import b", "p/b.py": ""}) == {}


def test_what_pythons_own_library_has_is_not_looked_for_elsewhere() -> None:
    files = {"tools/a.py": "import json", "json.py": "", "beside/b.py": "import json", "beside/json.py": ""}

    assert edges(files) == {"beside/b.py": {"beside/json.py"}}


def test_a_name_that_two_projects_have_means_the_nearer_or_none() -> None:
    files = {
        "one/src/p/__init__.py": "",
        "two/src/p/__init__.py": "",
        "two/tests/test_p.py": "import p",
        "three/src/q/__init__.py": "",
        "docs/example.py": "import p, q",
    }

    assert edges(files) == {
        "two/tests/test_p.py": {"two/src/p/__init__.py"},
        "docs/example.py": {"three/src/q/__init__.py"},
    }


def test_repositories_in_one_store_are_told_apart_by_their_ids() -> None:
    found = imports_of(
        [
            Document("one/a.py", "import b", {"path": "a.py"}),
            Document("one/b.py", "", {"path": "b.py"}),
            Document("two/b.py", "", {"path": "b.py"}),
        ]
    )

    assert [(edge.src, edge.dst) for edge in found.edges] == [("one/a.py", "one/b.py")]
    assert found.skipped == ()


def test_an_id_need_be_no_path() -> None:
    found = imports_of(
        [Document("first", "import b", {"path": "in\\a.py"}), Document("second", "", {"path": "./in/b.py"})]
    )

    assert [(edge.src, edge.dst) for edge in found.edges] == [("first", "second")]


def test_what_only_type_checkers_import_is_marked_unless_it_is_imported_otherwise_too() -> None:
    text = """
if TYPE_CHECKING:
    import b, c
else:
    import d
if typing.TYPE_CHECKING:
    if x:
        import e
import c
"""
    found = imports_of([Document("a.py", text), *(Document(f"{name}.py", "") for name in "bcde")])

    assert {edge.dst: edge.metadata for edge in found.edges} == {
        "b.py": {"for_types": True},
        "c.py": {},
        "d.py": {},
        "e.py": {"for_types": True},
    }


HOSTILE = {
    "attributes": "a" + ".b" * 100_000,
    "calls": "a" + "()" * 100_000,
    "sums": "1" + "+1" * 100_000,
    "signs": "-" * 100_000 + "1",
    "brackets": "(" * 100_000,
    "elif": "if a: pass\n" + "elif b: pass\n" * 20_000,
    "lambdas": "lambda:" * 100_000 + "1",
    "indents": "".join(" " * depth + "if 1:\n" for depth in range(500)),
    "dots": f"import {'.'.join('a' * 100_000)}",
    "dots on many lines": "import a" + " .\\\n a" * 100_000,
    "zero": "import b\0",
    "half a statement": "import",
    "another language": "SELECT * FROM b",
    "other python": "print 'import b'",
    "long": "import b\n" + "#" * 2_000_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_file_that_cannot_be_read_is_skipped_and_told_and_others_still_import_it(text: str) -> None:
    found = imports_of([Document("a.py", text), Document("b.py", "import a")])

    assert [(edge.src, edge.dst) for edge in found.edges] == [("b.py", "a.py")]
    assert [skipped.document for skipped in found.skipped] == ["a.py"]
    assert 10 < len(found.skipped[0].why) < 120


def test_an_error_is_told_with_its_line() -> None:
    found = imports_of([Document("a.py", "import b\nimport\n")])

    assert found.skipped[0].why == "is no Python: invalid syntax at line 2"


def test_names_of_any_length_and_in_any_number_are_read_in_time() -> None:
    text = (
        f"import {'.'.join('a' * 1_000)}\n{'a' * 100_000}\n"
        + "import b, c.d\n" * 5_000
        + f"from {'.' * 9_000} import b"
    )

    began = time.process_time()
    found = imports_of([Document("x/y/a.py", text), Document("x/y/b.py", "")])

    assert [edge.dst for edge in found.edges] == ["x/y/b.py"]
    assert time.process_time() - began < 2


def test_reading_a_file_neither_runs_it_nor_warns_of_it(tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = imports_of(
            [Document("a.py", f"open({str(mark)!r}, 'w')\n'\\d'\n1 is 1\nimport b"), Document("b.py", "")]
        )

    assert len(found.edges) == 1
    assert told == []
    assert not mark.exists()


def test_a_path_that_two_documents_claim_is_the_first_ones() -> None:
    found = imports_of(
        [
            Document("x", "", {"path": "b.py"}),
            Document("y", "import a", {"path": "b.py"}),
            Document("a.py", "import b"),
        ]
    )

    assert [(edge.src, edge.dst) for edge in found.edges] == [("a.py", "x")]
    assert [(one.document, one.why) for one in found.skipped] == [("y", "stands where 'x' stands")]


def test_a_path_that_nobody_can_have_is_told() -> None:
    found = imports_of([Document(f"{'a/' * 100_000}b.py", "import b"), Document("b.py", "")])

    assert found.edges == ()
    assert [one.why for one in found.skipped] == ["has a path of over 1,024 characters"]


def test_files_of_other_kinds_are_left_alone() -> None:
    assert edges({"a.md": "import b", "b.py": "", "Makefile": "import b"}) == {}
