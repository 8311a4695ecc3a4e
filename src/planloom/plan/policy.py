"""What a plan may ask of the engine: retries, limits, effects, caching. Checked, frozen, JSON both ways.

Rule 1: one class per concept. Other names users know (`RetryConfig`) are doors in `api/`.
Rule 2: every number has its unit in its name or its docstring.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from planloom.errors import UnknownFieldError

PositiveInt = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Names = Annotated[tuple[str, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
"""Takes a list even where types are strict: JSON has no tuples."""


class Effects(StrEnum):
    """What running a step again would do (design: effects)."""

    __hash__ = str.__hash__  # Enum's own is a Python function, called for every look-up

    NONE = "none"
    """May run again: it changes nothing outside."""
    IDEMPOTENT = "idempotent"
    """May run again with the same key, which the tool is given."""
    ONCE = "once"
    """Is started at most once; an unknown outcome waits for a person."""


class FailureKind(StrEnum):
    """Why an attempt failed; the one classification, made in `executors/attempt.py`."""

    ERROR = "error"
    """The tool raised, and trying again might help."""
    REFUSED = "refused"
    """Trying again cannot help: programming errors, HTTP 4xx, failed validation."""
    NOT_DONE = "not_done"
    """The tool said that nothing has happened yet."""
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    INPUT = "input"
    """Arguments or references that cannot be resolved or do not fit the tool's schema."""
    OUTPUT = "output"
    """A result that is not JSON or does not fit the declared schema."""
    NOT_ALLOWED = "not_allowed"
    LIMIT = "limit"
    """What was set aside of the run's limits for the step is used up."""
    LOST = "lost"
    """The machine or worker died while the attempt ran."""


class JoinRule(StrEnum):
    """When a step with several upstream steps may start (Airflow's trigger rules)."""

    ALL_SUCCESS = "all_success"
    NONE_FAILED_MIN_ONE_SUCCESS = "none_failed_min_one_success"
    ALL_DONE = "all_done"
    ONE_SUCCESS = "one_success"
    NONE_FAILED = "none_failed"
    ALWAYS = "always"
    """Like `all_done`, and also while the run stops after a failure: for clean-up."""


class OnError(StrEnum):
    """What a failed step means for the run."""

    FAIL = "fail"
    SKIP = "skip"
    CONTINUE = "continue"


class _Policy(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RetryPolicy(_Policy):
    """How often a failed step is tried again, and how long to wait before.

    The wait before retry k (k = 1, 2, …) is ``min(max_delay, initial_delay * exponential_base ** (k-1))`` seconds; with
    `jitter`, a share of it between 0 and 1 that is a hash of run, step and attempt, so that a replay waits as long.
    A server's own Retry-After wins, up to `max_delay`.
    """

    max_attempts: PositiveInt = 3
    """Attempts in all, the first included."""
    initial_delay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Seconds."""
    max_delay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    """Seconds."""
    exponential_base: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    jitter: bool = True
    retryable_exceptions: tuple[str, ...] = ("Exception",)
    """Names of exception classes, or of their bases, that are worth another attempt. Programming and validation
    errors and HTTP 4xx other than 408, 425 and 429 never are."""

    @field_validator("retryable_exceptions", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(entry.__name__ if isinstance(entry, type) else entry for entry in value)
        return value


NO_RETRY = RetryPolicy(max_attempts=1)


class ResourceLimits(_Policy):
    """What a run may use. `None` means no limit of that kind.

    The defaults apply when a `ResourceLimits` is given; a plan and a call without one are not limited at all.

    Raises:
        UnknownFieldError: A keyword that is not listed here.
    """

    timeout_seconds: Seconds | None = 30.0
    """Wall-clock seconds in which the run is active; waiting for a person between two resumes does not count."""
    max_tool_calls: Annotated[int, Field(ge=0)] | None = 100
    """Attempts of tool steps, failed ones included."""
    max_concurrent: PositiveInt | None = 5
    """Attempts under way at the same time."""
    max_total_cost_usd: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = 10.0
    """US dollars, failed and cancelled attempts included."""
    max_total_tokens: Annotated[int, Field(ge=0)] | None = None
    """Input plus output tokens of models."""
    max_memory_mb: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 512.0
    """MB (10^6 bytes): the sum that running steps declare, and a hard cap on each sandboxed step."""
    max_cpu_percent: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 50.0
    """Percent of one core: the sum that running steps declare, and a cap on each sandboxed step."""

    def __init__(self, **fields: Any) -> None:
        if "max_duration" in fields:
            fields.setdefault("timeout_seconds", fields.pop("max_duration"))
        unknown = sorted(fields.keys() - ResourceLimits.model_fields.keys())
        if unknown:
            raise UnknownFieldError(
                f"ResourceLimits has no {', '.join(map(repr, unknown))}",
                remedy=f"use one of: {', '.join(ResourceLimits.model_fields)}",
            )
        super().__init__(**fields)


class CachePolicy(_Policy):
    """Reuse of a result by later steps with the same tool, tool version and arguments; for `none` steps only."""

    ttl_seconds: Seconds | None = None
    """Seconds a result stays usable; None: as long as it is kept."""


Strategy = Literal["none", "basic", "judge", "model", "validator", "full", "self_consistency"]
JUDGED = frozenset({"judge", "model", "full"})
"""Strategies that tell a model what a step came to, whatever kind the step is."""
Refinement = Literal["none", "retry", "feedback", "iterative"]
SpeculationKind = Literal["auto", "compare", "predicted", "hedged", "cascade", "token", "ngram"]
BY_TOKENS = frozenset({"token", "ngram"})
"""Policies inside one model, which has to run in this process."""


class VerifyPolicy(_Policy):
    """How a step's result is judged before anything may use it. What cannot be judged does not pass."""

    strategy: Strategy
    """`basic`: there is an answer at all. `judge`: scored by a rubric. `model`: a model says yes or no, and why.
    `validator`: the named checks. `full`: `validator` and `judge`. `self_consistency`: most of several samples agree.
    """
    model: str | None = None
    """Who judges; None: the step's own model."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.7
    """Least score that passes."""
    rubric: dict[str, float] | None = None
    """Dimension → weight; None: relevance, accuracy, completeness and clarity, all alike."""
    validators: tuple[str | dict[str, Any], ...] = ()
    """Names of checks, or ``{name: {option: value}}``."""
    samples: Annotated[int, Field(ge=2, le=25)] = 5
    """Of `self_consistency`: how many answers are compared."""
    refinement: Refinement = "none"
    """What follows a bad verdict: `none` fail, `retry` ask again, `feedback` ask again with the last verdict,
    `iterative` ask again with all answers and verdicts so far."""
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Answers in all, the first included."""

    @field_validator("validators", mode="before")
    @classmethod
    def _many(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class SpeculatePolicy(_Policy):
    """A cheaper model goes first; what its draft is good for, `policy` says.

    `compare`: steps that change nothing run ahead on the draft, until the step's own model confirms it; same results.
    `predicted`: the draft is given to the step's own model as a prediction; same result.
    `hedged`: both are asked at once; the draft is taken if a judge accepts it, and the other stopped.
    `cascade`: the step's own model is asked only if a judge rejects the draft.
    `token`: the draft, a smaller model with the same tokenizer, says the next few tokens, and the step's own model
    checks them in one pass; same result. Both run in this process.
    `ngram`: as `token`, without a draft: what followed the same few tokens before is what is checked.
    `auto`: `token` or `ngram` where the step's model runs in this process, `predicted` where the provider can, else
    `cascade` if `allow_lossy`, else no draft.
    """

    draft: str | None = None
    """Model URI of the draft; only `ngram` needs none."""
    policy: SpeculationKind = "compare"
    allow_lossy: bool = False
    """Whether `auto` may choose a policy whose answer may be another than the step's own model would give."""
    judge: str | None = None
    """Model that says whether a draft will do; None: the step's own."""
    threshold: Annotated[int, Field(ge=0, le=9)] = 7
    """Least score, of 9, that a draft is accepted with."""
    max_depth: Annotated[int, Field(ge=1, le=8)] = 2
    """Of `compare`: unconfirmed model steps a step may run ahead on."""
    latency_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """0: nothing is wasted, 1: nothing waits. Of `compare`: it runs ahead if ``p * w >= (1 - p) * (1 - w)``, p the
    share of drafts that led to the right inputs so far."""
    max_waste_usd: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Of `compare`: US dollars of this run that may have gone into what was rolled back; then nothing runs ahead."""
    max_waste_tokens: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _has_a_draft(self) -> Self:
        if self.draft is None and self.policy != "ngram":
            raise ValueError(f"policy {self.policy!r} needs a draft: the address of a cheaper model")
        return self


class ReplanPolicy(_Policy):
    """A failed step may ask a model for a plan to do its job another way, with what it was allowed and no more."""

    model: str = "default"
    max_steps: Annotated[int, Field(ge=1, le=50)] = 10


class ApprovePolicy(_Policy):
    """What a person is asked before the run goes on."""

    message: str
    form: dict[str, Any] | None = None
    """JSON Schema of what the person fills in; becomes the step's output."""
    expires_seconds: Seconds | None = None


class WaitPolicy(_Policy):
    """How long a wait step waits: a number of seconds or a moment, each may be an expression."""

    seconds: float | str | None = None
    until: str | None = None
    """Moment as ISO 8601 with an offset, e.g. ``2026-12-01T09:00:00+01:00``."""


class CodePolicy(_Policy):
    """Code to run in a sandbox."""

    source: str
    runtime: str = "monty"
    tools: Names = ()
    """Tools the code may call; none unless named."""


class AgentPolicy(_Policy):
    """An agent to give the step's prompt to."""

    name: str
    tools: Names | None = None
    max_iterations: PositiveInt = 10
