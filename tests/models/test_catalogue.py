"""What `model:` in a plan means: given models, then names, then addresses; what is known of them; what is refused."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from planloom.core.chat import Message, ModelCall
from planloom.core.prices import ModelPrice
from planloom.errors import ConfigError, UnknownModelError
from planloom.models.catalogue import Models
from planloom.models.llm import LLM
from planloom.models.rates import RateLimit
from planloom.models.scripted import FunctionModel, ScriptedModel, register, unregister
from planloom.models.uri import parse_uri
from planloom.testing.clock import ManualClock

MINI = "openai://gpt-4o-mini"


def test_a22_asking_for_the_default_model_without_one_names_the_setting() -> None:
    with pytest.raises(ConfigError, match="default_model") as caught:
        Models().get("default")

    assert 'models={"default"' in caught.value.remedy


def test_a_name_means_what_was_given_before_what_settings_say() -> None:
    mine = LLM.from_uri("scripted://echo")
    models = Models(default=MINI, named={"fast": MINI}, given={"fast": mine, "slow": "anthropic://claude-haiku-4-5"})

    assert models.get("fast") is mine
    assert str(models.get("slow").uri) == "anthropic://claude-haiku-4-5"
    assert str(models.get("default").uri) == MINI
    assert models.names() == ["default", "fast", "slow"]


def test_any_address_is_a_model_and_the_same_address_is_the_same_model() -> None:
    models = Models(default=MINI, named={"fast": MINI})

    assert models.get(MINI) is models.get("default") is models.get("fast")
    assert models.get("openai://gpt-4o?temperature=0.2").uri.params == {"temperature": 0.2}


def test_a_model_of_any_kind_can_be_given_bare() -> None:
    models = Models(given={"default": ScriptedModel(["hello"], name="greeter")})

    async def main() -> str:
        return (await models.get("default").generate("hi")).text

    llm = models.get("default")
    assert parse_uri(str(llm.uri)) == llm.uri
    assert str(llm.uri) == "scripted://greeter"
    assert asyncio.run(main()) == "hello"


def test_a_misspelt_name_is_an_error_that_knows_what_was_meant() -> None:
    with pytest.raises(UnknownModelError, match="did you mean 'fast'"):
        Models(named={"fast": MINI, "strong": MINI}).get("fsat")


def test_a_bare_name_of_a_well_known_model_is_answered_with_its_address() -> None:
    with pytest.raises(UnknownModelError, match=r"openai://gpt-4o\b"):
        Models().get("gpt-4o")


@pytest.mark.parametrize(
    "models",
    [
        Models(default="fast", named={"fast": MINI}),
        Models(named={"default": "fast", "fast": MINI}),
        Models(given={"default": "fast", "fast": MINI}),
    ],
)
def test_a_name_stands_for_an_address_and_never_for_another_name(models: Models) -> None:
    with pytest.raises(UnknownModelError, match="'fast', which is no address"):
        models.get("default")


def test_a_name_with_a_bad_address_does_no_harm_to_the_others() -> None:
    models = Models(named={"bad": "openai://gpt-4o?api_key=sk-1", "good": MINI}, prices={"good": ModelPrice(1, 2)})

    assert models.facts("good", priced=True).price == ModelPrice(1, 2)
    with pytest.raises(UnknownModelError):
        models.get("bad")


# --- what a plan may not say ------------------------------------------------------------------

OPERATORS = [
    "openai://gpt-4o?base_url=https://elsewhere.example/v1&key_env=DATABASE_PASSWORD",
    "openai://gpt-4o?base_url=http://127.0.0.1:8000/v1",
    "openai://gpt-4o?key_env=MY_KEY",
    "anthropic://claude-haiku-4-5?base_url=https://elsewhere.example",
    "vllm://qwen?base_url=http://169.254.169.254/v1",
    "cassette:///tmp/planloom-test.jsonl?model=openai://gpt-4o&mode=auto",
    "cassette:///tmp/planloom-test.jsonl?model=openai://gpt-4o&mode=record",
]


@pytest.mark.parametrize("address", OPERATORS)
def test_a_plan_may_not_say_where_a_model_is_with_which_key_or_in_which_file(address: str) -> None:
    with pytest.raises(UnknownModelError, match=r"the plan (says|names)") as caught:
        Models(named={"other": MINI}).get(address)

    assert "models" in caught.value.remedy


@pytest.mark.parametrize("name", ["/etc/passwd.json", "answers.json", "../secret.json", "a@b.json"])
def test_a_plan_may_not_have_a_file_of_answers_read(name: str) -> None:
    with pytest.raises(UnknownModelError, match="the plan names a file"):
        Models().get(f"scripted://{name}")


@pytest.mark.parametrize("address", OPERATORS)
def test_what_the_operator_wrote_a_plan_may_write_too_word_for_word(address: str) -> None:
    named, given = Models(named={"elsewhere": address}), Models(given={"elsewhere": address})
    handed = Models(given={"elsewhere": LLM(FunctionModel(str), parse_uri(address))})

    assert named.get("elsewhere") is named.get(address)
    assert given.get("elsewhere") is given.get(address)
    assert str(handed.get(address).uri) == str(Models(default=address).get(address).uri)
    with pytest.raises(UnknownModelError, match="the plan"):
        named.get(f"{address}&timeout=1")


def test_a_plan_may_name_what_was_registered_in_this_process_and_the_echo() -> None:
    model = register("known here.1", ["yes"])

    try:
        assert Models().get("scripted://known%20here.1").model is model
    finally:
        unregister("known here.1")
    assert str(Models().get("scripted://echo").uri) == "scripted://echo"


# --- facts ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """A price as `planloom.toml` gives it."""

    input: float
    output: float
    cache_read: float | None = None
    cache_write: float | None = None


def test_a_price_of_the_settings_comes_before_every_other_under_any_of_its_names() -> None:
    address = f"{MINI}?price_in=7&price_out=8"
    for key in ("fast", "other", address, MINI, "gpt-4o-mini"):
        models = Models(named={"fast": address, "other": address}, prices={key: Setting(1.0, 2.0, 0.5)})

        price = models.facts("fast", priced=True).price

        assert price == ModelPrice(1.0, 2.0, 0.5, None, source="settings"), key


def test_a_price_of_the_address_comes_before_the_list() -> None:
    price = Models(named={"mini": f"{MINI}?price_in=7&price_out=8"}).facts("mini", priced=True).price

    assert price is not None
    assert (price.input, price.output) == (7, 8)


def test_a_plan_cannot_make_a_model_free_and_so_pass_a_limit() -> None:
    with pytest.raises(UnknownModelError, match="price_in"):
        Models().get(f"{MINI}?price_in=0&price_out=0")


def test_a21_the_list_price_is_used_where_nobody_says_another() -> None:
    price = Models().facts(MINI, priced=True).price

    assert price is not None
    assert (price.input, price.output) == (0.15, 0.6)
    assert price.source.startswith("genai-prices")


def test_a_run_that_keeps_no_costs_is_told_no_price() -> None:
    models = Models(prices={MINI: Setting(1.0, 2.0)})

    assert models.facts(MINI, priced=False).price is None


@pytest.mark.slow
def test_a21_a_run_that_keeps_no_costs_reads_no_price_list(tmp_path: Path) -> None:
    taped = f"cassette://{tmp_path}/new.jsonl?model={MINI}&mode=auto"
    code = (
        "import sys; from planloom.models.catalogue import Models;"
        f"models = Models(default={MINI!r}, named={{'taped': {taped!r}}});"
        "print(models.facts('default', priced=False).name, models.facts('taped', priced=False).name);"
        "sys.exit('genai_prices' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)

    assert (done.returncode, done.stdout.split()) == (0, ["gpt-4o-mini", "gpt-4o-mini"])


def test_a_price_nobody_knows_is_none() -> None:
    assert Models().facts("openai://no-such-model", priced=True).price is None


def test_the_longest_answer_is_what_the_address_says_else_what_settings_and_model_allow() -> None:
    models = Models(max_answer_tokens=2_000)

    assert models.facts(MINI, priced=False).max_tokens == 2_000
    assert models.facts(f"{MINI}?max_tokens=9000", priced=False).max_tokens == 9_000
    assert models.facts(f"{MINI}?context_window=7000", priced=False).context_window == 7_000


def test_facts_carry_an_address_that_leads_to_the_same_model_again() -> None:
    models = Models(named={"fast": f"{MINI}?temperature=0.2"})

    facts = models.facts("fast", priced=True)

    assert models.get(facts.uri) is models.get("fast")
    assert (facts.provider, facts.name) == ("openai", "gpt-4o-mini")


# --- rates, timeouts, the end -----------------------------------------------------------------


def test_a_rate_of_the_settings_makes_calls_wait_on_the_engines_clock() -> None:
    clock = ManualClock(0.0)
    models = Models(named={"fast": "scripted://echo"}, rates={"echo": RateLimit(requests_per_minute=60)}, clock=clock)
    told: list[tuple[str | None, float | None]] = []

    async def main() -> None:
        llm = models.get("fast")
        call = ModelCall(messages=(Message("user", "hi"),))
        await llm.ask(call, on_wait=lambda *wait: told.append(wait))
        second = asyncio.ensure_future(llm.ask(call, on_wait=lambda *wait: told.append(wait)))
        while not second.done():
            await asyncio.sleep(0)
            clock.advance_to_next()

    asyncio.run(main())

    assert clock.now() == pytest.approx(1.0)
    assert told == [("rate", 1.0), (None, None)]


def test_the_settings_timeout_holds_unless_the_address_says_another() -> None:
    model = FunctionModel(lambda call: str(call.timeout_s))

    async def asked(models: Models) -> str:
        return (await models.get("default").generate("?")).text

    assert asyncio.run(asked(Models(given={"default": model}, timeout_s=12.5))) == "12.5"
    assert (
        asyncio.run(asked(Models(given={"default": LLM(model, parse_uri("x://y?timeout=3"))}, timeout_s=12.5))) == "3"
    )


class Closing(FunctionModel):
    """Knows how often it was closed."""

    closed = 0

    async def close(self) -> None:
        self.closed += 1


def test_only_models_made_here_are_closed_here() -> None:
    made, bare, faced = Closing(str), Closing(str), Closing(str)
    register("closing", made)
    models = Models(default="scripted://closing", given={"bare": bare, "faced": LLM(faced, parse_uri("x://y"))})

    async def main() -> None:
        for name in ("default", "bare", "faced"):
            models.get(name)
        await models.close()
        await models.close()

    try:
        asyncio.run(main())
    finally:
        unregister("closing")

    assert (made.closed, bare.closed, faced.closed) == (1, 0, 0)


def test_a_cassette_can_be_named_by_settings_before_it_exists(tmp_path: Path) -> None:
    models = Models(named={"taped": f"cassette://{tmp_path}/new.jsonl?model={MINI}&mode=auto"})

    assert models.facts("taped", priced=False).name == "gpt-4o-mini"
