"""What an operator sets: engine settings, and the `planloom.toml` of a project folder.

Rule 1: settings say where tools come from; a plan never does.
Rule 2: an unknown key is an error that lists the keys there are.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from planloom.errors import ConfigError, field_problems
from planloom.plan.flow import FlowPolicy
from planloom.tools.mcp_terms import McpTerms, check_server_name
from planloom.tools.sparing import BreakerPolicy

FILE_NAME = "planloom.toml"
DEFAULT_JOURNAL = ".planloom/runs.db"
_KEY_REMEDY = "put one there, made with `openssl rand -hex 32`, or say in `journal_key_env` or `_file` where it is"


class PriceSetting(BaseModel):
    """What a model costs, in US dollars per million tokens; comes before every price list."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    output: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    cache_read: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    cache_write: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class RateSetting(BaseModel):
    """How much a provider takes in a minute; calls beyond that wait."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_minute: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    tokens_per_minute: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class AgentSetting(BaseModel):
    """A reasoning agent that plans may name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "default"
    """Name of a model of these settings, or an address."""
    tools: tuple[str, ...] | None = None
    """Names of tools, `family.*` for a family; None: those a step names."""
    system: str | None = None
    """Told to its model before everything else."""
    description: str = ""
    """For people, and for models that plan."""
    max_iterations: Annotated[int, Field(ge=1)] = 10
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    output: dict[str, Any] | None = None
    """JSON Schema of its result; None: text."""


class LogSetting(BaseModel):
    """How planloom's own commands log, to stderr."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["text", "json"] = "text"
    """A line of text each, or a JSON object."""
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"


class Settings(BaseModel):
    """Settings of an engine; every one has a default that works on one machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tools: tuple[str, ...] = ()
    """Python files, relative to the settings file, or modules, whose tools plans may use."""
    allow: tuple[str, ...] | None = None
    """Names of the tools that plans may use, `family.*` for a family; None: all there are."""
    journal: str = DEFAULT_JOURNAL
    """SQLite file of the record, relative to the folder the command runs in; or `postgresql://user@host/database`."""
    journal_key_env: str | None = None
    """Name of the variable that holds the key of the record: with it, a forged record shows. Never the key itself."""
    journal_key_file: str | None = None
    """File with that key, relative to the settings file; white space around it does not count."""
    max_threads: Annotated[int, Field(ge=1, le=1000)] = 32
    """Sync tools that may run at the same time."""
    breakers: dict[str, BreakerPolicy] = {}
    """By a tool's name, or `family.*`: when it is left alone because it keeps failing; else what the tool says."""
    tool_rates: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    """By a tool's name, or `family.*`: calls that may begin in a second; else what the tool says."""
    cache_size: Annotated[int, Field(ge=0)] = 1_000
    """Results of steps with `cache` that are kept for reuse."""
    default_model: str | None = None
    """Model URI of steps that say `model: default`, of agents, and of planning."""
    models: dict[str, str] = {}
    """Names that plans may use for models, each with its URI."""
    secrets: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], ...] = ()
    """Variables whose values, of at least 8 characters, are struck out of all that is recorded, logged or told."""
    logging: LogSetting = LogSetting()
    """How commands log."""
    prices: dict[str, PriceSetting] = {}
    """By a model's name here, its URI, or its name at the provider."""
    rates: dict[str, RateSetting] = {}
    """By a model's name here, its URI, or its name at the provider."""
    max_answer_tokens: Annotated[int, Field(ge=1)] = 4096
    """Most tokens of a model's answer where the step says nothing."""
    model_timeout_s: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] = 300.0
    """Seconds to wait for one answer of a model."""
    agents: dict[str, AgentSetting] = {}
    """Agents that plans may name; one called "default" does the `task` steps."""
    flow: FlowPolicy = FlowPolicy()
    """What is done about what others wrote, and about secrets, on their way to tools and models."""
    mcp: dict[str, McpTerms] = {}
    """MCP servers whose tools plans may use, by the first part of their tools' names."""
    server: dict[str, Any] = {}
    """What `planloom serve` goes by: host, port, tokens, limits, folders of plans; see the guide to the server."""
    cluster: dict[str, Any] = {}
    """What agents, workers and submitters of a cluster go by: the broker, leases, modules; see docs/cluster.md."""

    @model_validator(mode="after")
    def _one_key(self) -> Settings:
        if self.journal_key_env is not None and self.journal_key_file is not None:
            raise ValueError("journal_key_env and journal_key_file both name the key: take one out")
        return self

    def journal_key(self) -> bytes | None:
        """Return the key of the record; None where the settings name none.

        Raises:
            ConfigError: It is not where they say.
        """
        if self.journal_key_env is not None:
            where = f"the variable {self.journal_key_env}"
            key = os.environ.get(self.journal_key_env, "").encode(errors="surrogateescape")
        elif self.journal_key_file is not None:
            where = f"the file {self.journal_key_file}"
            try:
                key = Path(self.journal_key_file).read_bytes()
            except OSError as error:
                raise ConfigError(
                    f"the journal's key cannot be read from {where}: {error.strerror}", remedy=_KEY_REMEDY
                ) from None
        else:
            return None
        if not key.strip():
            raise ConfigError(f"there is no key for the journal in {where}", remedy=_KEY_REMEDY)
        return key.strip()

    @field_validator("mcp")
    @classmethod
    def _server_names(cls, value: dict[str, McpTerms]) -> dict[str, McpTerms]:
        for name in value:
            try:
                check_server_name(name)
            except ConfigError as error:
                raise ValueError(f"{error.message}; {error.remedy}") from None
        return value


def find_settings(start: Path) -> Path | None:
    """Return the nearest `planloom.toml` in this folder or one above it, or None."""
    for folder in (start, *start.parents):
        candidate = folder / FILE_NAME
        if candidate.is_file():
            return candidate
    return None


def read_settings(path: Path) -> Settings:
    """Return the settings of a file.

    Raises:
        ConfigError: Not TOML, or a key or value that is wrong.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        return _beside(path, Settings.model_validate(document))
    except ValidationError as error:
        told = "; ".join(field_problems(error))
        raise ConfigError(f"{path}: {told}", remedy=f"the keys are {', '.join(Settings.model_fields)}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", remedy="mend the file, or take it away") from error


def _beside(path: Path, settings: Settings) -> Settings:
    """Return the settings with the files that they name found from their own."""
    if settings.journal_key_file is None:
        return settings
    return settings.model_copy(update={"journal_key_file": str(path.parent / settings.journal_key_file)})
