"""Names lead to one tool each, and no spelling leads around an allowlist."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planloom.errors import ConfigError, NotAllowedError, UnknownToolError
from planloom.tools import Tool, ToolRegistry, load_tools, tool
from planloom.tools.registry import llm_name


def send_email(to: str) -> str:
    """Send an email."""
    return to


def read_users() -> list[str]:
    return []


def crm() -> ToolRegistry:
    registry = ToolRegistry()
    registry.add(send_email, aliases=["mail"])
    registry.add(read_users, name="crm.read_users", aliases=["users"], effects="none")
    registry.add(read_users, name="crm.read_all")
    registry.add(read_users, name="crmx.read")
    return registry


@pytest.mark.parametrize(
    ("spelling", "canonical"),
    [
        ("send_email", "send_email"),
        ("mail", "send_email"),
        ("functions.send_email", "send_email"),
        ("tools.mail", "send_email"),
        ("functions.crm.read_users", "crm.read_users"),
        (llm_name("crm.read_users"), "crm.read_users"),
        ("nobody", None),
        ("functions.functions.mail", None),
        ("SEND_EMAIL", None),
    ],
)
def test_every_spelling_leads_to_the_canonical_name(spelling: str, canonical: str | None) -> None:
    assert crm().resolve(spelling) == canonical


def test_an_unknown_tool_is_told_with_the_nearest_name() -> None:
    with pytest.raises(UnknownToolError, match="did you mean 'send_email'"):
        crm().get("send_emial")


@pytest.mark.parametrize(
    "spelling", ["crm.read_users", "users", "functions.users", "tools.crm.read_users", llm_name("crm.read_users")]
)
def test_a28_no_alias_or_namespace_leads_around_an_allowlist(spelling: str) -> None:
    mailer = crm().restricted({"send_email"})

    with pytest.raises(NotAllowedError, match=r"'crm.read_users' is not on the allowlist"):
        mailer.get(spelling)
    with pytest.raises(NotAllowedError):
        mailer.schema(spelling)
    assert not mailer.allows(spelling, None)
    assert not mailer.allows(spelling, ["crm.*", "users"])
    assert mailer.names() == ["send_email"]
    assert spelling not in mailer


def test_a28_an_allowlist_written_with_aliases_allows_the_tools_behind_them() -> None:
    mailer = crm().restricted(["functions.mail"])

    assert mailer.names() == ["send_email"]
    assert mailer.get("mail").name == "send_email"


def test_a28_another_tool_or_a_wider_list_changes_nothing_for_a_restricted_registry() -> None:
    registry = crm()
    mailer = registry.restricted(["send_email"])

    registry.add(read_users, name="later")

    assert mailer.resolve("later") is None
    assert mailer.restricted(["send_email", "crm.read_users"]).names() == ["send_email"]
    assert mailer.restricted(None).names() == ["send_email"]
    with pytest.raises(ConfigError, match="frozen"):
        mailer.add(read_users)


def test_an_entry_with_a_star_covers_the_names_below_it_and_no_others() -> None:
    assert crm().restricted(["crm.*"]).names() == ["crm.read_users", "crm.read_all"]
    assert crm().expanded(["tools.crm.*"]) == {"crm.read_users", "crm.read_all"}
    assert crm().expanded(None) == set(crm().names())
    assert crm().expanded([]) == set()


@pytest.mark.parametrize("allow", [["*"], ["crm*"], ["c*.x"], [".*"], [3], ["tools.*"], ["nobody"]])
def test_an_allowlist_that_cannot_be_meant_is_refused(allow: list[Any]) -> None:
    with pytest.raises(ConfigError):
        crm().restricted(allow)


@given(
    st.sampled_from(["functions.", "tools.", "", "functions.tools."]),
    st.sampled_from(["mail", "users", "crm.read_all"]),
)
def test_a28_what_is_allowed_depends_on_the_canonical_name_only(prefix: str, name: str) -> None:
    registry = crm()
    canonical = registry.resolve(prefix + name)

    allowed = registry.allows(prefix + name, ["send_email"])

    assert allowed is (canonical == "send_email")


def test_a_taken_name_or_alias_is_refused_on_either_side() -> None:
    registry = crm()

    for name, aliases in (("mail", []), ("new", ["users"]), ("send_email", []), ("new", ["crm.read_users"])):
        with pytest.raises(ConfigError, match="belongs to"):
            registry.add(read_users, name=name, aliases=aliases)
    assert registry.add(read_users, name="send_email", replace=True).aliases == ()
    assert registry.resolve("mail") is None


def test_a_frozen_registry_does_not_change() -> None:
    registry = crm()
    frozen = registry.frozen()

    registry.add(read_users, name="later")

    assert "later" not in frozen
    assert frozen.frozen() is frozen


def test_a_registry_is_made_of_whatever_holds_tools() -> None:
    module = ModuleType("some_tools")
    module.__dict__.update(one=tool("test_registry.one", register=False)(lambda: 1), two=crm(), three=3)

    assert ToolRegistry.of([send_email]).names() == ["send_email"]
    assert ToolRegistry.of(send_email).names() == ["send_email"]
    assert ToolRegistry.of({"x.y": send_email}).names() == ["x.y"]
    assert ToolRegistry.of(module).names() == ["test_registry.one", *crm().names()]
    assert ToolRegistry.of(Tool.from_function(send_email)).effects("send_email") is None
    for nothing in (3, "text", [3], ModuleType("empty"), {"x": 3}):
        with pytest.raises(ConfigError):
            ToolRegistry.of(nothing)


def test_a9_the_function_calling_form_is_a_schema_under_names_that_lead_back() -> None:
    registry = crm()
    registry.add(read_users, name="x." + "long" * 40)

    entries = registry.to_llm_format()

    assert [registry.get(one["function"]["name"]).name for one in entries] == registry.names()
    for one in entries:
        assert one["type"] == "function"
        assert len(one["function"]["name"]) <= 64
        assert one["function"]["name"].replace("-", "_").isidentifier()
        jsonschema.Draft202012Validator.check_schema(one["function"]["parameters"])


def test_tools_are_loaded_from_a_file_or_a_module_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from __future__ import annotations\nfrom planloom.tools import tool\nfrom dataclasses import dataclass\n\n"
    text += "@dataclass\nclass P:\n    x: int\n\n@tool('test_load.{0}')\ndef act(p: P) -> int:\n    return p.x\n"
    (tmp_path / "a_file.py").write_text(text.format("file"))
    (tmp_path / "a_module_of_tools.py").write_text(text.format("module"))
    monkeypatch.syspath_prepend(tmp_path)

    from_file = load_tools(str(tmp_path / "a_file.py"))
    from_module = load_tools("a_module_of_tools")

    assert from_file.get("test_load.file").call({"p": {"x": 3}}) == 3
    assert from_module.names() == ["test_load.module"]
    assert load_tools(str(tmp_path / "a_file.py")).names() == ["test_load.file"]


@pytest.mark.parametrize("source", ["no.such.module", "no_such_file.py", "", ".relative", "bad.py", "empty.py", "json"])
def test_tools_that_cannot_be_loaded_are_a_config_error(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.py").write_text("import no_such_module_anywhere")
    (tmp_path / "empty.py").write_text("x = 1")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError):
        load_tools(source)

    assert not [name for name in sys.modules if name.startswith("planloom_tools_bad")]
