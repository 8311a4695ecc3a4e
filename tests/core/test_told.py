"""Answers, results and addresses as plain values, and back."""

from __future__ import annotations

import pytest

from planloom.core.chat import LLMResponse, ToolCall
from planloom.core.code import LEAST_MEMORY_MB, ErrorType, ProgramCall, SandboxLimits, SandboxResult
from planloom.core.model_uri import ModelUri, text_of
from planloom.core.result import Usage
from planloom.errors import ConfigError

USED = Usage(1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize("wishes", [(), (ToolCall("1", "look", {"q": 1}), ToolCall("2", "look", {}))], ids=["", "two"])
def test_an_answer_comes_back_as_it_was(wishes: tuple[ToolCall, ...]) -> None:
    answer = LLMResponse("yes", "openai", "m", USED, {"id": "x"}, wishes)

    told = answer.to_dict()

    assert LLMResponse.from_dict(told) == answer
    expected = {
        "text": "yes",
        "provider": "openai",
        "model_name": "m",
        "usage": {
            "input_tokens": 1,
            "output_tokens": 2,
            "requests": 3,
            "cache_read_tokens": 4,
            "cache_write_tokens": 5,
            "estimated_tokens": 6,
        },
        "metadata": {"id": "x"},
    }
    calls = [{"id": "1", "name": "look", "arguments": {"q": 1}}, {"id": "2", "name": "look", "arguments": {}}]
    assert told == expected | ({"tool_calls": calls} if wishes else {})


def test_usage_is_counted_under_the_names_that_providers_use() -> None:
    names = ("input_tokens", "prompt_tokens", "output_tokens", "completion_tokens", "total_tokens", "requests")

    assert [USED[name] for name in names] == [1, 1, 2, 2, 3, 3]
    with pytest.raises(KeyError, match="to_dict"):
        USED["to_dict"]


@pytest.mark.parametrize("kind", [None, ErrorType.MEMORY], ids=["well", "badly"])
def test_what_a_program_came_to_is_told_whole(kind: ErrorType | None) -> None:
    call = ProgramCall("look", (1,), {"q": 2}, 0.5, "no")
    result = SandboxResult("out", {"a": 1}, (call,), "bad", kind, 1.5, "monty", "err", "pay", {"m": "x"}, {"c": "y"})

    assert result.success is (kind is None)
    assert result.to_dict() == {
        "output": "out",
        "stderr": "err",
        "result": {"a": 1},
        "tool_calls": [{"name": "look", "args": (1,), "kwargs": {"q": 2}, "time_s": 0.5, "error": "no"}],
        "error": "bad",
        "error_type": None if kind is None else "memory",
        "execution_time": 1.5,
        "backend": "monty",
        "enforced": {"m": "x"},
        "unenforced": {"c": "y"},
    }


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        (ModelUri("openai", "gpt-4o"), "openai://gpt-4o"),
        (ModelUri("openai", "gpt-4o", "latest"), "openai://gpt-4o/latest"),
        (ModelUri("openai", "gpt-4o", "2:1 b"), "openai://gpt-4o@2:1%20b"),
        (ModelUri("vllm", "org/na me:x"), "vllm://org/na%20me:x"),
        (ModelUri("vllm", "org/latest"), "vllm://org%2Flatest"),
        (ModelUri("vllm", "latest/org"), "vllm://latest/org"),
        (ModelUri("vllm", "org/name@2"), "vllm://org/name%402"),
        (ModelUri("vllm", "or@g/@name"), "vllm://or@g/@name"),
        (ModelUri("vllm", "org/", "2"), "vllm://org%2F@2"),
        (
            ModelUri("a", "b", params={"t": 0.2, "on": True, "k&y": "x/y:z&é", "n": 3}),
            "a://b?t=0.2&on=true&k%26y=x/y:z%26%C3%A9&n=3",
        ),
    ],
    ids=["plain", "latest", "version", "path", "named latest", "latest first", "at", "ats", "slash", "params"],
)
def test_an_address_is_written_so_that_it_is_read_as_it_was_meant(uri: ModelUri, text: str) -> None:
    assert str(uri) == text
    assert hash(uri) == hash(text)


def test_a_setting_is_written_as_an_address_has_it() -> None:
    assert [text_of(value) for value in (True, False, 1, 0.5, "Yes")] == ["true", "false", "1", "0.5", "Yes"]


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("memory_mb", LEAST_MEMORY_MB),
        ("cpu_percent", 1),
        ("wall_s", 0.001),
        ("output_bytes", 1),
        ("result_bytes", 1),
        ("processes", 1),
        ("source_bytes", 1),
        ("disk_mb", 0),
        ("tool_calls", 0),
    ],
)
def test_a_limit_of_a_sandbox_has_a_least_value_and_says_so(name: str, least: float) -> None:
    too_little = 0 if name == "wall_s" else least - 1

    assert getattr(SandboxLimits(**{name: least}), name) == least
    with pytest.raises(ConfigError, match=f"^{name} of a sandbox is {too_little!r}\n  try: give it "):
        SandboxLimits(**{name: too_little})
