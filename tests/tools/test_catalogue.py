"""A catalogue says what planners want to know of tools, and a tool has one name and one registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from planloom.errors import ConfigError, NotAllowedError, UnknownToolError
from planloom.tools import Tool, ToolRegistry, tool
from planloom.tools.catalogue import ToolCatalog
from planloom.tools.declare import a2a_agent, mcp_tool
from planloom.tools.definition import ToolDefinition, ToolExample, ToolMetadata, ToolParameter
from planloom.tools.registry import llm_name

# What providers take in a request as a tool (https://platform.openai.com/docs/api-reference/chat/create).
FUNCTION_CALLING = {
    "type": "object",
    "required": ["type", "function"],
    "additionalProperties": False,
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "required": ["name", "parameters"],
            "additionalProperties": False,
            "properties": {
                "name": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
                "description": {"type": "string"},
                "parameters": {
                    "type": "object",
                    "required": ["type"],
                    "properties": {"type": {"const": "object"}, "properties": {"type": "object"}},
                },
            },
        },
    },
}


def extract(text: str, currency: str = "EUR") -> dict[str, Any]:
    """Read a receipt.

    Args:
        text: What stands on it.
    """
    return {"text": text, "currency": currency}


SAVE = ToolDefinition(
    name="receipts.save",
    description="Keep a receipt.",
    parameters=(
        ToolParameter(name="merchant", description="Who was paid"),
        ToolParameter(name="total", type="number"),
        ToolParameter(name="category", enum=("food", "fuel"), required=False, default=None),
    ),
    metadata=ToolMetadata(cost_per_call=0.01, success_rate=0.99),
    examples=(ToolExample(input={"merchant": "Aldi", "total": 3.5}, output="kept"),),
)


def test_a_function_becomes_a_definition_of_all_that_it_says() -> None:
    catalogue = ToolCatalog()

    made = catalogue.add_tool(extract, name="receipts.extract", cost_per_call=0.002, expected_latency_ms=40)

    assert made.to_dict() == {
        "name": "receipts.extract",
        "description": "Read a receipt.",
        "parameters": [
            {"name": "text", "type": "string", "required": True, "description": "What stands on it."},
            {"name": "currency", "type": "string", "required": False, "default": "EUR"},
        ],
        "metadata": {"cost_per_call": 0.002, "expected_latency_ms": 40.0},
    }
    assert made.domain == "receipts"
    assert made.input_schema == Tool.from_function(extract).schema
    assert catalogue.registry.get("receipts.extract").call({"text": "x"}) == {"text": "x", "currency": "EUR"}


def test_what_a_decorator_declares_is_in_the_definition() -> None:
    @tool(domain="money", success_rate=0.9, examples=[{"input": {"text": "x"}, "output": {}}], register=False)
    def read(text: str) -> dict[str, Any]:
        return {"text": text}

    made = ToolCatalog([read]).get_tool("read")

    assert (made.domain, made.metadata.success_rate, made.examples) == (
        "money",
        0.9,
        (ToolExample(input={"text": "x"}, output={}),),
    )


def test_the_decorators_for_servers_and_agents_are_tool_with_a_type() -> None:
    @mcp_tool(name="files.read", effects="none", register=False)
    def read(path: str) -> str:
        return path

    @a2a_agent(register=False)
    def ask(question: str) -> str:
        return question

    catalogue = ToolCatalog([read, ask, extract])

    assert [one.name for one in catalogue.get_by_type("mcp")] == ["files.read"]
    assert [one.name for one in catalogue.get_by_type("agent")] == ["ask"]
    assert [one.name for one in catalogue.get_by_type("function")] == ["extract"]
    assert read("a") == "a"


def test_a_decorator_without_brackets_registers_as_tool_does() -> None:
    @mcp_tool
    def bare_server_tool() -> str:
        return ""

    assert ToolCatalog.of(None).get_tool("bare_server_tool").type == "mcp"


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        ({"type": "server"}, "cannot be of type 'server'"),
        ({"success_rate": 1.5}, "is no share"),
        ({"examples": [{"input": {"txt": "x"}}]}, "example of tool 'extract' does not fit"),
        ({"examples": [{"inputs": {}}]}, "are no examples"),
        ({"examples": 3}, "are no examples"),
    ],
)
def test_what_a_tool_wrongly_says_of_itself_is_refused(declared: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        ToolCatalog().add_tool(extract, **declared)


def test_a_definition_is_made_from_parameters_or_from_a_schema_alike() -> None:
    from_schema = ToolDefinition(name="receipts.save", input_schema=SAVE.input_schema)

    assert SAVE.input_schema == {
        "type": "object",
        "properties": {
            "merchant": {"type": "string", "description": "Who was paid"},
            "total": {"type": "number"},
            "category": {"type": "string", "enum": ["food", "fuel"], "default": None},
        },
        "additionalProperties": False,
        "required": ["merchant", "total"],
    }
    assert from_schema.parameters == SAVE.parameters


def test_a_schema_that_says_more_than_parameters_can_is_kept_whole() -> None:
    schema = {"type": "object", "properties": {"day": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}

    made = ToolDefinition(name="day", input_schema=schema)

    assert made.parameters == (ToolParameter(name="day", type="any", required=False),)
    assert made.to_dict() == {"name": "day", "input_schema": schema}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"name": "a b"}, "no name for a tool"),
        ({"name": "a", "input_schema": {"type": 3}}, "is not a JSON Schema"),
        ({"name": "a", "input_schema": {"type": "string"}}, "are not an object"),
        ({"name": "a", "input_schema": {"type": "object", "required": 5}}, "is not a JSON Schema"),
        ({"name": "a", "output_schema": {"$ref": "http://x"}}, "lies outside it"),
        ({"name": "a", "examples": [{"input": {"x": 1}}]}, "example of tool 'a' does not fit"),
        ({"name": "a", "parameters": [{"name": "x"}], "input_schema": {"type": "object"}}, "different parameters"),
        ({"name": "a", "kind": "mcp"}, "kind: Extra inputs"),
        ({"name": "a", "metadata": {"cost_per_call": -1}}, "metadata.cost_per_call: "),
        ({"description": "?"}, "name: Field required"),
    ],
)
def test_a_definition_that_is_wrong_is_refused_with_what_is_wrong(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        ToolCatalog([given])


def test_a_definition_cannot_change() -> None:
    with pytest.raises(ValidationError):
        SAVE.name = "x"  # type: ignore[misc]  # that it is refused is the point


def test_a_definition_without_a_function_is_described_only() -> None:
    catalogue = ToolCatalog([extract, SAVE])

    assert catalogue.names() == ["extract", "receipts.save"]
    assert (len(catalogue), "receipts.save" in catalogue, "nothing" in catalogue) == (2, True, False)
    assert catalogue.is_described_only("receipts.save")
    assert not catalogue.is_described_only("extract")
    assert catalogue.registry.names() == ["extract"]
    assert ToolRegistry.of(catalogue) is catalogue.registry


def test_a_definition_with_a_function_is_a_tool_that_checks_its_arguments() -> None:
    catalogue = ToolCatalog([SAVE])

    made = catalogue.add_tool(SAVE, lambda merchant, total: f"{merchant} {total}", replace=True)

    assert made == SAVE
    assert not catalogue.is_described_only("receipts.save")
    assert catalogue.names() == ["receipts.save"]
    assert catalogue.registry.get("receipts.save").call({"merchant": "Aldi", "total": 2}) == "Aldi 2"
    with pytest.raises(ValueError, match="total"):
        catalogue.registry.get("receipts.save").call({"merchant": "Aldi"})


def test_a_name_means_one_tool() -> None:
    catalogue = ToolCatalog([extract, SAVE])

    with pytest.raises(ConfigError, match="'extract' already"):
        catalogue.add_tool({"name": "extract"})
    with pytest.raises(ConfigError, match=r"'receipts.save' already"):
        catalogue.add_tool(SAVE)
    catalogue.registry.add(extract, name="receipts.save")
    assert catalogue.get_tool("receipts.save").description == "Read a receipt."
    assert catalogue.names() == ["extract", "receipts.save"]


def test_a_tool_that_is_not_allowed_cannot_be_described_back_in() -> None:
    narrow = ToolCatalog(registry=ToolRegistry([extract]).restricted([]))

    with pytest.raises(NotAllowedError):
        narrow.get_tool("extract")
    with pytest.raises(ConfigError, match="'extract' already"):
        narrow.add_tool({"name": "extract"})


def test_a_catalogue_knows_what_comes_into_its_registry_later() -> None:
    registry = ToolRegistry()
    catalogue = ToolCatalog.of(registry)

    registry.add(extract)

    assert catalogue.search("receipt")[0][0].name == "extract"
    registry.add(extract, name="extract", description="Peel an apple", replace=True)
    assert catalogue.search("receipt") == []
    assert catalogue.get_tool("extract").description == "Peel an apple"


def test_a_tool_answers_to_every_spelling_of_its_name() -> None:
    catalogue = ToolCatalog([SAVE, Tool.from_function(extract, name="receipts.extract", aliases="ocr")])

    for spelling in ("receipts.save", "functions.receipts.save", llm_name("receipts.save")):
        assert catalogue.get_tool(spelling) is SAVE
    for spelling in ("receipts.extract", "ocr", "tools.ocr", llm_name("receipts.extract")):
        assert catalogue.get_tool(spelling).name == "receipts.extract"


def test_an_unknown_tool_is_told_with_the_nearest_described_one() -> None:
    with pytest.raises(UnknownToolError, match=r"did you mean 'receipts.save'"):
        ToolCatalog([SAVE]).get_tool("receipt.save")


def test_tools_are_listed_by_domain_and_type() -> None:
    catalogue = ToolCatalog([extract, SAVE, {"name": "mail.send", "type": "mcp"}, {"name": "x", "domain": "mail"}])

    assert catalogue.domains() == ["general", "mail", "receipts"]
    assert [one.name for one in catalogue.by_domain("mail")] == ["mail.send", "x"]
    assert [one.name for one in catalogue.get_by_type("mcp")] == ["mail.send"]
    with pytest.raises(ConfigError, match="no type 'server'"):
        catalogue.get_by_type("server")


def test_a9_the_export_is_what_function_calling_takes_and_its_schemas_are_schemas() -> None:
    catalogue = ToolCatalog([extract, SAVE, {"name": "no.parameters"}])

    exported = catalogue.to_llm_format(examples=True)

    jsonschema.validate(exported, {"type": "array", "items": FUNCTION_CALLING})
    for one in exported:
        jsonschema.Draft202012Validator.check_schema(one["function"]["parameters"])
        assert catalogue.get_tool(one["function"]["name"])
    assert exported[1]["function"]["description"] == (
        'Keep a receipt.\nExample: {"merchant": "Aldi", "total": 3.5} -> "kept"'
    )
    assert catalogue.to_llm_format([SAVE])[0]["function"]["description"] == "Keep a receipt."


def test_yaml_keeps_every_definition() -> None:
    catalogue = ToolCatalog(
        [
            SAVE,
            Tool.from_function(extract, effects="none", version="2", output_schema={"type": "object"}, domain="money"),
            {"name": "odd", "input_schema": {"type": "object", "properties": {"day": {"enum": ["no", 1e3, None]}}}},
        ]
    )

    text = catalogue.to_yaml()
    again = ToolCatalog.from_yaml(text)

    assert {one.name: one for one in again} == {one.name: one for one in catalogue}
    assert ToolCatalog.from_yaml(again.to_yaml()).to_yaml() == again.to_yaml()


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=30))
def test_any_text_survives_yaml(text: str) -> None:
    catalogue = ToolCatalog([{"name": "a", "description": text, "examples": [{"output": [text, {text: 1}]}]}])

    assert ToolCatalog.from_yaml(catalogue.to_yaml()).get_tool("a") == catalogue.get_tool("a")


@pytest.mark.parametrize("text", ["1e3", "0o7", "0x1f", "no", "2026-12-01", "~", ".5", "a: b", "x\n y\n", " ", "1_000"])
def test_text_that_looks_like_something_else_stays_text_in_yaml(text: str) -> None:
    catalogue = ToolCatalog([{"name": "a", "description": text}])

    assert ToolCatalog.from_yaml(catalogue.to_yaml()).get_tool("a").description == text


def test_a_catalogue_file_gets_its_functions_from_whoever_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "tools.yaml"
    file.write_text(ToolCatalog([extract, SAVE]).to_yaml(), encoding="utf-8")

    read = ToolCatalog.from_yaml(file, functions={"extract": extract})

    assert read.registry.names() == ["extract"]
    assert read.is_described_only("receipts.save")
    with pytest.raises(ConfigError, match="function for 'extrakt', and no such tool"):
        ToolCatalog.from_yaml(file, functions={"extrakt": extract})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tools: []", "is no catalogue of tools"),
        ("", "is no catalogue of tools"),
        ("planloom_tools: 1\ntools: {a: 1}", "is no catalogue of tools"),
        ("planloom_tools: 1\ntools: [{name: a, name: b}]", "line 2, column 19: key 'name' stands twice"),
        ("planloom_tools: 1\ntools: [5]", "is not described as it should be"),
        ("planloom_tools: 1\ntools: [!!python/name:os.system {name: a}]", "tag"),
        ("planloom_tools: 1\ntools: [{name: a}, {name: a}]", "'a' already"),
    ],
)
def test_a_text_that_is_no_catalogue_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        ToolCatalog.from_yaml(text)


def test_a_catalogue_file_that_is_not_there_is_told_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.yaml cannot be read"):
        ToolCatalog.from_yaml(tmp_path / "nowhere.yaml")


def test_a_catalogue_is_made_of_whatever_holds_tools() -> None:
    catalogue = ToolCatalog([SAVE])

    assert ToolCatalog.of(catalogue) is catalogue
    assert ToolCatalog.of([extract, SAVE]).names() == ["extract", "receipts.save"]
    assert ToolCatalog.of({"read": extract}).names() == ["read"]
