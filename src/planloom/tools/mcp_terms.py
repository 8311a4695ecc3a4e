"""What an operator says of one MCP server: where it is, what may be used of it, what its tools do.

Rule 1: a secret is named, never written: `env`, `token_env` and `headers_env` hold names of environment variables.
Rule 2: what a server says of itself decides nothing unless the operator says `trust_annotations`.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from planloom import masking
from planloom.errors import ConfigError, MissingKeyError, UnknownFieldError, field_problems, suggestion
from planloom.plan.flow import Labels
from planloom.plan.policy import Effects
from planloom.tools.labels import FLOW_OPTIONS, SourceLabels
from planloom.tools.names import NAMESPACES

ANY_TOOL = "*"
"""In `effects`: all tools that are not named."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SERVER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_SHORTEST_SECRET = 6
"""Characters. Striking out shorter ones would strike out words that only look like them."""


class McpLabels(BaseModel):
    """What passes through an MCP server's tools, as its operator says; see `tools.tool.Tool` for each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: SourceLabels = ()
    secret: bool = False
    sink: bool | None = None
    accepts: Labels = ()
    cleans: Labels = ()
    needs_approval: bool = False


class McpTerms(McpLabels):
    """One MCP server, as an operator describes it.

    Raises:
        ValidationError: Neither or both of `command` and `url`, or what does not go with the one given.
    """

    command: str | None = None
    """Program to start and talk to over its stdin and stdout. Or `url`."""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    """Variables that the program gets besides PATH, HOME and their like: its name for each, and ours. A list of names
    gives each under its own name."""
    cwd: str | None = None
    """Folder to start it in, relative to that of the settings file; None: that folder."""
    log: str | None = None
    """File, relative to the settings file's folder, that takes the program's stderr; None: that is dropped."""
    url: str | None = None
    """Address of a server that speaks streamable HTTP. Or `command`."""
    token_env: str | None = None
    """Variable that holds the server's bearer token."""
    headers_env: dict[str, str] = {}
    """Headers to send, each with the variable that holds its value."""
    allow: tuple[str, ...] | None = None
    """The server's own names of the tools that are taken; None: all."""
    effects: Effects | dict[str, Effects] = Effects.ONCE
    """What calling its tools again would do: for all of them, or by the server's own name of each, `*` for the rest."""
    tools: dict[str, McpLabels] = {}
    """What passes through single tools, by the server's own name: in place of what is said of all of them."""
    trust_annotations: bool = False
    """Whether the server is believed when it says that a tool only reads, or may be called again."""
    timeout_s: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] = 60.0
    """Seconds that a call may take."""
    start_timeout_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = 30.0
    """Seconds that starting the server and asking for its tools may take."""

    @field_validator("env", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return {name: name for name in value} if isinstance(value, list | tuple) else value

    @field_validator("env", "headers_env")
    @classmethod
    def _are_variables(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value.values():
            _check_variable(name)
        return value

    @field_validator("token_env")
    @classmethod
    def _is_variable(cls, value: str | None) -> str | None:
        if value is not None:
            _check_variable(value)
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> McpTerms:
        if (self.command is None) == (self.url is None):
            raise ValueError("give either `command` or `url`")
        if self.url is None:
            wrong: tuple[str, ...] = ("token_env", "headers_env")
        else:
            wrong = ("args", "env", "cwd", "log")
            self._check_url(self.url)
        for name in wrong:
            if getattr(self, name):
                raise ValueError(f"`{name}` does not go with `{'url' if self.url is not None else 'command'}`")
        return self

    def _check_url(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("`url` is no http:// or https:// address")
        if parts.username is not None or parts.password is not None:
            raise ValueError("`url` holds a password: name the variable that holds it in `token_env`")
        if (self.token_env or self.headers_env) and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise ValueError("`url` is http://, and secrets would be sent in the clear: use https://")

    @property
    def place(self) -> str:
        """Return where the server is, for people; a query, which may hold a key, is left out."""
        if self.url is None:
            return repr(self.command)
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"

    def effects_of(self, tool: str) -> Effects | None:
        """Return what the operator says of one tool; None where nothing is said of it."""
        if isinstance(self.effects, Effects):
            return self.effects if "effects" in self.model_fields_set else None
        return self.effects.get(tool, self.effects.get(ANY_TOOL))

    def labels_of(self, tool: str) -> dict[str, Any]:
        """Return what passes through one tool, as `Tool.from_schema` takes it."""
        said = {name: getattr(self, name) for name in FLOW_OPTIONS}
        own = self.tools.get(tool)
        return said if own is None else said | {name: getattr(own, name) for name in own.model_fields_set}


def terms_of(name: str, given: dict[str, Any]) -> McpTerms:
    """Return the terms of the server `name`.

    Raises:
        ConfigError: They are wrong, or a server cannot be called that.
    """
    check_server_name(name)
    unknown = next((one for one in given if one not in McpTerms.model_fields), None)
    if unknown is not None:
        raise UnknownFieldError(f"an MCP server has no {unknown!r}", remedy=suggestion(unknown, McpTerms.model_fields))
    try:
        return McpTerms.model_validate(given)
    except ValidationError as error:
        told = "; ".join(field_problems(error))
        raise ConfigError(f"MCP server {name!r}: {told}", remedy="see docs/guides/mcp.md") from None


def check_server_name(name: str) -> None:
    """Refuse what cannot be the first part of a tool's name.

    Raises:
        ConfigError: Wrong characters, or a prefix that models put before any name.
    """
    if not _SERVER.fullmatch(name) or f"{name}." in NAMESPACES:
        raise ConfigError(
            f"an MCP server cannot be called {name!r}",
            remedy="use letters, digits, _ and -, at most 64, and neither 'functions' nor 'tools'",
        )


def _check_variable(name: str) -> None:
    if not _VARIABLE.fullmatch(name):  # the text is not shown: somebody may have written the secret itself
        raise ValueError("it holds something that is no name of an environment variable: name one, never its value")


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """The values of a server's variables, for nobody to see, in each of their usual spellings."""

    values: tuple[str, ...]

    def strike(self, text: str) -> str:
        """Return the text without them."""
        for value in self.values:
            text = text.replace(value, "[secret]")
        return text

    def strike_all(self, value: Any) -> Any:
        """Return a JSON value without them."""
        if not self.values:
            return value
        if isinstance(value, str):
            return self.strike(value)
        if isinstance(value, list):
            return [self.strike_all(one) for one in value]
        if isinstance(value, dict):
            return {self.strike(key): self.strike_all(one) for key, one in value.items()}
        return value


def environment_of(name: str, terms: McpTerms) -> tuple[dict[str, str], dict[str, str], Secrets]:
    """Return the variables and the headers that a server gets, and what of them is secret.

    Raises:
        MissingKeyError: A variable is not set.
    """
    variables = {theirs: _value(name, ours) for theirs, ours in terms.env.items()}
    headers = {header: _value(name, ours) for header, ours in terms.headers_env.items()}
    values = [*variables.values(), *headers.values()]
    if terms.token_env is not None:
        token = _value(name, terms.token_env)
        headers["Authorization"] = f"Bearer {token}"
        values.append(token)
    secret = {ours: variables[theirs] for theirs, ours in terms.env.items() if masking.looks_secret(ours)}
    secret |= {ours: headers[header] for header, ours in terms.headers_env.items()}
    masking.declare(secret | ({} if terms.token_env is None else {terms.token_env: values[-1]}))
    known = [one for one in values if len(one) >= _SHORTEST_SECRET]
    spelt = {form for one in known for form in (one, json.dumps(one)[1:-1], json.dumps(one, ensure_ascii=False)[1:-1])}
    longest_first = sorted(spelt | {quote(one, safe="") for one in known}, key=len, reverse=True)
    return variables, headers, Secrets(tuple(longest_first))


def _value(server: str, variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        raise MissingKeyError(
            f"MCP server {server!r} is to be given {variable}, and that is not set", remedy=f"export {variable}=…"
        )
    return value
