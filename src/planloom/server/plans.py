"""Plans that a server runs: those of its folders, by name, and those that callers bring along.

Rule 1: a name is looked up among the files that a folder holds; no path is ever made of what a caller says.
Rule 2: a plan that a caller brings along is a value or a text: no file is read for it, for its sub-plans neither.
Rule 3: a file is read again when it has changed; one with sub-plans, each time.
"""

from __future__ import annotations

import json
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planloom.blocking import in_thread
from planloom.errors import PlanError, PlanSyntaxError, UnknownPlanError, suggestion
from planloom.plan.load import load_plan, parse_plan

if TYPE_CHECKING:
    from planloom.plan.load import Check
    from planloom.plan.model import Plan

PLAN_SUFFIXES = frozenset({".yaml", ".yml", ".json"})
NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"
KEPT_PLANS = 256
"""Plans of callers that are remembered, read: many send the same one again and again."""
LARGE_CHARS = 20_000
"""A plan longer than this is read in a thread, so that everybody else is not kept waiting."""
_NAME = re.compile(NAME)


@dataclass(frozen=True, slots=True)
class _Read:
    """A plan's file as it was when it was read; `stamp` is None where that does not tell whether it changed."""

    plan: Plan
    stamp: tuple[int, ...] | None


class NamedPlans:
    """The plans of some folders, each under its file's name without suffix. The first folder that has a name counts."""

    def __init__(self, folders: Iterable[Path | str] = ()) -> None:
        self._folders = tuple(Path(folder) for folder in folders)
        self._read: dict[Path, _Read] = {}
        self._brought: OrderedDict[str, Plan] = OrderedDict()

    def names(self) -> list[str]:
        """Return the names there are, sorted."""
        return sorted(self._files())

    async def named(self, name: str, *, also: Check | None = None) -> Plan:
        """Return a plan of the folders.

        Args:
            also: A further check when it is read, so that its problems are told with their lines.

        Raises:
            UnknownPlanError: There is none of that name.
            PlanError: Its file holds no sound plan.
        """
        path = self._files(name).get(name)
        if path is None:
            files = self._files()
            remedy = suggestion(name, files, otherwise="this server has no folder of plans: see `plans` in [server]")
            raise UnknownPlanError(f"there is no plan {name!r}", remedy=remedy)
        known = self._read.get(path)
        stamp = _stamp(path)
        if known is not None and known.stamp is not None and known.stamp == stamp:
            return known.plan
        try:
            is_large = bool(stamp) and stamp[1] > LARGE_CHARS
            plan = await in_thread(load_plan, path) if is_large else load_plan(path, also=also)
        except PlanError as error:
            for problem in error.problems:
                problem.facts.pop("file", None)
            raise
        has_parts = any(step.plan is not None for step in plan.steps)
        self._read[path] = _Read(plan, None if has_parts else stamp)
        return plan

    async def brought(self, source: Mapping[str, Any] | str, *, also: Check | None = None) -> Plan:
        """Return the plan that a caller brings along: a value, or its text; `also` as for `named`.

        Raises:
            PlanError: It is not sound.
        """
        text = source if isinstance(source, str) else json.dumps(source)
        key = sha256(f"{type(source) is str}{text}".encode("utf-8", "surrogatepass")).hexdigest()
        known = self._brought.get(key)
        if known is not None:
            self._brought.move_to_end(key)
            return known
        plan = _read_brought(source, also) if len(text) < LARGE_CHARS else await in_thread(_read_brought, source, None)
        self._brought[key] = plan
        if len(self._brought) > KEPT_PLANS:
            self._brought.popitem(last=False)
        return plan

    def _files(self, only: str | None = None) -> dict[str, Path]:
        """Return the file of each name, or, looking closely at no other, of the only one that is asked for."""
        found: dict[str, Path] = {}
        for folder in self._folders:
            try:
                with os.scandir(folder) as entries:
                    here = [entry for entry in entries if only is None or entry.name.startswith(f"{only}.")]
            except OSError as error:
                raise PlanSyntaxError(
                    "a folder of plans cannot be read", remedy="ask whoever runs this server"
                ) from error
            for entry in sorted(here, key=lambda entry: entry.name):
                path = folder / entry.name
                is_plan = path.suffix in PLAN_SUFFIXES and _NAME.match(path.stem) is not None and path.is_file()
                if is_plan and (not entry.is_symlink() or path.resolve().is_relative_to(folder.resolve())):
                    found.setdefault(path.stem, path)
        return found


def _read_brought(source: Mapping[str, Any] | str, also: Check | None) -> Plan:
    return parse_plan(source, also=also) if isinstance(source, str) else load_plan(source, also=also)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        about = path.stat()
    except OSError:
        return ()
    return about.st_mtime_ns, about.st_size, about.st_ino
