"""Labels in a run: what flows into a step, and what its result carries from then on.

Rule 1: worked out from events alone, so that a replay comes to the same; a run whose tools say nothing has no `Flow`.
Rule 2: labels are only ever added, save by a tool that `cleans` them; what an attempt reports of itself adds, too.
Rule 3: `Node.labels` is what others see of a step at any moment: also of one that failed, for its error says what it
was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from planloom.core.state import Replan
from planloom.plan.flow import NO_LABELS, SECRET, labels_after
from planloom.plan.frozen import frozen
from planloom.plan.refs import compile_template

if TYPE_CHECKING:
    from planloom.core.events import RunStarted, StepSucceeded, ToolFacts
    from planloom.core.state import Node, ScopeState
    from planloom.plan.graph import GraphStep, PlanGraph
    from planloom.plan.terms import Ref

Labels = frozenset[str]


@frozen
class _Reads:
    """What references lead to: positions of steps, and names of inputs; `whole`: all inputs at once."""

    steps: tuple[int, ...]
    inputs: tuple[str, ...]
    whole: bool = False


@frozen
class _Step:
    """What a step refers to.

    Attributes:
        control: By what decides whether and how often it is done: `when`, conditions of what it needs, `for_each`.
        given: By what it is given: its arguments, its idempotency key.
        parts: By each argument of a sub-plan, which is that plan's input of the same name.
    """

    control: _Reads
    given: _Reads
    parts: Mapping[str, _Reads]

    @property
    def steps(self) -> Iterator[int]:
        """Yield the positions of all steps it refers to."""
        for reads in (self.given, self.control, *self.parts.values()):
            yield from reads.steps


class Flow:
    """The labels of one run.

    Attributes:
        policy: What is done about them.
    """

    def __init__(self, started: RunStarted) -> None:
        assert started.flow is not None
        self.policy = started.flow
        self._facts: Mapping[str, ToolFacts] = started.tools
        self._reused: Mapping[str, Any] = started.reused_labels
        self._read: dict[int, _Step] = {}
        """By the identity of a compiled step, which lives as long as the run."""

    # --- what flows in ---

    def control(self, node: Node) -> Labels:
        """Return the labels of what decides whether and how often a step is done."""
        return _labels(node.scope, self._reads_of(node).control) | node.scope.control

    def flowed_in(self, node: Node, ahead: Mapping[int, Labels] | None = None) -> Labels:
        """Return the labels of what an attempt of this step is given, and of what decides that it is made.

        Args:
            ahead: By position, labels to be taken for steps that have not ended.
        """
        reads = self._reads_of(node)
        found = _labels(node.scope, reads.control, ahead) | _labels(node.scope, reads.given, ahead)
        found |= node.scope.control
        return found | node.labels if node.replan is Replan.ASKED else found

    def inputs(self, node: Node) -> dict[str, Labels]:
        """Return the labels of each input of the plan that a step is, or that stands in its place."""
        parts = self._reads_of(node).parts
        return {name: labels for name, reads in parts.items() if (labels := _labels(node.scope, reads))}

    # --- what comes out ---

    def begin(self, node: Node) -> None:
        """Take note of what the attempt that starts now is given."""
        node.told = self.flowed_in(node)

    def open(self, node: Node) -> None:
        """Say what the plan that a step is now may know."""
        inner = node.inner
        assert inner is not None
        inner.given = self.inputs(node)
        inner.control = node.told if node.replan is Replan.DONE else self.control(node)

    def succeeded(self, node: Node, reported: tuple[str, ...]) -> None:
        """Take in what an attempt came to."""
        if node.replan is Replan.ASKED:
            node.told = node.told.union(reported)  # what wrote the plan in its place knew all this
        else:
            node.labels = self.after(node, node.told, reported)

    def after(self, node: Node, told: Labels, reported: tuple[str, ...]) -> Labels:
        """Return what the output of an attempt carries that was given this."""
        return labels_after(told, self._facts_of(node)).union(reported, _inside(node))

    def closed(self, node: Node, event: StepSucceeded) -> None:
        """Take in what a step came to that no attempt completes."""
        if event.reused:
            node.labels = self._reused_labels(node)
        elif node.children is not None:
            found = (child.labels for child in node.children)
            node.labels = NO_LABELS.union(*found) if node.children else self.control(node)
        elif node.inner is not None:
            node.labels = self._of_outputs(node.inner)
        elif node.entry.step.wait is not None:
            node.labels = self.flowed_in(node)
        else:
            node.labels = NO_LABELS  # a person filled it in

    def of_run(self, root: ScopeState) -> Labels:
        """Return what the output of the run carries, as far as its steps have ended."""
        return self._of_outputs(root)

    def failed(self, node: Node, reported: tuple[str, ...] = ()) -> None:
        """Take in that an attempt, or the step, failed: its error may say what it was given, and what it got."""
        parts = node.children if node.children is not None else node.inner.nodes if node.inner is not None else ()
        found = self.flowed_in(node).union(node.labels, node.told, _inside(node), *self.inputs(node).values())
        found = found.union(reported, *(part.labels for part in parts))
        facts = self._facts_of(node) if node.attempt else None
        if facts is not None:
            found = found.union(facts.source, (SECRET,) if facts.secret else ())
        node.labels = found

    # --- why ---

    def origin(self, node: Node, label: str) -> str:
        """Return the key of the step where a label that flows into this one came up."""
        seen = {node.key}
        while True:
            above = next((one for one in self._feeders(node) if label in one.labels and one.key not in seen), None)
            if above is None:
                return node.key
            seen.add(above.key)
            node = above
            if label in self._own(node):
                return node.key

    def _feeders(self, node: Node) -> Iterator[Node]:
        """Yield what a step refers to, then its own parts, then what the plans around it are given."""
        for place in self._reads_of(node).steps:
            yield node.scope.nodes[place]
        yield from node.children or ()
        yield from node.inner.nodes if node.inner is not None else ()
        owner = node.scope.owner
        while owner is not None:
            for place in self._reads_of(owner).steps:
                yield owner.scope.nodes[place]
            if owner.replan is not Replan.NO:
                yield owner
            owner = owner.scope.owner

    def _own(self, node: Node) -> Labels:
        """Return the labels that come up in a step itself."""
        facts = self._facts_of(node)
        return _inside(node) if facts is None else labels_after(_inside(node), facts)

    # --- parts ---

    def _facts_of(self, node: Node) -> ToolFacts | None:
        tool = node.entry.step.tool
        return None if tool is None else self._facts.get(tool)

    def _of_outputs(self, scope: ScopeState) -> Labels:
        """Return what the outputs of a plan carry: what leads to them; if no step does, what decided that it ran.

        Its steps carry that already; where one cleans what it is given, it is clean.
        """
        outputs = scope.graph.outputs
        if outputs is None:
            ends = [node.labels for node in scope.nodes if not node.entry.downstream]
            return NO_LABELS.union(*ends) if ends else scope.control
        reads = _reads(scope.graph, outputs.refs)
        found = _labels(scope, reads)
        return found if reads.steps else found | scope.control

    def _reused_labels(self, node: Node) -> Labels:
        """Return what the earlier run recorded, and what its tools say today; all they may, where it kept no labels."""
        facts = self._facts_of(node)
        recorded = self._reused.get(node.key)
        found = NO_LABELS if facts is None else labels_after(NO_LABELS, facts)
        if recorded is not None:
            return found.union(recorded)
        found = found.union(self.flowed_in(node))
        return found.union(*map(self._sources, _tools_inside(node.entry)))

    def _sources(self, tool: str) -> Labels:
        return labels_after(NO_LABELS, self._facts.get(tool))

    def _reads_of(self, node: Node) -> _Step:
        entry = node.entry
        found = self._read.get(id(entry))
        if found is None:
            found = self._read[id(entry)] = _reads_of(node.scope.graph, entry)
        return found


def _inside(node: Node) -> Labels:
    """Return the labels of what came back from calls inside a step's attempts."""
    if node.calls is None:
        return NO_LABELS
    return NO_LABELS.union(*(call.labels for call in node.calls.ended.values()))


def _tools_inside(entry: GraphStep) -> Iterator[str]:
    """Yield the tools of the steps inside a sub-plan, and those that a step's model or code may call."""
    step = entry.step
    yield from step.tools or ()
    yield from step.code.tools if step.code is not None else ()
    for inner in entry.sub.steps if entry.sub is not None else ():
        if inner.step.tool is not None:
            yield inner.step.tool
        yield from _tools_inside(inner)


def _labels(scope: ScopeState, reads: _Reads, ahead: Mapping[int, Labels] | None = None) -> Labels:
    found = NO_LABELS
    for place in reads.steps:
        labels = scope.nodes[place].labels
        if ahead is not None and place in ahead:
            labels = ahead[place]
        if labels:
            found |= labels
    given = scope.given
    if given:
        for name in given if reads.whole else reads.inputs:
            found |= given.get(name, NO_LABELS)
    return found


def _reads_of(graph: PlanGraph, entry: GraphStep) -> _Step:
    step = entry.step
    control: list[Ref] = [*(entry.when.refs if entry.when is not None else ())]
    for condition in entry.conditions.values():
        control += condition.refs
    control += entry.for_each.refs if entry.for_each is not None else ()
    given = (*entry.args.refs, *(entry.key.refs if entry.key is not None else ()))
    parts: dict[str, _Reads] = {}
    if entry.sub is not None or step.replan is not None:
        parts = {name: _reads(graph, compile_template(value).refs) for name, value in step.args.items()}
    if entry.sub is not None:
        given = ()  # its steps are given these, each as far as it refers to them
    return _Step(_reads(graph, control), _reads(graph, given), parts)


def _reads(graph: PlanGraph, refs: Iterable[Ref]) -> _Reads:
    steps: dict[int, None] = {}
    inputs: dict[str, None] = {}
    whole = False
    for ref in refs:
        if ref.root == "steps":
            steps[graph.index[str(ref.path[0])]] = None
        elif ref.root == "inputs":
            whole = whole or not ref.path
            if ref.path:
                inputs[str(ref.path[0])] = None
    return _Reads(tuple(steps), tuple(inputs), whole)
