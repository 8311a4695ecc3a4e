"""What attempts ask of models is granted before and booked after, whatever a call comes to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from planloom import Engine, RunResult
from planloom.core.asking import prompt_ceiling
from planloom.core.chat import LLMResponse, Message, ModelCall
from planloom.core.commands import Grant
from planloom.core.result import Usage
from planloom.errors import GrantError, ModelError, ModelStreamError, ModelTimeoutError, UnknownPriceError
from planloom.executors.meter import Meter
from planloom.models.catalogue import Models
from planloom.models.llm import LLM
from planloom.models.rates import RateLimit, RateLimits
from planloom.models.uri import parse_uri
from planloom.ports import Model
from planloom.testing.clock import ManualClock
from planloom.testing.fakes import fake_tool
from planloom.testing.models import FunctionModel, ScriptedModel
from tests.executors.attempts import FIFTEEN_SIXTY, Books, asking, facts

CALL = ModelCall(messages=(Message("user", "Say it."),), max_tokens=10)
CEILING = prompt_ceiling(CALL) + 10
USED = Usage(1_000, 500, requests=1)


def catalogue(**given: LLM | Model) -> Models:
    """Return models that have the addresses the requests of `asking` are pinned to."""
    made = {
        name: one if isinstance(one, LLM) else LLM(one, parse_uri(f"scripted://{name}")) for name, one in given.items()
    }
    return Models(given=made, clock=ManualClock())


def ask(model: Model, books: Books, call: ModelCall = CALL, **request: Any) -> LLMResponse:
    async def main() -> LLMResponse:
        async with asyncio.timeout(5):
            return await Meter(books, asking(**request), catalogue(m=model)).ask("m", call)

    return asyncio.run(main())


async def never(_: ModelCall) -> None:
    await asyncio.Event().wait()


def test_an_answer_is_booked_with_its_tokens_and_their_price() -> None:
    books = Books()

    ask(ScriptedModel(["said"], usage=USED), books)

    assert books.reported_usage == USED
    assert books.reported_usd == pytest.approx(0.00045, abs=1e-12)


def test_without_a_price_there_is_no_cost_and_it_is_not_zero() -> None:
    books = Books()

    ask(ScriptedModel(["said"], usage=USED), books, models={"m": facts(price=None)})

    assert books.reported_usage == USED
    assert books.reported_usd is None


def test_an_attempt_that_asked_nobody_cost_nothing_if_prices_are_known() -> None:
    priced, unpriced = Books(), Books()

    Meter(priced, asking(), catalogue(m=ScriptedModel([])))
    Meter(unpriced, asking(models={"m": facts(price=None)}), catalogue(m=ScriptedModel([])))

    assert (priced.reported_usd, unpriced.reported_usd) == (0.0, None)


def test_a_tool_that_fails_before_it_is_judged_costs_what_it_declares() -> None:
    judge = ScriptedModel(["never asked"], price=FIFTEEN_SIXTY)
    step = {"id": "a", "tool": "t", "verify": {"strategy": "model", "model": "m"}}

    async def main() -> RunResult:
        tools = [fake_tool("t", [ConnectionError("gone")], cost_per_call=0.25)]
        async with Engine(tools=tools, models={"m": judge}) as engine:
            return await engine.run({"planloom": 1, "steps": [step]})

    result = asyncio.run(main())

    assert result.cost_usd == 0.25
    assert judge.calls == []


def test_a_model_that_the_run_was_not_told_of_is_asked_and_has_no_cost() -> None:
    books, model = Books(), ScriptedModel(["said"], usage=USED, price=FIFTEEN_SIXTY)

    answer = ask(model, books, replace(CALL, max_tokens=None), models={})

    assert answer.text == "said"
    assert books.reported_usage == USED
    assert books.reported_usd is None
    assert (model.calls[0].max_tokens or 0) > 0


def test_a_model_in_hand_has_the_price_of_its_address() -> None:
    books = Books()
    llm = LLM(ScriptedModel(["said"], usage=USED), parse_uri("scripted://m"))

    async def main() -> None:
        await Meter(books, asking(), catalogue()).ask(llm, CALL)

    asyncio.run(main())

    assert books.reported_usd == pytest.approx(0.00045, abs=1e-12)


def test_most_tokens_of_the_answer_are_always_sent() -> None:
    model = ScriptedModel(["one", "two"])

    ask(model, Books(), replace(CALL, max_tokens=None))
    ask(model, Books(), CALL)

    assert [call.max_tokens for call in model.calls] == [100, 10]


@pytest.mark.parametrize(
    ("grant", "limits"),
    [
        (Grant(tokens=CEILING - 1), ("max_total_tokens",)),
        (Grant(usd=FIFTEEN_SIXTY.ceiling_usd(CEILING - 10, 10) * 0.99), ("max_total_cost_usd",)),
        (Grant(usd=0.0, tokens=0), ("max_total_cost_usd", "max_total_tokens")),
    ],
    ids=["tokens", "money", "both"],
)
def test_a_call_that_might_pass_the_grant_is_not_made(grant: Grant, limits: tuple[str, ...]) -> None:
    model, books = ScriptedModel(["said"]), Books()

    with pytest.raises(GrantError) as caught:
        ask(model, books, grant=grant)

    assert caught.value.limits == limits
    assert model.calls == []
    assert books.reported_usage is None


@pytest.mark.parametrize(
    "grant", [Grant(tokens=CEILING), Grant(usd=FIFTEEN_SIXTY.ceiling_usd(CEILING - 10, 10))], ids=["tokens", "money"]
)
def test_a_call_that_just_fits_is_made_and_leaves_no_room_for_another(grant: Grant) -> None:
    model, books = ScriptedModel(["one", "two"], usage=Usage(CEILING - 10, 10, requests=1)), Books()

    ask(model, books, grant=grant)
    with pytest.raises(GrantError):
        ask(model, books, grant=grant)

    assert len(model.calls) == 1


@pytest.mark.parametrize(
    "grant",
    [Grant(tokens=2 * CEILING), Grant(usd=2 * FIFTEEN_SIXTY.ceiling_usd(CEILING - 10, 10))],
    ids=["tokens", "money"],
)
def test_calls_at_the_same_time_share_one_grant_through_whatever_meters(grant: Grant) -> None:
    books, request = Books(), asking(grant=grant)
    gate = asyncio.Event()
    model = FunctionModel(lambda call: "said", usage=Usage(1, 1, requests=1), before=lambda _: gate.wait())

    async def main() -> list[LLMResponse | BaseException]:
        models = catalogue(m=model)
        asked = [asyncio.create_task(Meter(books, request, models).ask("m", CALL)) for _ in range(3)]
        while len(model.calls) < 2:
            await asyncio.sleep(0)
        gate.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        await Meter(books, request, models).ask("m", CALL)  # what was held and not used is free again
        return found

    found = asyncio.run(main())

    assert [type(one).__name__ for one in found] == ["LLMResponse", "LLMResponse", "GrantError"]
    assert len(model.calls) == 3


def test_money_is_limited_and_a_model_without_a_price_is_not_asked() -> None:
    model = ScriptedModel(["said"])

    with pytest.raises(UnknownPriceError):
        ask(model, Books(), grant=Grant(usd=5.0), models={})

    assert model.calls == []


def failing(error: BaseException, **attributes: Any) -> FunctionModel:
    for name, value in attributes.items():
        setattr(error, name, value)
    return FunctionModel(lambda call: error)


@pytest.mark.parametrize(
    ("error", "attributes", "booked"),
    [
        (ModelError("cut off"), {"usage": USED}, USED),
        (ModelError("no connection"), {}, None),
        (ModelError("too busy", status_code=529), {}, None),
        (ModelTimeoutError("gateway", status_code=504), {}, None),
        (ModelTimeoutError("silent"), {}, Usage(CEILING - 10, 10, requests=1, estimated_tokens=CEILING)),
        (TimeoutError(), {}, Usage(CEILING - 10, 10, requests=1, estimated_tokens=CEILING)),
    ],
    ids=["says what it used", "no connection", "HTTP error", "HTTP timeout", "timed out", "bare timeout"],
)
def test_a_call_that_fails_books_what_it_used(
    error: BaseException, attributes: dict[str, Any], booked: Usage | None
) -> None:
    books = Books()

    with pytest.raises(type(error)):
        ask(failing(error, **attributes), books)

    assert books.reported_usage == booked
    assert books.reported_usd == pytest.approx(0.0 if booked is None else FIFTEEN_SIXTY.cost_usd(booked))


def test_a_cancelled_call_books_an_estimate_and_says_so() -> None:
    books = Books()

    async def main() -> None:
        asked = asyncio.create_task(
            Meter(books, asking(), catalogue(m=FunctionModel(lambda call: "", before=never))).ask("m", CALL)
        )
        await asyncio.sleep(0.01)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    asyncio.run(main())

    assert books.reported_usage == Usage(CEILING - 10, 10, requests=1, estimated_tokens=CEILING)


def test_a_call_cancelled_before_its_turn_books_nothing() -> None:
    clock = ManualClock()
    books, model = Books(clock), ScriptedModel(["one", "two"], usage=USED)
    llm = LLM(model, parse_uri("scripted://m"), rates=RateLimits(clock), limit=RateLimit(requests_per_minute=1))

    async def main() -> None:
        meter = Meter(books, asking(), catalogue(m=llm))
        await meter.ask("m", CALL)
        asked = asyncio.create_task(meter.ask("m", CALL))
        while not books.waits:
            await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    asyncio.run(main())

    assert books.waits[0] is not None
    assert len(model.calls) == 1
    assert books.reported_usage == USED


class Breaking(FunctionModel):
    """Streams two pieces and breaks off."""

    def __init__(self, then: Callable[[], Any]) -> None:
        super().__init__(lambda call: "")
        self.then = then

    async def stream(self, call: ModelCall) -> Any:
        yield "four token"
        yield "s of text"
        result = self.then()
        if isinstance(result, BaseException):
            raise result
        if result is not None:
            await result


def stream(model: Model, books: Books) -> list[str]:
    heard: list[str] = []

    async def main() -> None:
        async with asyncio.timeout(0.05):
            await Meter(books, asking(), catalogue(m=model)).stream("m", CALL, heard.append)

    with pytest.raises((ModelError, TimeoutError)):
        asyncio.run(main())
    return heard


@pytest.mark.parametrize(
    "then",
    [lambda: ModelStreamError("reset"), lambda: None, lambda: asyncio.Event().wait()],
    ids=["breaks off", "ends too soon", "is cancelled"],
)
def test_a_stream_cut_short_books_what_was_streamed(then: Callable[[], Any]) -> None:
    books = Books()

    heard = stream(Breaking(then), books)

    assert heard == ["four token", "s of text"]
    assert books.reported_usage == Usage(CEILING - 10, 5, requests=1, estimated_tokens=CEILING - 5)


def test_a_whole_stream_books_what_the_provider_says() -> None:
    books, heard = Books(), []

    async def main() -> LLMResponse:
        models = catalogue(m=ScriptedModel(["an answer in pieces"], usage=USED))
        return await Meter(books, asking(), models).stream("m", CALL, heard.append)

    answer = asyncio.run(main())

    assert "".join(heard) == answer.text == "an answer in pieces"
    assert books.reported_usage == USED


def test_a_name_that_means_another_model_now_still_asks_the_one_on_record() -> None:
    async def main() -> str:
        models = catalogue(m=ScriptedModel(["another answers"]))
        pinned = {"m": replace(facts(), uri="scripted://echo")}
        answer = await Meter(Books(), asking(models=pinned), models).ask("m", CALL)
        return answer.text

    assert asyncio.run(main()) == "Say it."
