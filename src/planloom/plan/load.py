"""The way in: text, file, dict or Plan → checked Plan, or every problem at once.

Rule 1: what comes out is sound by itself (`check.py`); what goes wrong is always a `PlanError`.
Rule 2: a sub-plan's file lies inside the base folder, whatever its name or its links say.
Rule 3: reading files is all that this file does to the world, and it reads nothing but regular files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from planloom.errors import FieldError, PlanError, PlanSyntaxError, plan_error
from planloom.plan.check import MAX_NESTING, structure_problems, together, too_nested, within
from planloom.plan.document import (
    MAX_BYTES,
    MAX_NODES,
    MAX_PROBLEMS,
    PlanDocument,
    Positions,
    checked_text,
    count_nodes,
    decode,
    locate,
    python_value,
    read_json,
    refuse,
    too_large,
)
from planloom.plan.english import looks_lettered, read_english
from planloom.plan.fields import read_fields
from planloom.plan.forms import to_native
from planloom.plan.model import Plan
from planloom.plan.schemas import one_plan
from planloom.plan.yaml_text import read_yaml, yaml_positions

SUFFIXES = (".yaml", ".yml", ".json", ".txt")


Check = Callable[[Plan], list[PlanError]]


def load_plan(
    source: Plan | Mapping[str, Any] | Path | str, *, base_dir: Path | str | None = None, also: Check | None = None
) -> Plan:
    """Return the plan of a source, checked.

    Args:
        source: A `Plan` (returned as it is), a dict in any form, the path of a file, or the text itself. A str that
            ends in .yaml, .yml, .json or .txt and has no line break is a path.
        base_dir: Folder that the paths of sub-plans begin in and must not leave; by default that of the plan's file.
        also: A further check, whose problems are reported together with the plan's own.

    Raises:
        PlanError: Everything that is wrong with the plan; several problems at once are in `.problems`.
    """
    if isinstance(source, Plan):
        return source
    base = None if base_dir is None else Path(base_dir)
    if isinstance(source, Mapping):
        return _Loading(base, also).plan(PlanDocument(python_value(source)))
    if isinstance(source, str) and not _is_path(source):
        return _Loading(base, also).plan(read_document(checked_text(source)))
    if not isinstance(source, str | Path):
        found = type(source).__name__
        raise PlanSyntaxError(f"a {found} is no plan", remedy="give a Plan, a dict, a path or the text of a plan")
    path = Path(source)
    return _Loading(base or path.parent, also).file(path)


def parse_plan(text: str, *, also: Check | None = None) -> Plan:
    """Return the plan of a text: YAML, JSON or lettered English.

    Raises:
        PlanError: Everything that is wrong with the plan; several problems at once are in `.problems`.
    """
    return _Loading(None, also).plan(read_document(checked_text(text)))


def read_document(text: str, *, suffix: str = "") -> PlanDocument:
    """Return the value of a text in whatever form it is written.

    Args:
        suffix: Of its file, e.g. ".json", which then must be JSON; "" where only the text tells.
    """
    if suffix not in (".json", ".yaml", ".yml") and looks_lettered(text):
        return read_english(text)
    positions: Callable[[], Positions] = lambda: yaml_positions(text)  # noqa: E731 - a name for what is done later
    if suffix != ".json" and not text.lstrip().startswith(("{", "[")):
        return PlanDocument(read_yaml(text), positions)
    try:
        return PlanDocument(read_json(text), positions)
    except PlanSyntaxError as not_json:
        # YAML's own flow mappings begin like JSON; and where JSON finds a doubled key, YAML knows both lines
        try:
            value = read_yaml(text)
        except PlanSyntaxError as not_yaml:
            raise (not_yaml if "first_line" in not_yaml.facts else not_json) from None
        if suffix == ".json" or not not_json.message.startswith("this is not JSON"):
            raise
        return PlanDocument(value, positions)


def _is_path(text: str) -> bool:
    return "\n" not in text and text.lower().endswith(SUFFIXES)


def _read_file(path: Path) -> str:
    try:
        if not path.is_file():
            missing = "is not a file" if path.exists() else "does not exist"
            raise PlanSyntaxError(f"{str(path)!r} {missing}", remedy="check the path; or give the plan's text itself")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            too_large(path.stat().st_size)
    except (OSError, ValueError) as error:
        if isinstance(error, PlanError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        message = f"cannot read {str(path)[:200]!r}: {reason}"
        raise PlanSyntaxError(message, remedy="check the path and its permissions") from None
    return decode(raw)


class _Loading:
    """One call of `load_plan`: the files read so far, and the chain of those being read."""

    def __init__(self, base: Path | None, also: Check | None = None) -> None:
        self.also = also
        self.base = base
        self.chain: list[Path] = []
        self.depth = 0
        self.files: dict[Path, tuple[Plan, int]] = {}
        self.broken: set[Path] = set()
        self.nodes = 0

    def file(self, path: Path) -> Plan:
        real = self._resolved(path)
        if real in self.files:
            plan, nodes = self.files[real]
            self._count(nodes)
            return plan
        if real in self.broken:
            remedy = "mend it: its problems are listed where it is first used"
            raise FieldError(f"the plan in {path.name!r} is not sound", remedy=remedy)
        before = self.nodes
        self.chain.append(real)
        self.broken.add(real)
        try:
            plan = self.plan(read_document(_read_file(path), suffix=path.suffix.lower()))
        finally:
            self.chain.pop()
        self.broken.discard(real)
        self.files[real] = (plan, self.nodes - before)
        return plan

    def plan(self, document: PlanDocument) -> Plan:
        """Return the plan of a document; its problems get their lines here."""
        with one_plan():
            plan, problems = self.inline(document.value)
        if self.also is not None and self.depth == 0:
            problems = together(problems, self.also(plan))
        if problems:
            more = problems[MAX_PROBLEMS:]
            problems = problems[:MAX_PROBLEMS]
            locate(problems, document.positions)
            problems.sort(key=_in_text_order)
            if more:
                problems.append(PlanSyntaxError("the plan has more problems than these", remedy="mend these first"))
            raise plan_error(problems)
        return plan

    def inline(self, value: Any) -> tuple[Plan, list[PlanError]]:
        """Return what can be read of a plan, with every problem in it."""
        if not isinstance(value, dict):
            found = "a list" if isinstance(value, list) else "a single value"
            remedy = "write a mapping with `steps:`, JSON, or lettered lines such as `a. Get all contacts`"
            return Plan(), [PlanSyntaxError(f"a plan is a mapping; this is {found}", remedy=remedy)]
        self._count(count_nodes(value))
        native = to_native(value)
        sub_plans, problems = self.sub_plans(native)
        read = read_fields(native, sub_plans)
        dropped = dict(read.dropped)
        for problem in problems:
            place = int(problem.path[1])
            dropped[place] = dropped.get(place, frozenset()) | {"plan"}
        problems += read.problems
        if len(problems) > MAX_PROBLEMS:
            return read.plan, problems
        problems += structure_problems(read.plan, dropped)
        return read.plan, problems

    def sub_plans(self, native: dict[str, Any]) -> tuple[dict[int, Plan], list[PlanError]]:
        """Take the sub-plans out of a native document; return them by the place of their step, and their problems."""
        found: dict[int, Plan] = {}
        problems: list[PlanError] = []
        if isinstance(native.get("steps"), list):
            native["steps"] = list(native["steps"])
            for place, step in enumerate(native["steps"]):
                if isinstance(step, dict) and isinstance(step.get("plan"), str | dict):
                    native["steps"][place] = {name: entry for name, entry in step.items() if name != "plan"}
                    try:
                        found[place] = self.sub_plan(step["plan"], str(step.get("id")), place)
                    except PlanError as error:
                        if self.nodes > MAX_NODES:
                            raise  # of the whole plan, not of this sub-plan
                        problems += error.problems
        return found, problems

    def sub_plan(self, named: str | dict[str, Any], step_id: str, place: int) -> Plan:
        path = ("steps", place, "plan")
        if self.depth == MAX_NESTING:
            raise too_nested(step_id, path)
        self.depth += 1
        try:
            if isinstance(named, str):
                return self.sub_file(named)
            plan, problems = self.inline({"steps": [], **named})  # one without steps is written without them
        except PlanError as error:
            problems = list(error.problems)
            for problem in problems:
                if isinstance(named, str) and problem.line is not None and "file" not in problem.facts:
                    problem.facts["file"] = named
                    problem.message = f"in {named!r}: {problem.message}"
        finally:
            self.depth -= 1
        if problems:
            raise plan_error([within(problem, step_id, path) for problem in problems])
        return plan

    def sub_file(self, named: str) -> Plan:
        """Read a sub-plan's file, which must lie inside the base folder."""
        if not _is_path(named):
            remedy = f"write the path of a file ({', '.join(SUFFIXES)}), or the plan itself"
            raise FieldError(f"{named[:80]!r} is no path of a plan", remedy=remedy)
        if self.base is None:
            remedy = "load the plan from its file, or pass base_dir"
            raise FieldError(f"there is no folder to look for {named!r} in", remedy=remedy)
        base = self._resolved(self.base)
        path = base / named
        real = self._resolved(path)
        if Path(named).is_absolute() or not real.is_relative_to(base):
            remedy = "put the file into the plan's folder, and name it from there"
            raise FieldError(f"sub-plan {named!r} lies outside the plan's folder", remedy=remedy)
        if real in self.chain:
            names = [one.name for one in [*self.chain[self.chain.index(real) :], real]]
            remedy = "take one of them out: a plan cannot contain itself"
            raise FieldError(f"plans contain each other: {' -> '.join(names)}", remedy=remedy)
        return self.file(path)

    def _resolved(self, path: Path) -> Path:
        try:
            return path.resolve()
        except (OSError, RuntimeError, ValueError) as error:  # a circle of links, or a NUL in the name
            message = f"cannot read {str(path)[:200]!r}: {error}"
            raise PlanSyntaxError(message, remedy="check the path") from None

    def _count(self, nodes: int) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            message = f"with its sub-plans, the plan has over {MAX_NODES:,} values"
            refuse(message, "use fewer sub-plans, or give large values as inputs", (1, 1))


def _in_text_order(problem: PlanError) -> tuple[bool, int, int]:
    return "file" in problem.facts, problem.line or 0, problem.column or 0
