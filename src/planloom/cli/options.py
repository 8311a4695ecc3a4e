"""The options that many commands share, and what a command gets of them.

Rule 1: an option means the same wherever it stands: `planloom --json list` is `planloom list --json`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from planloom.cli.output import Screen
from planloom.journal.address import is_address

if TYPE_CHECKING:
    from collections.abc import Callable

JOURNAL_VARIABLE = "PLANLOOM_JOURNAL"


@dataclass(frozen=True, slots=True)
class Invocation:
    """What a command was called with besides its own arguments.

    Attributes:
        journal: As given by option or environment, or None: a file, or the address of a database.
        tools: Modules and files, as given.
    """

    as_json: bool = False
    journal: Path | str | None = None
    tools: tuple[str, ...] = ()

    def screen(self) -> Screen:
        return Screen(as_json=self.as_json)


class _JournalPlace(click.Path):
    """A file, or the address of a database, which is no path."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        return value if is_address(value) else super().convert(value, param, context)


def _json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, and nothing else there.")(
        function
    )


def _debug_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")(function)


def _journal_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--journal",
        type=_JournalPlace(),
        metavar="FILE",
        envvar=JOURNAL_VARIABLE,
        show_envvar=True,
        help="File, or postgresql://… database, that runs are recorded in; default: that of planloom.toml, else"
        " .planloom/runs.db here.",
    )(function)


def _tools_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--tools",
        multiple=True,
        metavar="MODULE_OR_FILE",
        help="Python module or file with tools; may be given again. Default: those of planloom.toml.",
    )(function)


def group_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give the program itself the shared options, and keep them for the command that follows."""

    @click.pass_context
    @wraps(function)
    def keep(context: click.Context, as_json: bool, journal: Path | str | None, tools: tuple[str, ...]) -> Any:
        context.obj = Invocation(as_json, journal, tools)
        return function()

    return _json_option(_journal_option(_tools_option(_debug_option(keep))))


def shared(*, journal: bool = True, tools: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the shared options; its function gets them as a `Invocation`, its first argument."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @click.pass_context
        @wraps(function)
        def merged(context: click.Context, /, as_json: bool, **own: Any) -> Any:
            call = context.obj if isinstance(context.obj, Invocation) else Invocation()
            if as_json:
                call = replace(call, as_json=True)
            if journal and (given := own.pop("journal")) is not None:
                call = replace(call, journal=given)
            if tools and (named := own.pop("tools")):
                call = replace(call, tools=named)
            return function(call, **own)

        decorated = _json_option(_debug_option(merged))
        decorated = _tools_option(decorated) if tools else decorated
        return _journal_option(decorated) if journal else decorated

    return decorate


def run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command what a run begins with: `pairs`, `files` and `document` (see `inputs.py`), `run_id`, `limits`."""
    for option in reversed(
        [
            click.option(
                "--input",
                "pairs",
                multiple=True,
                metavar="NAME=VALUE",
                help="An input: text, or JSON where text does not fit.",
            ),
            click.option(
                "--input-file", "files", multiple=True, metavar="NAME=PATH", help="An input: the text of a file."
            ),
            click.option(
                "--inputs",
                "document",
                metavar="FILE",
                type=click.Path(path_type=Path),
                help="Inputs as a JSON object.",
            ),
            click.option("--run-id", metavar="ID", help="Name of the run; default: a new one that sorts by time."),
            click.option(
                "--limit", "limits", multiple=True, metavar="NAME=VALUE", help="A limit, e.g. max_tool_calls=20."
            ),
        ]
    ):
        function = option(function)
    return function


def broker_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command of a cluster `servers` and `creds`: where its broker is, and as whom to go there."""
    creds = click.option(
        "--creds", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="Who we are at the broker."
    )
    servers = click.option(
        "--nats", "servers", multiple=True, metavar="URL", help="The broker; default: that of planloom.toml."
    )
    return servers(creds(function))
