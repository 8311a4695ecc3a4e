"""The texts in a folder of source code or notes, as they may be put into a store.

Rule 1: nothing outside the folder is read: links are not followed, neither to files nor to folders.
Rule 2: nothing is read that was not meant to be: what is hidden, what tools put there, what is no regular file.
Rule 3: what is left out although its name would fit is told, with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

from planloom.errors import ValidationError

MADE_BY_TOOLS = frozenset(("__pycache__", "node_modules", "site-packages"))
"""Folders that hold copies of what others wrote, or what is made from what stands beside them."""
_VIRTUAL_ENVIRONMENT = "pyvenv.cfg"
_NO_WAITING = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""Opening a pipe would wait for somebody who writes into it."""


@dataclass(frozen=True, slots=True)
class Indexed:
    """What came of reading a folder into a store.

    Attributes:
        added, replaced, unchanged: Ids of documents: new, with another text than before, with the same.
        skipped: Why a file or folder was left out, by its path; a folder's ends in "/".
    """

    added: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file that was read, or why it was not.

    Attributes:
        path: Within the folder, with "/" between its parts.
        text: What it says; None where `problem` tells why it is left out.
    """

    path: str
    text: str | None
    problem: str = ""


def text_files(folder: str | os.PathLike[str], suffixes: Sequence[str] | str, max_bytes: int) -> Iterator[TextFile]:
    """Yield the files of these endings, folder by folder, in the order of their names.

    Args:
        suffixes: Endings such as ".py", in small or capital letters.
        max_bytes: Larger files are left out.

    Raises:
        ValidationError: There is no such folder, or no ending.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValidationError(f"there is no folder {str(root)!r}", remedy="name the folder of a repository")
    wanted = (suffixes,) if isinstance(suffixes, str) else tuple(suffixes)
    if not wanted or not all(wanted):
        raise ValidationError("no file has the ending ''", remedy="give endings, e.g. suffixes=('.py', '.md')")
    endings = tuple(f".{suffix.removeprefix('.')}".lower() for suffix in wanted)
    return _walked(root, endings, max_bytes)


def _walked(root: Path, endings: tuple[str, ...], max_bytes: int) -> Iterator[TextFile]:
    broken: list[OSError] = []
    for where, folders, names in os.walk(root, onerror=broken.append):
        here = Path(where)
        yield from _unreadable(broken, root)
        folders.sort()
        for name in tuple(folders):
            problem = _against_folder(here / name)
            if problem:
                folders.remove(name)
                yield TextFile(f"{_path(here / name, root)}/", None, problem)
        for name in sorted(names):
            if name.lower().endswith(endings):
                text, problem = _read(here / name, max_bytes)
                yield TextFile(_path(here / name, root), text, problem)
    yield from _unreadable(broken, root)


def _unreadable(broken: list[OSError], root: Path) -> Iterator[TextFile]:
    while broken:
        error = broken.pop(0)
        yield TextFile(f"{_path(Path(error.filename), root)}/", None, f"cannot be read: {error.strerror}")


def _against_folder(folder: Path) -> str:
    if folder.is_symlink():
        return "a link"
    if folder.name.startswith("."):
        return "hidden"
    is_made = folder.name in MADE_BY_TOOLS or os.path.lexists(folder / _VIRTUAL_ENVIRONMENT)
    return "made by a tool" if is_made else ""


def _read(path: Path, max_bytes: int) -> tuple[str | None, str]:
    """Return the text of a file and "", or None and why it is left out."""
    if path.name.startswith("."):
        return None, "hidden"
    if path.is_symlink():
        return None, "a link"
    try:
        str(path).encode()
        descriptor = os.open(path, _NO_WAITING)
    except UnicodeEncodeError:
        return None, "its name is not UTF-8"
    except OSError as error:
        return None, f"cannot be read: {error.strerror}"
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not S_ISREG(found.st_mode):
            return None, "no regular file"
        if found.st_size > max_bytes:
            return None, f"{found.st_size} bytes, more than {max_bytes}"
        try:
            read = file.read(max_bytes + 1)  # it may be growing
        except OSError as error:
            return None, f"cannot be read: {error.strerror}"
    if len(read) > max_bytes:
        return None, f"more than {max_bytes} bytes"
    if b"\0" in read:
        return None, "binary"
    try:
        return read.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        return None, "not UTF-8"


def _path(path: Path, root: Path) -> str:
    told = path.relative_to(root).as_posix()
    return told.encode("utf-8", "backslashreplace").decode()
