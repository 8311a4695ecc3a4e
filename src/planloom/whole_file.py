"""Files that are whole or not there (`write_whole`), and files that nobody else may read (`make_private`)."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file, durable when this returns; it keeps the rights it had.

    Raises:
        OSError: It cannot be written. What was there is as it was.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def make_private(path: Path) -> None:
    """Make an empty file that only its owner may read, with the folders above it; what is there stays as it is.

    Raises:
        OSError: It cannot be made. A parent that is a file is no such error: whoever opens the path finds that.
    """
    with suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
