"""How a tool asks to be spared: a circuit breaker, and so many calls a second.

Rule 1: a tool that does not ask for it has neither, unless the settings of whoever runs it say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from planloom.errors import ConfigError, field_problems


class BreakerPolicy(BaseModel):
    """When a tool that keeps failing is left alone, and for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    failures: Annotated[int, Field(ge=1, le=1000)] = 3
    """In a row; the next call is refused then."""
    open_seconds: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] = 30.0
    """Seconds until one call is let through to see whether it works again."""


def breaker_of(value: Any) -> BreakerPolicy | None:
    """Return what a declaration's `breaker` means: True is the usual one, False none, a mapping its fields.

    Raises:
        ConfigError: None of these.
    """
    if value is None or value is False:
        return None
    if value is True:
        return BreakerPolicy()
    if isinstance(value, BreakerPolicy):
        return value
    if isinstance(value, Mapping):
        try:
            return BreakerPolicy.model_validate(dict(value))
        except ValidationError as error:
            told = "; ".join(field_problems(error))
            raise ConfigError(
                f"breaker={value!r} of a tool: {told}", remedy="give failures and open_seconds"
            ) from error
    raise ConfigError(f"breaker={value!r} of a tool is none", remedy="give True, a dict or a BreakerPolicy")


def check_rate(value: Any, tool: str) -> None:
    """Check a tool's `rate_per_second`.

    Raises:
        ConfigError: Not a number above 0.
    """
    if value is not None and not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
        raise ConfigError(f"rate_per_second={value!r} of tool {tool!r}", remedy="give calls a second, above 0")
