"""Rubrics: what an answer is scored by, and how much each of it counts.

Rule 1: the judge scores dimensions; the overall score is worked out here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from planloom.core.asking import size_bytes
from planloom.errors import ConfigError, suggestion

MAX_DIMENSIONS = 12
MAX_NAME_BYTES = 40
"""Of a dimension's name, in UTF-8: what a judge is told must stay below `core.needs.JUDGE_PROMPT_TOKENS`."""
DEFAULT_TEMPLATE = "general"


@dataclass(frozen=True, slots=True)
class Dimension:
    """One thing an answer is scored by, from 0 (not at all) to 1 (fully).

    Attributes:
        weight: Its share, relative to the others'.
        description: What a full score means.
    """

    name: str
    weight: float = 1.0
    description: str = ""


@dataclass(frozen=True, slots=True)
class Rubric:
    """Dimensions with their weights.

    Raises:
        ConfigError: No dimension, one twice, a weight that is negative or no number, or none above zero.
    """

    name: str
    dimensions: tuple[Dimension, ...]

    def __post_init__(self) -> None:
        names = [dimension.name for dimension in self.dimensions]
        problem = ""
        if not 1 <= len(names) <= MAX_DIMENSIONS:
            problem = f"it has {len(names)} dimensions"
        elif len(set(names)) < len(names):
            problem = "it has a dimension twice"
        elif not all(name.strip() and size_bytes(name) <= MAX_NAME_BYTES for name in names):
            problem = f"a dimension has no name, or one of more than {MAX_NAME_BYTES} bytes"
        elif not all(_is_weight(dimension.weight) for dimension in self.dimensions):
            problem = "a weight is no number, or a negative one"
        elif not any(dimension.weight for dimension in self.dimensions):
            problem = "no dimension has a weight"
        if problem:
            raise ConfigError(
                f"rubric {self.name!r} cannot be used: {problem}",
                remedy=f"give it 1 to {MAX_DIMENSIONS} dimensions with weights, e.g. {{'accuracy': 2, 'clarity': 1}}",
            )

    @classmethod
    def of(cls, rubric: Rubric | Mapping[str, float] | str | None) -> Rubric:
        """Return a rubric as it is, of its weights by dimension, or the template of that name; None: "general".

        Raises:
            ConfigError: No such template, or weights that make no rubric.
        """
        if isinstance(rubric, Rubric):
            return rubric
        if rubric is None or isinstance(rubric, str):
            name = rubric or DEFAULT_TEMPLATE
            if name not in TEMPLATES:
                raise ConfigError(f"there is no rubric {name!r}", remedy=suggestion(name, TEMPLATES))
            return TEMPLATES[name]
        known = {dimension.name: dimension.description for dimension in _GENERAL}
        own = tuple(Dimension(name, weight, known.get(name, "")) for name, weight in rubric.items())
        return cls("custom", own)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dimension.name for dimension in self.dimensions)

    def overall(self, scores: Mapping[str, float]) -> float:
        """Return the weighted mean of the scores, which must be there for every dimension.

        Rounded to nine digits: a mean of equal scores must not come out a hair below them.
        """
        total = math.fsum(dimension.weight for dimension in self.dimensions)
        return round(math.fsum(scores[one.name] * (one.weight / total) for one in self.dimensions), 9)


def _is_weight(weight: object) -> bool:
    return isinstance(weight, int | float) and not isinstance(weight, bool) and 0 <= weight < float("inf")


_GENERAL = (
    Dimension("relevance", description="It answers what was asked, all of it and nothing else."),
    Dimension("accuracy", description="What it states is true, and follows from what was given."),
    Dimension("completeness", description="Nothing that was asked for is missing."),
    Dimension("clarity", description="It can be understood at one reading."),
)
TEMPLATES: Mapping[str, Rubric] = {
    "general": Rubric("general", _GENERAL),
    "code": Rubric(
        "code",
        (
            Dimension("correctness", 4, "It does what was asked, in the edge cases too."),
            Dimension("safety", 2, "It handles errors, leaks nothing and does no harm with bad input."),
            Dimension("completeness", 2, "Nothing is left out or left for later."),
            Dimension("readability", 1, "Names and structure say what it does; nothing is there in vain."),
        ),
    ),
    "summary": Rubric(
        "summary",
        (
            Dimension("faithfulness", 4, "Everything it says stands in the source; nothing is added or turned round."),
            Dimension("coverage", 3, "What matters in the source is there."),
            Dimension("concision", 2, "It is as short as it can be."),
            Dimension("clarity", 1, "It can be understood without the source."),
        ),
    ),
    "extraction": Rubric(
        "extraction",
        (
            Dimension("accuracy", 4, "Every value is in the source as it is given here, and belongs to its field."),
            Dimension("completeness", 3, "No value of the source that was asked for is missing."),
            Dimension("form", 2, "It has the form that was asked for."),
        ),
    ),
}
"""Rubrics by name."""
