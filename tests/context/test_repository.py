"""A folder of source code becomes documents, and what is left out is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from planloom import MemoryStore
from planloom.errors import ConfigError


def written(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return written(
        tmp_path / "repository",
        {
            "README.md": "# Engines\nRead `engine.py` first.",
            "src/engine.py": "def run_plan(): ...",
            "src/__init__.py": "",
            "src/notes.txt": "no ending that is asked for",
            "docs/Guide.MD": "\ufeffHow to run a plan.",
        },
    )


def test_each_file_becomes_a_document_called_by_its_path(repository: Path) -> None:
    with MemoryStore() as store:
        indexed = store.index_repository(repository)

        assert indexed.added == ("README.md", "docs/Guide.MD", "src/__init__.py", "src/engine.py")
        assert indexed.skipped == {}
        assert store.ids() == list(indexed.added)
        document = store.documents()[1]
        assert (document.content, document.metadata) == ("How to run a plan.", {"path": "docs/Guide.MD"})
        assert [one.id for one, _ in store.search("run plan engine", 1)] == ["src/engine.py"]


def test_a_repository_is_read_again_for_what_has_changed(repository: Path) -> None:
    with MemoryStore() as store:
        store.index_repository(repository)
        store.update("README.md", metadata={"path": "README.md", "read": True})
        written(repository, {"README.md": "# Motors", "new.py": "import engine"})

        indexed = store.index_repository(repository)

        assert indexed.added == ("new.py",)
        assert indexed.replaced == ("README.md",)
        assert indexed.unchanged == ("docs/Guide.MD", "src/__init__.py", "src/engine.py")
        replaced = store.documents()[0]
        assert (replaced.content, replaced.metadata) == ("# Motors", {"path": "README.md", "read": True})
        assert store.search("read first") == []


def test_what_is_hidden_foreign_large_or_no_text_is_left_out_and_told(repository: Path, tmp_path: Path) -> None:
    outside = written(tmp_path / "outside", {"secret.md": "a secret", "deep/other.md": "a secret"})
    written(
        repository,
        {
            ".git/notes.md": "hidden",
            ".secret.md": "hidden",
            "node_modules/left/README.md": "of others",
            "env/pyvenv.cfg": "home = /usr",
            "env/lib.py": "of others",
            "large.py": "x" * 101,
            "binary.py": b"a\0b",
            "latin.py": "# caf\xe9".encode("latin-1"),
        },
    )
    (repository / "link.md").symlink_to(outside / "secret.md")
    (repository / "linked").symlink_to(outside)
    (repository / "again").symlink_to(repository)
    os.mkfifo(repository / "pipe.py")

    with MemoryStore() as store:
        indexed = store.index_repository(repository, max_bytes=100)

        assert indexed.skipped == {
            ".git/": "hidden",
            ".secret.md": "hidden",
            "again/": "a link",
            "binary.py": "binary",
            "env/": "made by a tool",
            "large.py": "101 bytes, more than 100",
            "latin.py": "not UTF-8",
            "link.md": "a link",
            "linked/": "a link",
            "node_modules/": "made by a tool",
            "pipe.py": "no regular file",
        }
        assert store.search("secret hidden others") == []
        assert len(store) == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="whoever may read everything is told nothing")
def test_what_may_not_be_read_is_told(repository: Path) -> None:
    (repository / "src").chmod(0)
    (repository / "README.md").chmod(0)

    try:
        with MemoryStore() as store:
            indexed = store.index_repository(repository)
    finally:
        (repository / "src").chmod(0o755)

    assert indexed.skipped == {
        "README.md": "cannot be read: Permission denied",
        "src/": "cannot be read: Permission denied",
    }


def test_a_name_that_is_no_text_is_told(repository: Path) -> None:
    (Path(os.fsdecode(bytes(repository) + b"/caf\xe9.md"))).write_text("text")

    with MemoryStore() as store:
        indexed = store.index_repository(repository)

    assert indexed.skipped == {"caf\\udce9.md": "its name is not UTF-8"}


@pytest.mark.parametrize("suffixes", [".txt", ["txt"], (".TXT",)])
def test_endings_are_read_as_they_are_written(repository: Path, suffixes: str | list[str]) -> None:
    with MemoryStore() as store:
        assert store.index_repository(repository, suffixes).added == ("src/notes.txt",)


def test_two_repositories_in_one_store_are_told_apart_by_a_prefix(repository: Path, tmp_path: Path) -> None:
    other = written(tmp_path / "other", {"README.md": "Another one."})

    with MemoryStore() as store:
        store.index_repository(repository, ".md", prefix="one/")
        store.index_repository(other, ".md", prefix="two/")

        assert store.ids() == ["one/README.md", "one/docs/Guide.MD", "two/README.md"]


def test_more_files_than_are_read_at_once_are_all_read(tmp_path: Path) -> None:
    written(tmp_path, {f"{number:03}.py": f"number = {number}" for number in range(130)})
    asked: list[int] = []

    def embed(texts: list[str]) -> list[list[float]]:
        asked.append(len(texts))
        return [[1.0] for _ in texts]

    with MemoryStore(embed=embed) as store:
        assert len(store.index_repository(tmp_path).added) == len(store) == 130

    assert asked == [64, 64, 2]


@pytest.mark.parametrize(
    ("folder", "suffixes", "problem"),
    [("nowhere", ".py", "no folder"), ("README.md", ".py", "no folder"), ("", "", "no ending")],
)
def test_a_folder_that_is_none_is_told(repository: Path, folder: str, suffixes: str, problem: str) -> None:
    with MemoryStore() as store, pytest.raises(ConfigError, match=problem if problem == "no folder" else "ending"):
        store.index_repository(repository / folder, suffixes)
