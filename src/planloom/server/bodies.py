"""What callers send and are sent, as the OpenAPI document has it.

Rule 1: what comes in is checked here, field by field; an unknown field is an error, and so is "yes" for true.
Rule 2: what goes out is made in showing.py and view.py; the models here say how it looks, and tests hold it to them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from planloom.core.result import RunStatus, StepStatus
from planloom.runtime.run_ids import MAX_RUN_ID
from planloom.server.plans import NAME

_PLAN = {"name": "hello", "steps": [{"id": "greet", "tool": "greet", "with": {"who": "${{ inputs.who }}"}}]}
_RUN_ID = "20261120-093015-4f1c09ab"
Name = Annotated[str, Field(max_length=1_000)]
StepKey = Annotated[str, Field(min_length=1, max_length=2_000, examples=["review", "check[3]", "sub/extract"])]
By = Annotated[str, Field(default="", max_length=200, examples=["ann"])]
"""Who answers, for the record; the token's name is put beside it."""


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


# --- what comes in ----------------------------------------------------------------------------


class LimitsBody(_Body):
    """Limits in place of the plan's own; one that is not named stays as the plan has it, null takes it off."""

    timeout_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    max_tool_calls: Annotated[int, Field(ge=0)] | None = None
    max_concurrent: Annotated[int, Field(ge=1)] | None = None
    max_total_cost_usd: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    max_total_tokens: Annotated[int, Field(ge=0)] | None = None
    max_memory_mb: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    max_cpu_percent: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class PlanBody(_Body):
    """A plan, as a value or as its text in YAML, JSON or lettered lines."""

    plan: dict[str, Any] | str = Field(examples=[_PLAN])


class SubmitBody(_Body):
    """What to run: a plan, or the name of one that the server has; and with what."""

    plan: dict[str, Any] | str | None = Field(default=None, examples=[_PLAN])
    name: Annotated[str, Field(pattern=NAME)] | None = None
    inputs: dict[str, Any] = Field(default_factory=dict, examples=[{"who": "Ann"}])
    limits: LimitsBody | None = None
    parallel: bool = True
    track_cost: bool = True

    @model_validator(mode="after")
    def _one_plan(self) -> Self:
        if (self.plan is None) == (self.name is None):
            raise ValueError("give one of `plan` and `name`")
        return self


class AnswerBody(_Body):
    """A person's answer to an approval; it counts for exactly what was asked, once."""

    step: StepKey
    approved: bool = True
    output: Any = Field(default=None, examples=[{"amount": 12}])
    """What the form asks for; becomes the step's output."""
    binding: Annotated[str, Field(pattern="^[0-9a-fA-F]{12,64}$")] | None = None
    """Of what the person was shown: if something else waits by now, it is not answered."""
    by: By = ""


class ResolutionBody(_Body):
    """What came of a step whose outcome nobody knows."""

    step: StepKey
    how: Literal["output", "retry", "fail"]
    output: Any = None
    error: Annotated[str, Field(max_length=10_000)] | None = None
    by: By = ""


class CancelBody(_Body):
    reason: Annotated[str, Field(max_length=10_000, examples=["not needed any more"])] = ""
    by: By = ""


class PauseBody(_Body):
    by: By = ""


class ResumeBody(_Body):
    failed: bool = False
    """Of a run that ended: start a new one that reuses every result not behind a failure."""


class ForkBody(_Body):
    """Another run from here: as if this step had come to another output."""

    step: StepKey
    output: Any = Field(examples=[{"price": 12}])
    repeat_effects: bool = False
    """Whether steps with effects that ran behind it may run again."""


# --- what goes out ----------------------------------------------------------------------------


class RunSummary(BaseModel):
    """A run in a line."""

    run_id: str = Field(examples=[_RUN_ID], max_length=MAX_RUN_ID)
    plan: str = Field(examples=["hello"])
    plan_hash: str
    status: RunStatus
    started_at: float = Field(description="Seconds since the epoch.", examples=[1795000000.25])
    updated_at: float
    last_seq: int = Field(description="Number of its last event.", ge=1)
    from_run: str | None = Field(default=None, description="The run that it takes results from.")
    edited: str | None = Field(default=None, description="Step of `from_run` whose output somebody replaced.")
    paused: bool = False


class QueuedRun(BaseModel):
    """A run that a cluster has taken on, and that none of its agents has begun yet."""

    run_id: str = Field(examples=[_RUN_ID], max_length=MAX_RUN_ID)
    status: Literal["queued"]


class RunRowValue(BaseModel):
    run_id: str = Field(examples=[_RUN_ID])
    plan: str = Field(examples=["hello"])
    plan_hash: str
    status: RunStatus
    started_at: float
    updated_at: float
    last_seq: int


class RunList(BaseModel):
    runs: list[RunRowValue]
    next: str | None = Field(default=None, description="`before` of the next page; null on the last.")


class QuestionValue(BaseModel):
    """What a step asks a person."""

    step: str = Field(examples=["review"])
    kind: Literal["approval", "unknown"]
    message: str = Field(examples=["Send the letter?"])
    form: dict[str, Any] | None = Field(default=None, description="JSON Schema of `output` of the answer.")
    binding: str | None = None
    expires_at: float | None = None
    attempt: int = 0
    tool: str = ""
    arguments: Any = None
    labels: list[str] = Field(default_factory=list)
    ways: list[str] = Field(default_factory=list, examples=[["output", "retry", "fail"]])


class QuestionList(BaseModel):
    run_id: str
    questions: list[QuestionValue]


class StepValue(BaseModel):
    """How a step stands."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(examples=["greet"])
    kind: str = Field(examples=["tool"])
    tool: str
    status: StepStatus
    output: Any = None
    error: str | None = None
    attempts: int
    cost: float | None = Field(default=None, description="US dollars; null where it is not known.")
    latency_ms: float | None = None
    started_at: float | None = None
    ended_at: float | None = None


class RunDetail(RunSummary):
    """How a run stands, with all of its steps."""

    model_config = ConfigDict(extra="allow")

    inputs: dict[str, Any]
    limits: dict[str, Any] | None = None
    result: Any = None
    error: str | None = None
    failed_step: str | None = None
    steps: list[StepValue]
    cost: float | None = None
    usage: dict[str, int]
    tool_calls: int
    latency_ms: float
    exceeded_limits: list[str]
    driven: bool | None = Field(default=None, description="Whether a process drives it; null where nobody knows.")
    questions: list[QuestionValue]
    hidden: list[str] = Field(description="What is not shown because it is secret: result, error.")


class AttemptValue(BaseModel):
    """One attempt of a step."""

    number: int = Field(ge=1)
    epoch: int
    started_at: float
    ended_at: float | None = None
    status: Literal["running", "completed", "failed", "lost"]
    error: str | None = None
    error_kind: str | None = None
    usage: dict[str, int] | None = None
    cost_usd: float | None = None
    tool_calls: int = 0
    cached: bool = False
    retry_at: float | None = Field(default=None, description="When the next attempt was due after it.")


class CallValue(BaseModel):
    """A call that an attempt made: of a model or a tool."""

    attempt: int
    key: str
    name: str
    kind: str
    started_at: float
    ended_at: float
    error: str | None = None
    usage: dict[str, int] | None = None
    cost_usd: float | None = None


class LinkValue(BaseModel):
    """One entry of the record on the way to how a step stands."""

    seq: int
    cause: int
    at: float
    event: str = Field(examples=["step_dispatched"])
    step: str
    text: str


class StepDetail(StepValue):
    """A step with everything on record about it."""

    run_id: str
    needs: list[str]
    inputs: Any = Field(default=None, description="What it is given; null where that is not known yet.")
    labels: list[str]
    tries: list[AttemptValue]
    calls: list[CallValue]
    streamed: str = Field(description="What its attempt under way has answered so far.")
    hidden: list[str] = Field(description="What is not shown because it is secret: output, inputs.")
    chain: list[LinkValue] = Field(description="Why it stands so: the last first, the submission of the run last.")


class EventPage(BaseModel):
    run_id: str
    events: list[dict[str, Any]]
    last: int = Field(description="`after` of the next page.", ge=0)
    ended: bool = Field(description="Whether the run has ended and these are its last events.")


class PlanRow(BaseModel):
    name: str
    title: str
    description: str
    inputs: dict[str, Any]
    problem: str | None = None


class PlanList(BaseModel):
    plans: list[PlanRow]


class PlanDetail(BaseModel):
    name: str
    hash: str
    plan: dict[str, Any]
    inputs: dict[str, Any] = Field(description="JSON Schema of what a run of it takes.")


class CheckedPlan(BaseModel):
    name: str
    hash: str
    steps: int
    inputs: dict[str, Any]


class ToldRun(BaseModel):
    """What was said to a run is on record."""

    run_id: str
    recorded: str = Field(examples=["ApprovalAnswered"])
    status: RunStatus
    driven: bool | None = Field(description="Whether somebody takes it up now; else it waits for the next resume.")


class Health(BaseModel):
    status: Literal["ok"]
