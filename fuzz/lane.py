"""One lane, in a process of its own: one target, one engine, so many inputs. `python -m fuzz` starts them.

Rule 1: planloom is imported only once it is known whether its code is to be watched.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuzz import lanes

if TYPE_CHECKING:
    from fuzz.gauge import Gauge


def main(arguments: Sequence[str] | None = None) -> None:
    asked = parser().parse_args(arguments)
    if asked.engine == "coverage":
        watch()
    from fuzz.gauge import Gauge, Progress
    from fuzz.targets import TARGETS

    gauge = Gauge(TARGETS[asked.target], told=Progress(asked.progress), looks_later=asked.engine == "coverage")
    os.chdir(tempfile.mkdtemp(prefix="fuzz-"))  # a plan may name files; there are none
    gauge.start()
    if asked.engine == "grammar":
        lanes.by_grammar(gauge, asked.count, asked.seed)
        report(gauge, asked.report)
        return

    def reads(data: bytes) -> None:
        gauge.take(data)
        if gauge.inputs >= asked.count:
            gauge.settle()
            report(gauge, asked.report)
            os._exit(0)

    lanes.by_coverage(reads, gauge.target, asked.count, asked.seed)


def watch() -> None:
    """Import planloom so that atheris sees which of its branches an input takes."""
    atheris: Any = importlib.import_module("atheris")
    lanes.quietly()
    with atheris.instrument_imports(include=["planloom"]):
        importlib.import_module("fuzz.targets")


def report(gauge: Gauge, path: Path) -> None:
    path.write_text(json.dumps(gauge.to_dict()), encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m fuzz.lane", description=__doc__)
    made.add_argument("target")
    made.add_argument("engine", choices=lanes.ENGINES)
    made.add_argument("--count", type=int, required=True)
    made.add_argument("--seed", type=int, required=True)
    made.add_argument("--progress", type=Path, required=True)
    made.add_argument("--report", type=Path, required=True)
    return made


if __name__ == "__main__":
    main()
