"""Plan and Step: the checked, frozen values that everything else reads.

Rule 1: a plan is data. It never imports, names or holds code.
Rule 2: a `Plan` never changes; what is worked out from it (`graph.PlanGraph`) is kept beside it.
Rule 3: fields only. What they mean together is checked in `check.py`, text is read in `load.py`.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, field_validator
from pydantic.dataclasses import dataclass

from planloom.errors import DuplicateStepError, FieldError, UnknownStepError, suggestion
from planloom.plan.gasa import GasaPolicy
from planloom.plan.policy import (
    AgentPolicy,
    ApprovePolicy,
    CachePolicy,
    CodePolicy,
    Effects,
    JoinRule,
    OnError,
    PositiveInt,
    ReplanPolicy,
    ResourceLimits,
    RetryPolicy,
    Seconds,
    SpeculatePolicy,
    VerifyPolicy,
    WaitPolicy,
)
from planloom.plan.shown import Shown

FORMAT_VERSION = 1
KINDS = ("tool", "model", "agent", "code", "plan", "approve", "wait", "task")
"""The step kinds; a step has exactly one. `task` is a line of English that no tool is bound to yet."""

DEFAULT_AGENT = "default"
"""Who carries out `task` steps."""

_CONFIG = ConfigDict(extra="forbid", validate_by_name=True, validate_by_alias=True)


def _one_or_many(value: Any) -> Any:
    """Return a lone entry as a tuple of one, ids as text."""
    entries = value if isinstance(value, list | tuple) else (value,)
    return tuple(str(entry) if isinstance(entry, int) else entry for entry in entries)


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class Need:
    """An upstream step that counts only if a condition holds once it has ended; otherwise it counts as skipped."""

    step: str
    when: str


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class Step:
    """One step of a plan: what it does (exactly one of the kinds), with what, after what, and what if it fails.

    Text fields may hold references, ``${{ steps.fetch.output.url }}``; `when` and `for_each` are expressions.
    """

    id: str = Field(min_length=1, max_length=200)

    # what it does: exactly one
    tool: str | None = None
    model: str | None = None
    agent: AgentPolicy | None = None
    code: CodePolicy | None = None
    plan: Plan | str | None = None
    """A sub-plan; the loader replaces a path by the plan it leads to."""
    approve: ApprovePolicy | None = None
    wait: WaitPolicy | None = None
    task: str | None = None

    # with what
    args: dict[str, Any] = Field(default_factory=dict, alias="with")
    prompt: str | None = None
    system: str | None = None
    tools: tuple[str, ...] | None = None
    max_tokens: PositiveInt | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    output: dict[str, Any] | None = None
    """JSON Schema of the result."""
    for_each: str | list[Any] | None = None
    """An expression or list: the step runs once per item, each with `item` and `index`."""
    on_item_error: Annotated[str, Field(pattern="^(fail_fast|collect)$")] = "fail_fast"
    max_failure_rate: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of a `for_each` step that collects: once 5 items have ended and a larger share of them failed, the rest is not
    tried and the step fails."""
    max_parallel: PositiveInt | None = None
    """Items under way at the same time; None: no limit of its own."""

    # after what
    needs: tuple[str | Need, ...] = ()
    when: str | bool | None = None
    join: JoinRule | None = None
    """None: `all_success`, or `none_failed_min_one_success` when an incoming edge is conditional."""
    mode: Annotated[str, Field(pattern="^(parallel|sequential)$")] = "parallel"
    """`sequential` steps of a plan never overlap each other."""
    priority: int = 0
    concurrency: str | None = None
    """Name of a limit in the plan's `concurrency`."""

    # what if
    on_error: OnError = OnError.FAIL
    retry: RetryPolicy | None = None
    timeout_seconds: Seconds | None = None
    """Seconds for all attempts and the waits between them."""
    attempt_timeout: Seconds | None = None
    """Seconds for one attempt."""
    effects: Effects | None = None
    """None: what the tool declares, else `once`. A step may only be stricter than its tool."""
    idempotency_key: str | None = None
    cache: CachePolicy | None = None
    verify: VerifyPolicy | None = None
    speculate: SpeculatePolicy | None = None
    gasa: GasaPolicy | None = None
    """How the model reads the `documents` that are `with` the step, and along which `graph`."""
    replan: ReplanPolicy | None = None
    """What a failed step may ask for instead; for steps that may run again."""
    stream: bool = False

    # for whom
    labels: dict[str, str] = Field(default_factory=dict)
    description: str = ""

    @field_validator("id", mode="before")
    @classmethod
    def _text_id(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("needs", "tools", mode="before")
    @classmethod
    def _tuple(cls, value: Any) -> Any:
        return value if value is None else _one_or_many(value)

    @field_validator("agent", mode="before")
    @classmethod
    def _agent(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("code", mode="before")
    @classmethod
    def _code(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @field_validator("approve", mode="before")
    @classmethod
    def _approve(cls, value: Any) -> Any:
        return {"message": value} if isinstance(value, str) else value

    @field_validator("wait", mode="before")
    @classmethod
    def _wait(cls, value: Any) -> Any:
        return {"seconds": value} if isinstance(value, int | float | str) else value

    @field_validator("cache", mode="before")
    @classmethod
    def _cache(cls, value: Any) -> Any:
        return CachePolicy() if value is True else None if value is False else value

    @field_validator("verify", mode="before")
    @classmethod
    def _verify(cls, value: Any) -> Any:
        return {"strategy": value} if isinstance(value, str) else value

    @field_validator("speculate", mode="before")
    @classmethod
    def _speculate(cls, value: Any) -> Any:
        return {"draft": value} if isinstance(value, str) else value

    @field_validator("gasa", mode="before")
    @classmethod
    def _gasa(cls, value: Any) -> Any:
        if isinstance(value, GasaPolicy):  # a plan holds plain values: of `GASAConfig` what was set
            return GasaPolicy(**{name: getattr(value, name) for name in value.model_fields_set})
        return GasaPolicy() if value is True else None if value is False else value

    @field_validator("replan", mode="before")
    @classmethod
    def _replan(cls, value: Any) -> Any:
        return ReplanPolicy() if value is True else None if value is False else value

    @property
    def kind(self) -> str:
        """Return the step's one kind; the first of them if it has several, which `check` refuses."""
        if self.tool is not None:
            return "tool"
        return next((kind for kind in KINDS if getattr(self, kind) is not None), "task")

    @property
    def agent_name(self) -> str | None:
        """Return the agent that does the step, None if none does."""
        if self.agent is not None:
            return self.agent.name
        return None if self.task is None else DEFAULT_AGENT

    @property
    def doer(self) -> str:
        """Return the name of what does the step, for people: its tool, model or agent, else its kind."""
        if self.tool is not None:
            return self.tool
        if self.model is not None:
            return self.model
        return self.agent.name if self.agent is not None else self.kind


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Plan(Shown):
    """A graph of steps, with what it is given, may use, and returns. Also known as `ExecutionPlan`."""

    planloom: Annotated[int, Field(ge=FORMAT_VERSION, le=FORMAT_VERSION)] = FORMAT_VERSION
    name: str = "plan"
    description: str = ""
    inputs: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """JSON Schema of each input; one with a `default` may be left out."""
    limits: ResourceLimits | None = None
    concurrency: dict[str, PositiveInt] = Field(default_factory=dict)
    """Named limits: how many steps that name one may be under way at once."""
    allow: tuple[str, ...] | None = None
    """Tools this plan may use; None: all that the caller allows. It can only narrow."""
    fail_fast: bool = True
    """True: the first failed step (`on_error: fail`) stops the run. False: independent branches go on."""
    steps: tuple[Step, ...] = ()
    outputs: Any = None
    """What the run returns: a value with references; None: the output of the last step, or of each of several."""
    cost: float | None = None
    """US dollars that making this plan cost."""
    estimated_cost: float | None = None
    """US dollars a run is expected to cost."""
    estimated_latency_ms: float | None = None

    @field_validator("allow", mode="before")
    @classmethod
    def _tuple(cls, value: Any) -> Any:
        return value if value is None else _one_or_many(value)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan in its native form, defaults left out; `from_dict` gives an equal plan back."""
        dumped: dict[str, Any] = _PLAN.dump_python(self, mode="json", by_alias=True, exclude_defaults=True)
        return {"planloom": FORMAT_VERSION} | dumped

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Plan:
        """Return the plan of a native document. Other forms and all checks: `planloom.load_plan`.

        Raises:
            FieldError: A field is missing, unknown or of the wrong type.
        """
        try:
            return _PLAN.validate_python(document)
        except ValueError as error:
            raise FieldError(f"not a plan: {error}", remedy="use planloom.load_plan for other forms") from error

    @property
    def canonical_json(self) -> str:
        """Return the one JSON text of this plan: sorted keys, no spaces."""
        kept: str | None = self.__dict__.get("_canonical_json")
        if kept is None:
            kept = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            self.__dict__["_canonical_json"] = kept
        return kept

    @property
    def hash(self) -> str:
        """Return the SHA-256 of the canonical JSON, 64 hex digits."""
        kept: str | None = self.__dict__.get("_hash")
        if kept is None:
            kept = self.__dict__["_hash"] = sha256(self.canonical_json.encode()).hexdigest()
        return kept

    def step(self, step_id: str) -> Step:
        """Return the step with this id.

        Raises:
            UnknownStepError: No such step.
        """
        for step in self.steps:
            if step.id == step_id:
                return step
        known = [step.id for step in self.steps]
        raise UnknownStepError(f"the plan has no step {step_id!r}", remedy=suggestion(step_id, known), step=step_id)


def unique_ids(steps: tuple[Step, ...]) -> list[DuplicateStepError]:
    """Return one error for each id used again."""
    seen: dict[str, int] = {}
    found: list[DuplicateStepError] = []
    for place, step in enumerate(steps):
        if step.id in seen:
            found.append(
                DuplicateStepError(
                    f"step id {step.id!r} is used again (first by step {seen[step.id] + 1} of the plan)",
                    remedy=f"rename one of them, e.g. {step.id + '_2'!r}",
                    step=step.id,
                    path=("steps", place, "id"),
                )
            )
        seen.setdefault(step.id, place)
    return found


_PLAN: TypeAdapter[Plan] = TypeAdapter(Plan)
ExecutionPlan = Plan
