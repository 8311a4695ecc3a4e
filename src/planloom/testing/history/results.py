"""I2 and I8: a result that was reported stays, and is what its parts came to; a map has all its items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from planloom.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    CallEnded,
    ResultRefused,
    RunFinished,
    StepExpanded,
    StepFailed,
    StepSkipped,
    StepSucceeded,
)
from planloom.core.result import RunStatus, StepStatus
from planloom.errors import EvaluationError, MissingValueError
from planloom.testing.history.numbers import is_of
from planloom.testing.history.picture import UndecidableError, View

if TYPE_CHECKING:
    from planloom.plan.refs import Template
    from planloom.ports import Recorded
    from planloom.testing.history.picture import Instance, RunPart, RunPicture
    from planloom.testing.history.violation import Findings

CANNOT_RESOLVE = (MissingValueError, EvaluationError)


class Results:
    """Judges what steps, calls and the run report."""

    def __init__(self, picture: RunPicture, findings: Findings) -> None:
        self.picture = picture
        self.findings = findings

    def look(self, entry: Recorded) -> bool:
        event = entry.event
        if isinstance(event, RunFinished):
            self._run_output(entry, event)
            return True
        key = getattr(event, "step", "")
        part = self.picture.parts.get(key)
        if part is None:
            if key:
                self._no_such_item(entry, key)
            return not key
        if isinstance(event, AttemptSucceeded | AttemptFailed):
            return self._outcome(entry, part, event)
        if isinstance(event, StepSucceeded):
            return self._success(entry, part, event)
        if isinstance(event, CallEnded):
            self._call(entry, part, event)
        elif isinstance(event, ResultRefused) and is_of(part, event):
            self._accuse("I1", entry, f"the result of attempt {event.attempt}, which was under way, was refused")
        elif isinstance(event, StepExpanded):
            return self._width(entry, part, event)
        elif isinstance(event, StepFailed | StepSkipped) and part.status is None:
            if part.open is not None:
                self._accuse("I2", entry, "it ended before its attempt said what it came to")
            self._whole(entry, part)
        return True

    def _accuse(self, law: str, entry: Recorded, what: str) -> None:
        self.findings.accuse(law, entry.seq, getattr(entry.event, "step", ""), what)

    def _no_such_item(self, entry: Recorded, key: str) -> None:
        above = self.picture.parts.get(key.rpartition("[")[0])
        if above is not None and above.is_map:
            width = "no items yet" if above.items is None else f"{len(above.items)} items"
            self._accuse("I8", entry, f"{above.key} has {width}")

    # --- of steps ---

    def _outcome(self, entry: Recorded, part: RunPart, event: AttemptSucceeded | AttemptFailed) -> bool:
        self.findings.count("I2", "results")
        if is_of(part, event):
            return True
        if event.attempt in part.outcomes or part.status is StepStatus.COMPLETED:
            what = f"attempt {event.attempt} has another outcome after it was on record what it came to"
        else:
            what = f"an outcome of attempt {event.attempt} of engine {event.epoch} counts, which is not under way"
        self._accuse("I2", entry, what)
        return False

    def _success(self, entry: Recorded, part: RunPart, event: StepSucceeded) -> bool:
        self.findings.count("I2", "results")
        if part.status is StepStatus.COMPLETED or part.open is not None:
            self._accuse("I2", entry, "another result than its attempt's is reported")
            return False
        if part.status is not None:
            return True  # judged as an end after the end
        if event.reused:
            known = self.picture.started.reused if self.picture.started is not None else {}
            if part.key not in known or known[part.key] != event.output:
                self._accuse("I2", entry, "what it reuses is not what the earlier run came to")
        elif part.items is not None:
            self._map_result(entry, part, event)
        elif part.inner is not None:
            if part.inner.left:
                self._accuse("I4", entry, f"ended while {part.inner.left} of its steps had not")
            elif not self._is_output(part.inner, event.output):
                self._accuse("I2", entry, "its output is not what its steps came to")
        elif part.granted is None:
            self._accuse("I2", entry, "a result is reported that nobody gave")
        elif part.granted[0] != event.output:
            self._accuse("I2", entry, "its output is not what was given as its result")
        return True

    def _call(self, entry: Recorded, part: RunPart, event: CallEnded) -> None:
        self.findings.count("I2", "inner calls")
        call = part.calls.get(event.key)
        before = call.ended if call is not None else None
        if before is None or before.error is not None:
            return
        if event.error is not None and event.kind == "model":
            return  # what a model said is found to be of no use, and it is asked again
        if event.error is not None or event.output != before.output:
            self._accuse("I2", entry, f"call {event.key!r} was answered, and is answered otherwise")

    # --- of maps ---

    def _width(self, entry: Recorded, part: RunPart, event: StepExpanded) -> bool:
        self.findings.count("I8", "maps")
        self.findings.count("I8", "items", len(event.items))
        if part.items is not None:
            self._accuse("I8", entry, f"it has {len(part.items)} items already")
            return False
        if not part.is_map or part.entry.for_each is None:
            self._accuse("I8", entry, "it is no map")
            return False
        try:
            wanted = part.entry.for_each.resolve(View(part.instance))
        except UndecidableError:
            return True
        except CANNOT_RESOLVE as error:
            self._accuse("I4", entry, f"its items are not on record: {error.message}")
            return True
        if wanted != event.items:
            self._accuse("I8", entry, f"its {len(event.items)} items are not those that its `for_each` gives")
        return True

    def _whole(self, entry: Recorded, part: RunPart) -> None:
        """Judge whether all parts of a container that ends have ended."""
        if part.items is not None and part.left:
            ended = len(part.items) - part.left
            self._accuse("I8", entry, f"ended with {ended} of {len(part.items)} items done, failed or skipped")
        elif part.inner is not None and part.inner.left:
            self._accuse("I4", entry, f"ended while {part.inner.left} of its steps had not")

    def _map_result(self, entry: Recorded, part: RunPart, event: StepSucceeded) -> None:
        items = part.items or []
        if part.left:
            self._whole(entry, part)
            return
        if not isinstance(event.output, list) or len(event.output) != len(items):
            self._accuse("I8", entry, f"its output does not have the width of {len(items)}")
            return
        if event.output != [item.output for item in items]:
            self._accuse("I2", entry, "its output is not what its items came to, in their order")
        bad = [item.index for item in items if item.status is not StepStatus.COMPLETED]
        if [error.get("index") for error in event.errors] != bad:
            self._accuse("I8", entry, f"items {bad} did not complete, and it names {len(event.errors)} errors")
        elif bad and (part.step.on_item_error != "collect" or part.halted_parts or len(bad) == len(items)):
            self._accuse("I8", entry, f"it succeeded although items {bad} did not complete")

    # --- of the run ---

    def _run_output(self, entry: Recorded, event: RunFinished) -> None:
        root = self.picture.root
        if root is None or root.left:
            return  # judged as an end before the end
        told = None
        try:
            if self.picture.stops or event.status is not RunStatus.FAILED or any(part.broke for part in root.parts):
                told = output_of(root, lenient=event.status is not RunStatus.SUCCESS)
        except UndecidableError:
            return
        except CANNOT_RESOLVE:
            pass
        if told != event.output:
            self._accuse("I2", entry, "the run's output is not what its steps came to")

    def _is_output(self, instance: Instance, output: Any) -> bool:
        try:
            return bool(output_of(instance, lenient=False) == output)
        except UndecidableError:
            return True
        except CANNOT_RESOLVE:
            return False


def output_of(instance: Instance, *, lenient: bool) -> Any:
    """Return what a plan returns, its steps having ended.

    Args:
        lenient: Give null for a part that leads nowhere.
    """
    template, view = instance.graph.outputs, View(instance)
    if template is None:
        ends = [part for part in instance.parts if not part.entry.downstream]
        if len(ends) == 1:
            return ends[0].output
        return {part.step.id: part.output for part in ends if part.status is StepStatus.COMPLETED} or None
    if not lenient:
        return template.resolve(view)

    def one(entry: Template) -> Any:
        try:
            return entry.resolve(view)
        except CANNOT_RESOLVE:
            return None

    entries = template.parts()
    return one(template) if entries is None else {name: one(entry) for name, entry in entries.items()}
