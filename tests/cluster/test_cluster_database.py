"""`planloom cluster database`: a journal and its roles, made by whoever owns the database."""

from __future__ import annotations

import secrets
from pathlib import Path

import psycopg
import pytest

from tests.cluster.servers import Postgres
from tests.cluster.test_agent_command import planloom

pytestmark = pytest.mark.slow


def call(folder: Path, *args: str) -> tuple[int | None, str, str]:
    process = planloom("cluster", *args, folder=folder)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_login_of_an_agent_works_and_one_of_nobody_sees_nothing(
    tmp_path: Path, postgres: str, postgres_server: Postgres
) -> None:
    for _ in range(2):  # harmless when repeated
        code, out, err = call(tmp_path, "database", "--journal", postgres)
        assert code == 0, err
    name = f"login_{secrets.token_hex(4)}"
    database = postgres.partition("@/")[2].partition("?")[0]
    postgres_server.sql(f"CREATE ROLE {name} LOGIN IN ROLE planloom_agent")
    postgres_server.sql(f"CREATE ROLE {name}_worker LOGIN")

    with psycopg.connect(postgres_server.dsn(database, user=name)) as agent:
        assert agent.execute("SELECT count(*) FROM planloom.events").fetchone() == (0,)
    for statement in (
        "DELETE FROM planloom.events",
        "UPDATE planloom.events SET body = ''",
        "TRUNCATE planloom.events",
    ):
        with (
            psycopg.connect(postgres_server.dsn(database, user=name)) as agent,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            agent.execute(statement.encode())
    for statement in (
        "SELECT * FROM planloom.events",
        "CREATE TABLE planloom.mine (a int)",
        "CREATE TABLE mine (a int)",
    ):
        with (
            psycopg.connect(postgres_server.dsn(database, user=f"{name}_worker")) as nobody,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            nobody.execute(statement.encode())
    assert "planloom_agent" in out


def test_a_file_is_no_database_and_a_database_that_is_not_there_is_told(tmp_path: Path, postgres: str) -> None:
    code, _, err = call(tmp_path, "database", "--journal", "runs.db")
    assert (code, "runs.db is no database" in err) == (7, True)

    code, _, err = call(tmp_path, "database", "--journal", postgres.replace("@/test_", "@/nothing_"))
    assert code not in (0, 70), err
    assert "Traceback" not in err


def test_the_sql_of_the_roles_is_printed(tmp_path: Path) -> None:
    code, out, _ = call(tmp_path, "roles")

    assert code == 0
    assert "CREATE ROLE %I NOLOGIN" in out
