"""The command that has plans written: plan. Nothing is run.

Rule 1: the plan goes to stdout or its file and nothing else does; what it cost and what it may use go to stderr.
Rule 2: what is written can be read again: it is checked to be the same plan before anybody gets it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from planloom import blocking
from planloom.agents.planner import LargePlanner
from planloom.cli.inputs import read_inputs
from planloom.cli.options import Invocation, shared
from planloom.cli.plan import PLAN_PATH
from planloom.cli.plan_file import STDIN, PlanFile
from planloom.cli.project import Workplace
from planloom.errors import ConfigError, JournalError, PlanError, PlanningError
from planloom.models.catalogue import DEFAULT
from planloom.observe.looks import counted, printable
from planloom.plan.load import parse_plan
from planloom.plan.model import Plan
from planloom.runtime.reading import read_run
from planloom.runtime.wiring import catalogue_of

if TYPE_CHECKING:
    from planloom.cli.output import Screen
    from planloom.core.result import RunResult
    from planloom.models.catalogue import Models
    from planloom.runtime.settings import Settings
    from planloom.tools.registry import ToolRegistry

PAST_RUNS = 20
"""Latest runs on record that estimates are made from."""
_PLANNING = "the planner"
"""Name of the model of the command line, among those of the settings."""
_WIDTH = 120


@click.command()
@shared(tools=True)
@click.argument("task", metavar="[TASK]", required=False)
@click.option(
    "--bind",
    "bound",
    metavar="FILE",
    type=PLAN_PATH,
    help="In place of TASK: say how the steps of this plan are done that are only lines of English.",
)
@click.option("--model", metavar="MODEL", help="A name or an address of a model; default: that of planloom.toml.")
@click.option(
    "--context", "pairs", multiple=True, metavar="NAME=VALUE", help="What a run will be given: JSON, or else text."
)
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Write it to FILE."
)
def plan(
    call: Invocation,
    task: str | None,
    bound: Path | None,
    model: str | None,
    pairs: tuple[str, ...],
    output: Path | None,
) -> None:
    """Have a model write a plan for a task in words.

    It may use the tools there are, and is checked like any plan. Of the values of --context the model is told short
    ones only. Nothing is run: read the plan, then give it to `planloom run`.
    """
    if (task is None) == (bound is None):
        raise click.UsageError("give a TASK, or --bind FILE")
    screen, place = call.screen(), Workplace(call, plan=None if bound in (None, STDIN) else bound)
    with screen.only_answers_on_stdout():
        tools = blocking.run(place.known_tools(screen.note)).restricted(place.settings_here.allow)
        context = _context(pairs)
        lines = None if bound is None else PlanFile(bound)
        made = blocking.run(_planned(screen, place, tools, task=task or "", lines=lines, model=model, context=context))
    document = made.to_dict()
    text = plan_text(made)
    if output is not None:
        _write(output, json.dumps(document, indent=2) + "\n" if output.suffix.lower() == ".json" else text)
        screen.note(f"wrote {printable(str(output))}")
    if output is None or screen.as_json:
        screen.answer(document, text)


def _context(pairs: tuple[str, ...]) -> dict[str, Any] | None:
    """Return what is given by --context; None where nothing is."""
    for pair in pairs:
        if not pair.partition("=")[1] or pair.startswith("="):
            raise click.UsageError(f"--context {pair!r} is not NAME=VALUE")
    return read_inputs(Plan(), pairs=pairs, files=(), document=None) if pairs else None


async def _planned(
    screen: Screen,
    place: Workplace,
    tools: ToolRegistry,
    *,
    task: str,
    lines: PlanFile | None,
    model: str | None,
    context: dict[str, Any] | None,
) -> Plan:
    """Return the plan, having told who is asked for it and what came of that."""
    settings = place.settings
    models = catalogue_of(settings, {_PLANNING: model} if model is not None and "://" in model else None, None)
    planner = await _planner(place, settings, models, _PLANNING if model is not None and "://" in model else model)
    try:
        planner.llm.ready()
        screen.note(f"asking {printable(str(planner.llm.uri))} for a plan")
        if lines is None:
            made = await planner.create_plan(task, tools, context)
        else:
            with lines.placing_problems():
                made = await planner.bind(lines.read(), tools, context)
    except PlanningError as error:
        _tell_spent(screen, planner)
        for problem in error.problems:
            screen.note(f"problem[{problem.code}]: {printable(problem.message)}")
        raise
    finally:
        await models.close()
    _tell_spent(screen, planner)
    _tell(screen, made, planner, settings)
    return made


async def _planner(place: Workplace, settings: Settings, models: Models, ref: str | None) -> LargePlanner:
    if ref is None and settings.default_model is None and DEFAULT not in settings.models:
        raise ConfigError(
            "no model is set that could write a plan", remedy="give --model, or set default_model in planloom.toml"
        )
    ref = ref or DEFAULT
    known = set(models.names())
    facts = {name: models.facts(name, priced=True) if name in known else None for name in (DEFAULT, *settings.models)}
    return LargePlanner(
        models.get(ref),
        models=facts,
        price=models.facts(ref, priced=True).price,
        past=await _past_runs(place),
    )


async def _past_runs(place: Workplace) -> list[RunResult]:
    """Return the latest runs on record, those that can be read; a journal is never made for it."""
    if not place.has_journal:
        return []
    found = []
    with suppress(JournalError):
        journal = place.existing_journal()
        try:
            for row in await journal.runs(limit=PAST_RUNS):
                with suppress(JournalError, PlanError):
                    found.append((await read_run(journal, row.run_id)).result)
        finally:
            await journal.close()
    return found


# --- what is told beside the plan ---------------------------------------------------------------


def _tell_spent(screen: Screen, planner: LargePlanner) -> None:
    usage = planner.usage
    if usage.requests:
        cost = _dollars(planner.cost_usd)
        screen.note(f"{counted(usage.requests, 'call')}, {counted(usage.total_tokens, 'token')}, {cost}")


def _tell(screen: Screen, made: Plan, planner: LargePlanner, settings: Settings) -> None:
    if planner.offered:
        screen.note(f"tools it was told of: {printable(', '.join(planner.offered))}")
    expected = [] if made.estimated_latency_ms is None else [f"take {made.estimated_latency_ms:,.0f} ms"]
    if made.estimated_cost is not None:
        expected.append(f"cost {_dollars(made.estimated_cost)}")
    if expected:
        screen.note(f"a run is expected to {' and '.join(expected)}")
    asks_default = any(step.model == DEFAULT for step in made.steps)
    if asks_default and settings.default_model is None and DEFAULT not in settings.models:
        screen.note("note: steps ask the default model: set default_model in planloom.toml before you run it")


def _dollars(usd: float | None) -> str:
    return "cost unknown" if usd is None else f"${usd:.4f}"


# --- as text ------------------------------------------------------------------------------------


def plan_text(made: Plan) -> str:
    """Return a plan as YAML that reads as the same plan, or as JSON, which is YAML too, where that cannot be."""
    document = made.to_dict()
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH)
    with suppress(PlanError):
        if parse_plan(text) == made:
            return text
    return json.dumps(document, indent=2) + "\n"


class _Dumper(yaml.SafeDumper):
    """Writes what YAML 1.2 reads as the same: PyYAML knows 1.1 only, to which `1e3` and `0o7` are text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if "\n" in text:
        style = "|"
    elif text[:1] in tuple("+-.0123456789") or "${{" in text:
        style = '"'
    else:
        style = None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", remedy="give another file with -o") from error
