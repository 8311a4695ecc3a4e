"""A file that is written is the old one or the new one, whatever goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from planloom.whole_file import write_whole


def test_a_file_is_replaced_and_keeps_its_rights(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_whole(path, "old")
    path.chmod(0o600)

    write_whole(path, "neu: ü")

    assert path.read_bytes() == "neu: ü".encode()
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_whole(path, "old")

    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half of a character: \ud800")

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_as_long_as_names_can_be_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 127)

    write_whole(path, "text")

    assert path.read_text() == "text"


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    with pytest.raises(OSError, match="folder"):
        write_whole(tmp_path / "folder", "text")

    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
