"""Commands with which people answer a run, whoever drives it: approve, resolve, cancel.

Rule 1: an answer is left in the journal; the process that drives the run takes it at once, else the next resume does.
"""

from __future__ import annotations

import asyncio
import getpass
import time
from typing import TYPE_CHECKING, Any

import click

from planloom.cli.inputs import parse_json
from planloom.cli.options import Invocation, shared
from planloom.cli.project import Workplace
from planloom.core.events import ApprovalAnswered, CancelRequested, PauseRequested
from planloom.core.result import RUN_ENDED
from planloom.errors import ConfigError
from planloom.observe.looks import run_word
from planloom.observe.text import approval_lines
from planloom.runtime.people import answer_fact, resolution_fact
from planloom.runtime.reading import read_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from planloom.core.events import Fact
    from planloom.runtime.reading import RunOnRecord


def _whoever() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without a user list
        return "somebody"


_by = click.option("--by", default=_whoever, show_default="your user name", help="Who answers; goes on record.")


def _leave(call: Invocation, run_id: str, answer: Callable[[RunOnRecord], Fact]) -> None:
    """Leave the fact that `answer` makes of the run for whoever drives it, and say what happens next."""
    screen, place = call.screen(), Workplace(call)

    async def post() -> tuple[RunOnRecord, Fact]:
        journal = place.existing_journal(run_id)
        try:
            run = await read_run(journal, run_id)
            fact = answer(run)
            await journal.post(run_id, fact)
            return run, fact
        finally:
            await journal.close()

    run, fact = asyncio.run(post())
    command = f"planloom resume {run_id}{place.hints(tools=True)}"
    driven = run.driven is True
    value: dict[str, Any] = {
        "run_id": run_id,
        "recorded": type(fact).__name__,
        "driven": run.driven,
        "next": None if driven else command,
    }
    after = "the process that drives the run takes it now" if driven else f"to go on: {command}"
    lines = [f"recorded; {after}"]
    if isinstance(fact, ApprovalAnswered):
        asked = [step for step in run.result.blocked if step.id == fact.step]
        lines = [*approval_lines(asked), *lines]
        if len(lines) > 1:
            value["approval"] = asked[0].approval
    screen.answer(value, "\n".join(lines))


def _parsed(option: str, text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise click.UsageError(f"{option} is not JSON: {error}; put text in quotes, e.g. '\"done\"'") from error


@click.command()
@shared()
@click.argument("run_id", metavar="RUN")
@click.argument("step_id", metavar="STEP")
@click.option("--deny", is_flag=True, help="Say no: the step fails.")
@click.option("--data", metavar="JSON", help="What the step's form asks for; becomes the step's output.")
@click.option(
    "--binding", metavar="HEX", help="Answer only exactly what `show` showed with this; its first 12 digits are enough."
)
@_by
def approve(
    call: Invocation, run_id: str, step_id: str, deny: bool, data: str | None, binding: str | None, by: str
) -> None:
    """Answer a step that asks a person.

    Or a call that needs a person's word. The answer counts for exactly what is asked now, once: if that changes before
    it is heard, it is refused.
    """
    output = None if data is None else _parsed("--data", data)

    def answer(run: RunOnRecord) -> Fact:
        now = time.time()
        return answer_fact(run.state, step_id, by=by, approved=not deny, output=output, at=now, binding=binding)

    _leave(call, run_id, answer)


@click.command()
@shared()
@click.argument("run_id", metavar="RUN")
@click.argument("step_id", metavar="STEP")
@click.option("--output", metavar="JSON", help="It was done, and this is what came of it.")
@click.option("--retry", "how", flag_value="retry", help="It was not done: run it again.")
@click.option("--fail", "how", flag_value="fail", help="Give the step up.")
@click.option("--reason", metavar="TEXT", help="Why; with --fail it becomes the step's error.")
@_by
def resolve(
    call: Invocation, run_id: str, step_id: str, output: str | None, how: str | None, reason: str | None, by: str
) -> None:
    """Say what came of a step whose outcome is unknown.

    It was under way when its process died, and it must not run twice.
    """
    if (output is None) == (how is None):
        raise click.UsageError("say one of --output JSON, --retry and --fail")
    value = None if output is None else _parsed("--output", output)

    def answer(run: RunOnRecord) -> Fact:
        way = how or "output"
        return resolution_fact(run.state, step_id, way, by=by, output=value, error=reason, at=time.time())

    _leave(call, run_id, answer)


@click.command()
@shared()
@click.argument("run_id", metavar="RUN")
@click.option("--reason", default="", metavar="TEXT", help="Why; goes on record.")
@_by
def cancel(call: Invocation, run_id: str, reason: str, by: str) -> None:
    """Cancel a run: what is under way is stopped, and nothing new starts."""

    _leave(call, run_id, lambda run: _unless_ended(run, CancelRequested(by, time.time(), reason), "cancel"))


@click.command()
@shared()
@click.argument("run_id", metavar="RUN")
@_by
def pause(call: Invocation, run_id: str, by: str) -> None:
    """Pause a run: what is under way ends, and nothing new starts until it is resumed."""
    _leave(call, run_id, lambda run: _unless_ended(run, PauseRequested(by, time.time()), "pause"))


def _unless_ended(run: RunOnRecord, fact: Fact, what: str) -> Fact:
    status = run.result.status
    if status in RUN_ENDED:
        raise ConfigError(
            f"run {run.result.run_id!r} has ended: {run_word(status.value)}", remedy=f"there is nothing to {what}"
        )
    return fact
