"""Secrets that are new in every run, and a search for them in all that was written, in every form they can take.

Rule 1: the search knows nothing of the code that hides them: it undoes encodings and looks at what comes out.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote_to_bytes

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{10,}")
_HEX = re.compile(rb"[0-9A-Fa-f]{16,}")
_ESCAPE = re.compile(rb"\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|([\"\\/bfnrt']))")
_LETTERS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def new_secret() -> str:
    """Return a secret with what URLs, JSON and shells write in other ways."""
    return f'{secrets.token_hex(3)}K{secrets.token_urlsafe(9)}"/+&= %\\z{secrets.token_urlsafe(6)}'


def leaks(found_in: Iterable[tuple[str, bytes]], canaries: dict[str, str]) -> list[str]:
    """Return where which secret was found, and in what form."""
    wanted = {name: _in_small(value.encode()) for name, value in canaries.items()}
    return [
        f"{name} in {place}, {form}"
        for place, written in found_in
        for form, view in _views(written)
        for name, value in wanted.items()
        if value in _in_small(view)
    ]


def _in_small(written: bytes) -> bytes:
    return written.decode(errors="surrogateescape").lower().encode(errors="surrogateescape")


def files_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every file, and of databases also every value: a long one is in pieces all over the file."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()
            if path.suffix == ".db":
                yield f"rows of {path.name}", rows_of(path)


def rows_of(path: Path) -> bytes:
    with closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        values = [value for table in tables for row in connection.execute(f'SELECT * FROM "{table}"') for value in row]
    return b"\n".join(value if isinstance(value, bytes) else str(value).encode() for value in values)


def _views(written: bytes) -> Iterator[tuple[str, bytes]]:
    yield "as it is", written
    unescaped = written
    for _ in range(3):
        unescaped = _ESCAPE.sub(_meant, unescaped)
    yield "escaped", unescaped
    for form, text in (("", written), ("escaped, ", unescaped)):
        yield f"{form}for URLs", unquote_to_bytes(text)
        yield f"{form}for forms", unquote_to_bytes(text.replace(b"+", b" "))
    yield "in hex", b"\n".join(_from_hex(written))
    yield "in base64", b"\n".join(_from_base64(unescaped))


def _meant(found: re.Match[bytes]) -> bytes:
    number = found[1] or found[2]
    if number:
        return chr(int(number, 16)).encode(errors="surrogatepass")
    return _LETTERS.get(found[3], found[3])


def _from_hex(written: bytes) -> Iterator[bytes]:
    for run in _HEX.findall(written):
        for start in (0, 1):
            text = run[start:]
            yield binascii.unhexlify(text[: len(text) // 2 * 2])


def _from_base64(written: bytes) -> Iterator[bytes]:
    for run in _BASE64.findall(written):
        text = run.translate(bytes.maketrans(b"-_", b"+/"))
        for start in range(4):
            part = text[start:]
            yield base64.b64decode(part[: len(part) // 4 * 4])
            yield base64.b64decode(part + b"A" * (-len(part) % 4))
