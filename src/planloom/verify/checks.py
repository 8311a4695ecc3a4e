"""The registry of validators: named checks of an answer that ask no model.

Rule 1: names and options are checked when a flow is made, so that a plan that asks for the wrong thing never starts.
Rule 2: a validator that raises has not passed.
Rule 3: a plan chooses validators by name and gives them JSON; code comes only from whoever registers one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any

from pydantic import ValidationError

from planloom.errors import ConfigError, field_problems, suggestion
from planloom.verify import builtin
from planloom.verify.closed import Failure, closed
from planloom.verify.verdict import Check

Said = Check | bool
Validator = Callable[[Any, str], Said | Awaitable[Said]]
"""Called with an answer (JSON) and the prompt it answers. A sync one runs on the event loop: make slow ones async."""
Wanted = str | Mapping[str, Any] | Validator
"""A validator as it is asked for: its name, ``{name: {option: value}}``, or the function itself."""


@dataclass(frozen=True, slots=True)
class NamedValidator:
    """A validator with its options, ready to be asked."""

    name: str
    function: Validator

    async def check(self, output: Any, prompt: str) -> Check:
        """Return what it says.

        Raises:
            GrantError: The caller's limit is used up.
        """
        said = await closed(self._ask(output, prompt))
        if isinstance(said, Failure):
            return Check(self.name, passed=False, feedback=f"it could not be checked: {said.error}")
        if isinstance(said, Check):
            return Check(self.name, said.passed is True, said.feedback)
        if said is True:
            return Check(self.name, passed=True)
        told = (
            "it did not pass" if said is False else f"the validator answered neither yes nor no: {type(said).__name__}"
        )
        return Check(self.name, passed=False, feedback=told)

    async def _ask(self, output: Any, prompt: str) -> object:
        said = self.function(output, prompt)
        return await said if isawaitable(said) else said


class ValidatorRegistry:
    """Validators by name, the built-in ones among them.

    Args:
        run_code: Runs Python code in a sandbox and raises if it fails, for `execution`; None: code is only parsed.
    """

    def __init__(self, *, run_code: builtin.RunCode | None = None) -> None:
        self._made: dict[str, Callable[..., Validator]] = dict(builtin.FACTORIES)
        self._made["execution"] = lambda: builtin.execution(run_code)

    def register(
        self, name: str, function: Validator | None = None, *, factory: Callable[..., Validator] | None = None
    ) -> None:
        """Add a validator; one of that name is replaced.

        Args:
            function: Takes the answer and its prompt, and gives a `Check`, True or False; may be async.
            factory: Makes such a function of a plan's options, given as keywords; instead of `function`.

        Raises:
            ConfigError: Neither of the two, or both; or a name that is empty.
        """
        if (function is None) is (factory is None) or not name.strip():
            raise ConfigError(
                f"validator {name!r} cannot be registered", remedy="give it a name, and either a function or a factory"
            )
        self._made[name] = factory if factory is not None else _without_options(function)

    def get(self, name: str, options: Mapping[str, Any] | None = None) -> NamedValidator:
        """Return the validator of that name, made with these options.

        Raises:
            ConfigError: No such validator, or options it does not take.
        """
        make = self._made.get(name)
        if make is None:
            raise ConfigError(f"there is no validator {name!r}", remedy=suggestion(name, self._made))
        try:
            return NamedValidator(name, make(**(options or {})))
        except ConfigError as error:
            raise ConfigError(f"validator {name!r}: {error.message}", remedy=error.remedy) from error
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"validator {name!r} cannot be made: {_told(error)}", remedy="see docs/guides/verification.md"
            ) from error

    def all_of(self, wanted: Iterable[Wanted]) -> tuple[NamedValidator, ...]:
        """Return the validators that are asked for, in that order.

        Raises:
            ConfigError: See `get`; or an entry of another form.
        """
        return tuple(found for entry in wanted for found in self._one_of(entry))

    def _one_of(self, entry: Wanted) -> Iterable[NamedValidator]:
        if isinstance(entry, str):
            return [self.get(entry)]
        if isinstance(entry, Mapping):
            return [self._with_options(name, options) for name, options in entry.items()]
        if callable(entry):
            return [NamedValidator(str(getattr(entry, "__name__", type(entry).__name__)), entry)]
        raise ConfigError(
            f"a validator is asked for by a {type(entry).__name__}",
            remedy="write its name, or {name: {option: value}}",
        )

    def _with_options(self, name: object, options: object) -> NamedValidator:
        if not isinstance(name, str) or not (options is None or isinstance(options, Mapping)):
            raise ConfigError(
                f"the options of validator {name!r} are a {type(options).__name__}",
                remedy="write {name: {option: value}}",
            )
        return self.get(name, options)

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._made))


def _without_options(function: Validator | None) -> Callable[..., Validator]:
    def make() -> Validator:
        if function is None:
            raise ConfigError("there is no function")
        return function

    return make


def _told(error: TypeError | ValueError) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(field_problems(error))
    return str(error)
