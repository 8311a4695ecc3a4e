"""Every plug on one page: what the shell needs from what is around it.

Rule 1: a port is a Protocol, named by a noun, as narrow as its one user needs.
Rule 2: each port has a conformance suite in `testing/conformance` that every adapter passes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from planloom.plan.frozen import frozen

if TYPE_CHECKING:
    from planloom.core.chat import LLMResponse, ModelCall
    from planloom.core.code import Program, SandboxResult
    from planloom.core.commands import RunStep
    from planloom.core.events import Event, Fact, Note
    from planloom.core.prices import ModelPrice
    from planloom.core.result import StepOutcome, Usage
    from planloom.errors import NoSandboxError
    from planloom.plan.model import Step


class Clock(Protocol):
    """Time, owned by whoever runs the engine; tests own it with `testing.ManualClock`."""

    def now(self) -> float:
        """Return seconds since the epoch; never goes back within a process."""
        ...

    def call_at(self, when: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` on the event loop at `when`; return a function that cancels it."""
        ...


@frozen
class Recorded:
    """One event as it stands in a journal.

    Attributes:
        seq: 1, 2, 3, … within the run, without gaps.
        cause: `seq` of the event that led to it; 0 for what came from outside unasked.
    """

    seq: int
    cause: int
    event: Event


@dataclass(frozen=True, slots=True)
class RunRow:
    """One line of a list of runs; kept in step with the events in the same transaction."""

    run_id: str
    plan: str
    plan_hash: str
    status: str
    """A `RunStatus`."""
    started_at: float
    updated_at: float
    last_seq: int


class RunWriter(Protocol):
    """The one pen that writes a run. Whoever holds it owns the run."""

    @property
    def backlog(self) -> int:
        """Return how many events are appended and not yet durable."""
        ...

    def append(self, events: Sequence[Event], causes: Sequence[int]) -> int:
        """Hand over events, in order, all or none; return the seq of the last. Never waits.

        Raises:
            JournalError: An earlier append failed; nothing more can be written.
        """
        ...

    async def flush(self) -> None:
        """Wait until everything appended is durable.

        Raises:
            JournalConflictError: Another engine wrote to this run.
            JournalWriteError: Disk full, read-only, or an I/O error.
        """
        ...

    async def close(self) -> None:
        """Flush and give the run up."""
        ...


OnDurable = Callable[[int, BaseException | None], None]
"""Called on the event loop with the last durable seq, or with the error that ended writing."""


class Journal(Protocol):
    """The record of all runs. Safe to use by many tasks of one event loop."""

    async def create(self, run_id: str, on_durable: OnDurable) -> RunWriter:
        """Take ownership of a new run.

        Raises:
            JournalConflictError: The run exists.
            JournalError: The journal cannot be written.
        """
        ...

    async def take(self, run_id: str, on_durable: OnDurable) -> tuple[list[Recorded], RunWriter]:
        """Take ownership of a run on record; return its events and its pen.

        Raises:
            RunNotFoundError: No such run.
            RunBusyError: Another process, or another driver of this one, owns it.
        """
        ...

    async def read(self, run_id: str, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """Return durable events with seq > `after`, in order; RunNotFoundError if there is no such run."""
        ...

    def follow(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """Yield durable events as they come, none left out, none twice; ends after `RunFinished`."""
        ...

    async def runs(
        self,
        *,
        status: str | None = None,
        limit: int = 100,
        plan: str | None = None,
        before: tuple[float, str] | None = None,
    ) -> list[RunRow]:
        """Return runs, newest first.

        Args:
            plan: Only runs of a plan of this name.
            before: `started_at` and `run_id` of a run: only those that come after it in this list.
        """
        ...

    async def post(self, run_id: str, fact: Fact) -> None:
        """Leave a person's fact (an approval, a resolution, a cancel) for whoever drives the run; durable on return."""
        ...

    async def posted(self, run_id: str) -> list[tuple[int, Fact]]:
        """Return facts left for this run and not yet taken, oldest first, each with its number."""
        ...

    async def posted_runs(self) -> set[str]:
        """Return the runs that have facts left for them."""
        ...

    async def taken(self, run_id: str, number: int) -> None:
        """Forget the posted facts of this run up to `number`: their consequences are on record."""
        ...

    async def close(self) -> None:
        """Write what is left and let go of files and threads."""
        ...


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What is known of a model.

    Attributes:
        version: Of a model whose name has none of its own; "" for the newest.
        capabilities: Some of "tools", "json_schema", "json", "streaming", "prediction", "logits",
            "attention_mask" (it takes the `material` of a call).
        roles: What messages it takes, e.g. ("system", "user", "assistant", "tool").
        context_window: Tokens of prompt and answer together, or None where unknown.
        max_tokens_per_request: Most tokens of one answer, or None where unknown.
        price: List price, or None where nobody knows it.
    """

    name: str
    provider: str
    version: str = ""
    capabilities: frozenset[str] = frozenset()
    roles: tuple[str, ...] = ("system", "user", "assistant", "tool")
    context_window: int | None = None
    max_tokens_per_request: int | None = None
    price: ModelPrice | None = None

    @property
    def cost_per_1k_tokens_input(self) -> float | None:
        """Return US dollars per thousand prompt tokens, None where unknown."""
        return None if self.price is None else self.price.input / 1000

    @property
    def cost_per_1k_tokens_output(self) -> float | None:
        """Return US dollars per thousand tokens of answer, None where unknown."""
        return None if self.price is None else self.price.output / 1000


class Model(Protocol):
    """A language model behind any API. `models.llm.LLM` is the face it is used through.

    It tries once: no retries of its own, no waiting for rates; it says what went wrong as a `ModelError`, a
    `MissingKeyError` for a key that is not there, and counts every token in the answer's `usage`.
    """

    @property
    def metadata(self) -> ModelMetadata: ...

    async def respond(self, call: ModelCall) -> LLMResponse:
        """Return the whole answer."""
        ...

    def stream(self, call: ModelCall) -> AsyncIterator[str | LLMResponse]:
        """Yield the answer's text in pieces as it comes, then the whole answer, once, last."""
        ...

    async def close(self) -> None:
        """Let go of connections; the model opens new ones if it is asked again."""
        ...


class SandboxBackend(Protocol):
    """A place where programs run that nobody has read."""

    @property
    def name(self) -> str:
        """Return what plans call it: the `runtime` of a code step."""
        ...

    def missing(self) -> NoSandboxError | None:
        """Return why it cannot be had here, as far as can be seen at once; None if nothing speaks against it."""
        ...

    async def run(self, program: Program) -> SandboxResult:
        """Run a program and return what it came to; its own failure is a result.

        Cancelling it ends the program and everything that it started, at once.

        Raises:
            NoSandboxError: It cannot be had here. There is no weaker one in its place.
            Exception: What a tool of the host raised; the program was ended.
        """
        ...

    async def close(self) -> None:
        """Let go of whatever is kept for the next program."""
        ...


class Cache(Protocol):
    """Results kept for reuse, by key."""

    def get(self, key: str) -> StepOutcome | None: ...

    def put(self, key: str, outcome: StepOutcome, *, ttl_s: float | None) -> None: ...


class AttemptContext(Protocol):
    """What an executor may know and do while it makes an attempt, beyond its request."""

    @property
    def clock(self) -> Clock: ...

    @property
    def stopping(self) -> bool:
        """Return True once the attempt is asked to stop."""
        ...

    @property
    def closing(self) -> bool:
        """Return True when the engine itself goes: then a cancellation is not an answer."""
        ...

    @property
    def abandoned(self) -> bool:
        """Return True when something is left running that cannot be stopped."""
        ...

    @property
    def reported_usd(self) -> float | None:
        """Return what the attempt said it cost so far, or None if it said nothing."""
        ...

    def abandon(self) -> None:
        """Say that something is left running that cannot be stopped."""
        ...

    def report_usd(self, usd: float) -> None:
        """Add to what the attempt cost; it counts whatever the attempt comes to."""
        ...

    @property
    def reported_usage(self) -> Usage | None:
        """Return the tokens it said were used so far, or None if it asked no model."""
        ...

    def report_usage(self, usage: Usage) -> None:
        """Add to the tokens the attempt used; they count whatever the attempt comes to."""
        ...

    @property
    def reported_calls(self) -> int:
        """Return how many tools it said it called so far."""
        ...

    def report_call(self) -> None:
        """Count one more tool called inside the attempt."""
        ...

    @property
    def reported_labels(self) -> frozenset[str]:
        """Return the labels of what its calls brought in so far; see `plan/flow.py`."""
        ...

    def report_labels(self, labels: Iterable[str]) -> None:
        """Add to them: whatever the attempt comes to may come from there."""
        ...

    def stream(self, text: str) -> None:
        """Put the next piece of the answer on record, for whoever follows the run."""
        ...

    def waiting(self, reason: str | None, until: float | None = None) -> None:
        """Put on record that the attempt waits for something that is no work of its own, or (None) goes on."""
        ...

    def note(self, fact: Note) -> None:
        """Put on record what the attempt says of itself; nothing waits for it."""
        ...

    async def record(self, fact: Note) -> bool:
        """Put it on record and wait until it is durable, with all that came before.

        Returns:
            False: the run has no use for this attempt any more, which must not go on then.

        Raises:
            JournalError: It cannot be written.
        """
        ...

    @property
    def waited_s(self) -> float:
        """Return the seconds of the attempt that were spent waiting for a place, e.g. a thread."""
        ...

    def wait(self, seconds: float) -> None:
        """Say that so many seconds more were spent waiting for a place."""
        ...

    def give_up_after(self, seconds: float, text: str) -> None:
        """Answer with a timeout some time after so many seconds, should the attempt not have answered by then."""
        ...


class AttemptExecutor(Protocol):
    """Does one kind of step, or wraps something that does. Keeps no state between attempts."""

    def execute(self, request: RunStep, context: AttemptContext) -> Awaitable[StepOutcome]:
        """Do the step; raise whatever went wrong: `executors/attempt.py` classifies it."""
        ...


Deliver = Callable[["Fact"], object]
"""Takes what an attempt says of itself and the one fact it ends in, on the event loop."""

Record = Callable[["Fact"], Awaitable[bool]]
"""Does the same and waits until that is durable; False: the run has no use for the attempt any more."""

MakeAttempt = Callable[["RunStep", AttemptContext], Awaitable["Fact"]]
"""Makes an attempt and returns its fact; raises CancelledError only when the engine itself is closing."""


class Lane(Protocol):
    """Attempts of runs that share one set of context variables."""

    def submit(self, request: RunStep, deliver: Deliver, record: Record) -> None:
        """Have the attempt made; `deliver` gets exactly one fact that ends it. Submitting it twice is harmless."""
        ...

    def stop(self, run_id: str, key: str) -> None:
        """Stop that step's attempt if it is under way or queued; its fact still comes, within `grace` seconds."""
        ...

    def close(self) -> None:
        """Give the lane back; what it runs goes on until it is stopped."""
        ...


MakeTransport = Callable[[MakeAttempt, Clock], "Transport"]
"""Makes a transport of what makes attempts in this process, and the engine's clock."""


class Transport(Protocol):
    """How an attempt reaches the place where it is made."""

    def lane(self) -> Lane:
        """Return the lane for the caller's context variables."""
        ...

    def is_elsewhere(self, kind: str) -> bool:
        """Return whether attempts of steps of this kind are made in another process."""
        ...

    def lacks(self, step: Step) -> str:
        """Return why a step can be done nowhere, as far as is known; "" if it may."""
        ...

    async def close(self) -> None:
        """Stop everything and wait for it; nothing more is delivered."""
        ...
