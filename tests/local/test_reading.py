"""Documents through the engine to a model in this process: masked along their graph, answered and told of truly."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from planloom import DependencyGraph, ExecutionResult, Executor, ExecutorConfig, GASAConfig
from tests.local import folders

NAMES = ("wall", "roof", "river")
DOCUMENTS = [{"id": name, "content": f"All about the {name}. " * 8} for name in NAMES]
ANSWER = "Tiles!"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = folders.saved(tmp_path_factory.mktemp("model") / "reciting", folders.reciting(ANSWER))
    return f"transformers://{folder}?device=cpu"


def graph(*edges: tuple[str, str]) -> DependencyGraph:
    made = DependencyGraph()
    for name in NAMES:
        made.add_document_node(name)
    for source, target in edges:
        made.add_edge(source, target)
    return made


def asked(
    address: str, config: GASAConfig, *graphs: DependencyGraph, documents: list[Any] | None = None
) -> list[ExecutionResult]:
    """Ask once for each graph, of one executor each, all with the same model."""

    async def main() -> list[ExecutionResult]:
        found = []
        for one in graphs:
            told = ExecutorConfig(enable_gasa=True, temperature=0.0, max_tokens=20, verification_strategy="none")
            async with Executor(address, told, config, one) as executor:
                found.append(await executor.execute("What is on the roof?", documents or DOCUMENTS))
        return found

    return asyncio.run(main())


MASKED: dict[str, Any] = {"max_hops": 1, "min_tokens": 0, "min_saving": 0.0, "block_size": 16}


def test_a67_a_masked_model_answers_and_what_is_told_adds_up(address: str) -> None:
    [result] = asked(address, GASAConfig(**MASKED), graph(("roof", "wall")))

    told = result.metadata["gasa_stats"]
    assert result.text == ANSWER
    assert (told["strategy"], told["backend"], told["fallback_reason"]) == ("binary", "blockrow", None)
    assert (told["chunks"], told["max_hops"], told["unknown_nodes"]) == (3, 1, 0)
    assert 0 < told["kept_pairs"] < told["dense_pairs"] == told["tokens"] * (told["tokens"] + 1) // 2
    assert told["density"] == told["kept_pairs"] / told["dense_pairs"]
    assert result.usage.input_tokens == told["tokens"], "bytes are this model's tokens, and all of them were read"


def test_a67_an_edge_more_lets_more_be_read(address: str) -> None:
    few, more = asked(
        address, GASAConfig(**MASKED), graph(("roof", "wall")), graph(("roof", "wall"), ("roof", "river"))
    )

    assert few.metadata["gasa_stats"]["kept_pairs"] < more.metadata["gasa_stats"]["kept_pairs"]


def test_by_itself_a_mask_is_left_out_where_it_would_not_pay(address: str) -> None:
    [result] = asked(address, GASAConfig(), graph(("roof", "wall")))

    told = result.metadata["gasa_stats"]
    assert (told["strategy"], told["backend"]) == ("dense", "off")
    assert "min_tokens" in told["fallback_reason"] or "tokens" in told["fallback_reason"]
    assert result.text == ANSWER


def test_what_does_not_fit_into_the_window_is_left_out_before_the_rest_is_masked(address: str) -> None:
    many = [{"id": f"d{number}", "content": f"Number {number} of many. " * 20} for number in range(20)]

    [result] = asked(address, GASAConfig(**MASKED), graph(), documents=[*DOCUMENTS, *many])

    told = result.metadata["gasa_stats"]
    assert told["strategy"] == "binary"
    assert told["pruned_chunks"] > 0
    assert told["tokens"] < 4096
    assert told["tokens_after"] < told["tokens_before"]


def test_packing_counts_with_the_models_own_tokenizer(address: str) -> None:
    [result] = asked(address, GASAConfig(backend="packing", token_budget=400, max_hops=1), graph(("roof", "wall")))

    told = result.metadata["gasa_stats"]
    assert (told["strategy"], told["fallback_reason"]) == ("prompt_composer", None)
    assert told["tokens_after"] <= 400
    assert told["chunks"] == 1, "of 176 bytes each, and what stands around them"


def test_a66_a_shadow_model_counts_for_one_that_cannot_be_asked(address: str) -> None:
    shadowed = GASAConfig(fallback_strategy="shadow_model", shadow_model=address, token_budget=400, max_hops=1)

    [result] = asked("scripted://echo", shadowed, graph(("roof", "wall")))

    told = result.metadata["gasa_stats"]
    assert (told["strategy"], told["chunks"]) == ("shadow_model", 1)
