"""How a config made in Python says what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ValidationError

from planloom.errors import ConfigError, UnknownFieldError, field_problems, suggestion


@contextmanager
def checked(
    config: type[BaseModel], fields: Mapping[str, Any], *, remedy: str, renamed: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Refuse fields that a config does not have, and tell what pydantic says of the others within as a ConfigError.

    Args:
        renamed: Other names that people give to fields, and ours.

    Raises:
        UnknownFieldError: A keyword that does not exist; the message lists those that do.
        ConfigError: A value that does not fit.
    """
    known = sorted(config.model_fields)
    unknown = sorted(fields.keys() - set(known))
    if unknown:
        meant = (renamed or {}).get(unknown[0])
        raise UnknownFieldError(
            f"{config.__name__} has no {', '.join(map(repr, unknown))}; it has {', '.join(known)}",
            remedy=suggestion(unknown[0], known) if meant is None else f"write {meant!r}",
        )
    try:
        yield
    except ValidationError as error:
        told = "; ".join(field_problems(error))
        raise ConfigError(f"{config.__name__} cannot be made: {told}", remedy=remedy) from error
