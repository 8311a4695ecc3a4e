"""Every command of the command line, with the help it prints itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from planloom.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator

TITLE = "Command line"
WIDTH = 100
"""Characters at which help is wrapped here, whatever terminal draws the page."""


def body() -> str:
    return "\n".join(line for path, command in _commands(main, ("planloom",)) for line in _section(path, command))


def _commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from _commands(below, (*path, name))


def _section(path: tuple[str, ...], command: click.Command) -> list[str]:
    context = click.Context(command, info_name=" ".join(path), max_content_width=WIDTH, terminal_width=WIDTH)
    return [f"## {' '.join(path)}", "", "```text", command.get_help(context), "```", ""]
