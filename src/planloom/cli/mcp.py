"""Commands about the Model Context Protocol: mcp serve (what `mcp` itself does), show, trust.

Rule 1: nothing of a server counts before a person ran `trust`; `show` records nothing.
Rule 2: what is not approved is shown whole, with all that a model would be told; `trust` approves what it has shown.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from planloom import blocking
from planloom.cli.exits import Exit
from planloom.cli.options import Invocation, shared
from planloom.cli.plan import PLAN_PATH
from planloom.cli.project import Workplace
from planloom.errors import ConfigError, suggestion
from planloom.observe.looks import counted, printable

if TYPE_CHECKING:
    from pathlib import Path

    from planloom.cli.output import Screen
    from planloom.tools.mcp import McpServer
    from planloom.tools.mcp_listing import Change, ListedTool

SHOWN = 300
"""Characters of the description of a tool that is approved already; of all others it is shown whole."""


class _ServesByDefault(click.Group):
    """`planloom mcp PLAN` is `planloom mcp serve PLAN`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in {"--help", "-h"}:
            args = ["serve", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ServesByDefault)
def mcp() -> None:
    """Offer plans as tools over MCP; show and approve tools of MCP servers.

    `planloom mcp PLAN...` is `planloom mcp serve PLAN...`.
    """


@mcp.command()
@shared(tools=True)
@click.argument("plans", metavar="PLAN...", nargs=-1, required=True, type=PLAN_PATH)
@click.option("--http", "address", metavar="[HOST:]PORT", help="Serve over HTTP on this machine; default: over stdio.")
@click.option(
    "--token-env",
    metavar="NAME",
    default="PLANLOOM_MCP_TOKEN",
    show_default=True,
    help="With --http: variable that holds the token that callers must give.",
)
def serve(call: Invocation, plans: tuple[Path, ...], address: str | None, token_env: str) -> None:
    """Offer plans as tools, to whoever speaks MCP over stdin and stdout.

    Each PLAN is a file, or a folder of them. A call runs the plan with the arguments as its inputs, on record in the
    journal, and answers with what the run came to.
    """
    from planloom.cli.mcp_serving import serve_http, serve_stdio

    screen, place = call.screen(), Workplace(call, plan=plans[0])
    if address is None:
        blocking.run(serve_stdio(place, plans, screen))
    else:
        blocking.run(serve_http(place, plans, screen, address=address, token_env=token_env))


@mcp.command()
@shared(journal=False)
@click.argument("names", metavar="[SERVER]...", nargs=-1)
def show(call: Invocation, names: tuple[str, ...]) -> None:
    """Show what MCP servers of planloom.toml offer now, and what of it nobody approved.

    Exit code 1: something is not approved.
    """
    screen, found = call.screen(), []
    for server in _servers(call, names):
        listed, changed = blocking.run(_looked(server))
        found.append(_value(server, listed, changed))
        if not screen.as_json:
            screen.answer(None, _text(server, listed, changed))
    if screen.as_json:
        screen.answer(found, "")
    if any(change["what"] != "gone" for one in found for change in one["changes"]):
        sys.exit(Exit.FAILED)


@mcp.command()
@shared(journal=False)
@click.argument("names", metavar="SERVER...", nargs=-1, required=True)
def trust(call: Invocation, names: tuple[str, ...]) -> None:
    """Approve what MCP servers offer now: names, descriptions and schemas of their tools.

    It goes into planloom.mcp.lock beside planloom.toml. Until it is approved again, a server that offers anything else
    is refused.
    """
    screen, found = call.screen(), []
    for server in _servers(call, names):
        listed, changed = blocking.run(_looked(server))
        if changed and not screen.as_json:
            named = {one.tool for one in changed}
            screen.note(_text(server, [one for one in listed if one.name in named], changed))
        server.approve(listed)
        found.append({"server": server.name, "changes": [_change(one) for one in changed]})
        _tell_trusted(screen, server, changed)
    if screen.as_json:
        screen.answer(found, "")


def _servers(call: Invocation, names: tuple[str, ...]) -> list[McpServer]:
    place = Workplace(call)
    servers = {server.name: server for server in place.mcp_servers()}
    for name in names:
        if name not in servers:
            raise ConfigError(
                f"there is no MCP server {name!r} in the settings",
                remedy=suggestion(name, servers, otherwise="name one in planloom.toml: [mcp.NAME] with command or url"),
            )
    return [servers[name] for name in names or servers]


async def _looked(server: McpServer) -> tuple[list[ListedTool], list[Change]]:
    async with server:
        return await server.look()


def _change(one: Change) -> dict[str, str]:
    return {"tool": one.tool, "what": one.what}


def _value(server: McpServer, listed: list[ListedTool], changed: list[Change]) -> dict[str, Any]:
    tools = [
        {
            "name": f"{server.name}.{one.name}",
            "effects": str(server.effects_of(one)),
            "description": one.description,
            "parameters": one.input_schema,
            "result": one.output_schema,
        }
        for one in listed
    ]
    return {"server": server.name, "tools": tools, "changes": [_change(one) for one in changed]}


def _text(server: McpServer, listed: list[ListedTool], changed: list[Change]) -> str:
    lines = [f"{server.name} ({printable(server.terms.place)}): {counted(len(listed), 'tool')}"]
    for one in listed:
        words = " ".join(one.description.split())
        mark = ", ".join(change.what for change in changed if change.tool == one.name)
        lines.append(f"  {server.name}.{printable(one.name)} [{server.effects_of(one)}]{f' ({mark})' if mark else ''}")
        if not mark:
            words = words if len(words) <= SHOWN else f"{words[: SHOWN - 1]}…"
        lines += [f"      {printable(words)}"] if words else []
        if mark:
            lines += [f"      {what}: {printable(schema)}" for what, schema in _schemas(one)]
    lines += [f"  {server.name}.{printable(one.tool)} (gone)" for one in changed if one.what == "gone"]
    return "\n".join(lines)


def _schemas(tool: ListedTool) -> list[tuple[str, str]]:
    schemas = (("parameters", tool.input_schema), ("result", tool.output_schema))
    return [(what, json.dumps(one, ensure_ascii=False)) for what, one in schemas if one is not None]


def _tell_trusted(screen: Screen, server: McpServer, changed: list[Change]) -> None:
    for one in changed:
        screen.note(f"{server.name}: {printable(str(one))}")
    screen.note(f"{server.name}: {'approved as it is now' if changed else 'nothing changed'}")
