"""`files.*`: files below one folder, and nothing else.

Rule 1: a path is walked one name at a time from an open folder, and no link is followed: what is checked is what is
    opened, whatever another process does meanwhile. `..`, absolute paths and links are refused, even inside.
Rule 2: `write` is all or nothing: a new file takes the place of the old one. Writing twice leaves the same.
Rule 3: reads, writes and listings are capped; only plain files are opened, so no pipe or device can hold a run up.
"""

from __future__ import annotations

import base64
import binascii
import errno
import fnmatch
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planloom.errors import ArgumentsError, ConfigError, NotAllowedError
from planloom.tools.tool import Tool

MAX_FILE_BYTES = 10_000_000
MAX_ENTRIES = 10_000
"""Entries of a listing, and files that a pattern finds."""
MAX_SEEN = 100_000
"""Entries that a pattern looks at."""
MAX_NAMES = 50
"""Names in a path."""

_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FILE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_LINKS = frozenset({errno.ELOOP, errno.EMLINK})


@dataclass(frozen=True, slots=True)
class Files:
    """The folder that file tools work in.

    Attributes:
        root: The folder; a link here is the operator's own and is followed.
    """

    root: Path

    def read(self, path: str, encoding: str = "utf-8") -> str:
        """Read a file.

        Args:
            path: Path below the folder, with / between names.
            encoding: Of the text, or "base64" for the bytes as base64.
        """
        with self._parent(path) as (folder, name):
            content = _read(folder, name, path)
        if encoding == "base64":
            return base64.b64encode(content).decode()
        try:
            return content.decode(_encoding(encoding))
        except UnicodeDecodeError as error:
            raise ArgumentsError(f"{path!r} is not {encoding} text", remedy='read it with encoding="base64"') from error

    def write(self, path: str, content: str, encoding: str = "utf-8") -> dict[str, Any]:
        """Write a file, in place of one that is there; folders on the way are made.

        Args:
            path: Path below the folder, with / between names.
            content: The text.
            encoding: Of the file, or "base64" when the content is base64 of its bytes.
        """
        written = _bytes(content, encoding)
        with self._parent(path, make=True) as (folder, name):
            _replace(folder, name, written, path)
        return {"path": path, "size_bytes": len(written)}

    def append(self, path: str, content: str) -> dict[str, Any]:
        """Add text to the end of a file, which is made if it is not there.

        Args:
            path: Path below the folder, with / between names.
            content: The text, written as UTF-8.
        """
        added = _bytes(content, "utf-8")
        with (
            self._parent(path, make=True) as (folder, name),
            _opened(folder, name, path, os.O_APPEND | os.O_CREAT | os.O_WRONLY) as file,
        ):
            size = os.fstat(file).st_size + len(added)
            if size > MAX_FILE_BYTES:
                raise ArgumentsError(
                    f"{path!r} would have more than {MAX_FILE_BYTES:,} bytes", remedy="start another file"
                )
            _write(file, added)
        return {"path": path, "size_bytes": size}

    def exists(self, path: str) -> bool:
        """Say whether there is a file or folder at a path.

        Args:
            path: Path below the folder, with / between names.
        """
        try:
            with self._parent(path) as (folder, name):
                return stat.S_IFMT(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode) in {
                    stat.S_IFREG,
                    stat.S_IFDIR,
                }
        except (FileNotFoundError, NotADirectoryError):
            return False

    def entries(self, path: str = ".") -> list[dict[str, Any]]:
        """List a folder: name, kind ("file" or "folder") and size_bytes of each entry, by name; links are left out.

        Args:
            path: Path of a folder below the root; "." is the root itself.
        """
        with self._folder(_names(path, may_be_root=True), path) as folder:
            return [
                {"name": name, "kind": kind, "size_bytes": size}
                for name, kind, size in _entries(folder, MAX_ENTRIES, path)
            ]

    def glob(self, pattern: str) -> list[str]:
        """Find files by a pattern such as "reports/**/*.csv"; ** stands for any folders. Links are left out.

        Args:
            pattern: Pattern of the whole path below the root.
        """
        names = _names(pattern)
        found = [path for path in self._walk() if _matches(tuple(path.split("/")), tuple(names))]
        if len(found) > MAX_ENTRIES:
            raise ArgumentsError(f"{pattern!r} finds more than {MAX_ENTRIES:,} files", remedy="give a narrower pattern")
        return sorted(found)

    def _walk(self) -> Iterator[str]:
        waiting: list[list[str]] = [[]]
        seen = 0
        while waiting:
            names = waiting.pop()
            with self._folder(names, "/".join(names)) as folder:
                entries = _entries(folder, MAX_SEEN - seen, "/".join(names))
            seen += len(entries) + 1
            for name, kind, _ in entries:
                if kind == "file":
                    yield "/".join([*names, name])
                elif len(names) < MAX_NAMES:
                    waiting.append([*names, name])

    @contextmanager
    def _parent(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Open the folder a path's last name is in."""
        *folders, name = _names(path)
        with self._folder(folders, path, make=make) as folder, _denied_links(path):
            yield folder, name

    @contextmanager
    def _folder(self, names: list[str], path: str, *, make: bool = False) -> Iterator[int]:
        here = os.open(self.root, _FOLDER & ~getattr(os, "O_NOFOLLOW", 0))
        try:
            with _denied_links(path):
                for name in names:
                    if make:
                        _make_folder(name, here)
                    inner = _open_folder(name, here)
                    os.close(here)
                    here = inner
            yield here
        finally:
            os.close(here)


def _make_folder(name: str, parent: int) -> None:
    try:
        os.mkdir(name, 0o777, dir_fd=parent)
    except FileExistsError:
        return  # what it is shows when it is opened


def _open_folder(name: str, parent: int) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=parent)
    except NotADirectoryError:  # Linux says this of a link to a folder too
        if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, "a link") from None
        raise


@contextmanager
def _denied_links(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _LINKS:
            raise NotAllowedError(f"{path!r} leads through a link", remedy="use the path it leads to") from error
        error.filename = path  # not the last name alone
        raise


def _names(path: str, *, may_be_root: bool = False) -> list[str]:
    """Return the names of a path, refusing everything that leads out of the folder."""
    if path.startswith("/") or "\\" in path or "\0" in path or ":" in path.partition("/")[0]:
        raise NotAllowedError(f"{path[:200]!r} is not a path below the folder", remedy="give names with / between them")
    names = [name for name in path.split("/") if name not in {"", "."}]
    if ".." in names:
        raise NotAllowedError(f"{path[:200]!r} leads out of the folder", remedy="leave `..` out")
    if len(names) > MAX_NAMES or any(len(name.encode(errors="replace")) > 255 for name in names):
        raise ArgumentsError(f"{path[:200]!r} is too long", remedy=f"use at most {MAX_NAMES} names of 255 bytes")
    if not names and not may_be_root:
        raise ArgumentsError(f"{path[:200]!r} names no file", remedy="give names with / between them")
    return names


@contextmanager
def _opened(folder: int, name: str, path: str, flags: int) -> Iterator[int]:
    """Open a plain file; refuse what is none."""
    file = os.open(name, flags | _FILE, 0o666, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise ArgumentsError(f"{path!r} is not a plain file", remedy="give the path of a file")
        yield file
    finally:
        os.close(file)


def _read(folder: int, name: str, path: str) -> bytes:
    with _opened(folder, name, path, os.O_RDONLY) as file:
        parts: list[bytes] = []
        left = MAX_FILE_BYTES + 1
        while left and (part := os.read(file, min(left, 1_000_000))):
            parts.append(part)
            left -= len(part)
        if not left:
            raise ArgumentsError(f"{path!r} has more than {MAX_FILE_BYTES:,} bytes", remedy="read a smaller file")
    return b"".join(parts)


def _replace(folder: int, name: str, content: bytes, path: str) -> None:
    """Write a file beside the other and move it over that: a reader sees the old one or the new one, whole."""
    if _is_folder(folder, name):
        raise ArgumentsError(f"{path!r} is a folder", remedy="give the path of a file")
    temporary = f".{secrets.token_hex(8)}.tmp"
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, 0o666, dir_fd=folder)
    try:
        try:
            _write(file, content)
        finally:
            os.close(file)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(temporary, dir_fd=folder)
        raise
    os.fsync(folder)


def _is_folder(folder: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _write(file: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]
    os.fsync(file)


def _bytes(content: str, encoding: str) -> bytes:
    try:
        written = (
            base64.b64decode(content, validate=True) if encoding == "base64" else content.encode(_encoding(encoding))
        )
    except (binascii.Error, ValueError) as error:
        raise ArgumentsError(f"the content cannot be written as {encoding}", remedy='use encoding="utf-8"') from error
    if len(written) > MAX_FILE_BYTES:
        raise ArgumentsError(f"the content has more than {MAX_FILE_BYTES:,} bytes", remedy="write several files")
    return written


def _encoding(name: str) -> str:
    known = {"utf-8", "utf-8-sig", "utf-16", "latin-1", "ascii", "cp1252"}
    if name.lower() not in known:
        raise ArgumentsError(
            f"encoding {name[:40]!r} is not known", remedy=f"use base64 or one of {', '.join(sorted(known))}"
        )
    return name


def _entries(folder: int, most: int, path: str) -> list[tuple[str, str, int]]:
    """Return name, kind and size of the plain files and folders in a folder, by name."""
    found: list[tuple[str, str, int]] = []
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if count >= most:
                raise ArgumentsError(
                    f"folder {path!r} has more than {most:,} entries", remedy="begin with a smaller one"
                )
            if not entry.name.isprintable():
                continue  # half a surrogate pair or a control character: no JSON text could name it safely
            if entry.is_dir(follow_symlinks=False):
                found.append((entry.name, "folder", 0))
            elif entry.is_file(follow_symlinks=False):
                found.append((entry.name, "file", entry.stat(follow_symlinks=False).st_size))
    return sorted(found)


def _matches(names: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Return whether a path fits a pattern; places reached so far are kept as a set, so `**` costs no backtracking."""
    reached = {0}
    for name in names:
        reached = _skipping(reached, pattern)
        following: set[int] = set()
        for place in reached:
            if place < len(pattern) and pattern[place] == "**":
                following.add(place)
            elif place < len(pattern) and fnmatch.fnmatchcase(name, pattern[place]):
                following.add(place + 1)
        reached = following
    return len(pattern) in _skipping(reached, pattern)


def _skipping(reached: set[int], pattern: tuple[str, ...]) -> set[int]:
    """Return the places that can be reached without another name: `**` also stands for no folder."""
    found = set(reached)
    for place, part in enumerate(pattern):
        if place in found and part == "**":
            found.add(place + 1)
    return found


def file_tools(root: str | Path, *, source: str | Sequence[str] = (), accepts: str | Sequence[str] = ()) -> list[Tool]:
    """Return `files.read`, `write`, `append`, `exists`, `list` and `glob` on the files below `root`.

    Args:
        source: Labels of what is in the files, and of their names, e.g. "inbox" where others put them.
        accepts: Labels of what may be written without asking. What is read again carries only `source`.

    Raises:
        ConfigError: No such folder, or a system that cannot open files relative to an open folder.
    """
    folder = Path(root).expanduser().resolve()
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}", remedy="make it, or name another root")
    if os.open not in os.supports_dir_fd or not hasattr(os, "O_NOFOLLOW"):
        raise ConfigError("file tools need a system that opens files relative to a folder", remedy="use Linux or macOS")
    files = Files(folder)
    return [
        Tool.from_function(files.read, name="files.read", effects="none", source=source),
        Tool.from_function(files.write, name="files.write", effects="idempotent", accepts=accepts),
        Tool.from_function(files.append, name="files.append", effects="once", accepts=accepts),
        Tool.from_function(files.exists, name="files.exists", effects="none"),
        Tool.from_function(files.entries, name="files.list", effects="none", source=source),
        Tool.from_function(files.glob, name="files.glob", effects="none", source=source),
    ]
