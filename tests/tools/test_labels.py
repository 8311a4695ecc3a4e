"""What tools declare about what passes through them, wherever they are declared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planloom import Plan, tool
from planloom.core.events import ToolFacts
from planloom.errors import ConfigError, UnknownFieldError
from planloom.plan.flow import FlowPolicy
from planloom.plan.flow_paths import flows
from planloom.tools.catalogue import ToolCatalog, as_tool, definition_of
from planloom.tools.mcp_terms import terms_of
from planloom.tools.registry import ToolRegistry
from planloom.tools.standard import get_default_tools
from planloom.tools.standard.files import file_tools
from planloom.tools.tool import Tool

DECLARED: dict[str, Any] = {
    "source": ("mail", "web"),
    "secret": True,
    "sink": False,
    "accepts": ("web",),
    "cleans": ("inbox",),
    "needs_approval": True,
}


def act(x: int) -> int:
    """Act."""
    return x


def said(of: Tool | ToolFacts) -> dict[str, Any]:
    return {name: getattr(of, name) for name in DECLARED}


def test_a_decorator_says_it_and_a_run_is_told() -> None:
    @tool("test_labels.act", register=False, **DECLARED)
    def decorated(x: int) -> int:
        return x

    made = Tool.from_function(decorated)

    assert said(made) == DECLARED
    assert said(made.facts) == DECLARED
    assert said(ToolRegistry([made]).facts("test_labels.act")) == DECLARED


def test_a_lone_word_is_one_label_and_the_order_does_not_matter() -> None:
    made = Tool.from_function(act, source="web", accepts=["web", "inbox", "web"])

    assert (made.source, made.accepts) == (("web",), ("inbox", "web"))


def test_a_tool_that_says_nothing_declares_nothing() -> None:
    assert said(Tool.from_function(act)) == {
        "source": (),
        "secret": False,
        "sink": None,
        "accepts": (),
        "cleans": (),
        "needs_approval": False,
    }


def test_a_foreign_schema_and_a_definition_say_it_too() -> None:
    made = Tool.from_schema("act", act, {"type": "object"}, **DECLARED)

    again = as_tool(definition_of(made), act)

    assert said(made) == said(again) == DECLARED


def test_a_catalogue_keeps_it_as_text() -> None:
    catalogue = ToolCatalog([Tool.from_function(act, **DECLARED)])

    text = catalogue.to_yaml()
    again = ToolCatalog.from_yaml(text, functions={"act": act}).registry.get("act")

    assert said(again) == DECLARED


def test_a_catalogue_takes_a_lone_word() -> None:
    text = "planloom_tools: 1\ntools:\n  - {name: act, effects: none, source: web}\n"

    assert ToolCatalog.from_yaml(text, functions={"act": lambda: 1}).registry.get("act").source == ("web",)


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        ({"source": "two words"}, "source of .* are no labels"),
        ({"source": 3}, "are no labels"),
        ({"source": "secret"}, "'secret' is no source"),
        ({"accepts": [""]}, "accepts of .* are no labels"),
        ({"secret": "yes"}, "secret='yes' of .* is no switch"),
        ({"sink": 1}, "is no switch"),
    ],
)
def test_what_cannot_be_meant_is_refused_where_it_is_declared(declared: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Tool.from_function(act, **declared)


def test_a_misspelt_declaration_is_not_ignored() -> None:
    with pytest.raises(UnknownFieldError, match="sources"):
        Tool.from_function(act, sources="web")


def test_secrets_may_be_accepted_and_cleaned() -> None:
    made = Tool.from_function(act, accepts="secret", cleans="secret")

    assert (made.accepts, made.cleans) == (("secret",), ("secret",))


def test_what_passes_through_is_no_part_of_the_digest() -> None:
    """So that an operator may say more of a tool without runs under way losing it."""
    assert Tool.from_function(act).digest == Tool.from_function(act, source="web").digest


# --- what comes with planloom, and servers ------------------------------------------------------


def test_what_the_standard_tools_say(tmp_path: Path) -> None:
    tools = {made.name: made for made in get_default_tools(tmp_path, ["example.com"])}

    assert (tools["http.get"].source, tools["http.get"].sink, tools["http.get"].accepts) == (("web",), True, ("web",))
    assert (tools["http.post"].source, tools["http.post"].sink, tools["http.post"].accepts) == (("web",), None, ())
    others = [made for name, made in tools.items() if not name.startswith("http.")]
    assert {said(made)["source"] for made in others} == {()}


def test_where_what_the_standard_tools_bring_may_go(tmp_path: Path) -> None:
    vault = Tool.from_function(lambda: "x", name="vault", effects="none", secret=True)
    registry = ToolRegistry([*get_default_tools(tmp_path, ["example.com"]), vault])
    page, link = "${{ steps.page.output.body }}", "${{ steps.key.output }}"
    steps: list[dict[str, Any]] = [
        {"id": "page", "tool": "http.get", "with": {"url": "https://example.com"}},
        {"id": "key", "tool": "vault"},
        {"id": "found", "tool": "text.regex", "with": {"text": page, "pattern": "https:.*"}},
        {"id": "next", "tool": "http.get", "with": {"url": "${{ steps.found.output }}"}},
        {"id": "leak", "tool": "http.get", "with": {"url": f"https://example.com/{link}"}},
        {"id": "post", "tool": "http.post", "with": {"url": "https://example.com", "body": page}},
        {"id": "save", "tool": "files.write", "with": {"path": "x", "text": page}},
    ]
    plan = Plan.from_dict({"planloom": 1, "steps": steps})

    ways = {(one.label, one.sink): one.verdict for one in flows(plan, registry, FlowPolicy())}

    assert ways == {
        ("secret", "leak"): "refused",
        ("web", "post"): "needs_approval",
        ("web", "save"): "needs_approval",
        ("web", "next"): "allowed",
    }


def test_files_that_others_put_there_can_be_said_to_be() -> None:
    tools = {made.name: made for made in file_tools(Path(__file__).parent, source="inbox", accepts=("web",))}

    assert {name: made.source for name, made in tools.items() if made.source} == dict.fromkeys(
        ("files.read", "files.list", "files.glob"), ("inbox",)
    )
    assert [name for name, made in tools.items() if made.accepts] == ["files.write", "files.append"]


def test_a_server_s_tools_are_as_its_operator_says() -> None:
    terms = terms_of(
        "mail",
        {
            "command": "x",
            "source": ["mcp"],
            "tools": {"read": {"source": ["inbox", "mcp"], "cleans": "web"}, "send": {"needs_approval": True}},
        },
    )

    assert terms.labels_of("other") | {"source": ()} == said(Tool.from_function(act))
    assert terms.labels_of("other")["source"] == ("mcp",)
    assert (terms.labels_of("read")["source"], terms.labels_of("read")["cleans"]) == (("inbox", "mcp"), ("web",))
    assert (terms.labels_of("send")["source"], terms.labels_of("send")["needs_approval"]) == (("mcp",), True)


@pytest.mark.parametrize(
    "wrong", [{"source": "secret"}, {"tools": {"a": {"source": "no label"}}}, {"tools": {"a": {"effects": "none"}}}]
)
def test_what_an_operator_cannot_mean_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        terms_of("mail", {"command": "x", **wrong})
