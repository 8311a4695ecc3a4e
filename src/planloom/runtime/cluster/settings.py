"""What an operator sets for a cluster: `[cluster]` of planloom.toml.

Rule 1: a module is a capability: its workers make attempts with its tools and of its kinds, and no others.
Rule 2: every attempt of a plan is one module's, and only one's: what none covers, or two do, is refused before it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from planloom.errors import ConfigError, field_problems

if TYPE_CHECKING:
    from collections.abc import Mapping

MAIN = "main"
"""The one module of a cluster whose settings name none: it may do everything."""
KINDS = ("model", "agent", "task", "code", "replan")
"""Kinds of work that a module has to name, besides calls of its tools."""
_Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class ModuleSetting(BaseModel):
    """A part of a cluster: who may call what, and how often."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allow: tuple[str, ...] = ()
    """Names of tools that its workers may call, `family.*` for a family."""
    kinds: tuple[Literal["model", "agent", "task", "code", "replan"], ...] = ()
    """Other kinds of steps that its workers make."""
    max_in_flight: Annotated[int, Field(ge=1)] | None = None
    """Attempts of it that may be under way at a time, on all its workers together."""
    rate_per_minute: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Attempts of it that may begin in a minute."""
    places: tuple[str, ...] = ()
    """Labels of its workers, e.g. "region=eu", that their credentials may name; see the guide to the cluster."""


class ClusterSettings(BaseModel):
    """What agents, workers and submitters of one cluster agree about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nats: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    """Addresses of the broker's servers."""
    credentials: str | None = None
    """File that says who we are there, relative to the settings file."""
    ca: str | None = None
    """File with the certificates to trust, relative to the settings file; None: the system's."""
    lease_s: _Seconds = 30.0
    """How long a worker may be silent that has an attempt."""
    patience_s: _Seconds = 10.0
    """How long workers with certain labels are waited for."""
    check_s: _Seconds = 60.0
    """After how long it is looked whether what nothing is heard of is still where it was put."""
    max_queued: Annotated[int, Field(ge=1)] = 100_000
    """Attempts that may wait at the broker or be under way."""
    max_submissions: Annotated[int, Field(ge=1)] = 100_000
    """Submissions and outcomes that may wait for an agent."""
    replicas: Literal[1, 3] = 1
    """Servers of the broker that hold each message."""
    news: bool = True
    """Whether what happens is told as it happens, to whoever follows."""
    news_s: _Seconds = 3_600.0
    """How long that is kept."""
    modules: dict[str, ModuleSetting] = {}
    """By name; none: one called "main", whose workers may do everything."""

    @field_validator("nats", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


def cluster_settings(given: Mapping[str, Any], *, folder: Path | None = None, **over: Any) -> ClusterSettings:
    """Return the settings below `[cluster]`, with files found from `folder`; `over` comes before what stands there.

    Raises:
        ConfigError: A key or value that is wrong.
    """
    try:
        settings = ClusterSettings.model_validate({**given, **over})
    except ValidationError as error:
        told = "; ".join(field_problems(error))
        raise ConfigError(
            f"[cluster]: {told}", remedy=f"the keys are {', '.join(ClusterSettings.model_fields)}"
        ) from error
    if folder is None:
        return settings
    files = {
        name: str(folder / path) for name in ("credentials", "ca") if (path := getattr(settings, name)) is not None
    }
    return settings.model_copy(update=files)
