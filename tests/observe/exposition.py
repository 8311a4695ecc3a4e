"""A strict reader of Prometheus' text exposition 0.0.4, for tests.

Rule 1: anything that the format does not allow, or that a Prometheus server warns of, is an error.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(.*)\}})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)')
_NUMBER = re.compile(r"[+-]Inf|NaN|-?(\d+|\d+\.\d+|\d(\.\d+)?e[+-]?\d+)")
_ESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}

Labels = tuple[tuple[str, str], ...]


@dataclass
class Family:
    """One metric: its type, what it is about, and its samples by suffix and labels."""

    form: str = ""
    about: str = ""
    samples: dict[tuple[str, Labels], float] = field(default_factory=dict)

    def value(self, suffix: str = "", **labels: str) -> float:
        """Return the sum of the samples that have these labels."""
        wanted = set(labels.items())
        return sum(value for (end, has), value in self.samples.items() if end == suffix and wanted <= set(has))


def parsed(text: str) -> dict[str, Family]:
    """Return the metrics of a text by name.

    Raises:
        AssertionError: It is not of the format.
    """
    assert text.endswith("\n"), "the last line must end"
    families: dict[str, Family] = {}
    current = ""
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            current, _, about = line[7:].partition(" ")
            assert re.fullmatch(_NAME, current), f"no name: {line!r}"
            assert current not in families, f"{current} comes twice"
            assert about, f"{current} is about nothing"
            families[current] = Family(about=about)
        elif line.startswith("# TYPE "):
            name, form = line[7:].split(" ")
            assert name == current, f"the type of {name} is told in the middle of {current}"
            assert form in ("counter", "gauge", "histogram")
            assert not families[name].form, f"{name} has two types"
            families[name].form = form
        else:
            _take(line, current, families)
    for name, family in families.items():
        assert family.form, f"{name} has no type"
        if family.form == "histogram":
            _check_histogram(name, family)
        else:
            assert (family.form == "counter") == name.endswith("_total"), f"{name} is called like another type"
    return families


def _take(line: str, current: str, families: dict[str, Family]) -> None:
    found = _SAMPLE.fullmatch(line)
    assert found is not None, f"no sample: {line!r}"
    name, labels, number = found.groups()
    family = families[current]
    suffix = name.removeprefix(current)
    assert name.startswith(current), f"{name} stands below {current}"
    assert suffix in (("_bucket", "_sum", "_count") if family.form == "histogram" else ("",)), line
    assert _NUMBER.fullmatch(number), f"no number: {line!r}"
    value = float(number.replace("Inf", "inf"))
    assert family.form != "counter" or value >= 0
    key = (suffix, _labels(labels))
    assert key not in family.samples, f"twice: {line!r}"
    family.samples[key] = value


def _labels(text: str | None) -> Labels:
    if text is None:
        return ()
    found: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        match = _LABEL.match(text, at)
        assert match is not None, f"no labels: {text!r}"
        assert match[3] == "," or match.end() == len(text)
        found.append((match[1], re.sub(r"\\.", lambda one: _ESCAPED[one[0]], match[2])))
        at = match.end()
    assert found, "empty braces"
    assert len({name for name, _ in found}) == len(found), f"a label comes twice: {text!r}"
    return tuple(sorted(found))


def _check_histogram(name: str, family: Family) -> None:
    series: dict[Labels, list[tuple[float, float]]] = {}
    for (suffix, labels), value in family.samples.items():
        if suffix == "_bucket":
            bound = dict(labels)["le"]
            rest = tuple(pair for pair in labels if pair[0] != "le")
            series.setdefault(rest, []).append((float(bound.replace("Inf", "inf")), value))
    for labels, buckets in series.items():
        assert buckets == sorted(buckets), f"{name}{labels}: buckets are not in order"
        counts = [count for _, count in buckets]
        assert counts == sorted(counts), f"{name}{labels}: buckets do not add up"
        assert math.isinf(buckets[-1][0]), f"{name}{labels} has no last bucket"
        assert family.samples["_count", labels] == counts[-1]
        assert ("_sum", labels) in family.samples
