"""The two engines: inputs by grammar, from Hypothesis, and inputs by what they reach in the code, from atheris.

Rule 1: an engine only makes inputs; what they come to is the gauge's to say.
Rule 2: of each input by grammar a few damaged copies are tried as well: near misses are cheaper damaged than drawn.
"""

from __future__ import annotations

import importlib
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuzz.gauge import Gauge
    from fuzz.targets import Target

ENGINES = ("grammar", "coverage")
SEEDS = Path(__file__).with_name("seeds")
DAMAGED = 3
"""Damaged copies of each input by grammar."""
MOST_COVERAGE_BYTES = 4_096
"""Of an input that grows by coverage: longer ones come from the grammar."""


def seeds_of(target: str) -> list[Path]:
    """Return the files of a target's seeds, in one order on every machine."""
    return sorted((SEEDS / target).iterdir())


def by_grammar(gauge: Gauge, count: int, seed: int) -> None:
    """Give a target so many inputs: its seeds, and what its grammar makes."""
    import hypothesis

    from fuzz.grammar import MAKES

    target = gauge.target
    damage = random.Random(f"{seed} {target.name}")
    for path in seeds_of(target.name):
        if gauge.inputs < count:
            gauge.take(path.read_bytes())

    def one_of_them(made: bytes) -> None:
        for data in (made, *damaged(made, target, damage)):
            if gauge.inputs < count:
                gauge.take(data)

    again = 0
    while gauge.inputs < count:
        left = (count - gauge.inputs) // (1 + DAMAGED) + 1
        quiet = hypothesis.settings(
            max_examples=left,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        drawn = hypothesis.given(MAKES[target.name]())(one_of_them)
        hypothesis.seed(f"{seed} {target.name} {again}")(quiet(drawn))()
        again += 1


def damaged(data: bytes, target: Target, dice: random.Random) -> Iterator[bytes]:
    """Yield copies of an input with parts doubled, lost, moved or replaced by words of the target's language."""
    words = [word.encode("utf-8", "surrogatepass") for word in target.words]
    for _ in range(DAMAGED):
        copy = data
        for _ in range(dice.choice((1, 1, 2, 4))):
            start = dice.randrange(len(copy) + 1)
            end = min(len(copy), start + dice.choice((0, 1, 1, 3, 10, 50)))
            put = dice.choice((b"", dice.choice(words), copy[start:end] * 2, bytes([dice.randrange(256)])))
            copy = copy[:start] + put + copy[end:]
        yield copy


def by_coverage(reads: Callable[[bytes], None], target: Target, count: int, seed: int) -> None:
    """Give inputs to a function until it ends the process: libFuzzer does not come back."""
    atheris: Any = importlib.import_module("atheris")  # has no types
    place = Path(tempfile.mkdtemp(prefix="fuzz-"))
    words = place / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words), encoding="ascii")
    options = {
        "seed": seed % (1 << 31) or 1,
        "runs": count * 2,
        "max_len": MOST_COVERAGE_BYTES,
        "dict": words,
        "seed_inputs": ",".join(map(str, seeds_of(target.name))),
        "timeout": 600,
        "rss_limit_mb": 0,
        "handle_segv": 0,
        "print_final_stats": 0,
        "verbosity": 0,
        "artifact_prefix": f"{place}/",
    }
    sys.stdout.flush()
    atheris.Setup([sys.argv[0], *(f"-{name}={value}" for name, value in options.items())], reads)
    atheris.Fuzz()


def _escaped(word: str) -> str:
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}"
        for byte in word.encode("utf-8", "surrogatepass")
    )


def quietly() -> None:
    """Let nothing but the report come out: libFuzzer tells its progress on stderr."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
