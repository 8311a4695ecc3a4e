"""How many tokens it takes until the evidence for a question is in the prompt: along the graph, beside BM25 alone.

Rule 1: the corpus is made up, and its graph says where the evidence is: a question's evidence is a whole path. That
flatters the graph; the rows with a spoilt graph say how much of the gain rests on it.
Rule 2: everything but the time of a question is a count, and the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.rows import Budget, Row
from benchmarks.timing import Scale, cpu_s, in_turns, timed
from planloom.context import packing
from planloom.context.composer import ContextComposer
from planloom.context.document import Document
from planloom.context.graph import DependencyGraph
from planloom.context.lexical import LexicalIndex
from planloom.core.asking import estimated_tokens
from planloom.plan.gasa import GasaPolicy

CHUNKS, QUESTIONS, TIMED = 2_000, 240, 40
TOPIC_CHUNKS = 40
"""Chunks that share a topic's words."""
WORDS = 82
"""Of a chunk: about 134 tokens."""
BUDGET = 4_000
POLICY = GasaPolicy()
CLEAN, NOISY, BAD = "clean graph", "10 % of edges lost, 50 % made up", "30 % lost, 100 % made up"
NOISE = {CLEAN: (0.0, 0.0), NOISY: (0.1, 0.5), BAD: (0.3, 1.0)}
"""The share of edges that is lost, and how many wrong ones there are for each right one."""
FEWEST = {CLEAN: 1 / 2, NOISY: 1 / 1.6}
"""Of the tokens that BM25 sends for a question whose evidence it finds."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and the chunks that are needed to answer it: all of them."""

    text: str
    evidence: tuple[int, ...]


@dataclass(frozen=True)
class Corpus:
    """Texts, who depends on whom among them, and questions."""

    texts: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    questions: tuple[Question, ...]

    @cached_property
    def sizes(self) -> list[int]:
        return [estimated_tokens(text) for text in self.texts]

    @cached_property
    def scores(self) -> list[list[float]]:
        """BM25 of every text, question by question."""
        index = LexicalIndex(self.texts)
        found = [index.scores(question.text) for question in self.questions]
        return [[scores.get(place, 0.0) for place in range(len(self.texts))] for scores in found]

    @cached_property
    def documents(self) -> list[Document]:
        return [Document(str(place), text) for place, text in enumerate(self.texts)]

    def graph(self, lost: float, made_up: float, *, seed: int) -> DependencyGraph:
        """Return the graph after a share of its edges was lost and wrong ones came in."""
        random, count = Random(seed), len(self.texts)
        kept = [edge for edge in self.edges if random.random() >= lost]
        wrong = [(random.randrange(count), random.randrange(count)) for _ in range(round(made_up * len(self.edges)))]
        graph = DependencyGraph()
        for place in range(count):
            graph.add_document_node(str(place))
        for one, other in kept + wrong:
            if one != other:
                graph.add_edge(str(one), str(other))
        return graph

    def pieces(self, number: int, around: dict[str, list[str]]) -> packing.Pieces:
        """Return the chunks as they are packed for one question, with who is next to whom."""
        return packing.Pieces(self.scores[number], self.sizes, list(around), around.__getitem__)


def corpus_of(chunks: int, questions: int, *, seed: int) -> Corpus:
    """Return a corpus in which a chunk tells a thing of its own in its topic's words, and names few of the others."""
    random = Random(seed)
    names = _names(random)
    common = [next(names) for _ in range(1_500)]
    zipf = list(accumulate(1 / rank for rank in range(1, len(common) + 1)))
    topics = [[next(names) for _ in range(60)] for _ in range(-(-chunks // TOPIC_CHUNKS))]
    things = [next(names) for _ in range(chunks)]
    own = [random.sample(things, 4) for _ in range(chunks)]
    edges = sorted({edge for place in range(chunks) for edge in _edges(random, place, chunks)})
    above: dict[int, list[int]] = {}
    for one, other in edges:
        above.setdefault(one, []).append(other)
    texts = []
    for place in range(chunks):
        words = own[place] + own[place][:2] + random.choices(topics[place // TOPIC_CHUNKS], k=24)
        words += [own[other][0] for other in above.get(place, ()) if random.random() < 0.3]
        words += random.choices(common, cum_weights=zipf, k=max(0, WORDS - len(words)))
        random.shuffle(words)
        texts.append(" ".join(words))
    asked: list[Question] = []
    while len(asked) < questions:
        path = _path(random, above, chunks, hops=1 + len(asked) % 3)
        if path is not None:
            words = [random.choice(own[path[0]]), *random.choices(common, cum_weights=zipf, k=5)]
            words += [random.choice(texts[place].split()) for place in path for _ in range(random.choice((1, 2)))]
            asked.append(Question(" ".join(words), path))
    return Corpus(tuple(texts), tuple(edges), tuple(asked))


def _names(random: Random) -> Iterator[str]:
    seen: set[str] = set()
    while True:
        length = random.choice((2, 2, 3, 4))
        name = "".join(random.choice("bdfgklmnprtvz") + random.choice("aeiou") for _ in range(length))
        if name not in seen:
            seen.add(name)
            yield name


def _edges(random: Random, place: int, chunks: int) -> Iterable[tuple[int, int]]:
    for _ in range(random.choice((1, 2, 3))):
        topic = place - place % TOPIC_CHUNKS
        near = random.random() < 0.4
        other = topic + random.randrange(TOPIC_CHUNKS) if near else random.randrange(chunks)
        if other != place and other < chunks:
            yield place, other


def _path(random: Random, above: dict[int, list[int]], chunks: int, *, hops: int) -> tuple[int, ...] | None:
    path = [random.randrange(chunks)]
    for _ in range(hops):
        further = [other for other in above.get(path[-1], ()) if other not in path]
        if not further:
            return None
        path.append(random.choice(further))
    return tuple(path)


def found(question: Question, chosen: Iterable[int]) -> bool:
    """Tell whether all evidence is among what was chosen."""
    return set(question.evidence) <= set(chosen)


def tokens_until_found(question: Question, order: Iterable[int], sizes: Sequence[int]) -> int:
    """Return the tokens of an order up to the last chunk that is needed."""
    missing, tokens = set(question.evidence), 0
    for place in order:
        tokens += sizes[place]
        missing.discard(place)
        if not missing:
            return tokens
    raise ValueError(f"{sorted(missing)} are nowhere in the order")


def at_share(tokens: Iterable[int], share: float) -> int:
    """Return how many tokens are enough for a share of the questions."""
    ordered = sorted(tokens)
    return ordered[max(0, round(share * len(ordered)) - 1)]


def walk(pieces: packing.Pieces) -> Iterator[int]:
    return packing.best_first(pieces, packing.seeds_of(pieces.scores), POLICY.max_hops)


def counted(corpus: Corpus, name: str, budget: int) -> list[Row]:
    """Return how often evidence is found in a budget, and the tokens until it is found, beside BM25."""
    graph, sizes = corpus.graph(*NOISE[name], seed=3), corpus.sizes
    around = {document.id: graph.get_neighbors(document.id, direction="both") for document in corpus.documents}
    ours = plain = 0
    tokens, plain_tokens = [], []
    for number, question in enumerate(corpus.questions):
        pieces = corpus.pieces(number, around)
        ours += found(question, packing.in_turns(walk(pieces), pieces, budget))
        plain += found(question, packing.by_score(pieces, budget))
        everything = packing.in_turns(walk(pieces), pieces, 2 * sum(sizes))
        tokens.append(tokens_until_found(question, everything, sizes))
        plain_tokens.append(tokens_until_found(question, packing.ranked(pieces.scores), sizes))
    asked = budget * len(corpus.questions)
    limit = FEWEST.get(name)
    rows = [
        Row(
            f"packing, {name}: sent for each question whose evidence is in {budget:,} tokens",
            "tokens",
            asked / max(1, ours),
            asked / max(1, plain),
            "BM25",
            None if limit is None else Budget(limit, front=False),
        )
    ]
    for share in (0.5, 0.8, 0.9) if name == CLEAN else (0.8,):
        what = f"packing, {name}: tokens until {share:.0%} of questions have their evidence"
        bound = Budget(1 / 4, front=False) if name == CLEAN and share == 0.8 else None
        rows.append(Row(what, "tokens", at_share(tokens, share), at_share(plain_tokens, share), "BM25", bound))
    return rows


async def measure(scale: Scale, folder: Path) -> list[Row]:
    """Return the tokens that packing needs, and how long it takes to choose."""
    corpus = corpus_of(scale.of(CHUNKS, 100), scale.of(QUESTIONS, 12), seed=7)
    rows = [row for name in NOISE for row in counted(corpus, name, scale.of(BUDGET, 400))]
    graph, asked = corpus.graph(0, 0, seed=3), corpus.questions[: scale.of(TIMED)]
    index = LexicalIndex(corpus.texts)
    composer = ContextComposer(graph, POLICY)
    composer.compose("", corpus.documents, BUDGET)  # reads the documents, once for all questions

    async def ours() -> float:
        with timed(cpu_s) as took:
            for question in asked:
                composer.compose(question.text, corpus.documents, BUDGET)
        return took.seconds / len(asked)

    async def plain() -> float:
        with timed(cpu_s) as took:
            for question in asked:
                index.best(question.text)
        return took.seconds / len(asked)

    ours_s, plain_s = map(median, await in_turns(ours, plain, rounds=scale.rounds(3)))
    what = f"packing, a question over {len(corpus.texts):,} chunks"
    return [
        *rows,
        Row(what, "ms", ours_s * 1_000, plain_s * 1_000, "BM25 alone", Budget(50, 20, of="ours", front=False)),
    ]
