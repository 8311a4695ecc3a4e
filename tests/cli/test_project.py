from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli.conftest import Folder
from planloom.cli.options import Invocation
from planloom.cli.project import Workplace, settings_file
from planloom.errors import ConfigError


def test_the_settings_of_the_plans_folder_come_before_those_of_the_current_one(folder: Folder) -> None:
    near = folder.write("shop/planloom.toml", "")

    assert settings_file(folder.path / "shop/deep/plan.yaml") == near
    assert settings_file() == folder.path / "planloom.toml"
    assert settings_file(Path("/plan.yaml")) == folder.path / "planloom.toml"


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
def test_settings_of_another_user_are_refused_because_they_name_code_to_run(folder: Folder) -> None:
    os.chown(folder.path / "planloom.toml", 12345, 12345)

    with pytest.raises(ConfigError, match="belongs to another user"):
        settings_file()


def test_an_option_comes_before_the_settings_and_those_before_the_default(folder: Folder) -> None:
    assert Workplace(Invocation()).journal == Path(".planloom/runs.db")
    folder.write("planloom.toml", 'journal = "mine.db"\n')
    assert Workplace(Invocation()).journal == Path("mine.db")
    assert Workplace(Invocation(journal=Path("other.db"))).journal == Path("other.db")


def test_tools_of_the_command_line_replace_those_of_the_settings(folder: Folder) -> None:
    folder.write("more.py", "from planloom import tool\n\n@tool(name='m.one')\ndef one() -> int:\n    return 1\n")

    assert Workplace(Invocation(tools=("more.py",))).tools().names() == ["m.one"]


def test_two_tools_of_one_name_are_refused(folder: Folder) -> None:
    folder.write("more.py", (folder.path / "tools.py").read_text())

    with pytest.raises(ConfigError, match=r"'t\.echo'"):
        Workplace(Invocation(tools=("tools.py", "more.py"))).tools()


def test_a_module_that_ends_the_process_is_an_error_like_any_other(folder: Folder) -> None:
    folder.write("bye.py", "raise SystemExit(0)\n")

    with pytest.raises(ConfigError, match="SystemExit"):
        Workplace(Invocation(tools=("bye.py",))).tools()
