"""Commands about plans: check, graph, schema. Nothing is run."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from planloom.cli.exits import Exit
from planloom.cli.options import Invocation, shared
from planloom.cli.plan_file import STDIN, PlanFile
from planloom.cli.project import Workplace
from planloom.errors import ConfigError
from planloom.observe.looks import counted, printable
from planloom.observe.mermaid import graph_dot, graph_mermaid
from planloom.observe.svg import graph_svg
from planloom.observe.table import table_text
from planloom.observe.text import graph_text
from planloom.observe.timeline import attempts_of, timeline_svg, timeline_text
from planloom.plan.against import notices
from planloom.plan.schema import plan_schema
from planloom.runtime.engine import Engine
from planloom.runtime.reading import read_run

if TYPE_CHECKING:
    from planloom.cli.output import Screen
    from planloom.core.result import RunResult
    from planloom.plan.flow_paths import FlowPath
    from planloom.plan.model import Plan
    from planloom.runtime.reading import RunOnRecord

_WAY = ("label", "from", "through", "to", "verdict")
PLAN_PATH = click.Path(path_type=Path, allow_dash=True)
FORMATS = ("text", "svg", "mermaid", "dot")
SUFFIXES = {".svg": "svg", ".mmd": "mermaid", ".mermaid": "mermaid", ".dot": "dot", ".gv": "dot", ".txt": "text"}


@click.command()
@shared(journal=False, tools=True)
@click.argument("plan", metavar="PLAN", type=PLAN_PATH)
@click.option(
    "--strict-flow", is_flag=True, help="End with code 8 where a labelled value is not simply allowed on its way."
)
def check(call: Invocation, plan: Path, strict_flow: bool) -> int:
    """Say everything that is wrong with a plan, and where.

    PLAN is a file, or - for standard input. Tools are loaded, and nothing is run.

    Where tools declare who writes what they bring, the ways are listed on which it may reach tools with effects, and
    secrets a model: allowed, only if a person says so, or refused.
    """
    screen, place = call.screen(), Workplace(call, plan=None if plan == STDIN else plan)
    file = PlanFile(plan)
    with screen.only_answers_on_stdout():
        read, told, flows = asyncio.run(_against_tools(file, place, screen))
    is_strict = strict_flow and any(one.verdict != "allowed" for one in flows)
    value = {"ok": not is_strict, "plan": read.name, "steps": len(read.steps), "hash": read.hash, "notices": told}
    lines = [f"{file.name}: {printable(read.name)}, {counted(len(read.steps), 'step')}, no problems"]
    lines += [f"note: {printable(notice)}" for notice in told]
    if flows:
        lines += ["", table_text([_way(one) for one in flows], _WAY, width=screen.width)]
    screen.answer(value | {"flows": [one.to_dict() for one in flows]}, "\n".join(lines))
    return Exit.FLOW if is_strict else Exit.OK


def _way(one: FlowPath) -> dict[str, str]:
    verdict = one.verdict.replace("_", " ")
    return {
        "label": one.label,
        "from": f"{one.source} ({one.source_tool})",
        "through": ", ".join(one.through),
        "to": f"{one.sink} ({one.tool})",
        "verdict": f"{verdict} if it happens" if one.verdict == "refused" else verdict,  # a certain one is a problem
    }


async def _against_tools(file: PlanFile, place: Workplace, screen: Screen) -> tuple[Plan, list[str], list[FlowPath]]:
    tools = await place.all_tools(screen.note)
    settings = place.settings_here
    async with Engine(None, tools=tools, allow=settings.allow, settings=settings) as engine:
        with place.needing_servers():
            plan = file.read(also=engine.problems_here)
        return plan, notices(plan, engine.tools), engine.flows(plan)


@click.command()
@shared()
@click.argument("plan", metavar="[PLAN]", type=PLAN_PATH, required=False)
@click.option("--run", "run_id", metavar="RUN", help="Show how this run stands; PLAN is then taken from its record.")
@click.option("--format", "shape", type=click.Choice(FORMATS), help="Default: what the end of FILE says, else text.")
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Write it to FILE."
)
@click.option("--timeline", is_flag=True, help="With --run: draw when each step ran, as text or SVG.")
@click.option(
    "--theme", type=click.Choice(["auto", "light", "dark"]), default="auto", show_default=True, help="Colours of SVG."
)
def graph(
    call: Invocation,
    plan: Path | None,
    run_id: str | None,
    shape: str | None,
    output: Path | None,
    timeline: bool,
    theme: str,
) -> None:
    """Draw a plan, or how a run of it stands.

    As text, SVG, Mermaid or Graphviz DOT. PLAN is a file, or - for standard input.
    """
    if (plan is None) == (run_id is None):
        raise click.UsageError("give a PLAN or --run RUN")
    if timeline and run_id is None:
        raise click.UsageError("--timeline is of a run: give --run RUN")
    screen = call.screen()
    shape = shape or (SUFFIXES.get(output.suffix.lower(), "text") if output is not None else "text")
    ascii_only = output is None and screen.ascii_only
    if plan is not None:
        text = _draw(PlanFile(plan).read(), None, shape, theme=theme, ascii_only=ascii_only)
    else:
        run = asyncio.run(_recorded(Workplace(call), run_id or ""))
        if timeline:
            text = _draw_timeline(run, shape, theme=theme, width=screen.width, ascii_only=ascii_only)
        else:
            text = _draw(run.plan, run.result, shape, theme=theme, ascii_only=ascii_only)
    if output is not None:
        _write(output, text)
        screen.answer({"format": shape, "file": str(output)}, f"wrote {output}")
    elif screen.as_json:
        screen.answer({"format": shape, "graph": text}, "")
    else:
        _print(screen, text, shape)


async def _recorded(place: Workplace, run_id: str) -> RunOnRecord:
    journal = place.existing_journal(run_id)
    try:
        return await read_run(journal, run_id)
    finally:
        await journal.close()


def _draw(plan: Plan, result: RunResult | None, shape: str, *, theme: str, ascii_only: bool) -> str:
    if shape == "svg":
        return graph_svg(plan, result, theme=theme)
    if shape == "mermaid":
        return graph_mermaid(plan, result)
    if shape == "dot":
        return graph_dot(plan, result)
    return graph_text(plan, result, ascii_only=ascii_only)


def _draw_timeline(run: RunOnRecord, shape: str, *, theme: str, width: int, ascii_only: bool) -> str:
    if shape == "svg":
        return timeline_svg(run.result, attempts=attempts_of(run.records), theme=theme)
    if shape == "text":
        return timeline_text(run.result, width, ascii_only=ascii_only)
    raise click.UsageError(f"a timeline is drawn as text or svg, not as {shape}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", remedy="give another file with -o") from error


def _print(screen: Screen, text: str, shape: str) -> None:
    if shape == "svg" and screen.ascii_only:  # whatever the terminal's encoding: ASCII with references is valid XML
        text = text.encode("ascii", "xmlcharrefreplace").decode("ascii")
    screen.write(text)


@click.command()
@shared(journal=False)
def schema(call: Invocation) -> None:
    """Print the JSON Schema of plans.

    It is for editors, and for models that write plans.
    """
    value = plan_schema()
    call.screen().answer(value, json.dumps(value, indent=2))
