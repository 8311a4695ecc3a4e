"""The JSON forms other systems write plans in → native document.

    planner prompt   {"request_id", "steps": [{"id", "tool", "input": {"p": "step:ID.path"}, …}], "final_synthesis"}
    doc page         {"task", "steps": [{"id": 1, "tool", "parameters": {"m": "{{steps[1].output.merchant}}"}, …}]}
    workflow         {"steps": [{"step_id", "tool_name", "parameters": {"m": "{{step.field}}"}, "condition", …}]}

Rule 1: nothing is checked and nothing dropped here: what has no native name stays, for the checks to refuse.
Rule 2: `{{name}}` is the output of the step of that id, else an input. "step:ID.path" is a reference only where it is
the whole value.
Rule 3: retries n means 1 + n attempts. A form that asks for retries cannot say what a second attempt would do, so such
a tool step is taken to be `idempotent`: it is given the same key each time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from planloom.plan.expression import MAX_EXPRESSION
from planloom.plan.terms import ROOTS

_NATIVE_NAMES = {"depends_on": "needs", "requires": "needs", "args": "with"}
_FOREIGN_NAMES = _NATIVE_NAMES | {
    "step_id": "id",
    "tool_name": "tool",
    "input": "with",
    "parameters": "with",
    "run_if": "when",
    "condition": "when",
    "timeout_s": "timeout_seconds",
}
_FOREIGN_PLAN_NAMES = {"request_id": "name", "task": "description"}
_FOREIGN_PLAN_KEYS = {"request_id", "task", "final_synthesis"}
_FOREIGN_STEP_KEYS = {
    "step_id",
    "tool_name",
    "input",
    "parameters",
    "run_if",
    "condition",
    "retry_policy",
    "retry_count",
}
_FOREIGN_STEP_KEYS |= {"timeout_s"}
_TEMPLATED = ("with", "prompt", "system", "idempotency_key", "for_each")

_BRACES = re.compile(r"(?<!\$)\{\{([^{}]*)\}\}")
_PATH = re.compile(r"[A-Za-z0-9_][\w-]*(?:\.[\w-]+|\[(?:-?\d+|\"[^\"\]]*\"|'[^'\]]*')\])*")
_WHOLE = re.compile(r"step:(?P<path>\S+)")
_IN_CONDITION = re.compile(
    r"""\{\{(?P<braces>[^{}]*)\}\}|(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|step:(?P<step>[\w.\[\]-]+)"""
    r"""|(?P<name>(?<![\w.])(?>[A-Za-z_][\w-]*(?:\.[\w-]+|\[-?\d+\])*))(?!\s*\()"""
)
_WORDS = {"and", "or", "not", "in", "true", "false", "null", "True", "False", "None"}
_FINAL = "final_synthesis"
_MAX_LISTED = 1_000
"""References that `{{steps}}` may come to in one text: as often as it may stand there, and every step each time."""


def to_native(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the native document of a plan in any form; the form is told by its fields.

    Steps keep their order and place, so that a problem of a native step can be found in the original.
    """
    steps = document.get("steps")
    if not is_foreign(document):
        native = dict(document)
        if isinstance(steps, list):
            native["steps"] = [_renamed(step, _NATIVE_NAMES) if isinstance(step, dict) else step for step in steps]
        return native
    native = _renamed(document, _FOREIGN_PLAN_NAMES)
    if isinstance(native.get("name"), int):
        native["name"] = str(native["name"])
    if not isinstance(steps, list):
        return native
    renamed = [_renamed(step, _FOREIGN_NAMES) if isinstance(step, dict) else step for step in steps]
    names = _Names(renamed)
    native["steps"] = [_foreign_step(step, names) if isinstance(step, dict) else step for step in renamed]
    if "outputs" in native:
        native["outputs"] = names.value(native["outputs"])
    if isinstance(native.get(_FINAL), dict):
        native["steps"].append(_final_step(native.pop(_FINAL), names))
        native.setdefault("outputs", f"${{{{ steps.{_FINAL}.output }}}}")
    return native


def is_foreign(document: Mapping[str, Any]) -> bool:
    """Return whether a document is in one of the other forms."""
    if "planloom" in document:
        return False
    if not _FOREIGN_PLAN_KEYS.isdisjoint(document):
        return True
    steps = document.get("steps")
    return isinstance(steps, list) and any(
        isinstance(step, dict) and not _FOREIGN_STEP_KEYS.isdisjoint(step) for step in steps
    )


def _renamed(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields under their native names; one that is there already keeps the other as it is, to be refused."""
    made: dict[str, Any] = {}
    for name, value in fields.items():
        native = names.get(name, name)
        made[name if native != name and (native in fields or native in made) else native] = value
    return made


def _foreign_step(step: dict[str, Any], names: _Names) -> dict[str, Any]:
    for field in _TEMPLATED:
        if field in step:
            step[field] = names.value(step[field])
    if isinstance(step.get("when"), str):
        step["when"] = names.condition(step["when"])
    retry = _retry(step)
    if retry is not None:
        step["retry"] = retry
        attempts = retry["max_attempts"]
        if isinstance(attempts, int) and attempts > 1 and "tool" in step:
            step.setdefault("effects", "idempotent")
    return step


def _retry(step: dict[str, Any]) -> dict[str, Any] | None:
    if "retry" in step:
        return None
    policy = step.get("retry_policy")
    if isinstance(policy, dict) and "retry_count" not in step:
        del step["retry_policy"]
        rest = dict(policy)
        retry = {"max_attempts": _attempts(rest.pop("retries", 1)), "initial_delay": rest.pop("backoff_s", 1)}
        return retry | rest
    if "retry_count" in step and policy is None:
        return {"max_attempts": _attempts(step.pop("retry_count"))}
    return None


def _attempts(retries: Any) -> Any:
    return 1 + retries if isinstance(retries, int) and not isinstance(retries, bool) else retries


def _final_step(synthesis: dict[str, Any], names: _Names) -> dict[str, Any]:
    """Return the model step that sums a run up; `{{steps}}` in its text is every step's output, null where none is."""
    step: dict[str, Any] = {"id": _FINAL, "model": "default", "needs": list(names.ids), "join": "none_failed"}
    rest = dict(synthesis)
    template = rest.pop("prompt_template", None)
    if isinstance(template, str):
        listed = ", ".join(
            f"{json.dumps(name)}: ${{{{ json(default({names.output(name)}, null)) }}}}" for name in names.ids
        )
        often = max(1, _MAX_LISTED // max(1, len(names.ids)))  # once more is no reference, and refused with the rest
        template = re.sub(r"(?<!\$)\{\{\s*steps\s*\}\}", lambda _: f"{{{listed}}}", template, count=often)
        template = names.value(template)
    if template is not None:
        step["prompt"] = template
    meta = rest.pop("meta", None)
    if meta:
        step["description"] = json.dumps(meta, ensure_ascii=False)
    return step | rest


class _Names:
    """The ids of a plan's steps, and what a name or path in a foreign form stands for."""

    def __init__(self, steps: list[Any]) -> None:
        found = [step.get("id") for step in steps if isinstance(step, dict)]
        self.ids = [str(name) for name in found if isinstance(name, str | int) and not isinstance(name, bool)]
        self.known = frozenset(self.ids)
        self.longest = max(map(len, self.ids), default=0)

    def value(self, value: Any) -> Any:
        """Return a JSON value with every foreign reference written natively."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self.value(entry) for key, entry in value.items()}
        return [self.value(entry) for entry in value] if isinstance(value, list) else value

    def text(self, text: str) -> str:
        whole = _WHOLE.fullmatch(text.strip())
        if whole:
            return f"${{{{ {self.of_step(whole['path'])} }}}}"
        if "{{" not in text:
            return text
        return _BRACES.sub(lambda match: f"${{{{ {self.path(match[1])} }}}}", text)

    def condition(self, text: str) -> str:
        """Return a foreign condition in the native language; what is no path stays as it is."""
        if "${{" in text or len(text) > MAX_EXPRESSION:
            return text

        def written(match: re.Match[str]) -> str:
            if match["braces"] is not None:
                return self.path(match["braces"])
            if match["step"] is not None:
                return self.of_step(match["step"])
            name = match["name"]
            return match[0] if name is None or name in _WORDS or name.startswith("__") else self.path(name)

        return _IN_CONDITION.sub(written, text)

    def path(self, text: str) -> str:
        """Return what stands between double braces as a native path, or as it is if it is no path."""
        path = text.strip()
        if not _PATH.fullmatch(path):
            return path
        step = re.fullmatch(r"steps(?:\[\"?'?([^\]\"']+)\"?'?\]|\.([\w-]+))(.*)", path, re.DOTALL)
        if step and "steps" not in self.known:
            return self.output(step[1] or step[2], step[3])
        name = self.owner(path)
        if name in self.known:
            return self.output(name, path[len(name) :])
        root = re.split(r"[.\[]", path, maxsplit=1)[0]
        if root in ROOTS or root == "context" or root.startswith("__"):
            return path
        return f"inputs.{path}"

    def of_step(self, path: str) -> str:
        """Return the native path of what follows ``step:``."""
        name = self.owner(path)
        return self.output(name, path[len(name) :])

    def owner(self, path: str) -> str:
        """Return the longest step id that a path begins with, or its first part."""
        ends = [match.start() for match in re.finditer(r"[.\[]", path)] + [len(path)]
        known = [end for end in ends if end <= self.longest and path[:end] in self.known]
        return path[: known[-1] if known else ends[0]]

    def output(self, name: str, rest: str = "") -> str:
        shown = f"steps.{name}" if re.fullmatch(r"[A-Za-z_][\w-]*", name) else f"steps[{json.dumps(name)}]"
        rest = re.sub(r"\.(\d+)(?=[.\[]|$)", r"[\1]", rest)
        return shown + (rest if re.match(r"\.output(?:[.\[]|$)", rest) else f".output{rest}")
