"""The validators that are always there: what each looks at, and what it says.

Rule 1: feedback says what would be right, for whoever makes the next answer, and repeats nothing personal.
Rule 2: answers and options are untrusted: patterns and schemas are matched by engines that cannot run away.
Rule 3: options are JSON, checked when the validator is made.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, validate_call

from planloom.core.asking import text_of
from planloom.errors import ConfigError
from planloom.plan.schemas import schema_problem, value_problems
from planloom.verify.closed import Failure, closed
from planloom.verify.lexicon import PROFANITY, words
from planloom.verify.lexicon import sentiment as sentiment_of
from planloom.verify.personal import KINDS, found_in
from planloom.verify.verdict import Check

BuiltIn = Callable[[Any, str], Check]
RunCode = Callable[[str], Awaitable[None]]
"""Runs Python code where it can do no harm; raises if it fails."""
Count = Annotated[int, Field(ge=0)]

MAX_CODE = 200_000
"""Characters of code that are parsed."""
MAX_PATTERN = 1_000
_FENCE = re.compile(r"\A\s*```[\w+-]*[ \t]*\n(?P<inner>.*?)\n?```\s*\Z", re.DOTALL)
_CITATION = re.compile(r"\[(\d{1,9}(?:\s*[,;]\s*\d{1,9})*)\]")
_options = validate_call(config=ConfigDict(strict=True))


def _check(name: str, problems: list[str]) -> Check:
    return Check(name, not problems, "; ".join(problems))


@_options
def length(
    min_chars: Count | None = None,
    max_chars: Count | None = None,
    min_words: Count | None = None,
    max_words: Count | None = None,
) -> BuiltIn:
    """Check that an answer is not too short and not too long."""
    bounds = (
        ("characters", min_chars, max_chars, len),
        ("words", min_words, max_words, lambda text: len(text.split())),
    )
    if all(low is None and high is None for _, low, high, _ in bounds):
        raise ConfigError("it has no bound", remedy="give max_chars, min_chars, max_words or min_words")

    def check(output: Any, prompt: str) -> Check:
        text, problems = text_of(output), []
        for unit, low, high, count in bounds:
            found = count(text)
            if low is not None and found < low:
                problems.append(f"it has {found:,} {unit}; at least {low:,} are wanted")
            if high is not None and found > high:
                problems.append(f"it has {found:,} {unit}; at most {high:,} are wanted")
        return _check("length", problems)

    return check


@_options
def keyword(required: list[str] | None = None, forbidden: list[str] | None = None, ignore_case: bool = True) -> BuiltIn:
    """Check that some texts occur in an answer, and others do not."""
    if not required and not forbidden:
        raise ConfigError("it has no keyword", remedy="give required or forbidden, lists of texts")

    def check(output: Any, prompt: str) -> Check:
        text = text_of(output)
        text = text.casefold() if ignore_case else text

        def occurs(word: str) -> bool:
            return (word.casefold() if ignore_case else word) in text

        problems = [f"it does not say {word!r}" for word in required or () if not occurs(word)]
        problems += [f"it says {word!r}" for word in forbidden or () if occurs(word)]
        return _check("keyword", problems)

    return check


@_options
def json_schema(schema: dict[str, Any] | bool) -> BuiltIn:
    """Check that an answer, or the JSON that its text is, fits a JSON Schema."""
    if problem := schema_problem(schema):
        raise ConfigError(f"its schema is no JSON Schema: {problem}", remedy="see json-schema.org")

    def check(output: Any, prompt: str) -> Check:
        value = output
        if isinstance(output, str):
            try:
                value = json.loads(_inner(output), parse_constant=_no_number)
            except (ValueError, RecursionError) as error:
                return Check("json_schema", passed=False, feedback=f"it is no JSON: {error}")
        return _check("json_schema", [problem for _, problem in value_problems(value, schema)[:5]])

    return check


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


@_options
def regex(pattern: str, negate: bool = False) -> BuiltIn:
    """Check that an answer matches a pattern somewhere, or, with `negate`, nowhere."""
    # As a schema: those patterns are matched in time proportional to the text, whatever they are.
    schema = {"pattern": pattern}
    if len(pattern) > MAX_PATTERN or schema_problem(schema):
        raise ConfigError(
            f"its pattern cannot be used: {pattern[:100]!r}",
            remedy=f"write one without look-around and back-references, of at most {MAX_PATTERN:,} characters",
        )

    def check(output: Any, prompt: str) -> Check:
        matches = not value_problems(text_of(output), schema)
        return _check(
            "regex", [f"it {'matches' if matches else 'does not match'} {pattern!r}"] if matches is negate else []
        )

    return check


@_options
def pii(kinds: list[Literal["email", "phone", "card", "iban", "ssn"]] | None = None) -> BuiltIn:
    """Check that an answer holds nothing that points to a person."""

    def check(output: Any, prompt: str) -> Check:
        found = found_in(text_of(output), kinds or KINDS)
        return _check("pii", [f"it holds {name}: {count}" for name, count in found.items()])

    return check


@_options
def profanity(also: list[str] | None = None, allowed: list[str] | None = None) -> BuiltIn:
    """Check that an answer holds no swear word, and none of the words of `also`."""
    wanted = (PROFANITY | {word.lower() for word in also or ()}) - {word.lower() for word in allowed or ()}

    def check(output: Any, prompt: str) -> Check:
        found = sorted(wanted.intersection(words(text_of(output))))
        return _check("profanity", [f"it holds words nobody wants to read: {', '.join(found)}"] if found else [])

    return check


@_options
def sentiment(
    min_score: Annotated[float, Field(ge=-1, le=1)] | None = None,
    max_score: Annotated[float, Field(ge=-1, le=1)] | None = None,
) -> BuiltIn:
    """Check that an answer sounds neither too bad (-1) nor too good (1), by a short list of English words."""
    if min_score is None and max_score is None:
        raise ConfigError("it has no bound", remedy="give min_score or max_score, -1 to 1")

    def check(output: Any, prompt: str) -> Check:
        score, problems = sentiment_of(text_of(output)), []
        if min_score is not None and score < min_score:
            problems.append(f"it sounds too negative: {score:.2f}, and at least {min_score:g} is wanted")
        if max_score is not None and score > max_score:
            problems.append(f"it sounds too positive: {score:.2f}, and at most {max_score:g} is wanted")
        return _check("sentiment", problems)

    return check


@_options
def citations(documents: Count, required: bool = False) -> BuiltIn:
    """Check that every ``[n]`` in an answer names one of the documents 1 to `documents`."""

    def check(output: Any, prompt: str) -> Check:
        cited = [int(number) for group in _CITATION.findall(text_of(output)) for number in re.findall(r"\d+", group)]
        wrong = sorted({number for number in cited if not 1 <= number <= documents})
        problems = (
            [f"it cites {', '.join(f'[{number}]' for number in wrong)}; there are {documents} documents"]
            if wrong
            else []
        )
        if required and not cited:
            problems.append("it cites no document")
        return _check("citations", problems)

    return check


def execution(run_code: RunCode | None = None) -> Callable[[Any, str], Awaitable[Check]]:
    """Check that an answer is Python code that can be read and, given something that runs it safely, runs."""

    async def check(output: Any, prompt: str) -> Check:
        code = _inner(text_of(output))
        if problem := _code_problem(code):
            return Check("execution", passed=False, feedback=problem)
        if run_code is None:
            return Check("execution", passed=True, feedback="it parses; it was not run: there is no sandbox here")
        ran = await closed(run_code(code))
        if isinstance(ran, Failure):
            return Check("execution", passed=False, feedback=f"it does not run: {ran.error}")
        return Check("execution", passed=True, feedback="it parses and runs")

    return check


def _code_problem(code: str) -> str:
    if not code.strip():
        return "there is no code"
    if len(code) > MAX_CODE:
        return f"it has {len(code):,} characters; at most {MAX_CODE:,} are read"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in somebody's code is no problem of ours
            ast.parse(code)
    except SyntaxError as error:
        return f"it is no Python: {error.msg} (line {error.lineno})"
    except (ValueError, MemoryError, RecursionError) as error:
        return f"it cannot be read as Python: {error or type(error).__name__}"
    return ""


def _inner(text: str) -> str:
    """Return what stands in a text that is one fenced block, else the text."""
    fenced = _FENCE.match(text)
    return fenced["inner"] if fenced else text


FACTORIES: Mapping[str, Callable[..., Any]] = {
    "length": length,
    "keyword": keyword,
    "json_schema": json_schema,
    "regex": regex,
    "pii": pii,
    "profanity": profanity,
    "sentiment": sentiment,
    "citations": citations,
}
"""What makes each built-in validator of its options; `execution` needs to be told what runs code."""
