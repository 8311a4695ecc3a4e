"""The program `planloom`: which commands there are, and how every one of them ends.

Rule 1: nothing heavy is imported here; a command's module is imported when the command runs.
Rule 2: an error prints as `error[code]: message` with a `try:` line; a traceback only with `--debug`.
"""

from __future__ import annotations

import json
import sys
import traceback
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import click

from planloom.cli.exits import EPILOG, Exit, exit_of_error
from planloom.cli.options import group_options
from planloom.cli.output import BrokenOutputError, Screen
from planloom.errors import PlanError, PlanloomError

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMANDS = {
    "run": ("planloom.cli.run", "run", "Run a plan."),
    "check": (
        "planloom.cli.plan",
        "check",
        "Say everything that is wrong with a plan, and where.",
    ),
    "plan": ("planloom.cli.planning", "plan", "Have a model write a plan for a task in words."),
    "graph": ("planloom.cli.plan", "graph", "Draw a plan, or how a run of it stands."),
    "show": ("planloom.cli.show", "show", "Show how a run stands or ended, from the record alone."),
    "watch": ("planloom.cli.watch", "watch", "Follow a run until it has ended, whichever process drives it."),
    "tail": ("planloom.cli.tail", "tail", "Print events as they happen: of one run, or of a cluster."),
    "list": ("planloom.cli.show", "list_runs", "List runs, newest first."),
    "explain": ("planloom.cli.explain", "explain", "Say why a step stands as it does, back to the submission."),
    "resume": ("planloom.cli.run", "resume", "Go on with a run that was interrupted, or that waited for an answer."),
    "approve": ("planloom.cli.people", "approve", "Answer a step that asks a person."),
    "resolve": ("planloom.cli.people", "resolve", "Say what came of a step whose outcome is unknown."),
    "pause": (
        "planloom.cli.people",
        "pause",
        "Pause a run: what is under way ends, and nothing new starts until it is resumed.",
    ),
    "cancel": ("planloom.cli.people", "cancel", "Cancel a run: what is under way is stopped, and nothing new starts."),
    "events": ("planloom.cli.show", "events", "Print the record of a run, an event a line."),
    "trace": ("planloom.cli.trace", "trace", "Tell a run as spans, as OpenTelemetry has them."),
    "replay": (
        "planloom.cli.show",
        "replay",
        "Decide a run again from its record, and compare.",
    ),
    "verify": ("planloom.cli.verify", "verify", "Hold a run's record against the laws that every record keeps."),
    "inflight": (
        "planloom.cli.inflight",
        "inflight",
        "Before a deploy: say which unfinished runs would go on with it, and why not.",
    ),
    "schema": ("planloom.cli.plan", "schema", "Print the JSON Schema of plans."),
    "mcp": ("planloom.cli.mcp", "mcp", "Offer plans as tools over MCP; show and approve tools of MCP servers."),
    "serve": ("planloom.cli.serve", "serve", "Serve runs over HTTP, and a page to look at them."),
    "worker": ("planloom.cli.worker", "worker", "Make attempts for an engine or a cluster, with the tools here."),
    "cluster": ("planloom.cli.cluster", "cluster", "Set up a cluster's keys, and who may do what in it."),
    "agent": ("planloom.cli.agent", "agent", "Decide about the runs of a cluster, over PostgreSQL and NATS."),
    "submit": ("planloom.cli.submit", "submit", "Ask a cluster for a run of a plan."),
    "doctor": ("planloom.cli.doctor", "doctor", "Look at this installation and say what is missing."),
}
"""Name → module, function, first line of its help."""


class Commands(click.Group):
    """Imports a command when it is called, and prints errors the one way there is."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, _, about) in _COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from planloom.errors import suggestion

            raise click.UsageError(f"there is no command {args[0]!r}; {suggestion(args[0], _COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> NoReturn:
        """Run the program and exit with a code of `Exit`."""
        given = list(sys.argv[1:] if args is None else args)
        sys.exit(self._run(given, *rest, **options))

    def _run(self, given: list[str], *rest: Any, **options: Any) -> int:
        debug = "--debug" in given
        screen = Screen(as_json="--json" in given)
        try:
            ended = super().main(given, *rest, **(options | {"standalone_mode": False}))
            screen.write("")
        except click.exceptions.Exit as wanted:
            return wanted.exit_code
        except (click.Abort, KeyboardInterrupt):
            screen.note("interrupted")
            return Exit.INTERRUPTED
        except click.ClickException as error:
            return _usage_error(error, screen)
        except PlanloomError as error:
            if debug:
                _show_traceback(screen)
            return tell(error, screen)
        except BrokenOutputError:
            return Exit.BROKEN_PIPE
        except Exception as error:  # noqa: BLE001  # the last stop: a user gets a sentence, with --debug the traceback
            if debug:
                _show_traceback(screen)
            return tell(unexpected(error), screen, code=Exit.BUG)
        return ended if isinstance(ended, int) else Exit.OK


def _show_traceback(screen: Screen) -> None:
    """Print the traceback of the error at hand: it quotes what programs and servers said, and so may hold secrets."""
    from planloom.models.tape import masked
    from planloom.observe.looks import printable

    screen.note("\n".join(printable(line) for line in masked(traceback.format_exc()).splitlines()))


def _usage_error(error: click.ClickException, screen: Screen) -> int:
    context = getattr(error, "ctx", None)
    screen.note(f"error[usage]: {error.format_message()}")
    if context is not None:
        screen.note(f"  try: {context.command_path} --help")
    _answer_error({"code": "usage", "message": error.format_message()}, Exit.USAGE, screen)
    return Exit.USAGE


def unexpected(error: Exception) -> PlanloomError:
    """Return an exception that nobody foresaw as an error that can be printed."""
    found = PlanloomError(
        f"{type(error).__name__}: {error}",
        remedy="run it again with --debug, and report what it prints as a bug of planloom",
    )
    found.facts["exception"] = type(error).__name__
    return found


def tell(error: PlanloomError, screen: Screen, *, code: Exit | None = None) -> Exit:
    """Print an error, every problem of a plan on its own, and return the exit code for it."""
    from planloom.masking import known
    from planloom.observe.looks import printable

    mask = known()

    def shown(text: str) -> str:
        return printable(text if mask is None else mask.text(text))  # it may quote what it was given

    problems = error.problems if isinstance(error, PlanError) else (error,)
    for problem in problems:
        where = problem.facts.get("file") or "" if isinstance(problem, PlanError) else ""
        if isinstance(problem, PlanError) and problem.line is not None:
            where += f":{problem.line}:{problem.column}"
        elif isinstance(problem, PlanError) and problem.where:
            where += f"{': ' if where else ''}{problem.where}"
        kind = "bug" if code is Exit.BUG else problem.code
        screen.note(f"{shown(where)}{': ' if where else ''}error[{kind}]: {shown(problem.message)}")
        if problem.remedy:
            screen.note(f"  try: {shown(problem.remedy)}")
    ended = code if code is not None else exit_of_error(error)
    _answer_error(error.to_dict() if mask is None else mask.value(error.to_dict()), ended, screen)
    return ended


def _answer_error(error: dict[str, Any], code: Exit, screen: Screen) -> None:
    if screen.as_json:
        try:
            screen.write(json.dumps({"error": error, "exit_code": int(code)}, default=str) + "\n")
        except BrokenOutputError:
            screen.note("nobody reads the answer")


@click.group(
    cls=Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="planloom", message="%(prog)s %(version)s")
@group_options
def main() -> None:
    """Run plans: graphs of steps done by tools, people and other plans, every fact on record."""


if __name__ == "__main__":
    main(prog_name="planloom")
