"""AgentMemory: copies, hashes, search, and a context that keeps to its budget."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planloom.agents.memory import PER_MESSAGE, AgentMemory
from planloom.core.chat import Message, ToolCall
from planloom.errors import ConfigError, OutputError


def words(text: str) -> int:
    return len(text.split())


def size(messages: list[Message]) -> int:
    return sum(PER_MESSAGE + words(one.content) for one in messages)


def talk(*texts: str) -> AgentMemory:
    memory = AgentMemory(count=words)
    for place, text in enumerate(texts):
        memory.add_message("user" if place % 2 == 0 else "assistant", text)
    return memory


def test_messages_are_added_as_values_as_dicts_and_as_role_and_text() -> None:
    memory = AgentMemory([{"role": "user", "content": "hello"}])

    memory.add_message("assistant", "hi")
    memory.add_message(Message("tool", "42", name="add"))

    assert [(one.role, one.content, one.name) for one in memory.messages] == [
        ("user", "hello", None),
        ("assistant", "hi", None),
        ("tool", "42", "add"),
    ]


def test_a_role_that_does_not_exist_is_refused() -> None:
    memory = AgentMemory()

    with pytest.raises(ConfigError, match="role 'boss'"):
        memory.add_message("boss", "do it")
    with pytest.raises(ConfigError, match="role 'boss'"):
        memory.add_message(Message("boss", "do it"))
    assert len(memory) == 0


def test_a_tool_result_is_a_message_of_its_tool_in_json() -> None:
    memory = AgentMemory()

    memory.add_tool_result({"tool_name": "search", "result": [1, 2]})
    memory.add_tool_result("plain", name="read", tool_call_id="c1")

    first, second = memory.messages
    assert (first.role, first.name, first.content) == ("tool", "search", '{"tool_name": "search", "result": [1, 2]}')
    assert (second.name, second.content, second.tool_call_id) == ("read", "plain", "c1")
    with pytest.raises(OutputError):
        memory.add_tool_result(object())


def test_a_copy_shares_nothing_with_what_it_was_made_from() -> None:
    memory = AgentMemory([Message("user", "a", metadata={"seen": [1]})])
    twin = memory.copy()

    twin.add_message("user", "b")
    twin.messages[0].metadata["seen"].append(2)

    assert len(memory) == 1
    assert memory.messages[0].metadata == {"seen": [1]}
    assert memory.copy().get_hash() == memory.get_hash()


def test_a57_the_hash_is_the_same_in_another_process_and_depends_on_the_order() -> None:
    memory = talk("one", "two")
    code = (
        "from planloom.agents.memory import AgentMemory as M; m = M();"
        "m.add_message('user', 'one'); m.add_message('assistant', 'two'); print(m.get_hash())"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == memory.get_hash()
    other = AgentMemory()
    other.add_message("assistant", "two")
    other.add_message("user", "one")
    assert other.get_hash() != memory.get_hash()


def test_every_part_of_a_message_but_its_id_counts_for_the_hash() -> None:
    plain = AgentMemory([Message("user", "x")]).get_hash()

    same = AgentMemory([Message("user", "x", message_id="m7")]).get_hash()
    others = {
        AgentMemory([one]).get_hash()
        for one in (
            Message("assistant", "x"),
            Message("user", "y"),
            Message("user", "x", metadata={"from": "me"}),
            Message("user", "x", name="ann"),
            Message("user", "x", tool_calls=(ToolCall("1", "t", {}),)),
        )
    }

    assert same == plain
    assert len(others | {plain}) == 6


def test_search_finds_by_words_and_leaves_out_what_shares_none() -> None:
    memory = talk("the invoice of Ada is open", "noted", "the weather is fine", "an invoice was paid")

    found = memory.search("which invoices are open?", limit=2)

    assert [one.content for one in found] == ["the invoice of Ada is open", "an invoice was paid"]
    assert memory.search("zebra") == []
    assert memory.search("invoice", limit=0) == []


def test_search_by_vectors_finds_by_likeness_and_embeds_each_text_once() -> None:
    asked: list[str] = []
    directions = {"cat": [1.0, 0.1], "kitten": [0.9, 0.2], "car": [0.0, 2.0], "feline": [1.0, 0.15]}

    def embed(texts: list[str]) -> list[list[float]]:
        asked.extend(texts)
        return [directions[text] for text in texts]

    memory = AgentMemory(backend="vector", embed=embed)
    for text in ("cat", "kitten", "car"):
        memory.add_message("user", text)

    found = memory.search("feline", limit=2)
    memory.search("feline", limit=2)

    assert [one.content for one in found] == ["cat", "kitten"]
    assert asked.count("cat") == 1


def test_a_backend_without_its_embedding_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="embed"):
        AgentMemory(backend="vector")
    with pytest.raises(ConfigError, match="embed"):
        AgentMemory(embed=lambda texts: [[1.0] for _ in texts])
    with pytest.raises(ConfigError, match="backend 'redis'"):
        AgentMemory(backend="redis")  # type: ignore[arg-type]  # what a user may write
    odd = AgentMemory([Message("user", "a")], backend="vector", embed=lambda _texts: [[1.0]])
    with pytest.raises(ConfigError, match="vector for each"):
        odd.search("b")


def test_a49_a_context_without_a_summary_is_the_newest_messages_that_fit() -> None:
    memory = talk("one two three", "four five six", "seven eight nine")

    assert [one.content for one in memory.context(100)] == ["one two three", "four five six", "seven eight nine"]
    assert [one.content for one in memory.context(14)] == ["four five six", "seven eight nine"]
    assert memory.context(0) == []


def test_a49_what_no_longer_fits_is_summed_up_once() -> None:
    memory = talk(*(f"message number {place}" for place in range(10)))
    asked: list[list[str]] = []

    def summarise(messages: list[Message]) -> str:
        asked.append([one.content for one in messages])
        return "ten messages"

    first = memory.context(40, summarise)
    second = memory.context(40, summarise)
    memory.add_message("user", "one more")
    memory.context(40, summarise)

    assert len(asked) == 1
    assert first == second
    assert first[0].role == "system"
    assert first[0].content.endswith("ten messages")
    assert asked[0] == [f"message number {place}" for place in range(len(asked[0]))]
    assert [one.content for one in first[1:]] == [f"message number {place}" for place in range(len(asked[0]), 10)]


def test_a49_the_next_overflow_sums_up_the_summary_with_what_came_since() -> None:
    memory = talk(*(f"message number {place}" for place in range(10)))
    asked: list[list[Message]] = []

    def summarise(messages: list[Message]) -> str:
        asked.append(messages)
        return f"summary {len(asked)}"

    memory.context(40, summarise)
    for place in range(10, 20):
        memory.add_message("user", f"message number {place}")
        memory.context(40, summarise)

    assert 2 <= len(asked) <= 4
    assert "summary 1" in asked[1][0].content


@given(
    texts=st.lists(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=30).map(" ".join), max_size=15),
    budgets=st.lists(st.integers(min_value=0, max_value=120), min_size=1, max_size=5),
    summary=st.integers(min_value=0, max_value=200),
)
def test_a49_a_context_never_passes_its_budget(texts: list[str], budgets: list[int], summary: int) -> None:
    memory = AgentMemory(count=words)
    for text in texts:
        memory.add_message("user", text)
        for budget in budgets:
            assert size(memory.context(budget)) <= budget
            assert size(memory.context(budget, lambda _messages: "word " * summary)) <= budget


def test_a_summary_may_be_waited_for() -> None:
    memory = talk(*(f"message number {place}" for place in range(10)))

    async def summarise(messages: list[Message]) -> str:
        await asyncio.sleep(0)
        return f"{len(messages)} messages"

    found = asyncio.run(memory.acontext(40, summarise))

    assert found[0].content.endswith("messages")
    assert size(found) <= 40


def test_a_memory_comes_back_from_json_as_it_was() -> None:
    memory = talk(*(f"message number {place}" for place in range(10)))
    memory.add_message(Message("assistant", "", (ToolCall("1", "add", {"a": 1}), ToolCall("2", "add", "not json"))))
    memory.add_message(Message("tool", "3", tool_call_id="1", name="add", metadata={"ok": True}, message_id="m1"))
    memory.context(40, lambda _messages: "short")

    twin = AgentMemory.from_dict(memory.to_dict(), count=words)

    assert twin.messages == memory.messages
    assert twin.get_hash() == memory.get_hash()
    assert twin.context(40) == memory.context(40)
    with pytest.raises(ConfigError, match="no memory"):
        AgentMemory.from_dict({"messages": "hello"})


def waiting_memory() -> tuple[AgentMemory, list[int], asyncio.Event, Any]:
    """Return a memory that overflows, what was summed up, what lets summaries through, and who makes them."""
    memory = AgentMemory([Message("user", "word " * 50) for _ in range(8)])
    summed_up: list[int] = []
    may_go = asyncio.Event()

    async def summarise(messages: list[Message]) -> str:
        summed_up.append(len(messages))
        await may_go.wait()
        return "much was said"

    return memory, summed_up, may_go, summarise


def test_a49_of_several_who_ask_at_once_one_waits_for_a_summary() -> None:
    async def main() -> None:
        memory, summed_up, may_go, summarise = waiting_memory()
        asking = [asyncio.create_task(memory.acontext(200, summarise)) for _ in range(5)]
        await asyncio.sleep(0)
        may_go.set()

        contexts = await asyncio.gather(*asking)

        assert len(summed_up) == 1
        assert all(context == contexts[0] for context in contexts)
        assert "much was said" in contexts[0][0].content

    asyncio.run(main())


def test_who_gives_up_waiting_for_a_summary_leaves_it_to_the_next() -> None:
    async def main() -> None:
        memory, summed_up, may_go, summarise = waiting_memory()
        first = asyncio.create_task(memory.acontext(200, summarise))
        second = asyncio.create_task(memory.acontext(200, summarise))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        may_go.set()

        assert "much was said" in (await second)[0].content
        assert len(summed_up) == 2

    asyncio.run(main())


def test_a_summary_of_what_was_forgotten_meanwhile_covers_nothing_new() -> None:
    async def main() -> None:
        memory, _, may_go, summarise = waiting_memory()
        asking = asyncio.create_task(memory.acontext(200, summarise))
        await asyncio.sleep(0)
        memory.clear()
        for number in range(9):
            memory.add_message("user", f"new {number}")
        may_go.set()
        await asking

        assert [one.content for one in memory.context(1_000)] == [f"new {number}" for number in range(9)]

    asyncio.run(main())
