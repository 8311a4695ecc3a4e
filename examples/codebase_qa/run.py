"""Ask planloom's own source a question: what is read of it along its imports, and how much less that is.

    python run.py [--question N] [--weights FOLDER] [--out FOLDER] [--json]

The prompt is put together as plan.yaml says. Without weights a scripted model answers: it says which of the lines that
the answer needs it was really given. For each question the tokens are counted until all of its evidence is in a prompt:
ranked by words alone (BM25), along the imports in turns with that (what a plan does), and along the imports alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

from questions import QUESTIONS, Question

import planloom
from planloom import DependencyGraph, Engine, MemoryStore, RunStatus, load_plan
from planloom.context.composer import Composition, ContextComposer
from planloom.context.document import Document
from planloom.context.layout import layout_of
from planloom.context.lexical import LexicalIndex
from planloom.core.asking import estimated_tokens
from planloom.core.chat import Material, ModelCall
from planloom.models.llm import LLM
from planloom.models.scripted import FunctionModel
from planloom.observe.mask_svg import mask_svg
from planloom.plan.gasa import GasaPolicy

HERE = Path(__file__).resolve().parent
PACKAGE = "planloom/"
PLAN = load_plan(HERE / "plan.yaml")
POLICY = PLAN.steps[0].gasa or GasaPolicy()
AROUND = 40
"""Tokens that stand around a passage in a prompt, about."""
WAYS = ("by words", "in turns", "imports alone")
WIDTH = 64
"""Of the column of questions."""


def main(asked: argparse.Namespace) -> None:
    began = time.perf_counter()
    with MemoryStore() as store:
        store.index_repository(Path(planloom.__file__).parent, suffixes=(".py",), prefix=PACKAGE)
        documents = store.documents()
        graph = DependencyGraph.build_from_memory(store)
    check(documents)
    ways = composers(graph)
    rows = [row_of(question, ways, documents) for question in QUESTIONS]

    question = QUESTIONS[asked.question - 1]
    composed = {way: composer.compose(question.text, documents, POLICY.token_budget) for way, composer in ways.items()}
    asked.out.mkdir(parents=True, exist_ok=True)
    picture = asked.out / "mask.svg"
    picture.write_text(picture_of(composed["in turns"], question), encoding="utf-8")
    answer, stats = asyncio.run(answered(question, documents, graph, asked.weights))

    told = {
        "modules": len(documents),
        "imports": len(graph.edges),
        "tokens": sum(estimated_tokens(document.content) for document in documents),
        "questions": rows,
        "question": question.text,
        "budget": POLICY.token_budget,
        "chosen": {way: summary(one, question) for way, one in composed.items()},
        "picture": str(picture),
        "answer": answer,
        "gasa_stats": stats,
        "seconds": round(time.perf_counter() - began, 1),
    }
    print(json.dumps(told, indent=2) if asked.json else as_text(told))


def check(documents: Sequence[Document]) -> None:
    """See to it that what the questions ask for is still there."""
    texts = {document.id: document.content for document in documents}
    for question in QUESTIONS:
        for module, line in question.evidence.items():
            assert line in texts.get(PACKAGE + module, ""), f"{module} has no {line!r} any more: mend questions.py"


class Words:
    """BM25 for all composers: they read the same texts, so these are read once."""

    def __init__(self) -> None:
        self._index: LexicalIndex | None = None

    def __call__(self, question: str, texts: Sequence[str]) -> list[float]:
        if self._index is None:
            self._index = LexicalIndex(texts)
        found = self._index.scores(question)
        return [found.get(place, 0.0) for place in range(len(texts))]


def composers(graph: DependencyGraph) -> dict[str, ContextComposer]:
    """Return a composer for each way; all with the settings of the plan."""
    words = Words()

    def count(text: str) -> int:
        return estimated_tokens(text) + AROUND

    return {
        "by words": ContextComposer(None, POLICY, count=count, scores=words),
        "in turns": ContextComposer(graph, POLICY, count=count, scores=words),
        "imports alone": ContextComposer(
            graph, POLICY.model_copy(update={"trust_edges": True}), count=count, scores=words
        ),
    }


@dataclass
class Missing:
    """Evidence that was not read yet."""

    lines: dict[str, str]

    @classmethod
    def of(cls, question: Question) -> Missing:
        return cls({PACKAGE + module: line for module, line in question.evidence.items()})

    def read(self, document: str, text: str) -> None:
        if document in self.lines and self.lines[document] in text:
            del self.lines[document]


def row_of(question: Question, ways: dict[str, ContextComposer], documents: Sequence[Document]) -> dict[str, Any]:
    """Return the tokens that each way puts into a prompt until all evidence is there."""
    tokens = {way: tokens_until_found(question, composer, documents) for way, composer in ways.items()}
    return {"question": question.text, "evidence": len(question.evidence), "tokens": tokens}


def tokens_until_found(question: Question, composer: ContextComposer, documents: Sequence[Document]) -> int:
    missing, tokens = Missing.of(question), 0
    for chunk in composer.ranking(question.text, documents):
        tokens += chunk.tokens
        missing.read(chunk.document, chunk.text)
        if not missing.lines:
            break
    return tokens


def summary(composed: Composition, question: Question) -> dict[str, Any]:
    """Return what was chosen within the budget, and what of the evidence is not in it."""
    missing = Missing.of(question)
    for document, passage in zip(composed.documents, composed.passages, strict=True):
        missing.read(document, passage.text)
    best = list(dict.fromkeys(name.partition("#")[0].removeprefix(PACKAGE) for name in composed.chosen))
    return {
        "chunks": len(composed.passages),
        "tokens": composed.tokens_after,
        "modules": best,
        "missing": [name.removeprefix(PACKAGE) for name in missing.lines],
    }


def picture_of(composed: Composition, question: Question) -> str:
    """Return who reads whom in this prompt, as a model in this process would be masked."""
    lengths = [estimated_tokens(passage.text) for passage in composed.passages]
    material = Material(composed.passages, composed.near, POLICY)
    return mask_svg(layout_of(material, lengths, sink=AROUND, reader=estimated_tokens(question.text)))


async def answered(
    question: Question, documents: Sequence[Document], graph: DependencyGraph, weights: Path | None
) -> tuple[str, dict[str, Any]]:
    """Run the plan; return the model's answer, and what it was given to read."""

    def scripted(call: ModelCall) -> str:
        prompt = call.messages[-1].content
        lines = [(PACKAGE + module, line) for module, line in question.evidence.items()]
        given = [f"{module} has {line}…" for module, line in lines if line in prompt and module in prompt]
        return "\n".join(given) or "None of these documents says anything about it."

    model = LLM.of(FunctionModel(scripted)) if weights is None else LLM.from_uri(f"transformers://{weights}")
    inputs = {
        "question": question.text,
        "documents": [{"id": one.id, "content": one.content} for one in documents],
        "graph": graph.to_dict(),
    }
    async with Engine(models={"reader": model}) as engine:
        result = await engine.run(PLAN, inputs)
    assert result.status is RunStatus.SUCCESS, result.error
    told = result.step("answer").metadata or {}
    return str(result.output), told["gasa_stats"]


def as_text(told: dict[str, Any]) -> str:
    stats = told["gasa_stats"]
    share = stats["tokens_after"] / stats["tokens_before"]
    return "\n".join(
        [
            f"{told['modules']} modules, {told['imports']} imports between them, {told['tokens']:,} tokens\n",
            *table([row["question"] for row in told["questions"]], [row["tokens"] for row in told["questions"]]),
            f"\n{told['question']}\nwithin {told['budget']:,} tokens:\n",
            *(choice(way, told["chosen"][way]) for way in WAYS),
            f"\nthe model read {stats['tokens_after']:,} of {stats['tokens_before']:,} tokens ({share:.1%}), as "
            f"{stats['strategy']} ({stats['backend']}), and says:\n",
            *(f"    {line}" for line in told["answer"].splitlines()),
            f"\nwho would read whom under a mask: {told['picture']}",
            f"{told['seconds']} s",
        ]
    )


def table(questions: Sequence[str], tokens: Sequence[dict[str, int]]) -> list[str]:
    """Return a line for each question, and what they come to."""
    lines: list[tuple[str, ...]] = [("tokens until all evidence is in", *WAYS)]
    for number, (question, row) in enumerate(zip(questions, tokens, strict=True), start=1):
        shown = question if len(question) <= WIDTH - 6 else f"{question[: WIDTH - 7]}…"
        lines.append((f"{number}  {shown}", *(f"{row[way]:,}" for way in WAYS)))
    lines.append(("median", *(f"{median(row[way] for row in tokens):,.0f}" for way in WAYS)))
    times = [geometric_mean(row["by words"] / row[way] for row in tokens) for way in WAYS]
    lines.append(("times fewer than by words (geometric mean)", *(f"{one:.2f}" for one in times)))
    return [first.ljust(WIDTH) + "".join(cell.rjust(15) for cell in cells) for first, *cells in lines]


def choice(way: str, chosen: dict[str, Any]) -> str:
    """Return a line that says what one way chose, and whether that is enough."""
    found = f"not all that is needed of {', '.join(chosen['missing'])}" if chosen["missing"] else "all evidence"
    best = ", ".join(chosen["modules"][:3])
    return f"{way:<15}{chosen['chunks']:>3} chunks, {chosen['tokens']:>6,} tokens, {found}; best: {best}, …"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Ask planloom's own source a question.")
    parser.add_argument("--question", type=int, default=1, choices=range(1, len(QUESTIONS) + 1), metavar="N")
    parser.add_argument(
        "--weights",
        type=lambda text: Path(text).resolve(),
        help="folder of a local model that answers instead of the scripted one",
    )
    parser.add_argument("--out", type=Path, default=HERE / "out", help="where to leave the picture")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    main(parser.parse_args())
