"""JSON Schemas that others wrote (draft 2020-12): checked once, compiled once, then asked many times.

Rule 1: a schema never makes planloom fetch anything; a `$ref` leads inside the same schema or is refused.
Rule 2: jsonschema is imported when the first schema comes in: it costs as much as everything else planloom imports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planloom.errors import ConfigError

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
        import jsonschema  # here, not above: rule 2
        import referencing

        if not isinstance(schema, dict):
            raise ConfigError(f"{where} is not a JSON Schema: it is a {type(schema).__name__}", remedy="give a dict")
        try:
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
        self._validator = jsonschema.Draft202012Validator(schema, registry=referencing.Registry())
        self._check_references(where)

    def _check_references(self, where: str) -> None:
        import referencing.exceptions
        import referencing.jsonschema

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
            if self._validator.is_valid(value):
                return []
            return [
                _problem(error)
                for error, _ in zip(self._validator.iter_errors(value), range(_MAX_PROBLEMS), strict=False)
            ]
        except (RecursionError, OverflowError, ValueError) as error:
            reason = "is nested too deeply" if isinstance(error, RecursionError) else f"cannot be compared: {error}"
            return [SchemaProblem((), reason, "", None)]


def _problem(error: Any) -> SchemaProblem:
    text = error.message if len(error.message) <= 200 else f"{error.message[:199]}…"
    return SchemaProblem(tuple(error.absolute_path), text, str(error.validator), error.instance)


def _references(schema: Any) -> Iterator[str]:
    waiting = [schema]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield from (found[key] for key in ("$ref", "$dynamicRef") if isinstance(found.get(key), str))
            waiting.extend(found.values())
        elif isinstance(found, list):
            waiting.extend(found)
