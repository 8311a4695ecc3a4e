"""McpServer: the tools of an MCP server, as tools like any other, each named `SERVER.TOOL`.

Rule 1: a server is an untrusted party. What it lists counts once a person approved it (`planloom mcp trust`), and is
    held against that again each time it is connected; its tools have effects that happen `once` unless the operator
    says otherwise.
Rule 2: sessions open when first used, one for each event loop, and end when whoever used them is done.
Rule 3: a call is never made again here: whether it may be is the engine's to say, by the tool's effects.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planloom.errors import ConfigError, NotDoneError, suggestion
from planloom.plan.policy import Effects
from planloom.tools.mcp_listing import ListedTool, changes, check_names, refuse_changes
from planloom.tools.mcp_pins import PINS_FILE, read_pins, write_pins
from planloom.tools.mcp_results import check_is_structured, output_of_answer
from planloom.tools.mcp_session import McpSession
from planloom.tools.mcp_terms import ANY_TOOL, McpTerms, terms_of
from planloom.tools.tool import Tool

if TYPE_CHECKING:
    from planloom.tools.context import ToolContext
    from planloom.tools.mcp_listing import Change

_CONTEXT = "planloom:context"
"""Keyword that takes the attempt's context: no JSON Schema of an MCP tool names a parameter so."""


@dataclass(slots=True)
class _Here:
    """What one event loop has of a server."""

    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    session: McpSession | None = None


class McpServer:
    """One MCP server, and the tools that are taken of it.

    In `async with` it is held: its session then outlives the engines that use it.

    Args:
        name: First part of the names of its tools.
        pins: File that holds what is approved, relative to `folder`; None: `planloom.mcp.lock`.
        folder: Folder that relative paths are relative to; None: the current one.
        terms: The fields of `McpTerms`: `command` and `args`, or `url`, and what may be used.

    Raises:
        ConfigError: The terms are wrong.
    """

    def __init__(
        self, name: str, *, pins: Path | str | None = None, folder: Path | str | None = None, **terms: Any
    ) -> None:
        self.terms: McpTerms = terms_of(name, terms)
        self.name = name
        self._folder = Path(folder) if folder is not None else Path.cwd()
        self._pins = self._folder / (pins if pins is not None else PINS_FILE)
        self._here: dict[asyncio.AbstractEventLoop, _Here] = {}
        self._taken: dict[str, ListedTool] = {}
        """What the tools that are in use were made of, by the server's name."""
        self._holders = 0

    def __repr__(self) -> str:
        return f"McpServer({self.name!r}, {self.terms.place})"

    async def __aenter__(self) -> McpServer:
        self._holders += 1
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._holders -= 1
        await self.aclose()

    # --- what it offers ---

    async def load(self, *, trust_first: bool = False) -> list[Tool]:
        """Connect, and return the server's tools.

        Args:
            trust_first: Whether what it lists is approved, and put on record, where nothing of it was before.

        Raises:
            McpTrustError: It offers something that nobody approved; says what.
            ConfigError: It cannot be used.
            MissingKeyError: A variable that it is to be given is not set.
        """
        session = await self._session(is_new=True)
        listed = self._offered(await session.tools())
        if trust_first and self.name not in read_pins(self._pins):
            self.approve(listed)
        refuse_changes(self.name, changes(self._approved(), listed))
        self._taken = {tool.name: tool for tool in listed}
        return [self._tool(tool) for tool in listed]

    async def look(self) -> tuple[list[ListedTool], list[Change]]:
        """Return what the server offers now, and how that differs from what is approved."""
        session = await self._session(is_new=True)
        listed = self._offered(await session.tools())
        return listed, changes(self._approved(), listed)

    async def trust(self) -> list[Change]:
        """Approve what the server offers now, put it on record, and return what that changes."""
        listed, found = await self.look()
        self.approve(listed)
        return found

    def _approved(self) -> dict[str, Any]:
        return read_pins(self._pins).get(self.name, {})

    def approve(self, listed: list[ListedTool]) -> None:
        """Put on record that these tools, as `look` returned them, are approved, and no others of the server."""
        write_pins(self._pins, self.name, {tool.name: tool.pin for tool in listed})

    def _offered(self, listed: list[ListedTool]) -> list[ListedTool]:
        """Return those that the operator takes.

        Raises:
            ConfigError: The operator names a tool that the server does not list, or one has a name that cannot be.
        """
        names = [tool.name for tool in listed]
        said = [] if isinstance(self.terms.effects, Effects) else [one for one in self.terms.effects if one != ANY_TOOL]
        for where, wanted in (("allow", self.terms.allow or ()), ("effects", said), ("tools", self.terms.tools)):
            for name in wanted:
                if name not in names:
                    raise ConfigError(
                        f"`{where}` of MCP server {self.name!r} names {name!r}, and it has no such tool",
                        remedy=suggestion(name, names, otherwise="it has none at all"),
                    )
        taken = [tool for tool in listed if self.terms.allow is None or tool.name in self.terms.allow]
        check_names(self.name, taken)
        return taken

    def _tool(self, listed: ListedTool) -> Tool:
        async def call(**arguments: Any) -> Any:
            return await self._call(listed, arguments)

        made = Tool.from_schema(
            f"{self.name}.{listed.name}",
            call,
            listed.input_schema,
            description=listed.description,
            output_schema=listed.output_schema,
            effects=self.effects_of(listed),
            timeout_seconds=self.terms.timeout_s,
            type="mcp",
            **self.terms.labels_of(listed.name),
        )
        return replace(made, context_parameter=_CONTEXT, backing=self)

    def effects_of(self, listed: ListedTool) -> Effects:
        """Return what calling this tool again would do, as far as the operator says or lets the server say it."""
        said = self.terms.effects_of(listed.name)
        if said is not None:
            return said
        return listed.hinted_effects if self.terms.trust_annotations else Effects.ONCE

    # --- calls ---

    async def _call(self, listed: ListedTool, arguments: dict[str, Any]) -> Any:
        context: ToolContext | None = arguments.pop(_CONTEXT, None)
        name = f"{self.name}.{listed.name}"
        session = await self._ready(listed)
        key = context.idempotency_key if context is not None else ""
        answer, is_structured = await session.call(listed, arguments, key=key)
        output = output_of_answer(name, answer, is_structured=is_structured)
        if listed.output_schema is not None:
            check_is_structured(name, is_structured=is_structured)
        return output

    async def _ready(self, listed: ListedTool) -> McpSession:
        """Return a session with a server that still offers this tool as it was taken.

        Raises:
            NotDoneError: There is none to be had now; nothing was sent.
            McpTrustError: The server offers something else by now.
        """
        try:
            session = await self._session()
            if session.is_stale:
                await self._held_against(session)
        except ConfigError as error:
            if type(error) is not ConfigError:  # a missing key, or what nobody approved: trying again mends neither
                raise
            raise NotDoneError(error.message, remedy=error.remedy) from error
        return session

    async def _session(self, *, is_new: bool = False) -> McpSession:
        """Return the loop's session, a new one where there is none that can be used.

        Args:
            is_new: Whether what it lists is yet to be looked at, by whoever asks.
        """
        here = self._at_this_loop()
        session = here.session
        if session is not None and session.is_alive:
            return session
        async with here.opening:
            if here.session is not None and here.session.is_alive:  # another call opened it meanwhile
                return here.session
            if here.session is not None:
                await here.session.close()
            here.session = session = McpSession(self.name, self.terms, self._folder)
            await session.open()
            if not is_new:
                await self._held_against(session)
            return session

    async def _held_against(self, session: McpSession) -> None:
        """Refuse a server that no longer offers what its tools were made of.

        Raises:
            McpTrustError: It does not; the session is ended.
        """
        try:
            taken = {name: tool.pin for name, tool in self._taken.items()}
            refuse_changes(self.name, [one for one in changes(taken, await session.tools()) if one.what != "new"])
        except BaseException:
            session.is_stale = True  # whoever asks next is told the same
            session.end_when_idle()
            raise

    def _at_this_loop(self) -> _Here:
        for loop in [loop for loop in self._here if loop.is_closed()]:
            self._here.pop(loop, None)
        return self._here.setdefault(asyncio.get_running_loop(), _Here())

    # --- done ---

    async def let_go(self) -> None:
        """End this loop's session, unless somebody holds the server or has calls under way: then with the last of them.

        The next call opens another.
        """
        here = self._here.get(asyncio.get_running_loop())
        if here is None or here.session is None or self._holders:
            return
        here.session.end_when_idle()
        if not here.session.calls:
            await here.session.close()

    async def aclose(self) -> None:
        """End this loop's session and wait until its program is gone; calls under way get no answer."""
        here = self._here.pop(asyncio.get_running_loop(), None)
        if here is not None and here.session is not None:
            await here.session.close()
