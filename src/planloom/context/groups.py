"""Which passages are read together in one call: all, those of a connected part, or those of a window.

Rule 1: every passage is in exactly one group, groups keep the order of the passages, and so what is done group by
group can be put back in order (`put_back`).
Rule 2: the mask that groups imply is "same group", nothing else (`near_in`): who is in another call cannot be read.
Rule 3: a group passes the budget only where a single passage does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from planloom.errors import ConfigError

if TYPE_CHECKING:
    from planloom.context.graph import DependencyGraph
    from planloom.core.chat import Passage
    from planloom.plan.gasa import GasaPolicy

Groups = tuple[tuple[int, ...], ...]
"""Places of passages, group by group."""
T = TypeVar("T")

AT_ONCE = ("dense", "prompt_composer", "shadow_model")
"""Strategies that read all passages in one call."""


def groups_of(
    strategy: str,
    passages: Sequence[Passage],
    graph: DependencyGraph | None,
    policy: GasaPolicy,
    count: Callable[[str], int],
    budget: int | None,
    *,
    documents: Sequence[str] | None = None,
) -> Groups:
    """Return the places of passages in groups, each for one call; () where there are no passages.

    Args:
        strategy: "block_diagonal": a group for each part of the graph between which no edge leads, cut into windows
            where it is larger than the budget; "windowed": windows of the budget; "dense" and those that choose
            passages instead ("prompt_composer", "shadow_model"): one group.
        passages: In the order in which they stand.
        policy: Where `unknown_nodes` is "dense", what the graph does not know makes one part of its own; where it is
            "isolate", a part for each document.
        count: Tokens of a passage's text.
        budget: Most tokens of a group; None: no limit.
        documents: Id of the document that each passage is of, which is never parted for the graph's sake; None: its
            node is its document.

    Raises:
        ConfigError: There is no such strategy.
    """
    places = range(len(passages))
    if strategy in AT_ONCE:
        return (tuple(places),) if passages else ()
    if strategy == "windowed":
        return tuple(_windows(places, passages, count, budget))
    if strategy != "block_diagonal":
        known = ", ".join(("block_diagonal", "windowed", *AT_ONCE))
        raise ConfigError(f"documents cannot be read {strategy!r}", remedy=f"use one of: {known}")
    parts = _parts([one.node for one in passages], documents, graph, policy)
    return tuple(window for part in parts for window in _windows(part, passages, count, budget))


def near_in(groups: Groups) -> tuple[dict[int, int], ...]:
    """Return who may read whom: those of the same group, 0 hops away, and nobody else."""
    found: dict[int, dict[int, int]] = {}
    for group in groups:
        for place in group:
            found[place] = {other: 0 for other in group if other != place}
    return tuple(found[place] for place in range(len(found)))


def parted(groups: Groups, values: Sequence[T]) -> list[list[T]]:
    """Return one value for each passage, group by group."""
    return [[values[place] for place in group] for group in groups]


def put_back(groups: Groups, parts: Sequence[Sequence[T]]) -> list[T]:
    """Return what `parted` took apart, in the order of the passages.

    Raises:
        ValueError: The parts are not those of the groups.
    """
    found: dict[int, T] = {}
    for group, part in zip(groups, parts, strict=True):
        found.update(zip(group, part, strict=True))
    return [found[place] for place in range(len(found))]


def _windows(
    places: Iterable[int], passages: Sequence[Passage], count: Callable[[str], int], budget: int | None
) -> list[tuple[int, ...]]:
    """Return places in their order, a new window where the next would not fit any more."""
    windows: list[list[int]] = []
    left = 0
    for place in places:
        size = 0 if budget is None else count(passages[place].text)
        if not windows or size > left:
            windows.append([])
            left = budget or 0
        windows[-1].append(place)
        left -= size
    return [tuple(window) for window in windows]


def _parts(
    nodes: Sequence[str], documents: Sequence[str] | None, graph: DependencyGraph | None, policy: GasaPolicy
) -> list[list[int]]:
    """Return the places of each connected part, in order of their first ones; a document is in one part only."""
    names = nodes if documents is None else documents
    known = {node for node in nodes if graph is not None and node in graph}
    components = graph.components(known) if graph is not None else []
    part_of = {node: ("part", str(number)) for number, part in enumerate(components) for node in part}
    together = _Together()
    for node, name in zip(nodes, names, strict=True):
        alone = ("unknown", "") if policy.unknown_nodes == "dense" else ("unknown", name)
        together.join(("document", name), part_of.get(node, alone))
    found: dict[tuple[str, str], list[int]] = {}
    for place, name in enumerate(names):
        found.setdefault(together.root(("document", name)), []).append(place)
    return list(found.values())


class _Together:
    """Names that belong together (union-find)."""

    def __init__(self) -> None:
        self._above: dict[tuple[str, str], tuple[str, str]] = {}

    def root(self, name: tuple[str, str]) -> tuple[str, str]:
        while (above := self._above.get(name, name)) != name:
            self._above[name] = name = self._above.get(above, above)
        return name

    def join(self, one: tuple[str, str], other: tuple[str, str]) -> None:
        self._above[self.root(one)] = self.root(other)
