"""A plan's file, and its problems with the file, line and column they are at."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from planloom.errors import PlanError
from planloom.plan.document import locate
from planloom.plan.load import load_plan, parse_plan, read_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planloom.plan.load import Check
    from planloom.plan.model import Plan

STDIN = Path("-")


class PlanFile:
    """A plan's file; `-` is standard input.

    Attributes:
        path: The file, or None for standard input.
        name: For people.
    """

    def __init__(self, given: Path) -> None:
        self.path = None if given == STDIN else given
        self.name = "<stdin>" if self.path is None else str(given)
        self._text = sys.stdin.read() if self.path is None else None

    def read(self, *, also: Check | None = None) -> Plan:
        """Return the plan, checked by itself and by `also`.

        Raises:
            PlanError: Everything that is wrong with it, each problem with its place.
        """
        with self.placing_problems():
            if self._text is not None:
                return parse_plan(self._text, also=also)
            return load_plan(self.path or STDIN, also=also)

    @contextmanager
    def placing_problems(self) -> Iterator[None]:
        """Give every problem of the plan that is raised in here its file, line and column."""
        try:
            yield
        except PlanError as error:
            problems = list(error.problems)
            self._locate([problem for problem in problems if problem.line is None and problem.path])
            for problem in problems:
                problem.facts.setdefault("file", self.name)
            raise

    def _locate(self, problems: list[PlanError]) -> None:
        if not problems:
            return
        try:
            text = self._text if self._text is not None else (self.path or STDIN).read_text(encoding="utf-8")
            document = read_document(text, suffix=self.path.suffix.lower() if self.path is not None else "")
        except (OSError, UnicodeDecodeError, PlanError):  # then the problem itself is that it cannot be read
            return
        locate(problems, document.positions)
