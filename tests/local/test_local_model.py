"""`transformers://`: answers, pieces, limits and failures of a model in this process."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from planloom.core.chat import LLMResponse, Message, ModelCall
from planloom.core.result import Usage
from planloom.errors import (
    ConfigError,
    ModelError,
    ModelRefusedError,
    ModelTimeoutError,
    ModelTruncatedError,
    UnknownFieldError,
)
from planloom.models.llm import LLM
from planloom.models.local import decode
from tests.local.folders import ASSISTANT, BEGIN, TEMPLATE, USER, ids_of, reciting, saved, tokenizer

SAID = "Käse 7€!"
PROMPT = len([BEGIN, USER, *b"hi\n", ASSISTANT])
WHOLE = Usage(PROMPT, len(ids_of(SAID)) + 1, requests=1)
"""With the token that ends the answer."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("reciting"), reciting(SAID))


def asked(folder: Path, prompt: Any = "hi", params: str = "", **call: Any) -> LLMResponse:
    async def main() -> LLMResponse:
        llm = LLM.from_uri(f"transformers://{folder}?{params}")
        try:
            return await llm.generate(prompt, **call)
        finally:
            await llm.close()

    return asyncio.run(main())


def test_an_answer_is_whole_and_its_tokens_are_counted_exactly(folder: Path) -> None:
    answer = asked(folder)

    assert answer.text == SAID
    assert answer.usage == WHOLE
    assert (answer.provider, answer.metadata["finish_reason"]) == ("transformers", "stop")
    assert answer.metadata["decoding"]["verify_steps"] == WHOLE.output_tokens


def test_pieces_are_whole_characters_and_make_up_the_answer(folder: Path) -> None:
    async def main() -> list[str | LLMResponse]:
        llm = LLM.from_uri(f"transformers://{folder}")
        return [piece async for piece in llm.stream_call(ModelCall(messages=(Message("user", "hi"),)))]

    *pieces, last = asyncio.run(main())

    assert isinstance(last, LLMResponse)
    assert pieces == list(SAID)
    assert last.text == SAID


def test_an_answer_ends_before_a_stop_text_also_when_that_comes_in_pieces(folder: Path) -> None:
    answer = asked(folder, stop=["zzz", "e 7"])

    assert answer.text == "Käs"
    assert answer.usage.output_tokens == len("Käse 7".encode())


def test_an_answer_that_is_cut_off_is_an_error_that_tells_what_was_used(folder: Path) -> None:
    with pytest.raises(ModelTruncatedError) as caught:
        asked(folder, max_tokens=4)

    assert caught.value.usage == Usage(PROMPT, 4, requests=1)


def test_an_answer_that_ends_with_its_last_token_is_whole(folder: Path) -> None:
    assert asked(folder, max_tokens=WHOLE.output_tokens).text == SAID


def test_a_prompt_past_the_window_is_refused_before_the_model_is_run(tmp_path: Path) -> None:
    saved(tmp_path, reciting("ab", window=32))

    with pytest.raises(ModelRefusedError, match=r"the prompt is 56 tokens, and .* takes 32"):
        asked(tmp_path, "x" * 52)


def test_an_answer_that_fills_the_window_says_so(tmp_path: Path) -> None:
    saved(tmp_path, reciting("abcdefghijklmnopq", window=16))

    with pytest.raises(ModelTruncatedError, match="its window is full"):
        asked(tmp_path, max_tokens=1000)


def test_metadata_is_what_the_config_says_and_no_weights_are_read(folder: Path) -> None:
    known = LLM.from_uri(f"huggingface://{folder}").metadata

    assert (known.provider, known.name, known.context_window) == ("transformers", str(folder), 4096)
    assert known.capabilities == {"streaming", "logits", "prediction", "attention_mask"}
    assert known.price is not None
    assert known.price.output == 0


def test_a_model_whose_state_leaks_claims_no_mask(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mistral", "sliding_window": 64, "n_ctx": 128}')

    known = LLM.from_uri(f"transformers://{tmp_path}").metadata

    assert "attention_mask" not in known.capabilities
    assert known.context_window == 128


def test_tokens_are_counted_by_the_models_own_tokenizer(folder: Path) -> None:
    assert LLM.from_uri(f"transformers://{folder}").estimate_tokens("世界") == 6


def test_one_that_is_not_there_is_refused_before_it_is_asked(tmp_path: Path) -> None:
    llm = LLM.from_uri(f"transformers://{tmp_path}/nothing")

    with pytest.raises(ConfigError, match="there is no folder"):
        llm.ready()


def test_weights_as_a_pickle_are_not_read(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    torch.save(reciting(SAID).state_dict(), tmp_path / "pytorch_model.bin")

    with pytest.raises(ConfigError, match="no weights as safetensors"):
        LLM.from_uri(f"transformers://{tmp_path}").ready()
    with pytest.raises(ConfigError, match="cannot be read"):
        asked(tmp_path)


def test_a_name_is_looked_up_in_the_cache_and_never_among_the_folders_here(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").symlink_to(folder.parent)
    llm = LLM.from_uri(f"transformers://org/{folder.name}")

    with pytest.raises(ConfigError, match="not in the Hugging Face cache"):
        llm.ready()


@pytest.mark.parametrize(
    ("params", "error", "told"),
    [
        ("dtype=float8", ConfigError, "dtype"),
        ("device=tpu", ConfigError, "device"),
        ("speculate=luck", ConfigError, "speculate"),
        ("speculate=draft", ConfigError, "names no draft"),
        ("download=1", ConfigError, "download"),
        ("draught=x", UnknownFieldError, "draft"),
        ("draft=a//b", ConfigError, "no model's name"),
    ],
)
def test_a_param_that_is_wrong_is_refused_when_the_model_is_opened(
    params: str, error: type[ConfigError], told: str
) -> None:
    with pytest.raises(error, match=told):
        LLM.from_uri(f"transformers://org/name?{params}")


def test_tools_are_refused(folder: Path) -> None:
    tool = {"name": "look", "description": "", "parameters": {"type": "object"}}

    with pytest.raises(ModelRefusedError, match="takes no tools"):
        asked(folder, tools=[tool])


def test_an_option_that_does_not_exist_is_refused(folder: Path) -> None:
    with pytest.raises(UnknownFieldError, match="top_p"):
        asked(folder, options={"topp": 1})


def test_the_same_seed_draws_the_same_answer_and_another_another(tmp_path: Path) -> None:
    model = reciting("abc")
    model.lm_head.weight.data.mul_(0.02)  # any byte may follow any
    saved(tmp_path, model)

    texts = [text_of(tmp_path, seed) for seed in (1, 1, 2)]

    assert texts[0] == texts[1]
    assert texts[1] != texts[2]


def text_of(folder: Path, seed: int) -> str:
    """Return what was streamed of an answer that is cut off."""

    async def main() -> str:
        llm, text = LLM.from_uri(f"transformers://{folder}"), ""
        with suppress(ModelTruncatedError):
            async for piece in llm.stream("hi", 24, 1.0, options={"seed": seed}):
                text += piece
        return text

    return asyncio.run(main())


# --- one at a time, stopped, late ---


class Slow:
    """Holds a model's passes back until they are let go, one by one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes = 0
        self.at_work = threading.Event()
        self.go = threading.Semaphore(0)
        plain = decode.Decoding._pass
        slow = self

        def held(self: Any, *args: Any) -> Any:
            slow.passes += 1
            slow.at_work.set()
            slow.go.acquire()
            return plain(self, *args)

        monkeypatch.setattr(decode.Decoding, "_pass", held)

    async def begun(self) -> None:
        await asyncio.to_thread(self.at_work.wait, 20)


def test_cancelling_stops_the_model_before_its_next_token_and_waits_for_that(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)

    async def main() -> bool:
        llm = LLM.from_uri(f"transformers://{folder}")
        asking = asyncio.create_task(llm.generate("hi"))
        await slow.begun()
        asking.cancel()
        done, _ = await asyncio.wait({asking}, timeout=0.05)
        waits = not done  # the model is in the middle of a pass
        slow.go.release()
        with pytest.raises(asyncio.CancelledError):
            await asking
        return waits

    assert asyncio.run(main())
    assert slow.passes == 1


def test_one_answer_at_a_time_and_one_that_is_cancelled_in_the_queue_is_never_begun(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)

    async def main() -> list[str]:
        first, second = (LLM.from_uri(f"transformers://{folder}{more}") for more in ("", "?max_tokens=100"))
        asking = [asyncio.create_task(llm.generate("hi")) for llm in (first, second, second)]
        await slow.begun()
        await asyncio.sleep(0)
        asking[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking[1]
        assert slow.passes == 1
        for _ in range(2 * WHOLE.output_tokens):
            slow.go.release()
        return [(await one).text for one in (asking[0], asking[2])]

    assert asyncio.run(main()) == [SAID, SAID]
    assert slow.passes == 2 * WHOLE.output_tokens


def test_an_answer_that_takes_too_long_is_stopped_and_tells_what_it_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)

    async def main() -> ModelTimeoutError:
        llm = LLM.from_uri(f"transformers://{folder}")
        slow.go.release()
        await llm.generate("hi", stop="K")  # it is in memory now
        slow.at_work.clear()
        asking = asyncio.create_task(llm.generate("hi", timeout_s=0.05))
        waiting = asyncio.create_task(llm.generate("hi", timeout_s=0.05))
        await slow.begun()
        with pytest.raises(ModelTimeoutError) as queued:
            await waiting
        assert queued.value.usage == Usage()
        slow.go.release()
        with pytest.raises(ModelTimeoutError) as caught:
            await asking
        return caught.value

    error = asyncio.run(main())

    assert error.usage == Usage(PROMPT, 1, requests=1)
    assert slow.passes == 2


def test_a_model_that_fails_is_a_model_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, *args: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(decode.Decoding, "_pass", broken)

    with pytest.raises(ModelError, match="failed: RuntimeError: out of memory"):
        asked(folder)


def test_a_closed_model_is_read_again(folder: Path) -> None:
    async def main() -> list[str]:
        llm = LLM.from_uri(f"transformers://{folder}")
        first = await llm.generate("hi")
        await llm.close()
        again = await llm.generate("hi")
        await llm.close()
        return [first.text, again.text]

    assert asyncio.run(main()) == [SAID, SAID]


# --- chat templates ---


def test_without_a_template_the_conversation_is_written_plainly(tmp_path: Path) -> None:
    from planloom.models.local.prompt import prompt_of

    said = (Message("system", "Be brief."), Message("user", "hi"))

    prompt = prompt_of(ModelCall(messages=said), tokenizer(template=None), where="it")

    assert bytes(prompt.ids).decode() == "System: Be brief.\n\nUser: hi\n\nAssistant:"


def test_a_template_that_takes_no_system_message_is_told_it_with_the_question() -> None:
    from planloom.models.local.prompt import prompt_of

    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + TEMPLATE
    said = (Message("system", "Be brief."), Message("user", "hi"))

    prompt = prompt_of(ModelCall(messages=said), tokenizer(template=refusing), where="it")

    assert prompt.ids == [BEGIN, USER, *b"Be brief.\n\nhi\n", ASSISTANT]


def test_a_schema_is_asked_for_in_words() -> None:
    from planloom.models.local.prompt import prompt_of

    call = ModelCall(messages=(Message("user", "hi"),), output={"type": "integer"})

    prompt = prompt_of(call, tokenizer(template=None), where="it")

    assert '{"type": "integer"}' in bytes(prompt.ids).decode()
