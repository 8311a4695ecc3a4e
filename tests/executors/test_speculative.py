"""A draft first: when it is used, what it costs, and that it is never used when it should not be.

Time is the test's own: models answer on a `ManualClock`, so every second told is exact.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from planloom.core.asking import VERDICT_TOKENS
from planloom.core.chat import LLMResponse, ModelCall
from planloom.core.commands import Grant, RunStep
from planloom.core.events import AttemptFailed, AttemptSucceeded
from planloom.core.prices import ModelPrice
from planloom.core.result import Usage
from planloom.errors import ModelError
from planloom.executors.acceptance import PROBE_EVERY, AcceptanceGate, Drafts, break_even
from planloom.executors.attempt import Attempts
from planloom.executors.calls import ToolCalls
from planloom.executors.efficiency import Speculated
from planloom.executors.llm import LlmExecutor
from planloom.executors.speculative import DraftThenCheck, score_of
from planloom.executors.threads import ThreadPool
from planloom.models.catalogue import Models
from planloom.plan.model import Step
from planloom.plan.policy import Effects, SpeculatePolicy
from planloom.ports import Model, ModelMetadata
from planloom.testing.clock import ManualClock
from planloom.testing.fakes import fake_tool
from planloom.tools.registry import ToolRegistry
from tests.executors.attempts import Books

KEYS = {
    "policy",
    "lossless",
    "accepted",
    "judge_score",
    "draft_tokens",
    "accepted_tokens",
    "acceptance_rate",
    "mean_accept_len",
    "verify_steps",
    "output_tokens",
    "speculative_efficiency",
    "draft_s",
    "verify_s",
    "judge_s",
    "wall_s",
    "baseline_est_s",
    "speedup_est",
    "draft_cost",
    "verify_cost",
    "wasted_tokens",
    "wasted_cost",
    "fallback_reason",
}
CHEAP = ModelPrice(1.0, 2.0)
DEAR = ModelPrice(10.0, 20.0)
MIDDLE = ModelPrice(2.0, 4.0)


class Timed:
    """A scripted model of a test: it takes its time on the test's clock, and is stopped visibly.

    Attributes:
        prompts: What it was asked so far.
        stopped: Calls that were stopped before they had an answer.
    """

    def __init__(
        self,
        clock: ManualClock,
        *answers: Any,
        takes_s: float = 1.0,
        tokens: tuple[int, int] = (10, 8),
        price: ModelPrice | None = DEAR,
        predicts: bool = False,
        said: dict[str, Any] | None = None,
    ) -> None:
        self.stopped = 0
        self.calls: list[ModelCall] = []
        self._answers = answers
        self._usage = Usage(*tokens, requests=1)
        self._said = said or {}
        self._clock = clock
        self._takes_s = takes_s
        self._known = ModelMetadata(
            "timed", "test", capabilities=frozenset({"prediction"} if predicts else ()), price=price
        )

    @property
    def metadata(self) -> ModelMetadata:
        return self._known

    async def respond(self, call: ModelCall) -> LLMResponse:
        answer = self._answers[min(len(self.calls), len(self._answers) - 1)]
        self.calls.append(call)
        passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._clock.call_at(self._clock.now() + self._takes_s, lambda: passed.done() or passed.set_result(None))
        try:
            await passed
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        if isinstance(answer, BaseException):
            raise answer
        return LLMResponse(answer, "test", "timed", self._usage, self._said)

    async def stream(self, call: ModelCall) -> Any:
        response = await self.respond(call)
        yield response.text
        yield response

    async def close(self) -> None:
        pass


@dataclass
class Bench:
    """One speculating executor, and what attempts with it come to."""

    clock: ManualClock
    models: Models
    executor: DraftThenCheck
    books: Books

    @classmethod
    def of(cls, clock: ManualClock, **given: Model) -> Bench:
        models = Models(given=given)
        calls = ToolCalls(ToolRegistry.of([fake_tool("mail")]).frozen(), ThreadPool(1))
        return cls(clock, models, DraftThenCheck(LlmExecutor(models, calls), models), Books(clock))

    def request(self, step: Step, **fields: Any) -> RunStep:
        policy = step.speculate
        refs = [step.model, policy.draft if policy else None, policy.judge if policy else None]
        known = {ref: self.models.facts(ref, priced=True) for ref in refs if ref is not None}
        args = {"prompt": "How tall is the tower?"}
        return RunStep("run", step.id, step, 1, 1, args, Effects.NONE, False, "key", models=known, **fields)

    def attempt(self, step: Step, **fields: Any) -> AttemptSucceeded | AttemptFailed:
        """Make one attempt, as fast as the clock can be moved on."""
        return asyncio.run(self.during(self.request(step, **fields)))

    async def during(self, request: RunStep) -> AttemptSucceeded | AttemptFailed:
        self.books = Books(self.clock)
        ended = asyncio.create_task(Attempts(self.executor)(request, self.books))
        while not await self.settled(ended):
            assert self.clock.advance_to_next(), "it waits for nothing"
        assert len(asyncio.all_tasks()) == 1, "whoever starts a task owns its end"
        return ended.result()

    async def settled(self, task: asyncio.Task[Any]) -> bool:
        """Let everybody go on as far as they can without time passing; return whether the task has ended."""
        for _ in range(30):
            await asyncio.sleep(0)
        return task.done()


def step_with(policy: str, **fields: Any) -> Step:
    own = {name: fields.pop(name) for name in list(fields) if name in SpeculatePolicy.model_fields}
    return Step(
        id="ask",
        model="strong",
        prompt="How tall?",
        speculate=SpeculatePolicy(draft="cheap", policy=policy, **own),
        **fields,
    )


def told(fact: AttemptSucceeded | AttemptFailed) -> dict[str, Any]:
    assert isinstance(fact, AttemptSucceeded), fact
    assert fact.metadata is not None
    found: dict[str, Any] = fact.metadata["speculation"]
    return found


# --- cascade ----------------------------------------------------------------------------------


def test_a62_an_accepted_draft_takes_one_draft_and_one_judgement() -> None:
    clock = ManualClock()
    cheap = Timed(clock, "330 m", takes_s=0.25, tokens=(10, 20), price=CHEAP)
    strong = Timed(clock, "8", takes_s=0.15, tokens=(40, 1))
    bench = Bench.of(clock, cheap=cheap, strong=strong)

    fact = bench.attempt(step_with("cascade"))

    assert isinstance(fact, AttemptSucceeded)
    assert fact.output == "330 m"
    assert (len(cheap.calls), len(strong.calls)) == (1, 1)
    found = told(fact)
    assert found.keys() == KEYS
    assert found["policy"] == "cascade"
    assert (found["accepted"], found["lossless"], found["judge_score"]) == (True, False, 8)
    assert (found["draft_tokens"], found["accepted_tokens"], found["acceptance_rate"]) == (20, 20, 1.0)
    assert (found["verify_steps"], found["output_tokens"]) == (1, 20)
    assert found["speculative_efficiency"] == pytest.approx(1 - 1 / 20)
    assert (found["draft_s"], found["judge_s"], found["verify_s"]) == pytest.approx((0.25, 0.15, 0.0))
    assert found["wall_s"] == pytest.approx(0.40)
    assert found["baseline_est_s"] is None, "the strong model was never asked for an answer"
    assert (found["wasted_tokens"], found["wasted_cost"], found["fallback_reason"]) == (0, 0.0, None)


def test_the_judge_is_asked_coldly_for_one_digit_about_the_request_and_the_draft() -> None:
    clock = ManualClock()
    strong = Timed(clock, "9")
    bench = Bench.of(clock, cheap=Timed(clock, "330 m"), strong=strong)

    bench.attempt(step_with("cascade", temperature=0.9))

    asked = strong.calls[0]
    assert (asked.temperature, asked.max_tokens, asked.tools) == (0.0, VERDICT_TOKENS, ())
    assert "one digit" in asked.messages[0].content
    assert "How tall is the tower?" in asked.messages[1].content
    assert "330 m" in asked.messages[1].content


def test_a62_a_rejected_draft_is_answered_by_the_strong_model_and_its_cost_is_told() -> None:
    clock = ManualClock()
    cheap = Timed(clock, "12 m", takes_s=0.25, tokens=(10, 20), price=CHEAP)
    strong = Timed(clock, "3", "330 m", takes_s=1.0, tokens=(40, 10))
    bench = Bench.of(clock, cheap=cheap, strong=strong)

    fact = bench.attempt(step_with("cascade"))

    assert isinstance(fact, AttemptSucceeded)
    assert fact.output == "330 m"
    found = told(fact)
    assert (found["accepted"], found["lossless"], found["accepted_tokens"]) == (False, True, 0)
    assert found["verify_steps"] == 10 + 10
    assert found["speculative_efficiency"] == pytest.approx(-1.0), "J + N steps for N tokens, not clamped"
    assert found["wasted_tokens"] == 30 + 50, "the draft and its judging"
    assert found["fallback_reason"] == "the judge gave the draft 3 of 9, below 7"
    assert (found["baseline_est_s"], found["wall_s"]) == pytest.approx((1.0, 2.25))
    assert found["speedup_est"] == pytest.approx(1 / 2.25)


def test_all_calls_are_in_usage_and_cost_and_the_parts_add_up() -> None:
    clock = ManualClock()
    cheap = Timed(clock, "12 m", tokens=(10, 20), price=CHEAP)
    strong = Timed(clock, "330 m", tokens=(40, 10), price=DEAR)
    judge = Timed(clock, "0", tokens=(100, 1), price=MIDDLE)
    bench = Bench.of(clock, cheap=cheap, strong=strong, judge=judge)

    fact = bench.attempt(step_with("cascade", judge="judge"))

    assert isinstance(fact, AttemptSucceeded)
    assert fact.usage == Usage(150, 31, requests=3)
    draft_usd, judge_usd, strong_usd = 50e-6, 204e-6, 600e-6
    assert fact.cost_usd == pytest.approx(draft_usd + judge_usd + strong_usd)
    found = told(fact)
    assert found["draft_cost"] == pytest.approx(draft_usd)
    assert found["verify_cost"] == pytest.approx(judge_usd + strong_usd)
    assert found["wasted_cost"] == pytest.approx(draft_usd + judge_usd)


def test_without_a_price_a_cost_is_unknown_and_not_zero() -> None:
    clock = ManualClock()
    bench = Bench.of(clock, cheap=Timed(clock, "330 m", price=None), strong=Timed(clock, "9"))

    fact = bench.attempt(step_with("cascade"))

    assert isinstance(fact, AttemptSucceeded)
    assert fact.cost_usd is None
    assert told(fact)["draft_cost"] is None
    assert told(fact)["verify_cost"] == pytest.approx(260e-6)


@pytest.mark.parametrize(
    ("verdict", "threshold", "accepted"),
    [
        ("7", 7, True),
        ("6", 7, False),
        ("9", 9, True),
        ("8", 9, False),
        ("0", 0, True),
        ("yes", 9, True),
        ("No", 1, False),
    ],
)
def test_a_draft_is_accepted_from_the_threshold_of_9_on(verdict: str, threshold: int, *, accepted: bool) -> None:
    clock = ManualClock()
    bench = Bench.of(clock, cheap=Timed(clock, "draft"), strong=Timed(clock, verdict, "answer"))

    fact = bench.attempt(step_with("cascade", threshold=threshold))

    assert told(fact)["accepted"] is accepted


@pytest.mark.parametrize("verdict", ["", "8/9", "I would say 8", "10", "-8", "8.5", "٨", "⁸", "true", '{"score": 8}'])
def test_what_is_no_verdict_rejects(verdict: str) -> None:
    clock = ManualClock()
    bench = Bench.of(clock, cheap=Timed(clock, "draft"), strong=Timed(clock, verdict, "answer"))

    fact = bench.attempt(step_with("cascade", threshold=0))

    assert score_of(verdict) is None
    assert isinstance(fact, AttemptSucceeded)
    assert fact.output == "answer"
    assert told(fact)["fallback_reason"] == "the judge gave no score"


@pytest.mark.parametrize("error", [ModelError("overloaded", status_code=529), ValueError("a bug"), TimeoutError()])
def test_a_judge_that_fails_rejects(error: Exception) -> None:
    clock = ManualClock()
    judge = Timed(clock, error)
    bench = Bench.of(clock, cheap=Timed(clock, "draft"), strong=Timed(clock, "answer"), judge=judge)

    fact = bench.attempt(step_with("cascade", judge="judge"))

    assert isinstance(fact, AttemptSucceeded)
    assert fact.output == "answer"
    assert told(fact)["fallback_reason"].startswith("the judge failed: ")
    assert (told(fact)["judge_score"], told(fact)["accepted"]) == (None, False)


@pytest.mark.parametrize("policy", ["cascade", "hedged", "predicted"])
@pytest.mark.parametrize("error", [ModelError("overloaded", status_code=529), ValueError("a bug"), TimeoutError()])
def test_a_draft_that_fails_is_answered_by_the_strong_model_alone(policy: str, error: Exception) -> None:
    clock = ManualClock()
    strong = Timed(clock, "answer", takes_s=2.0, predicts=True)
    bench = Bench.of(clock, cheap=Timed(clock, error), strong=strong)

    fact = bench.attempt(step_with(policy))

    assert isinstance(fact, AttemptSucceeded)
    assert fact.output == "answer"
    assert len(strong.calls) == 1, "nothing was there to judge"
    assert strong.calls[0].prediction is None
    assert told(fact)["fallback_reason"].startswith("the draft failed: ")
    assert told(fact)["speculative_efficiency"] == 0.0


def test_an_empty_draft_is_never_judged() -> None:
    clock = ManualClock()
    strong = Timed(clock, "answer")
    bench = Bench.of(clock, cheap=Timed(clock, " \n"), strong=strong)

    fact = bench.attempt(step_with("cascade"))

    assert isinstance(fact, AttemptSucceeded)
    assert (fact.output, len(strong.calls)) == ("answer", 1)


@pytest.mark.parametrize("policy", ["cascade", "hedged"])
def test_a_rejected_draft_is_never_the_answer_even_if_the_strong_model_fails(policy: str) -> None:
    clock = ManualClock()
    strong = Timed(clock, ModelError("overloaded"), takes_s=5.0)
    bench = Bench.of(clock, cheap=Timed(clock, "draft"), strong=strong, judge=Timed(clock, "1"))

    fact = bench.attempt(step_with(policy, judge="judge"))

    assert isinstance(fact, AttemptFailed)
    assert "overloaded" in fact.error
    assert fact.usage == Usage(20, 16, requests=2), "what the draft and its judging took counts all the same"


def test_a_draft_must_fit_the_schema_before_the_judge_is_asked() -> None:
    clock = ManualClock()
    schema = {"type": "object", "properties": {"metres": {"type": "number"}}, "required": ["metres"]}
    strong = Timed(clock, '{"metres": 330}')
    judge = Timed(clock, "9")
    cheap = Timed(clock, '{"feet": 1083}')
    bench = Bench.of(clock, cheap=cheap, strong=strong, judge=judge)

    fact = bench.attempt(step_with("cascade", judge="judge", output=schema))

    assert isinstance(fact, AttemptSucceeded)
    assert fact.output == {"metres": 330}
    assert judge.calls == []
    assert len(cheap.calls) == 1, "a draft is not asked for a second time"


def test_a_draft_that_fits_the_schema_is_the_value_itself() -> None:
    clock = ManualClock()
    schema = {"type": "object", "properties": {"metres": {"type": "number"}}, "required": ["metres"]}
    judge = Timed(clock, "9")
    bench = Bench.of(clock, cheap=Timed(clock, '{"metres": 330}'), strong=Timed(clock, "never"), judge=judge)

    fact = bench.attempt(step_with("cascade", judge="judge", output=schema))

    assert isinstance(fact, AttemptSucceeded)
    assert fact.output == {"metres": 330}
    assert '{"metres": 330}' in judge.calls[0].messages[1].content


def test_a_slow_draft_leaves_half_of_the_time_to_the_strong_model() -> None:
    clock = ManualClock()
    cheap = Timed(clock, "draft", takes_s=1_000)
    bench = Bench.of(clock, cheap=cheap, strong=Timed(clock, "answer", takes_s=0.0))

    async def main() -> AttemptSucceeded | AttemptFailed:
        request = bench.request(step_with("cascade"), deadline_at=clock.now() + 0.2)
        ended = asyncio.create_task(Attempts(bench.executor)(request, Books(clock)))
        while cheap.stopped == 0:  # half of the time is the loop's own
            await asyncio.sleep(0.01)
        while not await bench.settled(ended):
            clock.advance(0.0)
        return ended.result()

    fact = asyncio.run(main())

    assert isinstance(fact, AttemptSucceeded)
    assert fact.output == "answer"
    assert told(fact)["fallback_reason"] == "the draft took over half of the attempt's time"


@pytest.mark.parametrize("accepted", [True, False])
def test_what_is_streamed_is_the_answer_whoever_gave_it(*, accepted: bool) -> None:
    clock = ManualClock()
    strong = Timed(clock, "the strong model's own answer")
    bench = Bench.of(clock, cheap=Timed(clock, "draft"), strong=strong, judge=Timed(clock, "9" if accepted else "0"))

    fact = bench.attempt(step_with("cascade", judge="judge", stream=True))

    assert isinstance(fact, AttemptSucceeded)
    assert "".join(bench.books.streamed) == fact.output


def test_a_draft_that_passes_the_grant_is_not_made_and_the_strong_model_answers() -> None:
    clock = ManualClock()
    cheap = Timed(clock, "draft", price=ModelPrice(1e6, 1e6))
    bench = Bench.of(clock, cheap=cheap, strong=Timed(clock, "answer"))

    fact = bench.attempt(step_with("cascade", max_tokens=10), grant=Grant(usd=1.0))

    assert isinstance(fact, AttemptSucceeded)
    assert (fact.output, cheap.calls) == ("answer", [])
    assert "max_total_cost_usd" in told(fact)["fallback_reason"]


# --- hedged -----------------------------------------------------------------------------------


def test_hedged_starts_the_strong_model_at_once_and_stops_it_when_the_draft_is_accepted() -> None:
    clock = ManualClock()
    strong = Timed(clock, "answer", takes_s=1.0, tokens=(10, 30))
    cheap = Timed(clock, "draft", takes_s=0.25, tokens=(10, 20), price=CHEAP)
    bench = Bench.of(clock, cheap=cheap, strong=strong, judge=Timed(clock, "9", takes_s=0.15, tokens=(40, 1)))

    fact = bench.attempt(step_with("hedged", judge="judge", max_tokens=50))

    assert isinstance(fact, AttemptSucceeded)
    assert fact.output == "draft"
    assert strong.stopped == 1
    found = told(fact)
    assert found["wall_s"] == pytest.approx(0.40)
    assert (found["verify_steps"], found["output_tokens"]) == (1, 20), "J: stopped work is no step of this answer"
    assert (found["accepted"], found["lossless"]) == (True, False)
    assert found["wasted_tokens"] > 50, "what was stopped may be billed"
    assert fact.usage is not None
    assert fact.usage.total_tokens == 30 + 41 + found["wasted_tokens"]
    assert fact.usage.estimated_tokens == found["wasted_tokens"]
    assert found["wasted_cost"] > 0
    assert fact.cost_usd == pytest.approx(found["draft_cost"] + found["verify_cost"])


def test_hedged_is_no_slower_than_the_strong_model_when_the_draft_is_rejected() -> None:
    clock = ManualClock()
    strong = Timed(clock, "answer", takes_s=1.0, tokens=(10, 30))
    cheap = Timed(clock, "draft", takes_s=0.25, tokens=(10, 20))
    bench = Bench.of(clock, cheap=cheap, strong=strong, judge=Timed(clock, "2", takes_s=0.15, tokens=(40, 1)))

    fact = bench.attempt(step_with("hedged", judge="judge"))

    assert isinstance(fact, AttemptSucceeded)
    assert fact.output == "answer"
    found = told(fact)
    assert found["wall_s"] == pytest.approx(1.0)
    assert found["speculative_efficiency"] == 0.0, "N steps: the judge ran beside"
    assert (found["lossless"], found["wasted_tokens"]) == (True, 30 + 41)
    assert found["fallback_reason"] == "the judge gave the draft 2 of 9, below 7"


def test_hedged_takes_the_answer_that_comes_before_the_draft_is_judged() -> None:
    clock = ManualClock()
    cheap = Timed(clock, "draft", takes_s=3.0)
    bench = Bench.of(clock, cheap=cheap, strong=Timed(clock, "answer", takes_s=1.0), judge=Timed(clock, "9"))

    fact = bench.attempt(step_with("hedged", judge="judge"))

    assert isinstance(fact, AttemptSucceeded)
    assert fact.output == "answer"
    assert cheap.stopped == 1
    assert told(fact)["wall_s"] == pytest.approx(1.0)
    assert told(fact)["fallback_reason"] == "the answer came before the draft was judged"


def test_hedged_takes_an_accepted_draft_when_the_strong_model_fails_before_it() -> None:
    clock = ManualClock()
    strong = Timed(clock, ModelError("overloaded"), takes_s=0.1)
    bench = Bench.of(clock, cheap=Timed(clock, "draft"), strong=strong, judge=Timed(clock, "9"))

    fact = bench.attempt(step_with("hedged", judge="judge"))

    assert isinstance(fact, AttemptSucceeded)
    assert fact.output == "draft"


def test_whoever_stops_the_attempt_stops_both() -> None:
    clock = ManualClock()
    cheap, strong = Timed(clock, "draft", takes_s=9), Timed(clock, "answer", takes_s=9)
    bench = Bench.of(clock, cheap=cheap, strong=strong)

    async def main() -> int:
        ended = asyncio.create_task(bench.executor.execute(bench.request(step_with("hedged")), Books(clock)))
        await bench.settled(ended)
        ended.cancel()
        await asyncio.gather(ended, return_exceptions=True)
        return len(asyncio.all_tasks())

    left = asyncio.run(main())

    assert (cheap.stopped, strong.stopped, left) == (1, 1, 1)


# --- predicted, auto, and what is not drafted --------------------------------------------------


def test_a_prediction_gives_the_strong_models_own_answer_sooner() -> None:
    clock = ManualClock()
    cheap = Timed(clock, "330 m high", takes_s=0.2, tokens=(10, 20), price=CHEAP)
    said = {"accepted_prediction_tokens": 15, "rejected_prediction_tokens": 5}
    strong = Timed(clock, "330 m tall", takes_s=0.4, tokens=(10, 25), predicts=True, said=said)
    bench = Bench.of(clock, cheap=cheap, strong=strong)

    fact = bench.attempt(step_with("predicted"))

    assert isinstance(fact, AttemptSucceeded)
    assert fact.output == "330 m tall"
    assert [call.prediction for call in strong.calls] == ["330 m high"]
    found = told(fact)
    assert (found["policy"], found["lossless"], found["accepted"]) == ("predicted", True, True)
    assert (found["verify_steps"], found["output_tokens"]) == (10, 25)
    assert found["speculative_efficiency"] == pytest.approx(15 / 25)
    assert found["acceptance_rate"] == pytest.approx(15 / 20)
    assert (found["wasted_tokens"], found["wasted_cost"]) == (5, pytest.approx(100e-6))
    assert found["baseline_est_s"] == pytest.approx(0.4 * 25 / 10)
    assert found["speedup_est"] == pytest.approx(1.0 / 0.6)


def test_a_provider_that_does_not_say_what_it_used_is_not_taken_to_have_used_anything() -> None:
    clock = ManualClock()
    bench = Bench.of(clock, cheap=Timed(clock, "draft"), strong=Timed(clock, "answer", predicts=True))

    fact = bench.attempt(step_with("predicted"))

    assert told(fact)["speculative_efficiency"] == 0.0
    assert told(fact)["fallback_reason"] == "the provider does not say how much of the draft it used"


@pytest.mark.parametrize(
    ("predicts", "allow_lossy", "policy", "output", "reason"),
    [
        (True, True, "predicted", "answer", None),
        (True, False, "predicted", "answer", None),
        (False, True, "cascade", "draft", None),
        (False, False, "plain", "answer", "strong takes no predictions, and allow_lossy is off"),
    ],
)
def test_auto_changes_an_answer_only_where_it_is_allowed_to(
    *, predicts: bool, allow_lossy: bool, policy: str, output: str, reason: str | None
) -> None:
    clock = ManualClock()
    cheap = Timed(clock, "draft")
    strong = Timed(clock, "answer", predicts=predicts, said={"accepted_prediction_tokens": 0})
    bench = Bench.of(clock, cheap=cheap, strong=strong, judge=Timed(clock, "9"))

    fact = bench.attempt(step_with("auto", allow_lossy=allow_lossy, judge="judge"))

    assert isinstance(fact, AttemptSucceeded)
    assert fact.output == output
    assert (told(fact)["policy"], told(fact)["fallback_reason"]) == (policy, reason)
    assert told(fact).keys() == KEYS
    assert len(cheap.calls) == int(policy != "plain")


def test_predicted_without_predictions_is_the_strong_model_alone() -> None:
    clock = ManualClock()
    cheap = Timed(clock, "draft")
    bench = Bench.of(clock, cheap=cheap, strong=Timed(clock, "answer"))

    fact = bench.attempt(step_with("predicted"))

    assert told(fact)["fallback_reason"] == "strong takes no predictions"
    assert (cheap.calls, told(fact)["speculative_efficiency"]) == ([], 0.0)


def test_a_step_that_may_call_tools_is_never_drafted() -> None:
    clock = ManualClock()
    cheap = Timed(clock, "draft")
    bench = Bench.of(clock, cheap=cheap, strong=Timed(clock, "answer"))
    with_tools = Step(
        id="ask",
        model="strong",
        prompt="p",
        tools=("mail",),
        speculate=SpeculatePolicy(draft="cheap", policy="cascade"),
    )

    fact = bench.attempt(with_tools)

    assert isinstance(fact, AttemptSucceeded)
    assert (fact.output, cheap.calls) == ("answer", [])
    assert told(fact)["fallback_reason"] == "the step may call tools, and a draft must not"


@pytest.mark.parametrize(
    ("step", "role", "asked"),
    [
        (step_with("compare"), "", "strong"),
        (step_with("compare"), "draft", "cheap"),
        (step_with("cascade"), "draft", "cheap"),
        (Step(id="ask", model="strong", prompt="p"), "", "strong"),
    ],
    ids=["compare", "draft of compare", "draft of a cascade", "no speculation"],
)
def test_what_is_not_one_answers_business_goes_straight_to_the_model(step: Step, role: str, asked: str) -> None:
    clock = ManualClock()
    bench = Bench.of(clock, cheap=Timed(clock, "cheap"), strong=Timed(clock, "strong"))

    fact = bench.attempt(step, role=role)

    assert isinstance(fact, AttemptSucceeded)
    assert fact.output == asked
    assert "speculation" not in (fact.metadata or {})


# --- the gate ---------------------------------------------------------------------------------


def test_break_even_is_what_the_formulas_say() -> None:
    # Draft .25 and judge .15 of the strong model's time, .05 and .25 of its price.
    assert break_even("cascade", latency=0.40, cost=0.30, weight=1) == pytest.approx(0.40)
    assert break_even("cascade", latency=0.40, cost=0.30, weight=0) == pytest.approx(0.30)
    assert break_even("cascade", latency=0.40, cost=0.30, weight=0.5) == pytest.approx(0.35)
    assert break_even("hedged", latency=0.40, cost=0.30, weight=1) == 0.0
    assert break_even("hedged", latency=0.40, cost=0.30, weight=0.5) == pytest.approx(0.30 / 0.60)
    assert break_even("hedged", latency=1.2, cost=0.30, weight=1) == float("inf")
    assert break_even("predicted", latency=0.40, cost=9.0, weight=0.5) == pytest.approx(0.40)


@pytest.mark.parametrize("policy", ["cascade", "hedged", "predicted"])
def test_what_is_not_known_yet_holds_nothing_back(policy: str) -> None:
    assert break_even(policy, latency=None, cost=None, weight=0.5) == 0.0


def test_of_the_calls_held_back_every_twentieth_is_drafted() -> None:
    drafts = Drafts(misses=8)

    went = [drafts.go(0.4) for _ in range(2 * PROBE_EVERY)]

    assert [place for place, gone in enumerate(went, start=1) if gone] == [PROBE_EVERY, 2 * PROBE_EVERY]


def test_the_mean_is_that_of_a_beta_posterior() -> None:
    drafts = Drafts()
    for accepted in (1, 1, 0):
        drafts.observe(accepted)

    assert drafts.mean == pytest.approx(3 / 5)


def test_the_gate_forgets_the_template_that_was_used_longest_ago() -> None:
    gate = AcceptanceGate(size=2)
    gate.of("a").observe(0)
    gate.of("b").observe(0)
    gate.of("a")

    gate.of("c")

    assert (gate.of("a").misses, gate.of("b").misses) == (1, 0)


def test_drafting_stops_when_it_does_not_pay_and_is_tried_again_now_and_then() -> None:
    clock = ManualClock()
    cheap = Timed(clock, "draft", takes_s=0.25)
    strong = Timed(clock, "answer", takes_s=1.0)
    bench = Bench.of(clock, cheap=cheap, strong=strong, judge=Timed(clock, "0", takes_s=0.25))
    step = step_with("cascade", judge="judge", latency_weight=1)

    reasons = [told(bench.attempt(step))["fallback_reason"] for _ in range(1 + PROBE_EVERY)]

    # After one rejection its mean is 1/3, and draft and judge take 1/2 of the strong model's time.
    assert reasons[0] == "the judge gave the draft 0 of 9, below 7"
    assert reasons[1] == "of its drafts 0.33 were of use, and drafting pays from 0.50 on"
    assert len(cheap.calls) == 2
    assert reasons[PROBE_EVERY] == reasons[0]


@pytest.mark.parametrize("policy", ["cascade", "hedged", "predicted"])
def test_a_draft_that_keeps_failing_is_given_up(policy: str) -> None:
    clock = ManualClock()
    cheap = Timed(clock, ModelError("overloaded"), takes_s=0.9)
    bench = Bench.of(clock, cheap=cheap, strong=Timed(clock, "answer", predicts=True))

    for _ in range(PROBE_EVERY):
        bench.attempt(step_with(policy, latency_weight=0.9))

    assert len(cheap.calls) < 5


def test_predictions_stop_where_hardly_any_of_them_fits() -> None:
    clock = ManualClock()
    cheap = Timed(clock, "draft", takes_s=0.5, tokens=(10, 10))
    strong = Timed(clock, "answer", tokens=(10, 10), predicts=True, said={"accepted_prediction_tokens": 1})
    bench = Bench.of(clock, cheap=cheap, strong=strong)

    reasons = [told(bench.attempt(step_with("predicted")))["fallback_reason"] for _ in range(2)]

    # One token of ten: the mean is 1.1 / 3, and the draft takes .45 of what the strong model alone would.
    assert reasons == [None, "of its drafts 0.37 were of use, and drafting pays from 0.45 on"]
    assert len(cheap.calls) == 1


def test_money_alone_decides_where_time_does_not_count() -> None:
    clock = ManualClock()
    cheap = Timed(clock, "draft", takes_s=50, price=ModelPrice(0.1, 0.2))
    strong = Timed(clock, "answer", takes_s=1.0, price=DEAR)
    bench = Bench.of(clock, cheap=cheap, strong=strong, judge=Timed(clock, "0", price=ModelPrice(0.1, 0.2)))
    step = step_with("cascade", judge="judge", latency_weight=0)

    for _ in range(3):
        bench.attempt(step)

    assert len(cheap.calls) == 3, "slow, but next to nothing to pay"


def test_what_one_template_teaches_is_not_held_against_another() -> None:
    clock = ManualClock()
    cheap = Timed(clock, "draft", takes_s=0.9)
    bench = Bench.of(clock, cheap=cheap, strong=Timed(clock, "answer"), judge=Timed(clock, "0"))
    for _ in range(3):
        bench.attempt(step_with("cascade", judge="judge", latency_weight=1))
    drafted = len(cheap.calls)

    bench.attempt(step_with("cascade", judge="judge", latency_weight=1, system="Be brief."))

    assert (drafted, len(cheap.calls)) == (1, 2)


# --- what is told -----------------------------------------------------------------------------


def test_efficiency_is_one_formula_and_not_clamped() -> None:
    assert Speculated(policy="cascade", verify_steps=1, output_tokens=100).speculative_efficiency == pytest.approx(0.99)
    assert Speculated(policy="cascade", verify_steps=103, output_tokens=100).speculative_efficiency == pytest.approx(
        -0.03
    )
    assert Speculated(policy="plain", verify_steps=100, output_tokens=100).speculative_efficiency == 0.0
    assert Speculated(policy="plain").speculative_efficiency == 0.0


def test_at_token_level_efficiency_is_one_less_the_passes_a_token() -> None:
    told = Speculated(
        policy="token", draft_tokens=100, accepted_tokens=80, drafts=20, verify_steps=20, output_tokens=100
    )

    assert (told.speculative_efficiency, told.acceptance_rate, told.mean_accept_len) == pytest.approx((0.80, 0.80, 4.0))


# --- by tokens --------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["token", "ngram"])
def test_a_policy_by_tokens_is_refused_where_the_model_runs_elsewhere(policy: str) -> None:
    clock = ManualClock()
    strong = Timed(clock, "330 m")
    bench = Bench.of(clock, cheap=Timed(clock, "x"), strong=strong)

    fact = bench.attempt(step_with(policy))

    assert isinstance(fact, AttemptFailed)
    assert f"policy '{policy}' is about tokens inside a model of this process" in fact.error
    assert strong.calls == []


def test_only_ngram_needs_no_draft() -> None:
    SpeculatePolicy(policy="ngram")

    with pytest.raises(ValueError, match="policy 'token' needs a draft"):
        SpeculatePolicy(policy="token")
