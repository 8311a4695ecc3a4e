"""What a command works with: the settings that count here, the journal, the tools.

Rule 1: `planloom.toml` is looked for from the plan's folder upwards, then from the current folder; the first counts.
Rule 2: it names code that will run, so one that belongs to another user is refused, as git refuses such a repository.
Rule 3: an option on the command line comes before the environment, that before the file, that before the default.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from planloom.errors import ConfigError, PlanError, PlanloomError, RunNotFoundError, UnknownToolError
from planloom.journal.address import is_address
from planloom.journal.open import open_database
from planloom.journal.sqlite import SqliteJournal
from planloom.observe.logs import configure
from planloom.observe.looks import printable
from planloom.runtime.declared import declare_secrets
from planloom.runtime.settings import Settings, find_settings, read_settings
from planloom.tools.load import load_tools
from planloom.tools.mcp import McpServer
from planloom.tools.names import NAMESPACES
from planloom.tools.registry import ToolRegistry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from planloom.cli.options import Invocation
    from planloom.journal.postgres.journal import PostgresJournal


def settings_file(plan: Path | None = None) -> Path | None:
    """Return the settings file that counts for a plan's file, or for the current folder.

    Raises:
        ConfigError: It belongs to another user.
    """
    here = Path.cwd()
    found = find_settings(plan.resolve().parent) if plan is not None else None
    found = found or find_settings(here)
    if found is not None and hasattr(os, "getuid") and found.stat().st_uid not in (os.getuid(), 0):
        raise ConfigError(
            f"{found} belongs to another user, and it names code to run",
            remedy="make it yours with chown if you trust it, or work in another folder",
        )
    return found


class Workplace:
    """What a command works with.

    Attributes:
        file: The settings file that counts, or None.
        settings: What it says.
        left_out: MCP servers that were found not to be there, by name, each with why.
    """

    def __init__(self, call: Invocation, *, plan: Path | None = None) -> None:
        self.file = settings_file(plan)
        self.settings = read_settings(self.file) if self.file is not None else Settings()
        self.left_out: dict[str, PlanloomError] = {}
        self._call = call
        declare_secrets(self.settings)
        if "logging" in self.settings.model_fields_set:
            configure(format=self.settings.logging.format, level=self.settings.logging.level)

    @property
    def journal(self) -> Path | str:
        """Return where runs are recorded: a file, or the address of a database."""
        if self._call.journal is not None:
            return self._call.journal
        return self.settings.journal if is_address(self.settings.journal) else Path(self.settings.journal)

    @property
    def has_journal(self) -> bool:
        """Return False where there is no file to read yet; of a database, it says so itself."""
        return not isinstance(self.journal, Path) or self.journal.is_file()

    def existing_journal(self, run_id: str = "") -> SqliteJournal | PostgresJournal:
        """Return the journal; reading one never makes one.

        Raises:
            RunNotFoundError: There is no such file, or the database is no journal.
            ConfigError: Its key is not where the settings say, or as `open_database`.
        """
        place = self.journal
        if isinstance(place, str):
            return open_database(place, key=self.settings.journal_key(), make=False)
        if not place.is_file():
            raise RunNotFoundError(
                f"there is no run {run_id!r}: {place} does not exist",
                remedy="go to the folder where it was started, or give --journal PATH",
            )
        return SqliteJournal(place, key=self.settings.journal_key())

    @property
    def tool_sources(self) -> list[str]:
        """Return the modules and files with tools: those of the command line, else those of the settings file."""
        if self._call.tools or self.file is None:
            return list(self._call.tools)
        folder = self.file.parent
        return [str(folder / name) if name.endswith(".py") else name for name in self.settings.tools]

    def tools(self) -> ToolRegistry:
        """Return the tools there are.

        Raises:
            ConfigError: A module or file that cannot be loaded, or two tools of one name.
        """
        from_file = not self._call.tools and self.file is not None
        folder = str(self.file.parent) if from_file and self.file is not None else str(Path.cwd())
        if folder not in sys.path:
            sys.path.insert(0, folder)  # a module in the project's folder is found, as with `python -m`
        registry = ToolRegistry()
        for source in self.tool_sources:
            for one in _loaded(source):
                registry.add(one)
        return registry

    def mcp_servers(self) -> list[McpServer]:
        """Return the MCP servers of the settings; none is started by that."""
        folder = self.file.parent if self.file is not None else None
        return [
            McpServer(name, folder=folder, **terms.model_dump(exclude_unset=True))
            for name, terms in self.settings.mcp.items()
        ]

    async def all_tools(self, tell: Callable[[str], None]) -> ToolRegistry:
        """Return `tools` and those of the MCP servers, which it starts; whoever runs the engine ends them with it.

        A server that cannot be used, or offers what nobody approved, is told of and left out: only plans that need its
        tools cannot run (`needing_servers`).
        """
        registry, servers = self.tools(), self.mcp_servers()
        found = await asyncio.gather(*(server.load() for server in servers), return_exceptions=True)
        for server, tools in zip(servers, found, strict=True):
            try:
                if isinstance(tools, BaseException):
                    raise tools
                registry = ToolRegistry([*registry.tools(), *tools])  # all of them, or none
            except PlanloomError as error:
                self.left_out[server.name] = error
                tell(f"warning: {printable(error.message)}")
                await server.aclose()
            except BaseException:
                await asyncio.gather(*(server.aclose() for server in servers))
                raise
        return registry

    async def known_tools(self, tell: Callable[[str], None]) -> ToolRegistry:
        """Return `all_tools`, for whoever only looks at them: no server stays up."""
        registry = await self.all_tools(tell)
        await registry.aclose()
        return registry

    @property
    def settings_here(self) -> Settings:
        """Return the settings without what they say of tools of servers that are left out."""
        kept = self.settings
        allow = None if kept.allow is None else tuple(name for name in kept.allow if self._server_of(name) is None)
        breakers = {name: one for name, one in kept.breakers.items() if self._server_of(name) is None}
        rates = {name: one for name, one in kept.tool_rates.items() if self._server_of(name) is None}
        return kept.model_copy(update={"allow": allow, "breakers": breakers, "tool_rates": rates})

    @contextmanager
    def needing_servers(self) -> Iterator[None]:
        """Say of a plan that needs a tool of a server that is left out why that is, and not that there is no tool."""
        try:
            yield
        except PlanError as error:
            for problem in error.problems:
                if isinstance(problem, UnknownToolError):
                    reason = self._server_of(str(problem.facts.get("tool")))
                    if reason is not None:
                        raise reason from error
            raise

    def _server_of(self, tool: str) -> PlanloomError | None:
        """Return why the server of a tool is left out; None if it is not."""
        for prefix in NAMESPACES:
            tool = tool.removeprefix(prefix)
        return self.left_out.get(tool.partition(".")[0])

    def hints(self, *, tools: bool = False) -> str:
        """Return the options with which a later command finds the same journal, and tools, ready to be printed."""
        here = settings_file()
        options: list[str] = []
        plain = (read_settings(here) if here is not None else Settings()).journal
        found = os.environ.get("PLANLOOM_JOURNAL", plain)
        if self.journal != (found if is_address(found) else Path(found)):
            options += ["--journal", str(self.journal)]
        if tools and (self._call.tools or self.file != here):
            for source in self.tool_sources:
                options += ["--tools", source]
        return "".join(f" {shlex.quote(option)}" for option in options)


def _loaded(source: str) -> ToolRegistry:
    try:
        return load_tools(source)
    except PlanloomError:
        raise
    except (Exception, SystemExit) as error:  # somebody else's module: importing it may raise anything
        raise ConfigError(
            f"loading tools from {source!r} failed: {type(error).__name__}: {error}",
            remedy="import it in Python to see where, or use --debug",
        ) from error
