"""Where a value comes from and where it may go: labels on values, what a tool says of them, and the one decision.

Rule 1: a label is a word ("web", "inbox"): who wrote the value cannot be trusted. "secret" is the one that means
    something else: the value must not leave this process.
Rule 2: labels are only ever added on the way, save by a tool that declares that it `cleans` them. What carries none
    costs nothing and is never refused.
Rule 3: whoever decides, decides here: before a plan runs, before an attempt is dispatched, before a call inside one.
Rule 4: what a step is given and what decides whether and how often it is done both count; that it waits for another
    step does not.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from planloom.errors import ConfigError
from planloom.plan.frozen import frozen
from planloom.plan.policy import Effects, Seconds

SECRET = "secret"  # noqa: S105 - the name of a label
MAX_LABELS = 64
"""Labels one value may carry."""
NO_LABELS: frozenset[str] = frozenset()
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,39}")

VerdictKind = Literal["allowed", "needs_approval", "refused"]
Handling = Literal["ask", "refuse", "allow"]
_KINDS: dict[Handling, VerdictKind] = {"allow": "allowed", "ask": "needs_approval", "refuse": "refused"}
_WEIGHT: dict[VerdictKind, int] = {"allowed": 0, "needs_approval": 1, "refused": 2}


def is_label(text: object) -> bool:
    """Return whether this can be a label: 1 to 40 letters, digits and ``_ . : / -``, a letter or digit first."""
    return isinstance(text, str) and _LABEL.fullmatch(text) is not None


def labels_of(value: Any, *, where: str, reserved: bool = False) -> tuple[str, ...]:
    """Return labels as somebody wrote them, a lone text as one, without doubles, sorted.

    Args:
        where: What they stand in, for the error, e.g. "source of tool 'fetch'".
        reserved: Whether "secret" is refused among them.

    Raises:
        ConfigError: Not labels, or too many.
    """
    given = (value,) if isinstance(value, str) else value
    if not isinstance(given, list | tuple | set | frozenset) or not all(is_label(one) for one in given):
        raise ConfigError(
            f"{where}: {value!r:.200} are no labels",
            remedy='give short words of letters, digits and _.:/-, e.g. "web"',
        )
    if reserved and SECRET in given:
        raise ConfigError(f"{where}: 'secret' is no source", remedy="declare `secret=True` instead")
    if len(given) > MAX_LABELS:
        raise ConfigError(f"{where}: {len(given)} labels", remedy=f"use no more than {MAX_LABELS}")
    return tuple(sorted(set(given)))


def _checked(value: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return labels_of(value, where="labels")
    except ConfigError as error:
        raise ValueError(error.message) from None


Labels = Annotated[
    tuple[str, ...],
    BeforeValidator(
        lambda value: (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
    ),
    AfterValidator(_checked),
]
"""Labels where outside data comes in."""


class FlowPolicy(BaseModel):
    """What is done about labelled values at a way out: `[flow]` of planloom.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    untrusted: Handling = "ask"
    """What becomes of a call with effects whose arguments others wrote: `ask` a person, `refuse` it, `allow` it."""
    secret: Handling = "refuse"  # noqa: S105 - what is done about one
    """What becomes of a secret on its way out, to a tool or to a model."""
    models_accept: Labels = ()
    """Labels that models may be told without asking: only ``"secret"`` would be asked about."""
    approval_seconds: Seconds | None = None
    """Seconds a person has to answer; None: as long as it takes."""


@frozen
class FlowVerdict:
    """What was decided about one use of labelled values.

    Attributes:
        labels: Those that are the reason, sorted.
        why: A sentence without the step's name; "" where there is nothing to say.
    """

    kind: VerdictKind
    labels: tuple[str, ...] = ()
    why: str = ""


ALLOWED = FlowVerdict("allowed")


class FlowFacts(Protocol):
    """What a tool declares about what passes through it; `core.events.ToolFacts` is one."""

    @property
    def source(self) -> tuple[str, ...]:
        """Return the labels that its result carries: who may have written it."""
        ...

    @property
    def secret(self) -> bool:
        """Return whether its result is a secret."""
        ...

    @property
    def sink(self) -> bool | None:
        """Return whether labelled arguments of it are decided about; None: if it has effects."""
        ...

    @property
    def accepts(self) -> tuple[str, ...]:
        """Return the labels that its arguments may carry without asking."""
        ...

    @property
    def cleans(self) -> tuple[str, ...]:
        """Return the labels of its arguments that its result does not carry: it checks or reduces what it is given."""
        ...

    @property
    def needs_approval(self) -> bool:
        """Return whether every call of it is asked about."""
        ...


def declares_flow(facts: FlowFacts) -> bool:
    """Return whether a tool says anything that makes a run keep labels at all."""
    return bool(facts.source or facts.secret or facts.needs_approval)


def is_sink(facts: FlowFacts | None, effects: Effects) -> bool:
    """Return whether labelled arguments of a call are decided about."""
    if facts is not None and facts.sink is not None:
        return facts.sink
    return effects is not Effects.NONE


def decide(labels: frozenset[str], facts: FlowFacts | None, effects: Effects, policy: FlowPolicy) -> FlowVerdict:
    """Return what becomes of a call of a tool whose arguments carry these labels.

    Args:
        facts: What the tool declares; None: nothing is known of it.
        effects: Of this call: what the step says, else the tool.
    """
    found = ALLOWED
    if facts is not None and facts.needs_approval:
        found = FlowVerdict("needs_approval", (), "every call of this tool is asked about")
    if not labels or not is_sink(facts, effects):
        return found
    accepted = NO_LABELS if facts is None else frozenset(facts.accepts)
    left = labels - accepted
    if left - {SECRET}:
        untrusted = tuple(sorted(left - {SECRET}))
        why = f"what it is given may have been written by others ({', '.join(untrusted)}), and it has effects outside"
        found = _graver(found, FlowVerdict(_KINDS[policy.untrusted], untrusted, why))
    if SECRET in left:
        found = _graver(found, FlowVerdict(_KINDS[policy.secret], (SECRET,), "what it is given holds a secret"))
    return found


def decide_model(labels: frozenset[str], policy: FlowPolicy) -> FlowVerdict:
    """Return what becomes of telling a model, or an agent, what carries these labels: a secret leaves the process."""
    if SECRET not in labels or SECRET in policy.models_accept:
        return ALLOWED
    return FlowVerdict(_KINDS[policy.secret], (SECRET,), "a model would be told a secret")


def _graver(one: FlowVerdict, other: FlowVerdict) -> FlowVerdict:
    """Return the verdict that asks for more; of two alike, both their reasons."""
    if _WEIGHT[one.kind] != _WEIGHT[other.kind]:
        return max(one, other, key=lambda verdict: _WEIGHT[verdict.kind])
    if one.kind == "allowed":
        return ALLOWED
    return FlowVerdict(one.kind, tuple(sorted({*one.labels, *other.labels})), f"{one.why}; {other.why}")


def labels_after(labels: frozenset[str], facts: FlowFacts | None) -> frozenset[str]:
    """Return what the result of a call carries whose arguments carry `labels`."""
    if facts is None:
        return labels
    if facts.cleans:
        labels = labels.difference(facts.cleans)
    if facts.source:
        labels = labels.union(facts.source)
    return labels | {SECRET} if facts.secret else labels
