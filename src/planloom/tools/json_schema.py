"""JSON Schemas that others wrote (draft 2020-12): checked once, compiled once, then asked many times.

Rule 1: a schema never makes planloom fetch anything; a `$ref` leads inside the same schema or is refused.
Rule 2: holding a value against it is counted and its patterns are linear, as for a plan's schemas (`plan/schemas.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import jsonschema
import referencing
import referencing.exceptions
import referencing.jsonschema

from planloom.errors import ConfigError
from planloom.plan.schemas import MAX_CHECKS, TooManyChecks, counted, no_panic, plain, validator_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class SchemaProblem:
    """One thing that does not fit.

    Attributes:
        path: Where in the value.
        problem: What is wrong there, a phrase.
        keyword: The schema's word that is not kept: `required`, `type`, ….
        given: The value found there.
    """

    path: tuple[str | int, ...]
    problem: str
    keyword: str
    given: Any


class JsonSchema:
    """A compiled JSON Schema."""

    __slots__ = ("_validator", "schema")

    def __init__(self, schema: dict[str, Any], *, where: str) -> None:
        """Compile `schema`; `where` names it in errors.

        Raises:
            ConfigError: Not a JSON Schema of draft 2020-12, or one that refers to something outside itself.
        """
        if not isinstance(schema, dict):
            raise ConfigError(f"{where} is not a JSON Schema: it is a {type(schema).__name__}", remedy="give a dict")
        try:
            with no_panic():
                jsonschema.Draft202012Validator.check_schema(schema)
        except (jsonschema.SchemaError, RecursionError) as error:
            problem = getattr(error, "message", "it is nested too deeply")
            raise ConfigError(f"{where} is not a JSON Schema: {problem}", remedy="see json-schema.org") from error
        outside = next((ref for ref in _references(schema) if not ref.startswith("#")), None)
        if outside is not None:
            raise ConfigError(
                f"{where} refers to {outside!r}, which lies outside it",
                remedy="copy what it refers to into its $defs and refer to that: nothing is fetched",
            )
        self.schema = schema
        self._validator = validator_of(schema)
        self._check_references(where)

    def _check_references(self, where: str) -> None:
        resource = referencing.jsonschema.DRAFT202012.create_resource(self.schema)
        resolver = referencing.Registry().with_resource("", resource).resolver()
        for ref in _references(self.schema):
            try:
                resolver.lookup(ref)
            except referencing.exceptions.Unresolvable as error:
                raise ConfigError(
                    f"{where} refers to {ref!r}, which is not in it", remedy="define it in $defs"
                ) from error

    def problems(self, value: Any) -> list[SchemaProblem]:
        """Return what does not fit, at most 20 things; nothing when all is well."""
        try:
            with counted():
                return [_problem(error) for error in islice(self._validator.iter_errors(value), _MAX_PROBLEMS)]
        except TooManyChecks:
            return [SchemaProblem((), f"asks for over {MAX_CHECKS:,} checks", "", None)]
        except (RecursionError, OverflowError, ValueError) as error:
            reason = "is nested too deeply" if isinstance(error, RecursionError) else f"cannot be compared: {error}"
            return [SchemaProblem((), reason, "", None)]


def _problem(error: Any) -> SchemaProblem:
    return SchemaProblem(tuple(error.absolute_path), plain(error), str(error.validator), error.instance)


def _references(schema: Any) -> Iterator[str]:
    waiting = [schema]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield from (found[key] for key in ("$ref", "$dynamicRef") if isinstance(found.get(key), str))
            waiting.extend(found.values())
        elif isinstance(found, list):
            waiting.extend(found)
