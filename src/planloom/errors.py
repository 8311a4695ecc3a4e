"""One exception tree, ordered by who must act.

    PlanloomError
    ├── PlanError (ValueError)          the author of the plan
    │   ├── PlanSyntaxError             the text is not a plan at all
    │   ├── FieldError                  a field is missing, unknown or of the wrong type
    │   ├── CycleError                  steps wait for each other
    │   ├── UnknownStepError            a need or reference names no step
    │   ├── DuplicateStepError          two steps share one id
    │   ├── ExpressionError             an expression or reference cannot be read
    │   ├── UnknownToolError            a tool nobody registered
    │   ├── UnknownPlanError            no plan of that name in a server's folders
    │   ├── AgentNotFoundError          an agent nobody registered
    │   ├── ArgumentsError              a tool is given the wrong parameters
    │   ├── NotInstalledError           a step kind whose executor is not here
    │   ├── NotAllowedError             a tool outside the allowlist
    │   ├── FlowRefusedError            a labelled value would reach what must not have it
    │   ├── UnknownModelError (ConfigError)  a model that no setting and no plugin knows
    │   ├── UnknownPriceError           a money limit, and a model whose price nobody knows
    │   ├── SecretGivenError            a plan, or what a run is given, holds what must be on no record
    │   ├── InputsError                 what the run is given does not fit the plan's inputs
    │   └── InvalidPlanError            several of these at once, in `.problems`
    ├── StepError                       whoever owns the step
    │   ├── MissingValueError           a reference points at nothing
    │   ├── EvaluationError             an operator or function cannot take what it is given
    │   ├── OutputError                 a result that is not JSON, or not of its schema
    │   ├── NotDoneError                raised by a tool: nothing happened yet, safe to try again
    │   │   └── CircuitOpenError        the tool failed too often just now, and was not called
    │   ├── NoAnswerError               a call was sent and no answer came: nobody knows what it did
    │   ├── HttpStatusError             a server answered with 400 or more
    │   ├── McpToolError                an MCP server, or a tool of it, answered with an error
    │   ├── ModelError                  a model gave no answer, or none that can be used
    │   │   ├── ModelRefusedError       it, or its provider's filter, would not answer
    │   │   ├── ModelTruncatedError     the answer was cut off at `max_tokens`
    │   │   ├── ModelStreamError        the stream broke off before the answer was whole
    │   │   └── ModelTimeoutError (TimeoutError)
    │   ├── VerificationError           the answer was judged not good enough, or could not be judged
    │   ├── GrantError                  the next call would pass what the step was granted of a limit
    │   ├── FlowError                   a tool would be given, or a model told, what it must not have
    │   ├── InnerCallError              a tool that an agent or a program called failed
    │   ├── CodeError                   a program in a sandbox did not end well
    │   │   └── CodeRefusedError        and running it again as it is will not help
    │   ├── IncompleteError             an agent could not complete its task
    │   ├── PlanningError               a model wrote no plan that holds
    │   └── ToolExecutionError          a step failed, and with it the run
    ├── ResourceLimitError              whoever set the limit
    │   └── PlanTimeoutError (TimeoutError)
    ├── RunBlockedError                 a person: an approval or an unknown outcome waits
    ├── EventGapError                   whoever reads events more slowly than they come
    ├── NoReplyError (TimeoutError)     nobody answered a request in time
    ├── WorkerError                     whoever runs the workers
    │   ├── WorkerStartError            a worker process cannot be started
    │   ├── WorkerLostError             a worker died or fell silent
    │   ├── NoWorkerError               no worker there is, or can be, does what is asked
    │   ├── OverloadedError             too much waits already; nothing was taken
    │   ├── SubmissionRefusedError      a cluster's agents will not run what was submitted
    │   ├── BrokerError                 a cluster's broker cannot be reached, or gives no answer
    │   │   ├── BrokerRefusedError      it does not let this credential in, or do this
    │   │   └── JetStreamError          it answered that it did not do it
    │   └── ProtocolError               what came over a connection is not what was agreed
    ├── JournalError                    the operator
    │   ├── JournalConflictError        a second engine wrote to the same run
    │   ├── JournalFormatError          not a journal, or of a newer version
    │   │   ├── JournalDamagedError     a record is not what was written
    │   │   └── JournalKeyError         a record was written with another key, or with none
    │   ├── JournalWriteError           disk full, read-only, I/O error
    │   ├── RunBusyError                another process drives this run now
    │   ├── RunNotFoundError            no such run here
    │   └── NoStepError                 a run has no such step, or not yet
    ├── SimulationError                 whoever wrote what is simulated: it goes round and round, or wants a thread
    │   └── DeadlockError               everything waits, and nothing will ever happen
    └── ConfigError                     whoever installed or called it
        ├── MissingKeyError             no key for a model's provider
        ├── McpTrustError               an MCP server offers what nobody approved
        ├── NoSandboxError              what a sandbox needs is not installed, or not allowed here
        ├── ValidationError (ValueError)  a request that is too large, or not of its form
        ├── SecurityError               a request that looks like an attack
        ├── RunStateError               a run does not stand so that this could be done
        ├── ToolLogError                a log of tool calls has a line that is none
        ├── StoreError                  a file of documents cannot be opened, read or written
        └── UnknownFieldError (TypeError)

Rule 1: a message says what is wrong and where; `remedy` says what to do.
Rule 2: no error is ever the value of a step.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import ValidationError as FieldProblems


class PlanloomError(Exception):
    """Anything planloom raises on purpose.

    Attributes:
        message: What is wrong and where, one sentence.
        remedy: What to do about it; may be empty.
        facts: Names and values behind the message, for logs and HTTP.
        partial: The result so far as a dict, where a run had begun; else None.
    """

    code = "planloom"

    def __init__(self, message: str, *, remedy: str = "", **facts: Any) -> None:
        message = _writable(message)
        super().__init__(message)
        self.message = message
        self.remedy = _writable(remedy)
        self.facts = facts
        self.partial: dict[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.message}\n  try: {self.remedy}" if self.remedy else self.message

    def to_dict(self) -> dict[str, Any]:
        """Return `code`, `message`, `remedy` and the facts, ready for JSON."""
        return {"code": self.code, "message": self.message, "remedy": self.remedy, **self.facts}


def _writable(text: str) -> str:
    """Return a text that any terminal and any log can write: what it quotes may hold half of a surrogate pair."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def suggestion(name: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """Return "did you mean 'x'?" for the closest known name, or the known names, or `otherwise`."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    if names:
        shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        return f"use one of: {shown}"
    return otherwise


def field_problems(error: FieldProblems) -> list[str]:
    """Return what pydantic finds wrong with a value, "where: what" for each field; a whole value is "it"."""
    return [f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in error.errors()]


# --- the author of the plan -------------------------------------------------------------------


class PlanError(PlanloomError, ValueError):
    """The plan cannot run as it is written. Raised before any side effect.

    Attributes:
        step: Id of the step concerned, or None.
        path: Where in the plan, e.g. ``("steps", 2, "retry", "max_attempts")``.
        line, column: 1-based position in the plan's text, or None for plans built in Python.
        problems: Every problem found; just this one unless it is an `InvalidPlanError`.
    """

    code = "plan.invalid"

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        step: str | None = None,
        path: tuple[str | int, ...] = (),
        line: int | None = None,
        column: int | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, remedy=remedy, **facts)
        self.step = step
        self.path = path
        self.line = line
        self.column = column

    @property
    def problems(self) -> tuple[PlanError, ...]:
        return (self,)

    @property
    def where(self) -> str:
        """Return "line 3, column 5" or "steps[2].retry" or ""."""
        if self.line is not None:
            return f"line {self.line}, column {self.column}"
        return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path).lstrip(".")

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  try: {self.remedy}" if self.remedy else text

    def to_dict(self) -> dict[str, Any]:
        place = {"step": self.step, "path": list(self.path), "line": self.line, "column": self.column}
        return super().to_dict() | {key: value for key, value in place.items() if value not in (None, [])}


class PlanSyntaxError(PlanError):
    """The text is not YAML or JSON, or too large, too deep or not text at all."""

    code = "plan.syntax"


class FieldError(PlanError):
    """A field is missing, unknown, doubled or of the wrong type."""

    code = "plan.field"


class CycleError(PlanError):
    """Steps that wait for each other can never start."""

    code = "plan.cycle"

    def __init__(self, cycle: tuple[str, ...], **place: Any) -> None:
        super().__init__(
            f"steps wait for each other: {' -> '.join(cycle)}",
            remedy=f"take {cycle[-2]!r} out of `needs` of {cycle[-1]!r}, or break the circle elsewhere on that path",
            step=cycle[-1],
            cycle=list(cycle),
            **place,
        )


class UnknownStepError(PlanError):
    """A need or a reference names a step that is not in the plan."""

    code = "plan.unknown_step"


class DuplicateStepError(PlanError):
    """Two steps share one id."""

    code = "plan.duplicate_step"


class ExpressionError(PlanError):
    """An expression or reference cannot be read, or asks for what the language does not have."""

    code = "plan.expression"


class UnknownToolError(PlanError):
    """A step names a tool that nobody registered."""

    code = "plan.unknown_tool"


class UnknownPlanError(PlanError):
    """No plan of that name is in the folders of the server."""

    code = "plan.unknown_plan"


class AgentNotFoundError(PlanError):
    """A step or a call names an agent that nobody registered. `.facts["suggestions"]` lists names like it."""

    code = "plan.unknown_agent"

    @property
    def suggestions(self) -> tuple[str, ...]:
        """Return the names of agents that are here and most like it, the likeliest first."""
        return tuple(self.facts.get("suggestions", ()))


def unknown_agent(name: str, known: Iterable[str], **place: Any) -> AgentNotFoundError:
    """Return the error of an agent that is not among those known; `place` as for any `PlanError`."""
    names = sorted(known)
    return AgentNotFoundError(
        f"there is no agent {name!r}",
        remedy=suggestion(name, names, otherwise="register it: AgentRegistry.register(agent, name)"),
        agent=name,
        suggestions=get_close_matches(name, names, n=3, cutoff=0.5),
        **place,
    )


class ArgumentsError(PlanError):
    """A tool is given wrong, unknown or too few parameters."""

    code = "plan.arguments"


class NotInstalledError(PlanError):
    """A step kind whose executor is not part of this installation."""

    code = "plan.not_installed"


class NotAllowedError(PlanError):
    """A tool outside the allowlist. The tool was not called."""

    code = "plan.not_allowed"


class FlowRefusedError(PlanError):
    """A labelled value would reach a tool or a model that must not have it. `facts["flow"]` is the path."""

    code = "plan.flow"


class SecretGivenError(PlanError):
    """A plan, or what its run is given, holds the value of a declared secret, and would put it on record. Nothing was.

    `.facts["secret"]` is its name.
    """

    code = "plan.secret"


class InputsError(PlanError):
    """What the run is given does not fit the plan's `inputs`."""

    code = "plan.inputs"


class UnknownPriceError(PlanError):
    """Money is limited, and nobody knows what this model costs. Unknown is not zero, so nothing was started."""

    code = "plan.unknown_price"


class InvalidPlanError(PlanError):
    """Several problems of one plan, all of them in `.problems`."""

    code = "plan.invalid"

    def __init__(self, problems: Iterable[PlanError]) -> None:
        self._problems = tuple(problems)
        listed = "\n".join(f"- {problem}" for problem in self._problems)
        super().__init__(f"{len(self._problems)} problems:\n{listed}")

    @property
    def problems(self) -> tuple[PlanError, ...]:
        return self._problems

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"problems": [problem.to_dict() for problem in self._problems]}


def plan_error(problems: Iterable[PlanError]) -> PlanError:
    """Return the one problem itself, or all of them as one `InvalidPlanError`."""
    found = tuple(problems)
    return found[0] if len(found) == 1 else InvalidPlanError(found)


# --- the step ---------------------------------------------------------------------------------


class StepError(PlanloomError):
    """A step could not be done."""

    code = "step.failed"


class MissingValueError(StepError):
    """A reference points at nothing: names the step, the path and what is there."""

    code = "step.missing_value"


class EvaluationError(StepError):
    """An operator or function of the expression language cannot take what it is given."""

    code = "step.expression"


class OutputError(StepError):
    """A result that is not JSON, or does not fit its declared schema."""

    code = "step.output"


class NotDoneError(StepError):
    """Raised by a tool to say: nothing has happened yet, so trying again is safe, even for a `once` tool."""

    code = "step.not_done"


class CircuitOpenError(NotDoneError):
    """The circuit breaker of a tool is open: the tool failed too often just now, and was not called.

    Attributes:
        until: Seconds since the epoch at which one call will be let through; None while one is under way.
        retry_after_s: Seconds until then, or None.
    """

    code = "step.circuit_open"

    def __init__(
        self, message: str, *, remedy: str = "", until: float | None, retry_after_s: float | None, **facts: Any
    ) -> None:
        super().__init__(message, remedy=remedy, until=until, retry_after_s=retry_after_s, **facts)
        self.until = until
        self.retry_after_s = retry_after_s


class NoAnswerError(StepError):
    """A call was sent and no answer came, nor will one: what it did nobody knows."""

    code = "step.no_answer"


class McpToolError(StepError):
    """An MCP server, or one of its tools, answered with an error, or with what is no answer."""

    code = "step.mcp"


class HttpStatusError(StepError):
    """A server answered with a status of 400 or more.

    Attributes:
        status_code: The status.
        retry_after_s: Seconds the server asked to wait before the next attempt, or None.
    """

    code = "step.http_status"

    def __init__(self, message: str, *, status_code: int, retry_after_s: float | None = None, **facts: Any) -> None:
        super().__init__(message, status_code=status_code, retry_after_s=retry_after_s, **facts)
        self.status_code = status_code
        self.retry_after_s = retry_after_s


class ModelError(StepError):
    """A model gave no answer, or none that can be used.

    Attributes:
        status_code: HTTP status of its provider, or None.
        retry_after_s: Seconds the provider asked to wait before the next attempt, or None.
        usage: Tokens the call was billed for all the same, a `core.result.Usage`, or None where nothing is known.
    """

    code = "model.failed"
    usage: Any = None

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        status_code: int | None = None,
        retry_after_s: float | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, remedy=remedy, status_code=status_code, retry_after_s=retry_after_s, **facts)
        self.status_code = status_code
        self.retry_after_s = retry_after_s


class ModelRefusedError(ModelError):
    """The model, or its provider's content filter, would not answer; asking again will not help."""

    code = "model.refused"


class ModelTruncatedError(ModelError):
    """The answer was cut off at `max_tokens`; half an answer is no answer."""

    code = "model.truncated"


class ModelStreamError(ModelError):
    """The stream broke off before the answer was whole; what it cost is booked as an estimate.

    Attributes:
        text_so_far: What had come of it.
    """

    code = "model.stream"
    text_so_far: str = ""


class ModelTimeoutError(ModelError, TimeoutError):
    """The provider did not answer in time."""

    code = "model.timeout"


class VerificationError(StepError):
    """The answer was judged not good enough, or could not be judged: without a judgement nothing passes."""

    code = "step.not_verified"


class FlowError(StepError):
    """A tool would be given, or a model told, what it must not have. Nothing was called."""

    code = "step.flow"


class GrantError(StepError):
    """The next call of a step would pass what was set aside for it of a limit; it was not made.

    Attributes:
        limits: Names of the limits, e.g. ``("max_total_cost_usd",)``.
    """

    code = "step.grant"

    def __init__(self, message: str, *, limits: tuple[str, ...], remedy: str = "", **facts: Any) -> None:
        super().__init__(message, remedy=remedy, limits=list(limits), **facts)
        self.limits = limits


class CodeError(StepError):
    """A program in a sandbox did not end well.

    Attributes:
        error_type: A `core.code.ErrorType`, e.g. ``"runtime"``.
    """

    code = "step.code"

    def __init__(self, message: str, *, error_type: str, remedy: str = "", **facts: Any) -> None:
        super().__init__(message, remedy=remedy, error_type=error_type, **facts)
        self.error_type = error_type


class CodeRefusedError(CodeError):
    """The same, and it will end so again: it is no Python, asks for what it may not have, or for too much."""

    code = "step.code_refused"


class InnerCallError(StepError):
    """A call that an agent or a program made inside its step failed.

    Attributes:
        is_unknown: Whether it may all the same have had an effect that it may have only once.
    """

    code = "step.call"

    def __init__(self, message: str, *, is_unknown: bool = False, remedy: str = "", **facts: Any) -> None:
        super().__init__(message, remedy=remedy, **facts)
        self.is_unknown = is_unknown


class IncompleteError(StepError):
    """An agent did what it could and has not completed its task, or has not enough to go on."""

    code = "step.incomplete"


class PlanningError(StepError):
    """A model was asked for a plan, and none of its answers holds.

    Attributes:
        problems: What was wrong with the last one.
    """

    code = "plan.not_planned"

    def __init__(self, message: str, *, remedy: str = "", problems: tuple[PlanError, ...] = (), **facts: Any) -> None:
        super().__init__(message, remedy=remedy, **facts)
        self.problems = problems


class ToolExecutionError(StepError):
    """A step failed and the run with it.

    Attributes:
        step_id: The step that failed.
        tool_name: Its tool, or its kind where it has none.
        error: What went wrong, as text.
    """

    code = "step.tool_failed"

    def __init__(self, step_id: str, tool_name: str, error: str, *, remedy: str = "", **facts: Any) -> None:
        super().__init__(f"step {step_id!r} ({tool_name}) failed: {error}", remedy=remedy, **facts)
        self.step_id = step_id
        self.tool_name = tool_name
        self.error = error


# --- limits and people ------------------------------------------------------------------------


class ResourceLimitError(PlanloomError):
    """The run reached a limit. Finished work is in `.partial`.

    Attributes:
        exceeded: Names of the limits reached.
    """

    code = "run.limit"

    def __init__(self, exceeded: tuple[str, ...], *, remedy: str = "") -> None:
        super().__init__(
            f"the run reached its limit: {', '.join(exceeded)}",
            remedy=remedy or "raise the limit, or make the plan do less",
            exceeded=list(exceeded),
        )
        self.exceeded = exceeded


class PlanTimeoutError(ResourceLimitError, TimeoutError):
    """The run reached `timeout_seconds`."""

    code = "run.timeout"


class RunBlockedError(PlanloomError):
    """The run waits for a person. `.facts["blocked"]` lists the steps, why, and the command that goes on."""

    code = "run.blocked"


# --- whoever reads events ----------------------------------------------------------------------


class EventGapError(PlanloomError):
    """A subscriber's buffer was full, so events are missing here. The record has them all; the subscription goes on.

    Attributes:
        missed: How many events are missing.
        after: For each run with missing events, the number after which to read it again from the journal.
    """

    code = "events.gap"

    def __init__(self, missed: int, after: dict[str, int]) -> None:
        super().__init__(
            f"{missed} events came faster than they were read, and are missing here",
            remedy="read them from the journal: journal.read(run_id, after=error.after[run_id]); or read faster",
            missed=missed,
            after=after,
        )
        self.missed = missed
        self.after = after


class NoReplyError(PlanloomError, TimeoutError):
    """Nobody answered a request in time."""

    code = "events.no_reply"


# --- whoever runs the workers -----------------------------------------------------------------


class WorkerError(PlanloomError):
    """Something about the processes that do steps is wrong."""

    code = "worker"


class WorkerStartError(WorkerError):
    """A worker process cannot be started; the message ends in its last words."""

    code = "worker.start"


class WorkerLostError(WorkerError):
    """A worker died or fell silent; what it was at is done elsewhere, or waits for a person."""

    code = "worker.lost"


class NoWorkerError(WorkerError):
    """No worker there is, or that can be started, does what is asked; the message says why the nearest does not."""

    code = "worker.none"


class OverloadedError(WorkerError):
    """Too much waits already. What was asked was not taken: nothing is lost, ask again later."""

    code = "worker.overloaded"


class SubmissionRefusedError(WorkerError):
    """A cluster will not run what was submitted: its plan or inputs are wrong there. `facts["refusal"]` is why."""

    code = "worker.submission_refused"


class ProtocolError(WorkerError):
    """What came over a connection is not what was agreed; the connection is closed."""

    code = "worker.protocol"


class BrokerError(WorkerError):
    """A cluster's broker cannot be reached or gives no answer; what was asked may or may not have been done."""

    code = "broker"


class BrokerRefusedError(BrokerError):
    """The broker does not let this credential in, or does not let it do this."""

    code = "broker.refused"


class JetStreamError(BrokerError):
    """The broker answered that it did not do what was asked; `facts` have its own number and words."""

    code = "broker.jetstream"


# --- the operator -----------------------------------------------------------------------------


class JournalError(PlanloomError):
    """The record cannot be read or written."""

    code = "journal"


class JournalConflictError(JournalError):
    """Another engine wrote to this run: this one must stop."""

    code = "journal.conflict"


class JournalFormatError(JournalError):
    """Not a journal, a damaged one, or one of a newer planloom."""

    code = "journal.format"


class JournalDamagedError(JournalFormatError):
    """A record is not what was written. `facts` name the run and its first event that is wrong, where it is known."""

    code = "journal.damaged"


class JournalKeyError(JournalFormatError):
    """A record was written with another key than this journal was opened with, or with none, or this one has none."""

    code = "journal.key"


class JournalWriteError(JournalError):
    """The record cannot be written: disk full, read-only, or an I/O error."""

    code = "journal.write"


class RunBusyError(JournalError):
    """Another process drives this run now."""

    code = "journal.busy"


class RunNotFoundError(JournalError):
    """No such run in this journal."""

    code = "journal.no_run"


class NoStepError(JournalError):
    """A run has no such step, or not yet."""

    code = "journal.no_step"


# --- whoever wrote what is simulated ----------------------------------------------------------


class SimulationError(PlanloomError):
    """What runs on a simulated loop does not come to an end, or asks for a thread, a socket or a signal."""

    code = "simulation"


class DeadlockError(SimulationError):
    """Everything waits, and nothing will ever happen; the message names who waits, and where."""

    code = "simulation.deadlock"


# --- whoever installed or called it -----------------------------------------------------------


class ConfigError(PlanloomError):
    """A setting or a call is wrong, or something is not installed."""

    code = "config"


class UnknownModelError(PlanError, ConfigError):
    """A model that no setting maps to a URI, or whose scheme no adapter knows."""

    code = "plan.unknown_model"


class MissingKeyError(ConfigError):
    """There is no key for the provider of a model. Nothing was sent."""

    code = "config.missing_key"


class ValidationError(ConfigError, ValueError):
    """A request is too large, no JSON, or not of the form it must have. Nothing was done about it."""

    code = "request.invalid"


class SecurityError(ConfigError):
    """A request looks like an attack, and whoever set up the executor wants such refused. Nothing was done about it."""

    code = "request.refused"


class RunStateError(ConfigError):
    """A run does not stand so that this could be done: it has ended, or waits for nothing of that kind. Nothing was."""

    code = "run.state"


class ToolLogError(ConfigError):
    """What a tool says was called of it cannot be read."""

    code = "config.tool_log"


class StoreError(ConfigError):
    """A store of documents cannot be opened, read or written. What was in it before is kept."""

    code = "config.store"


class McpTrustError(ConfigError):
    """An MCP server offers tools, or says of them, what nobody approved. `.facts["changes"]` lists what."""

    code = "config.mcp_trust"


class NoSandboxError(ConfigError):
    """A sandbox cannot be had here. Nothing was run; there is no weaker one in its place."""

    code = "config.no_sandbox"


class UnknownFieldError(ConfigError, TypeError):
    """A keyword that does not exist; the message lists those that do."""

    code = "config.unknown_field"
