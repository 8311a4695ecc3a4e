"""Addresses of databases, where a file may be named as well; no server is asked here."""

import sys

import pytest

from planloom.errors import ConfigError
from planloom.journal.address import is_address, spelled_out
from planloom.journal.open import open_journal


@pytest.mark.parametrize(
    ("target", "is_one"),
    [
        ("postgresql://ann@host/x", True),
        ("postgres:///x", True),
        ("runs.db", False),
        ("./postgresql:/x", False),
        (None, False),
    ],
    ids=str,
)
def test_an_address_is_told_from_a_path(target: str | None, is_one: bool) -> None:
    assert is_address(target) is is_one


def test_variables_stand_for_their_values_and_a_password_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORD", "p@ss/word")

    assert spelled_out("postgresql://ann:${WORD}@host/x") == "postgresql://ann:p%40ss%2Fword@host/x"
    for written in ("postgresql://ann:s3cret@host/x", "postgresql://ann@host/x?password=s3cret"):
        with pytest.raises(ConfigError, match="there is a password") as refused:
            open_journal(written)
        assert "s3cret" not in str(refused.value)
    with pytest.raises(ConfigError, match="NOT_SET"):
        spelled_out("postgresql://ann:${NOT_SET}@host/x")


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("planloom.journal.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(ConfigError) as refused:
        open_journal("postgresql://ann@host/x")

    assert refused.value.remedy == "pip install 'planloom[postgres]'"
