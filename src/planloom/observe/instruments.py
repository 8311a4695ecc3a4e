"""What is measured of runs: each instrument with its name, unit, labels and buckets, once for all who tell them.

Rule 1: a label's values are few: names of plans, tools and models are capped, and no run's id, no step's key and no
text of anybody is ever one.
Rule 2: names are OpenTelemetry's; Prometheus' follow from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from planloom.observe import genai


class Form(Enum):
    """How values of an instrument become one."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
GENAI_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
GENAI_TOKENS = tuple(float(4**power) for power in range(14))
_UNITS = {"s": "seconds", "USD": "usd", "{token}": "", "1": ""}


@dataclass(frozen=True, eq=False, slots=True)
class Instrument:
    """One thing that is measured.

    Attributes:
        name: With dots, as OpenTelemetry has it.
        unit: As in UCUM: "s", "{run}"; "USD" for money.
        labels: Names of what its values are told apart by.
        buckets: Upper bounds, of a histogram.
    """

    name: str
    form: Form
    unit: str
    about: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = SECONDS

    @property
    def prometheus_name(self) -> str:
        """Return its name as Prometheus writes it: unit and `_total` behind."""
        name = self.name.replace(".", "_")
        unit = _UNITS.get(self.unit, "")
        name = f"{name}_{unit}" if unit and not name.endswith(f"_{unit}") else name
        return f"{name}_total" if self.form is Form.COUNTER else name


def _counter(name: str, unit: str, about: str, *labels: str) -> Instrument:
    return Instrument(f"planloom.{name}", Form.COUNTER, unit, about, labels)


def _seconds(name: str, about: str, *labels: str) -> Instrument:
    return Instrument(f"planloom.{name}", Form.HISTOGRAM, "s", about, labels)


def _gauge(name: str, unit: str, about: str) -> Instrument:
    return Instrument(f"planloom.{name}", Form.GAUGE, unit, about)


EVENTS = _counter("events", "{event}", "Events put on record.", "event")
RUNS_STARTED = _counter("runs.started", "{run}", "Runs begun.", "plan")
RUNS_RESUMED = _counter("runs.resumed", "{run}", "Runs taken up again.", "plan")
RUNS_ENDED = _counter("runs.ended", "{run}", "Runs ended, by how.", "plan", "status")
RUN_DURATION = _seconds("run.duration", "Seconds from a run's beginning to its end.", "plan")
STEPS = _counter("steps", "{step}", "Steps ended, items of maps included, by how.", "plan", "kind", "status")
STEP_DURATION = _seconds("step.duration", "Seconds from a step's first attempt to its end.", "kind")
ATTEMPTS = _counter(
    "attempts", "{attempt}", "Attempts ended: success, lost, or the kind of failure.", "kind", "outcome"
)
ATTEMPT_DURATION = _seconds("attempt.duration", "Seconds that an attempt took.", "kind")
ATTEMPT_QUEUE = _seconds("attempt.queue", "Seconds an attempt waited for a place to be made in.", "kind")
RETRIES = _counter("retries", "{attempt}", "Attempts that another one follows.", "kind")
CACHED = _counter("attempts.cached", "{attempt}", "Attempts answered from an earlier one's result.", "kind")
WAITING = _seconds("waiting", "Seconds waited: for a person, a retry, a timer, or a rate limit.", "reason")
TOKENS = _counter("tokens", "{token}", "Tokens as providers counted them.", "model", "direction")
COST = _counter("cost", "USD", "US dollars paid for models and reported by tools.", "plan")
MODEL_CALLS = _counter("model.calls", "{call}", "Calls of models.", "model", "outcome")
MODEL_DURATION = _seconds("model.call.duration", "Seconds a model took to answer.", "model")
TOOL_CALLS = _counter("tool.calls", "{call}", "Calls of tools.", "tool", "outcome")
TOOL_DURATION = _seconds("tool.call.duration", "Seconds a tool took.", "tool")
LIMITS_HIT = _counter("limits.hit", "{run}", "Limits that stopped a run or an attempt.", "limit")
APPROVALS = _counter("approvals", "{approval}", "Questions people were asked, by what came of them.", "answer")
SPECULATIONS = _counter("speculations", "{attempt}", "Drafts and steps that ran ahead, by outcome.", "role", "outcome")
WASTED_COST = _counter("speculation.wasted.cost", "USD", "US dollars of what ran ahead in vain.", "role")
WASTED_TOKENS = _counter("speculation.wasted.tokens", "{token}", "Tokens of what ran ahead in vain.", "role")
GASA_SAVED = _counter("gasa.saved.tokens", "{token}", "Tokens of documents that no model had to read.", "model")
FLUSH = _seconds("journal.flush", "Seconds until what was appended to the journal was durable.")

RUNS_ACTIVE = _gauge("runs.active", "{run}", "Runs driven here now.")
ATTEMPTS_ACTIVE = _gauge("attempts.active", "{attempt}", "Attempts dispatched and not answered, queued ones included.")
APPROVALS_WAITING = _gauge("approvals.waiting", "{approval}", "Questions that wait for a person, of runs seen here.")
JOURNAL_BACKLOG = _gauge("journal.backlog", "{event}", "Events appended and not yet durable.")

MODEL_SECONDS = Instrument(
    "gen_ai.client.operation.duration",
    Form.HISTOGRAM,
    "s",
    "GenAI operation duration.",
    (genai.OPERATION, genai.PROVIDER, genai.REQUEST_MODEL),
    GENAI_SECONDS,
)
TOKEN_USAGE = Instrument(
    "gen_ai.client.token.usage",
    Form.HISTOGRAM,
    "{token}",
    "Number of input and output tokens used.",
    (genai.OPERATION, genai.PROVIDER, genai.REQUEST_MODEL, genai.TOKEN_TYPE),
    GENAI_TOKENS,
)
GAUGES = (RUNS_ACTIVE, ATTEMPTS_ACTIVE, APPROVALS_WAITING, JOURNAL_BACKLOG)
ALL: tuple[Instrument, ...] = tuple(one for one in list(globals().values()) if isinstance(one, Instrument))
