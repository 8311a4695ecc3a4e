"""Many tokens checked in one pass: the same answer, in fewer passes, and never slower for long."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from planloom import SpeculativeExecutor
from planloom.api.execution import ExecutionResult, ExecutorConfig
from planloom.core.chat import LLMResponse
from planloom.errors import ModelTruncatedError, ToolExecutionError
from planloom.models.llm import LLM
from planloom.models.local.candidates import Candidates, Draft, Lookup
from planloom.models.local.decode import Decoding, Pick, greedy, sampled
from planloom.models.local.model import TransformersModel
from planloom.models.scripted import ScriptedModel
from tests.executors.test_speculative import KEYS
from tests.local.folders import END, reciting, saved, tokenizer
from tests.local.tiny import VOCABULARY, shared, tokens

MOST = 40
SAID = "".join(map(chr, range(0x20, 0x7F))) + "\t\n\r\v"
"""99 characters, each once: with the end a hundred tokens."""
EVERY_FIFTH = dict.fromkeys(range(4, 100, 5), 192)


class Passes:
    """Counts how often a model is really run."""

    def __init__(self, model: Any) -> None:
        self.count = 0
        self._handle = model.register_forward_pre_hook(self._counted)

    def _counted(self, *_: Any) -> None:
        self.count += 1

    def __enter__(self) -> Passes:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def decoded(
    model: Any, ids: list[int], candidates: Candidates | None = None, pick: Pick = greedy, most: int = MOST
) -> Decoding:
    decoding = Decoding(model, ids, most, frozenset(), pick, candidates=candidates)
    assert decoding.run(lambda _: False) == "length"
    return decoding


def repetitive(seed: int) -> list[int]:
    return tokens(12, seed=seed)[0].tolist() * 3


def by_transformers(model: Any, ids: list[int]) -> list[int]:
    inputs = torch.tensor([ids])
    said = model.generate(inputs, max_new_tokens=MOST, do_sample=False, attention_mask=torch.ones_like(inputs))
    return said[0, len(ids) :].tolist()


def ways(model: Any, expected: list[int]) -> dict[str, Candidates]:
    wrong = [*expected[:9], 1, *expected[9:]]
    return {
        "ngram": Lookup(),
        "prediction": Lookup(wrong, in_prompt=False),
        "both": Lookup(wrong[5:]),
        "itself": Draft(model, frozenset(), VOCABULARY, confident=0),
        "another": Draft(shared("llama", 7), frozenset(), VOCABULARY, confident=0),
    }


# --- the same tokens ---


def test_e6_every_way_says_the_tokens_that_plain_generation_says(model: Any) -> None:
    for seed in range(3):
        ids = repetitive(seed)
        expected = by_transformers(model, ids)

        plain = decoded(model, ids)

        assert plain.tokens == expected
        assert plain.counts.passes == MOST
        for name, candidates in ways(model, expected).items():
            with Passes(model) as passes:
                sped = decoded(model, ids, candidates)
            assert sped.tokens == expected, name
            if name != "itself":  # its draft is the same model
                assert sped.counts.passes == passes.count, name
            assert MOST <= sped.counts.passes + sped.counts.accepted <= MOST + 1, name


def test_a_draft_that_is_the_model_itself_is_always_right(llama: Any) -> None:
    sped = decoded(llama, repetitive(1), Draft(llama, frozenset(), VOCABULARY, confident=0))

    assert sped.counts.accepted == sped.counts.proposed > 0
    assert sped.counts.passes < MOST / 3


@torch.inference_mode()
def test_a_draft_that_was_wrong_goes_on_as_one_that_never_was(llama: Any) -> None:
    ids, other = repetitive(1), [5, 9]
    draft = Draft(llama, frozenset(), VOCABULARY, confident=0)
    assert len(draft.propose(ids, 3)) == 3

    again = draft.propose([*ids, *other], 4)

    assert again == Draft(llama, frozenset(), VOCABULARY, confident=0).propose([*ids, *other], 4)
    assert len(again) == 4


@pytest.mark.parametrize("seed", range(4))
def test_a_seed_draws_the_same_answer_with_candidates_and_without(llama: Any, seed: int) -> None:
    ids = repetitive(seed)

    def pick() -> Pick:
        return sampled(0.8, top_k=20, top_p=0.95, seed=seed)

    plain = decoded(llama, ids, pick=pick())

    for candidates in ways(llama, plain.tokens).values():
        assert decoded(llama, ids, candidates, pick()).tokens == plain.tokens


def test_candidates_never_run_past_the_end_of_an_answer(llama: Any) -> None:
    expected = decoded(llama, repetitive(0)).tokens
    end = expected[6]
    most = expected.index(end) + 1

    for candidates in ways(llama, expected).values():
        decoding = Decoding(llama, repetitive(0), MOST, frozenset((end,)), greedy, candidates=candidates)
        assert decoding.run(lambda _: False) == "stop"
        assert decoding.tokens == expected[:most]
    for short in (1, 2, 5):
        assert decoded(llama, repetitive(0), Lookup(expected), most=short).tokens == expected[:short]


def test_a_model_with_a_window_is_sped_up_and_says_the_same() -> None:
    from tests.local.tiny import tiny

    model = tiny("mistral", sliding_window=8)
    ids = repetitive(2)

    assert decoded(model, ids, Lookup()).tokens == decoded(model, ids).tokens == by_transformers(model, ids)


# --- the executor ---


@pytest.fixture(scope="module")
def strong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("strong"), reciting(SAID))


@pytest.fixture(scope="module")
def cheap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("cheap"), reciting(SAID, wrong=EVERY_FIFTH, num_hidden_layers=1))


def speculated(draft: Any, verify: Any, policy: Any = "auto", prompt: str = "recite") -> ExecutionResult:
    async def main() -> ExecutionResult:
        async with SpeculativeExecutor(draft, verify, ExecutorConfig(max_tokens=500), policy) as executor:
            return await executor.execute(prompt)

    return asyncio.run(main())


def at(folder: Path, params: str = "") -> str:
    return f"transformers://{folder}{params}"


def alone(folder: Path, prompt: str = "recite", **call: Any) -> LLMResponse:
    async def main() -> LLMResponse:
        llm = LLM.from_uri(at(folder))
        try:
            return await llm.generate(prompt, **call)
        finally:
            await llm.close()

    return asyncio.run(main())


@pytest.mark.parametrize("policy", ["auto", "token"])
def test_a62_a_draft_that_agrees_on_80_of_100_tokens_has_efficiency_080_and_changes_nothing(
    strong: Path, cheap: Path, policy: str
) -> None:
    result = speculated(at(cheap), at(strong), policy)

    told = result.metadata
    assert result.text == alone(strong).text == SAID
    assert told["speculative_efficiency"] == 0.8
    assert (told["output_tokens"], told["verify_steps"], told["accepted_tokens"]) == (100, 20, 80)
    assert (told["policy"], told["lossless"], told["accepted"]) == ("token", True, True)
    assert told["acceptance_rate"] == 80 / told["draft_tokens"]
    assert told["mean_accept_len"] == 80 / 20
    assert told["wasted_tokens"] == told["draft_tokens"] - 80
    assert told["fallback_reason"] is None
    assert told.keys() >= KEYS


def test_a62_a_draft_that_cannot_be_read_means_that_the_model_answers_by_itself(strong: Path, tmp_path: Path) -> None:
    saved(tmp_path, reciting("ab"))
    (tmp_path / "model.safetensors").write_bytes(b"nothing of use")

    result = speculated(at(tmp_path), at(strong), "token")

    assert result.text == SAID
    assert result.metadata["speculative_efficiency"] == 0.0
    assert result.metadata["fallback_reason"].startswith("the draft failed: the model in")


def test_a62_a_draft_that_fails_on_the_way_means_that_the_model_goes_on_by_itself(
    strong: Path, cheap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = Draft.propose, []

    def failing(self: Draft, *args: Any) -> list[int]:
        calls.append(args)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return plain(self, *args)

    monkeypatch.setattr(Draft, "propose", failing)

    result = speculated(at(cheap), at(strong), "token")

    assert result.text == SAID
    assert result.metadata["verify_steps"] == 2 + 90
    assert result.metadata["fallback_reason"] == "the draft failed: RuntimeError: out of memory"


def test_ngram_needs_no_draft_and_says_the_same(strong: Path) -> None:
    result = speculated(ScriptedModel([]), at(strong), "ngram", prompt=SAID[10:60])

    assert result.text == SAID
    assert result.metadata["policy"] == "ngram"
    assert result.metadata["speculative_efficiency"] > 0.3
    assert result.metadata["accepted_tokens"] == 100 - result.metadata["verify_steps"]


def test_a_draft_with_another_tokenizer_is_refused_or_done_without(strong: Path, tmp_path: Path) -> None:
    saved(tmp_path, reciting("ab"))
    other = tokenizer()
    other.add_tokens(["whole"])
    other.save_pretrained(tmp_path)

    with pytest.raises(ToolExecutionError, match="its tokenizer is another one"):
        speculated(at(tmp_path), at(strong), "token")
    result = speculated(at(tmp_path), at(strong), prompt=SAID[10:60])

    assert (result.text, result.metadata["policy"]) == (SAID, "ngram")
    assert result.metadata["accepted_tokens"] > 0
    assert "tokenizer" in result.metadata["fallback_reason"]


def test_a_draft_elsewhere_is_refused_or_done_without(strong: Path) -> None:
    with pytest.raises(ToolExecutionError, match="scripted scripted does not run in this process"):
        speculated(ScriptedModel(["x"]), at(strong), "token")

    assert speculated(ScriptedModel(["x"]), at(strong)).metadata["policy"] == "ngram"


# --- by the address, and by a prediction ---


def test_an_address_may_name_the_draft_and_the_way(strong: Path, cheap: Path) -> None:
    async def main(params: str) -> LLMResponse:
        return await LLM.from_uri(at(strong, params)).generate(SAID[10:60])

    drafted = asyncio.run(main(f"?draft={cheap}"))
    looked_up = asyncio.run(main("?speculate=ngram&max_tokens=200"))

    assert drafted.text == looked_up.text == SAID
    assert drafted.metadata["decoding"]["speculate"] == "draft"
    assert drafted.metadata["decoding"]["verify_steps"] == 20
    assert looked_up.metadata["decoding"]["speculate"] == "ngram"


def test_a_prediction_is_checked_and_what_was_right_of_it_is_counted(strong: Path) -> None:
    answer = alone(strong, prediction=SAID[:60] + "-" + SAID[60:])

    told = answer.metadata
    assert answer.text == SAID
    assert told["accepted_prediction_tokens"] >= 60
    assert told["rejected_prediction_tokens"] > 0
    assert told["decoding"]["verify_steps"] == 100 - told["decoding"]["accepted_tokens"]


def test_speculation_that_is_slower_is_off_and_says_so(strong: Path) -> None:
    async def main() -> tuple[LLMResponse, LLMResponse]:
        llm = LLM.from_uri(at(strong))
        options = {"speculate": "ngram"}
        await llm.generate("recite", options=options)
        assert isinstance(llm.model, TransformersModel)
        weights, _ = llm.model._opened()
        pace = weights.loaded().pace("ngram")
        pace.sped.tokens, pace.sped.seconds = 90, 10.0
        pace.plain.tokens, pace.plain.seconds = 100, 10.0
        held_back = await llm.generate("recite", options=options)
        pace.sped.tokens = 200_000
        pace.plain.seconds = 10_000.0
        again = await llm.generate("recite", options=options)
        await llm.close()
        return held_back, again

    held_back, again = asyncio.run(main())

    assert held_back.text == again.text == SAID
    assert held_back.metadata["decoding"]["speculate"] == "off"
    assert held_back.metadata["decoding"]["fallback_reason"].startswith("speculation was no faster here: 0.90 times")
    assert again.metadata["decoding"]["speculate"] == "ngram"


def test_an_answer_that_is_cut_off_is_so_at_the_same_token(strong: Path, cheap: Path) -> None:
    with pytest.raises(ModelTruncatedError) as caught:
        alone(strong, max_tokens=23, options={"speculate": "draft", "draft": at(cheap)})

    assert caught.value.usage.output_tokens == 23


def test_the_end_is_one_of_the_tokens_that_are_checked(strong: Path) -> None:
    assert reciting("ab").lm_head.weight[:, ord("b")].argmax() == END
