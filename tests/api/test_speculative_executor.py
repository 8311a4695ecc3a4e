"""SpeculativeExecutor: what two models come to, and that nothing is lossy without leave."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from planloom.api.executor import ExecutionResult, ExecutorConfig, SpeculativeExecutor
from planloom.core.chat import ModelCall
from planloom.core.prices import ModelPrice
from planloom.core.result import Usage
from planloom.errors import ConfigError, ModelError
from planloom.models.scripted import ScriptedModel
from planloom.ports import ModelMetadata

FRESH = ExecutorConfig(cache_results=False, enable_speculative=True)


class Plain(ScriptedModel):
    """A scripted model that takes no predictions, as most hosted ones."""

    @property
    def metadata(self) -> ModelMetadata:
        return replace(super().metadata, capabilities=frozenset({"streaming"}))


def ask(executor: SpeculativeExecutor, prompt: str = "How tall?", **options: Any) -> ExecutionResult:
    return asyncio.run(executor.execute(prompt, **options))


def test_a62_an_accepted_draft_is_one_draft_and_one_check_and_says_that_it_may_differ() -> None:
    draft = Plain(["330 m"], usage=Usage(10, 20, requests=1), price=ModelPrice(1.0, 2.0))
    strong = Plain(["8"], usage=Usage(40, 1, requests=1), price=ModelPrice(10.0, 20.0))

    result = ask(SpeculativeExecutor(draft, strong, policy="cascade"))

    assert result.text == "330 m"
    assert (len(draft.calls), len(strong.calls)) == (1, 1)
    assert result.metadata["speculative_efficiency"] == pytest.approx(1 - 1 / 20)
    assert (result.metadata["lossless"], result.metadata["policy"]) == (False, "cascade")
    assert result.usage == Usage(50, 21, requests=2)
    assert result.cost_usd == pytest.approx(50e-6 + 420e-6)
    assert result.draft_latency_ms is not None
    assert result.final_latency_ms is None
    assert result.response is not None
    assert result.response.text == "330 m"


def test_a62_a_rejected_draft_is_answered_by_the_verify_model() -> None:
    draft, strong = Plain(["12 m"]), Plain(["2", "330 m"])

    result = ask(SpeculativeExecutor(draft, strong, policy="cascade"))

    assert result.text == "330 m"
    assert (result.metadata["accepted"], result.metadata["lossless"]) == (False, True)
    assert result.final_latency_ms is not None


def test_auto_without_predictions_and_without_leave_is_the_verify_model_alone_and_says_so() -> None:
    draft, strong = Plain(["draft"]), Plain(["answer"])

    result = ask(SpeculativeExecutor(draft, strong, ExecutorConfig(enable_speculative=True)))

    assert result.text == "answer"
    assert draft.calls == []
    assert result.metadata["speculative_efficiency"] == 0.0
    assert "allow_lossy" in result.metadata["fallback_reason"]


def test_auto_with_leave_is_a_cascade() -> None:
    result = ask(SpeculativeExecutor(Plain(["draft"]), Plain(["9"]), allow_lossy=True))

    assert (result.text, result.metadata["policy"]) == ("draft", "cascade")


def test_auto_gives_the_draft_as_a_prediction_where_that_is_possible() -> None:
    strong = ScriptedModel(["answer"])

    result = ask(SpeculativeExecutor(Plain(["draft"]), strong))

    assert (result.text, result.metadata["policy"], result.metadata["lossless"]) == ("answer", "predicted", True)
    assert strong.calls[0].prediction == "draft"


def test_a_judge_model_checks_in_the_verify_models_place() -> None:
    judge, strong = Plain(["9"]), Plain([])

    ask(SpeculativeExecutor(Plain(["draft"]), strong, policy="cascade", judge_model=judge, threshold=9))

    assert (len(judge.calls), strong.calls) == (1, [])


@pytest.mark.parametrize(("drafted", "equal"), [("330 m", True), ("12 m", False)])
def test_compare_returns_the_verify_models_answer_and_says_whether_the_draft_was_the_same(
    *, drafted: str, equal: bool
) -> None:
    draft = Plain([drafted], usage=Usage(10, 20, requests=1), price=ModelPrice(1.0, 2.0))
    strong = Plain(["330 m"], usage=Usage(10, 5, requests=1), price=ModelPrice(10.0, 20.0))

    result = ask(SpeculativeExecutor(draft, strong, policy="compare"))

    assert result.text == "330 m"
    told = result.metadata
    assert (told["policy"], told["lossless"], told["equal"]) == ("compare", True, equal)
    assert (told["speculative_efficiency"], told["acceptance_rate"]) == (0.0, float(equal))
    assert (told["wasted_tokens"], told["wasted_cost"]) == (30, pytest.approx(50e-6))
    assert result.usage == Usage(20, 25, requests=2)
    assert result.cost_usd == pytest.approx(50e-6 + 200e-6)


def test_compare_asks_both_at_the_same_time() -> None:
    async def main() -> str:
        met = asyncio.Barrier(2)

        async def meet(call: ModelCall) -> None:
            await asyncio.wait_for(met.wait(), 5)

        executor = SpeculativeExecutor(Plain(["a"], before=meet), Plain(["b"], before=meet), policy="compare")
        return (await executor.execute("?")).text

    assert asyncio.run(main()) == "b"


def test_compare_goes_without_a_draft_that_fails() -> None:
    result = ask(SpeculativeExecutor(Plain([ModelError("overloaded")]), Plain(["answer"]), policy="compare"))

    assert (result.text, result.metadata["equal"]) == ("answer", False)
    assert "overloaded" in result.metadata["fallback_reason"]


def test_what_the_verify_model_raises_is_raised_itself_whatever_the_draft_raised() -> None:
    error = ModelError("the strong one")
    executor = SpeculativeExecutor(Plain([ModelError("the cheap one")]), Plain([error]), policy="cascade")

    with pytest.raises(ModelError) as raised:
        ask(executor)

    assert raised.value is error


def test_speculation_that_is_switched_off_asks_the_verify_model_alone() -> None:
    draft, strong = Plain(["draft"]), Plain(["answer"])

    result = ask(SpeculativeExecutor(draft, strong, ExecutorConfig(enable_speculative=False), policy="cascade"))

    assert (result.text, draft.calls) == ("answer", [])
    assert (result.metadata["policy"], result.metadata["speculative_efficiency"]) == ("off", 0.0)


def test_a_configuration_that_says_nothing_of_speculation_does_not_switch_it_off() -> None:
    result = ask(SpeculativeExecutor(Plain(["draft"]), Plain(["9"]), ExecutorConfig(max_tokens=9), policy="cascade"))

    assert result.text == "draft"


def test_drafts_have_settings_of_their_own() -> None:
    draft, strong = Plain(["draft"]), Plain(["1", "answer"])
    config = ExecutorConfig(max_tokens=50, max_draft_tokens=20, draft_temperature=0.1, temperature=0.9)

    ask(SpeculativeExecutor(draft, strong, config, policy="cascade"))

    assert [(call.max_tokens, call.temperature) for call in draft.calls] == [(20, 0.1)]
    assert (strong.calls[1].max_tokens, strong.calls[1].temperature) == (50, 0.9)


def test_what_drafts_came_to_is_remembered_from_call_to_call() -> None:
    draft, strong = Plain(["draft"] * 9), Plain(["0", "answer"] * 9)
    executor = SpeculativeExecutor(
        Plain(["draft"] * 9, price=ModelPrice(5.0, 10.0)),
        Plain(["0", "answer", "answer", "answer"], price=ModelPrice(10.0, 20.0)),
        FRESH,
        policy="cascade",
        latency_weight=0,
    )

    reasons = [ask(executor).metadata["fallback_reason"] for _ in range(3)]

    # Draft and judge cost more than half of an answer, and after one rejection 1/3 is expected to be accepted.
    assert reasons[0].startswith("the judge gave the draft 0")
    assert all("drafting pays from" in reason for reason in reasons[1:])
    assert draft.calls == strong.calls == []


def test_verification_looks_at_accepted_drafts_too() -> None:
    config = ExecutorConfig(
        verification_strategy="validator", validators=({"length": {"min_words": 2}},), enable_speculative=True
    )
    draft, strong = Plain(["short", "long enough"]), Plain(["9", "9"])

    result = ask(SpeculativeExecutor(draft, strong, config, policy="cascade"))

    assert (result.text, result.refinement_attempts) == ("long enough", 2)


@pytest.mark.parametrize("policy", ["auto", "predicted", "cascade", "hedged", "compare"])
def test_the_pieces_of_a_stream_are_the_text_whatever_the_policy(policy: Any) -> None:
    async def main() -> str:
        executor = SpeculativeExecutor(Plain(["drafted answer"]), Plain(["7"] * 3, repeat_last=True), policy=policy)
        pieces = [piece async for piece in executor.stream("?")]
        assert executor.stats.executions == 1
        return "".join(pieces)

    assert asyncio.run(main()) in ("drafted answer", "7")


@pytest.mark.parametrize("wrong", [{"policy": "guess"}, {"threshold": 10}, {"latency_weight": 2}])
def test_a_wrong_setting_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SpeculativeExecutor("scripted://echo", "scripted://echo", **wrong)


def test_gasa_is_refused() -> None:
    with pytest.raises(ConfigError, match="GASA"):
        SpeculativeExecutor("scripted://echo", "scripted://echo", ExecutorConfig(enable_gasa=True))
