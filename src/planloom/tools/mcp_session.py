"""One connection to an MCP server: held by one task of its own, from its opening to its end; any task may call.

Rule 1: the `mcp` package, and `mcp_stdio.py` and `mcp_http.py`, which need it, are imported only once a server is used.
Rule 2: a call that was sent and not answered is a `NoAnswerError`; one that was surely not sent is a `NotDoneError`.
Rule 3: the task that holds a program ends it, however the task itself ends: no child outlives its loop.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planloom.errors import ArgumentsError, ConfigError, McpToolError, NoAnswerError, NotDoneError
from planloom.tools.mcp_listing import MAX_TOOLS, ListedTool, check_listing
from planloom.tools.mcp_terms import environment_of
from planloom.tools.mcp_wire import unlogged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mcp import Client

    from planloom.tools.mcp_terms import McpTerms, Secrets

CLOSE_S = 10.0
"""Seconds in which a server that is let go has to be gone; it is asked, then told, then killed."""
_TERMINATED = "Session terminated"
"""What the transport says for a 404: the server knows no such session, so nothing was done."""


class McpSession:
    """A connection.

    Attributes:
        is_stale: True once the server said that its tools changed.
        calls: Calls under way.
        ends_when_idle: True when it is to end with the last call under way.
    """

    def __init__(self, server: str, terms: McpTerms, folder: Path) -> None:
        self._server = server
        self._terms = terms
        self._folder = folder
        self._secrets: Secrets
        self._variables, self._headers, self._secrets = environment_of(server, terms)
        self._client: Client | None = None
        self._opened = asyncio.Event()
        self._ending = asyncio.Event()
        self._failure: BaseException | None = None
        self._broken = ""
        """What the server did that it was ended for."""
        self._task: asyncio.Task[None] | None = None
        self.is_stale = False
        self.calls = 0
        self.ends_when_idle = False

    @property
    def is_alive(self) -> bool:
        """Return True while calls can be sent."""
        return self._client is not None and not self._ending.is_set()

    def _break(self, why: str) -> None:
        self._broken = self._broken or why
        self._ending.set()

    async def open(self) -> None:
        """Start the server, or reach it.

        Raises:
            ConfigError: The package is not installed, or the server did not come up in `start_timeout_s`.
        """
        self._task = asyncio.get_running_loop().create_task(self._hold(), name=f"mcp {self._server}")
        try:
            async with asyncio.timeout(self._terms.start_timeout_s):
                await self._opened.wait()
        except TimeoutError:
            await self.close()
            raise self._not_here(f"it did not answer in {self._terms.start_timeout_s:g} s") from None
        except asyncio.CancelledError:
            await self.close()
            raise
        if self._failure is not None or not self.is_alive:
            await self.close()
            if isinstance(self._failure, ConfigError):
                raise self._failure
            raise self._not_here(self._why(self._failure)) from None

    def _not_here(self, why: str) -> ConfigError:
        terms = self._terms
        if terms.url is not None:
            remedy = "is it up, and does it speak streamable HTTP under that address?"
        else:
            remedy = "run it by hand to see what it says" + ("" if terms.log else ", or give it a `log` file")
        return ConfigError(f"MCP server {self._server!r} ({terms.place}) cannot be used: {why}", remedy=remedy)

    def _why(self, error: BaseException | None) -> str:
        """Return the first cause, without secrets: task groups wrap what went wrong, one in another."""
        if self._broken or error is None:
            return self._broken or "it was gone at once"
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, FileNotFoundError):
            return "there is no such program"
        return self._secrets.strike(f"{type(error).__name__}: {error}")[:500]

    # --- held open ---

    async def _hold(self) -> None:
        try:
            with unlogged():
                async with self._made() as self._client:
                    self._opened.set()
                    await self._ending.wait()
        except Exception as error:  # noqa: BLE001 - a transport raises what it likes; whoever opens or calls is told
            self._failure = error
        finally:
            self._ending.set()
            self._client = None
            self._opened.set()

    def _made(self) -> Client:
        try:
            import mcp_types
            from mcp import Client
        except ImportError as error:
            raise ConfigError("MCP needs the package mcp", remedy="pip install 'planloom[mcp]'") from error

        async def heard(message: Any) -> None:
            if isinstance(message, mcp_types.ToolListChangedNotification):
                self.is_stale = True

        transport = _watched(self._transport(), self._ending.set)
        return Client(transport, message_handler=heard, cache=None)

    def _transport(self) -> AbstractAsyncContextManager[tuple[Any, Any]]:
        if self._terms.url is not None:
            from planloom.tools.mcp_http import over_http

            return over_http(self._terms.url, self._headers)
        from mcp.client.stdio import StdioServerParameters, get_default_environment, stdio_client

        folder = self._folder / self._terms.cwd if self._terms.cwd else self._folder
        if sys.platform == "win32":  # no process groups, and no measure of its messages
            asked = StdioServerParameters(
                command=self._program(folder), args=list(self._terms.args), env=self._variables, cwd=folder
            )
            return stdio_client(asked)
        from planloom.tools.mcp_stdio import ServerProgram, over_stdio

        program = ServerProgram(
            command=self._program(folder),
            args=self._terms.args,
            environment=get_default_environment() | self._variables,
            folder=folder,
            log=None if self._terms.log is None else self._folder / self._terms.log,
            strike=self._secrets.strike,
            breaks=self._break,
        )
        return over_stdio(program)

    def _program(self, folder: Path) -> str:
        """Return the program; a path like ./server.py is relative to the folder it starts in."""
        command = self._terms.command or ""
        return str(folder / command) if os.sep in command else command

    async def close(self) -> None:
        """End it, and wait until a program that was started is gone."""
        self._ending.set()
        task = self._task
        if task is None or task is asyncio.current_task():
            return
        if not self._opened.is_set():  # it hangs where it is started
            task.cancel()
        await asyncio.wait([task], timeout=CLOSE_S)
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=CLOSE_S)

    def end_when_idle(self) -> None:
        """End it once no call is under way."""
        self.ends_when_idle = True
        if not self.calls:
            self._ending.set()

    # --- used ---

    async def tools(self) -> list[ListedTool]:
        """Return what the server lists.

        Raises:
            ConfigError: It does not list its tools, or not as it should.
        """
        self.is_stale = False
        try:
            with unlogged():
                async with asyncio.timeout(self._terms.start_timeout_s):
                    found = await self._all_pages()
        except TimeoutError:
            raise self._not_here(f"it did not list its tools in {self._terms.start_timeout_s:g} s") from None
        except _foreign_errors() as error:
            raise self._not_here(f"it does not list its tools: {self._why(error)}") from None
        check_listing(self._server, found)
        return found

    async def _all_pages(self) -> list[ListedTool]:
        found: list[ListedTool] = []
        cursor: str | None = None
        while True:
            page = await self._asked().list_tools(cursor=cursor)
            found += [self._listed(tool) for tool in page.tools]
            cursor = page.next_cursor
            if cursor is None or len(found) > MAX_TOOLS:
                return found

    def _listed(self, tool: Any) -> ListedTool:
        """Return what is listed of a tool, without secrets: it is shown, pinned and told to models."""
        hints = tool.annotations
        return ListedTool(
            tool.name,
            self._secrets.strike(tool.description or ""),
            self._secrets.strike_all(tool.input_schema),
            self._secrets.strike_all(tool.output_schema),
            reads_only=bool(hints and hints.read_only_hint),
            may_repeat=bool(hints and hints.idempotent_hint),
        )

    def _asked(self) -> Client:
        if self._client is None or self._ending.is_set():
            raise NotDoneError(f"MCP server {self._server!r} is gone", remedy="the next attempt starts it again")
        return self._client

    async def call(self, tool: ListedTool, arguments: dict[str, Any], *, key: str) -> tuple[dict[str, Any], bool]:
        """Return what the server answers, as on the wire, and whether it gave structured content.

        Args:
            key: The same for every attempt of one call; handed on as `_meta`.

        Raises:
            NotDoneError: The call was not sent.
            NoAnswerError: It was sent, and the connection ended before an answer came.
            ArgumentsError: The server does not take the arguments.
            McpToolError: It answers with an error of the protocol, or not as it should.
        """
        import mcp_types

        client = self._asked()
        params = mcp_types.CallToolRequestParams(
            name=tool.name, arguments=arguments, _meta={"planloom/idempotency_key": key} if key else None
        )
        self.calls += 1
        try:
            with unlogged():
                # Not `client.call_tool`: it holds the answer against a foreign schema with whatever patterns that has.
                answer = await client.session.send_request(
                    mcp_types.CallToolRequest(params=params), mcp_types.CallToolResult
                )
        except _foreign_errors() as error:
            raise self._call_error(tool, error) from None
        finally:
            self.calls -= 1
            if self.ends_when_idle and not self.calls:
                self._ending.set()
        told = self._secrets.strike_all(answer.model_dump(by_alias=True, mode="json"))
        return told, "structured_content" in answer.model_fields_set

    def _call_error(self, tool: ListedTool, error: Exception) -> Exception:
        name = f"{self._server}.{tool.name}"
        why, code = self._why(error), getattr(error, "code", None)
        if code == _code("INVALID_REQUEST") and str(error) == _TERMINATED:
            self._ending.set()
            return NotDoneError(f"MCP server {self._server!r} was started anew", remedy="the next attempt finds it")
        # A program may answer with the same number, and is there then.
        if code == _code("CONNECTION_CLOSED") and (self._ending.is_set() or self._terms.url is not None):
            was = f"was ended, because {self._broken}," if self._broken else "was gone"
            return NoAnswerError(
                f"MCP server {self._server!r} {was} before it answered the call of {name!r}",
                remedy="nobody knows whether it was done: look at what the tool should have changed",
                tool=name,
            )
        if code == _code("INVALID_PARAMS"):
            return ArgumentsError(f"tool {name!r} does not take its arguments: {why}", remedy="mend them", tool=name)
        return McpToolError(f"tool {name!r} gave no answer that can be used: {why}", tool=name)


def _foreign_errors() -> tuple[type[Exception], ...]:
    """Return what a session raises: errors of the protocol, and answers that are not what they should be."""
    from mcp import MCPError

    return MCPError, ValueError, RuntimeError  # pydantic's ValidationError is a ValueError


def _code(name: str) -> int:
    import mcp_types

    code: int = getattr(mcp_types, name)
    return code


@asynccontextmanager
async def _watched(
    transport: AbstractAsyncContextManager[tuple[Any, Any]], at_end: Callable[[], None]
) -> AsyncIterator[tuple[Any, Any]]:
    """Do as a transport does, and say at once when the server is gone, be there a call under way or not."""
    async with transport as (read, write):
        yield _Watched(read, at_end), write


class _Watched:
    """A transport's read stream."""

    def __init__(self, stream: Any, at_end: Callable[[], None]) -> None:
        self._stream = stream
        self._at_end = at_end

    @property
    def last_context(self) -> Any:
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:
        return await self._stream.receive()

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except BaseException:
            self._at_end()
            raise

    async def aclose(self) -> None:
        with suppress(RuntimeError):
            await self._stream.aclose()

    async def __aenter__(self) -> _Watched:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> Any:
        return await self._stream.__aexit__(*exception)
