"""Every command of the command line, with the help it prints itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from planloom.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator

TITLE = "Command line"
WIDTH = 100
"""Characters at which help is wrapped here, whatever terminal draws the page."""


def body() -> str:
    root = click.Context(main, info_name="planloom", **_settings(main))
    return "\n".join(line for context in _contexts(root) for line in _section(context))


def _contexts(context: click.Context) -> Iterator[click.Context]:
    yield context
    command = context.command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from _contexts(click.Context(below, parent=context, info_name=name, **_settings(below)))


def _settings(command: click.Command) -> dict[str, Any]:
    return {**command.context_settings, "max_content_width": WIDTH, "terminal_width": WIDTH}


def _section(context: click.Context) -> list[str]:
    return [f"## {context.command_path}", "", "```text", context.get_help(), "```", ""]
