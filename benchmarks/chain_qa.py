"""What a mask along the graph does to answers: a small model that reads chains of documents, trained here and measured.

`python -m benchmarks.chain_qa train` makes the weights in tests/local/chain_qa, `… evaluate` prints the table.

Rule 1: the model is trained with ordinary causal attention and never sees a mask: what masks do to it is untuned.
Rule 2: no text states an answer that takes a link to find: what a link leads to stands in another document only.
Rule 3: prompts that are measured are of seeds that training never draws.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.timing import wall_s
from planloom.context.attention.apply import MaskBackend, apply
from planloom.context.graph import DependencyGraph
from planloom.context.layout import Segment, SegmentKind, SegmentLayout, build_layout
from planloom.plan.gasa import GasaPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

WEIGHTS = Path(__file__).parent.parent / "tests/local/chain_qa"
STATE = Path(".planloom/chain_qa.pt")
"""Where training stands, so that a stop loses at most `SAVED_EVERY` steps."""

KEYS, VALUES = 32, 12
BEGIN, DOCUMENT, ASK = range(3)
FIRST_KEY = 3
FIRST_VALUE = FIRST_KEY + KEYS
LINKS = 2
"""From the last document of a chain to its first."""
DEPTH = LINKS + 1
LENGTH = 3
"""Tokens of a document: its mark, its key, and a value or the key of another document."""
PAYLOADS_FROM, KEYS_FROM = 3, 2
"""Where these stand of the first document: after the begin mark and the document's own."""
NO_TARGET = -100

SHAPE: dict[str, Any] = {
    "vocab_size": FIRST_VALUE + VALUES,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
    "initializer_range": 0.04,
    "tie_word_embeddings": False,
    "bos_token_id": BEGIN,
    "eos_token_id": None,
    "pad_token_id": None,
}
STEPS, PROMPTS_A_STEP, WARM_UP = 6_000, 64, 100
PEAK_RATE, LEAST_RATE = 3e-3, 0.02
SETTLED_AT, AGAIN_SHARE = 3_250, 0.8
"""From this step on, most prompts give keys another value, and the first layer is to read its own document."""
SAVED_EVERY = 250
MEASURED_SEED = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Size:
    """What a prompt holds.

    Attributes:
        chains: Of `DEPTH` documents each.
        alone: Documents that belong to no chain.
        again: Whether those give keys of the chains another value, after the link to that key was read. Such a link
            still means the value that it led to where it stands, so it must be followed there and not from farther on.
    """

    chains: int
    alone: int
    again: bool = False

    @property
    def chained(self) -> int:
        return self.chains * DEPTH

    @property
    def documents(self) -> int:
        return self.chained + self.alone

    @property
    def reader_from(self) -> int:
        """Return where questions begin."""
        return 1 + LENGTH * self.documents

    @property
    def payloads(self) -> slice:
        return slice(PAYLOADS_FROM, self.reader_from, LENGTH)

    @property
    def own_keys(self) -> slice:
        return slice(KEYS_FROM, self.reader_from, LENGTH)

    @property
    def asked(self) -> slice:
        """Return where the keys of questions stand: each is a mark and a key, and the answer is what comes next."""
        return slice(self.reader_from + 1, None, 2)


MEASURED = Size(chains=4, alone=4)
CHANGED = replace(MEASURED, again=True)
"""Here a question that follows links itself, from one document to the next, finds two values and cannot tell."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """Questions about chains of documents, a prompt a row.

    Attributes:
        ids: Tokens: a begin mark, the documents, the questions.
        targets: What comes next after a document's payload and after a question: the value at the end of the chain.
        order: For each place in the prompt, which document stands there; see `node_of`.
        links: For each token with a target, how many links lead from the document it names or is to the value.
    """

    size: Size
    ids: Any
    targets: Any
    order: Any
    links: Any


def prompts(count: int, seed: int, size: Size = MEASURED) -> Prompts:
    """Return prompts whose documents stand in a random order, a document after those it depends on."""
    drawn = torch.Generator().manual_seed(seed)
    chains, chained = size.chains, size.chained
    keys = _shuffled(count, KEYS, drawn)[:, : size.documents] + FIRST_KEY
    values = _shuffled(count, VALUES, drawn)[:, : chains + size.alone] + FIRST_VALUE
    ends = torch.cat([values[:, :chains].repeat_interleave(DEPTH, 1), values[:, chains:]], 1)
    links = torch.cat([torch.arange(DEPTH).repeat(chains), torch.zeros(size.alone, dtype=torch.long)]).expand(count, -1)
    payloads = torch.where(links == 0, ends, keys.roll(1, 1))
    ranks = torch.rand(count, size.documents, generator=drawn)
    ranks[:, :chained] = ranks[:, :chained].view(count, chains, DEPTH).sort(2).values.view(count, chained)
    changed = torch.empty(count, 0, dtype=torch.long)
    if size.again:
        some = min(chains, size.alone)
        changed = (torch.arange(some) * DEPTH).expand(count, -1)
        keys[:, chained : chained + some] = keys.gather(1, changed)
        read = ranks.gather(1, changed + 1)
        ranks[:, chained : chained + some] = read + (1 - read) * torch.rand(count, some, generator=drawn)
    order = ranks.argsort(1)
    asked = _shuffled(count, chained, drawn)
    marks = torch.full_like(order, DOCUMENT)
    documents = torch.stack([marks, keys.gather(1, order), payloads.gather(1, order)], 2).view(count, -1)
    questions = torch.stack([torch.full_like(asked, ASK), keys.gather(1, asked)], 2).view(count, -1)
    ids = torch.cat([torch.full((count, 1), BEGIN), documents, questions], 1)
    targets, deep = torch.full_like(ids, NO_TARGET), torch.full_like(ids, NO_TARGET)
    two_values = (asked[:, :, None] == changed[:, None]).any(2)
    targets[:, size.payloads] = ends.gather(1, order)
    targets[:, size.asked] = ends.gather(1, asked).masked_fill(two_values, NO_TARGET)
    deep[:, size.payloads], deep[:, size.asked] = links.gather(1, order), links.gather(1, asked)
    return Prompts(size, ids, targets, order, deep)


def _shuffled(count: int, size: int, drawn: Any) -> Any:
    return torch.rand(count, size, generator=drawn).argsort(1)


# What reads what.


def node_of(document: int) -> str:
    """Return the name of a document in the graph: its chain and its links to the value."""
    chain, links = divmod(document, DEPTH)
    return f"chain {chain}, {links} links" if chain < MEASURED.chains else f"alone {document - MEASURED.chained}"


def graph_of(*, lead_aside: int = 0, cut: Sequence[int] = ()) -> DependencyGraph:
    """Return what depends on what.

    Args:
        lead_aside: Chains by which every link misses its own: 0 is the truth.
        cut: Chains whose first link is left out.
    """
    graph = DependencyGraph()
    for document in range(MEASURED.documents):
        graph.add_entity_node(node_of(document))
    for chain in range(MEASURED.chains):
        for links in range(1, DEPTH):
            if links > 1 or chain not in cut:
                to = (chain + lead_aside) % MEASURED.chains
                graph.add_edge(node_of(chain * DEPTH + links), node_of(to * DEPTH + links - 1))
    return graph


def layout_of(order: Sequence[int], graph: DependencyGraph, max_hops: int) -> SegmentLayout:
    """Return the layout of a prompt whose documents stand in this order."""
    documents = [Segment(SegmentKind.CHUNK, LENGTH, node_of(document)) for document in order]
    questions = Segment(SegmentKind.READER, 2 * MEASURED.chained)
    policy = GasaPolicy(max_hops=max_hops)
    return build_layout([Segment(SegmentKind.SINK, 1), *documents, questions], graph, policy)


# Training.


def new_model() -> Any:
    """Return the model before training: random weights."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE))


def train(folder: Path, steps: int) -> None:
    """Train the model, from where an earlier call was stopped if it was, and write its weights to `folder`."""
    model = new_model()
    model.config._attn_implementation = "eager"  # It alone tells its weights.
    own_key = torch.nn.Linear(SHAPE["hidden_size"], SHAPE["vocab_size"])
    every = [*model.parameters(), *own_key.parameters()]
    optimizer = torch.optim.AdamW(every, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    before = _resumed(model, own_key, optimizer)
    started = wall_s()
    for step in range(before, steps):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / WARM_UP) * _cosine(step / steps)
        given = prompts(PROMPTS_A_STEP, step, _size_at(step))
        loss = _loss(model, own_key, given, reads_own=0.3 if step >= SETTLED_AT else 0.0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(every, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % SAVED_EVERY == 0 or step + 1 == steps:
            _keep(folder, step + 1, model, own_key, optimizer)
            dense = accuracy(model, None, count=32)
            told = " ".join(f"{share:.3f}" for share in dense.values())
            print(f"step {step + 1}, {wall_s() - started:.0f} s, loss {loss.item():.4f}, dense {told}", flush=True)


def _size_at(step: int) -> Size:
    """Return a size of prompts, drawn anew each step: who was only trained among many documents reads few badly."""
    drawn = Random(step)
    chains, alone = drawn.randint(1, MEASURED.chains), drawn.randint(0, MEASURED.alone)
    return Size(chains, alone, again=step >= SETTLED_AT and drawn.random() < AGAIN_SHARE)


def _cosine(share_done: float) -> float:
    return max(LEAST_RATE, 0.5 * (1 + math.cos(math.pi * share_done)))


def _loss(model: Any, own_key: Any, given: Prompts, *, reads_own: float) -> Any:
    """Return what training makes small: wrong answers, after the last layer and after the first that can know them.

    Layer 1 gathers a document's own key at its payload; each layer after it can follow one link. Asking so early is to
    make values travel from document to document, a link a layer.

    Args:
        reads_own: Weight of what the first layer reads elsewhere: without it masks cost answers, by that layer only.
    """
    seen = model.model(given.ids, output_hidden_states=True, output_attentions=True)
    states = seen.hidden_states
    asked = given.targets != NO_TARGET
    loss = functional.cross_entropy(model.lm_head(states[-1][asked]), given.targets[asked])
    keys = functional.cross_entropy(
        own_key(states[1][:, given.size.payloads]).flatten(0, 1), given.ids[:, given.size.own_keys].flatten()
    )
    known_after = given.links + 1
    known_after[:, given.size.asked] += 1
    for layer in range(2, SHAPE["num_hidden_layers"]):
        early = asked & (known_after <= layer)
        states_then = model.model.norm(states[layer][early])
        loss = loss + 0.5 * functional.cross_entropy(model.lm_head(states_then), given.targets[early])
    return loss + 0.3 * keys + reads_own * _read_elsewhere(seen.attentions[0], given.size)


def _read_elsewhere(weights: Any, size: Size) -> Any:
    """Return how much of their attention documents give to others, beside the begin mark, in these weights."""
    places = torch.arange(size.reader_from)
    of = (places - 1) // LENGTH
    own = (of[:, None] == of) | (places == 0)
    documents = slice(1, size.reader_from)
    return 1 - (weights[:, :, documents, : size.reader_from] * own[documents]).sum(-1).mean()


def _resumed(model: Any, own_key: Any, optimizer: Any) -> int:
    if not STATE.exists():
        return 0
    state = torch.load(STATE, weights_only=True)
    model.load_state_dict(state["model"])
    own_key.load_state_dict(state["own_key"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _keep(folder: Path, step: int, model: Any, own_key: Any, optimizer: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    half = {name: weights.half().contiguous() for name, weights in model.state_dict().items()}
    save_file(half, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(SHAPE, indent=1) + "\n", encoding="utf-8")
    STATE.parent.mkdir(exist_ok=True)
    parts = {"model": model, "own_key": own_key, "optimizer": optimizer}
    new = STATE.with_suffix(".new")
    torch.save({"step": step} | {name: part.state_dict() for name, part in parts.items()}, new)
    new.replace(STATE)


# Measuring.


def load(folder: Path = WEIGHTS) -> Any:
    """Return the trained model, computing in float32."""
    shape = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = LlamaForCausalLM(LlamaConfig(**shape))
    model.load_state_dict({name: weights.float() for name, weights in load_file(folder / "model.safetensors").items()})
    return model.eval()


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """How documents are read: along which graph, and how far."""

    name: str
    graph: DependencyGraph
    max_hops: int


CUT = tuple(range(0, MEASURED.chains, 2))
CASES = (
    Case("true graph, max_hops=2", graph_of(), 2),
    Case("true graph, max_hops=1", graph_of(), 1),
    Case("true graph, max_hops=0", graph_of(), 0),
    Case("wrong graph, max_hops=2", graph_of(lead_aside=1), 2),
    Case("wrong graph, max_hops=1", graph_of(lead_aside=1), 1),
)


@torch.no_grad()  # type: ignore[untyped-decorator]
def logits(model: Any, given: Prompts, case: Case | None, *, backend: MaskBackend | Literal["auto"] = "auto") -> Any:
    """Return what the model expects next, everywhere; `case` None: with ordinary causal attention."""
    if case is None:
        return model(given.ids).logits
    rows = []
    for ids, order in zip(given.ids, given.order.tolist(), strict=True):
        with apply(model, layout_of(order, case.graph, case.max_hops), backend=backend):
            rows.append(model(ids[None]).logits)
    return torch.cat(rows)


def answers(model: Any, given: Prompts, case: Case | None) -> Any:
    """Return the likeliest next token, everywhere."""
    return logits(model, given, case).argmax(-1)


def accuracy(model: Any, case: Case | None, *, count: int, size: Size = MEASURED) -> dict[int, float]:
    """Return the share of questions answered right, by links: of each as many a prompt as it has chains."""
    given = prompts(count, MEASURED_SEED, size)
    found, targets = answers(model, given, case)[:, size.asked], given.targets[:, size.asked]
    shares = {}
    for links in range(DEPTH):
        asked = (given.links[:, size.asked] == links) & (targets != NO_TARGET)
        if asked.any():
            shares[links] = (found == targets)[asked].float().mean().item()
    return shares


def evaluate(folder: Path, count: int) -> str:
    """Return the table of accuracies."""
    model = load(folder)
    heads = [
        *(f"{links} links" for links in range(DEPTH)),
        *(f"{links}, changed" for links in range(1, DEPTH)),
        "pairs",
    ]
    lines = [f"| attention | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
    orders = prompts(count, MEASURED_SEED).order.tolist()
    for case in (None, *CASES):
        shares = [
            share for size in (MEASURED, CHANGED) for share in accuracy(model, case, count=count, size=size).values()
        ]
        layouts = [layout_of(order, case.graph, case.max_hops) for order in orders] if case else []
        pairs = sum(layout.pair_fraction for layout in layouts) / count if layouts else 1.0
        told = " | ".join(f"{share:.3f}" for share in shares)
        lines.append(f"| {case.name if case else 'dense'} | {told} | {pairs:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chain_qa", description=__doc__)
    parser.add_argument("--folder", type=Path, default=WEIGHTS, help="of the weights")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train").add_argument("--steps", type=int, default=STEPS)
    commands.add_parser("evaluate").add_argument("--prompts", type=int, default=125)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.command == "train":
        train(asked.folder, asked.steps)
    else:
        print(evaluate(asked.folder, asked.prompts))


if __name__ == "__main__":
    main()
