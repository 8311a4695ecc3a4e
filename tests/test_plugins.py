"""Plugins are found among installed packages, when the first hook is called, and a broken one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from planloom import plugins
from planloom.errors import ConfigError

MODULE = """
from planloom import plugins

@plugins.hook
def planloom_model_schemes():
    return {"parrot": "repeats its name"}
"""


def install(folder: Path, name: str, entry: str) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[planloom]\n{name} = {entry}\n")


def test_an_installed_plugin_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "parrots", "planloom_parrots_for_tests")
    (tmp_path / "planloom_parrots_for_tests.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))

    found = plugins._Plugins()

    assert found.find().hook.planloom_model_schemes() == [{"parrot": "repeats its name"}]
    assert found.find() is found.find()


def test_a_plugin_that_cannot_be_loaded_is_named_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "broken", "no_module_of_this_name:plugin")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = plugins._Plugins()

    for _ in range(2):
        with pytest.raises(ConfigError, match="'broken'") as raised:
            found.find()

    assert "no_module_of_this_name" in raised.value.remedy
