"""Plans in lettered English lines → native document.

    Write to everyone in Paris:                                       a first line that ends in ":" describes the plan
    a. Get all contacts [contacts.all city="Paris"]                   [tool name=value …] says how it is done
    b. Write a short message
    c. Send emails [mail.send to=a text=b] (requires steps a and b)   a bare letter is that step's output

Rule 1: the letter is the step's id. A line without [ ] is a `task` step, which an agent or the planner carries out.
Rule 2: only a last clause orders steps: "(requires steps a and b)", "requires a, b", "after a". No clause, no order.
Rule 3: in [ ] a value is a "text", a number, true, false, null, or a reference: `a`, `a.name`, `inputs.city`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from planloom.errors import DuplicateStepError, PlanError, PlanSyntaxError, UnknownStepError, plan_error, suggestion
from planloom.plan.document import MAX_PROBLEMS, Place, PlanDocument, Positions, read_json

MAX_LINES = 2 * 26 * 27
"""Lettered lines that are read: there are not more letters, a to zz, in both cases."""
MAX_LINE = 4_000
"""Characters of one line."""

_LETTERED = re.compile(r"\s*\(?(?P<letter>[A-Za-z]{1,2})[.)]\s+(?P<text>\S.*)")
_YAML_KEY = re.compile(r"^[^\n:]{1,200}:(?:\s|$)", re.MULTILINE)
_IDS = r"[A-Za-z]{1,2}(?:(?:\s*+,\s*+(?:and\s++)?|\s++and\s++|\s*+&\s*+)[A-Za-z]{1,2})*"
_END = r"\s*+\.?\s*+$"
"""Space is taken all at once (`*+`): giving it back bit by bit makes a line of nothing but space take for ever."""
_BRACKETED = re.compile(rf"[(\[]\s*(?:requires?|needs?|after)\b(?P<ids>[^()\[\]]*)[)\]]{_END}", re.IGNORECASE)
_BARE = re.compile(rf",?\s\b(?:requires?|after)\s++(?:steps?\s++)?(?P<ids>{_IDS}){_END}", re.IGNORECASE)
_ID_LIST = re.compile(rf"\s*+:?\s*+(?:steps?\s++)?({_IDS})\s*+")
_VALUE = r"(?:\"(?:[^\"\\]|\\.)*\"|[^\s\"\[\]]+(?:\[\d+\][^\s\"\[\]]*)*)"
_BINDING = re.compile(rf"\[\s*(?P<tool>[A-Za-z_][\w./:-]*)(?P<args>(?:\s+[A-Za-z_]\w*={_VALUE})*)\s*\]\s*$")
_ARGUMENT = re.compile(rf"(?P<name>[A-Za-z_]\w*)=(?P<value>{_VALUE})")
_REFERENCE = re.compile(r"(?P<root>[A-Za-z]{1,2}|inputs)(?P<rest>(?:\.[A-Za-z_][\w-]*|\[\d+\])*)")


@dataclass(slots=True)
class _Line:
    """One lettered line, taken apart."""

    number: int
    column: int
    letter: str
    text: str
    needs: list[str] = field(default_factory=list)
    tool: str | None = None
    args: dict[str, str] = field(default_factory=dict)


def looks_lettered(text: str) -> bool:
    """Return whether a text is lettered lines rather than YAML or JSON."""
    lines = [line for _, line in _significant(text)]
    if not lines or lines[0].lstrip().startswith(("{", "[")):
        return False
    if _LETTERED.match(lines[0]):
        return True
    if len(lines) > 1 and lines[0].rstrip().endswith(":") and _LETTERED.match(lines[1]):
        return True
    return not _YAML_KEY.search(text) and any(_LETTERED.match(line) for line in lines)


def read_english(text: str) -> PlanDocument:
    """Return the native document of lettered lines.

    Raises:
        PlanError: A line without a letter, a letter used again or never defined, an unreadable clause or binding;
            all of them at once, each with its line.
    """
    problems: list[PlanError] = []
    document: dict[str, Any] = {}
    lines: list[_Line] = []
    for number, line in _significant(text):
        if len(problems) > MAX_PROBLEMS or len(lines) > MAX_LINES:
            break
        match = _LETTERED.match(line)
        if len(line) > MAX_LINE:
            problems.append(_syntax(f"a line of {len(line)} characters", "give long texts as inputs", number, line))
        elif match:
            start = match.start("letter") + 1
            lines.append(_Line(number, start, match["letter"].lower(), match["text"].rstrip()))
        elif not lines and line.rstrip().endswith(":"):
            document["description"] = line.strip().rstrip(":")
        else:
            problems.append(_syntax("the line has no letter", "begin it like `a. Get all contacts`", number, line))
    letters = _letters(lines, problems)
    for entry in lines:
        _take_clause(entry, letters, problems)
        _take_binding(entry, problems)
    steps = [_step(entry, letters, problems) for entry in lines]
    if problems:
        raise plan_error(sorted(problems, key=lambda problem: problem.line or 0))
    if not steps:
        raise PlanSyntaxError(
            "the plan has no steps", remedy="write a line like `a. Get all contacts`", line=1, column=1
        )
    positions = Positions({(): (1, 1)})
    for place, entry in enumerate(lines):
        positions.values["steps", place] = (entry.number, entry.column)
    return PlanDocument(document | {"steps": steps}, lambda: positions)


def _significant(text: str) -> list[tuple[int, str]]:
    lines = enumerate(text.splitlines(), start=1)
    return [(number, line) for number, line in lines if line.strip() and not line.lstrip().startswith("#")]


def _letters(lines: list[_Line], problems: list[PlanError]) -> set[str]:
    first: dict[str, int] = {}
    for entry in lines:
        if entry.letter in first:
            problems.append(
                DuplicateStepError(
                    f"letter {entry.letter!r} is used again (first on line {first[entry.letter]})",
                    remedy="give each line a letter of its own",
                    step=entry.letter,
                    line=entry.number,
                    column=entry.column,
                )
            )
        first.setdefault(entry.letter, entry.number)
    return set(first)


def _take_clause(entry: _Line, letters: set[str], problems: list[PlanError]) -> None:
    """Move "(requires steps a and b)" from the line's text into its needs."""
    match = _BRACKETED.search(entry.text)
    named = _ID_LIST.fullmatch(match["ids"]) if match else None
    if match and not named:
        problems.append(
            _syntax(f"cannot read {match[0].strip()!r}", "write (requires steps a and b)", entry.number, entry.text)
        )
        return
    if named:
        ids = _split(named[1])
    else:
        match = _BARE.search(entry.text)
        ids = _split(match["ids"]) if match else []
        if not match or any(len(letter) > 1 and letter not in letters for letter in ids):
            return  # "call back after it": words, not letters
    entry.text = entry.text[: match.start()].rstrip(" ,") if match else entry.text
    entry.needs = list(dict.fromkeys(ids))
    problems.extend(_unknown(letter, letters, entry) for letter in entry.needs if letter not in letters)


def _split(ids: str) -> list[str]:
    return [part.lower() for part in re.split(r"\s*,\s*and\s+|\s*,\s*|\s+and\s+|\s*&\s*", ids, flags=re.IGNORECASE)]


def _take_binding(entry: _Line, problems: list[PlanError]) -> None:
    """Move "[mail.send to=a]" from the line's text into its tool and arguments."""
    match = _BINDING.search(entry.text)
    if match is None:
        if entry.text.endswith("]") and "[" in entry.text:
            found = entry.text[entry.text.rindex("[") :]
            remedy = 'write [tool name=value …], where a value is "text", a number or a letter'
            problems.append(_syntax(f"cannot read {found!r}", remedy, entry.number, entry.text))
        return
    entry.tool = match["tool"]
    entry.text = entry.text[: match.start()].rstrip()
    for argument in _ARGUMENT.finditer(match["args"]):
        if argument["name"] in entry.args:
            problems.append(
                _syntax(f"{argument['name']!r} is given twice", "keep one of them", entry.number, entry.text)
            )
        entry.args[argument["name"]] = argument["value"]


def _step(entry: _Line, letters: set[str], problems: list[PlanError]) -> dict[str, Any]:
    step: dict[str, Any] = {"id": entry.letter}
    if entry.tool is None:
        step["task"] = entry.text
    else:
        step |= {"tool": entry.tool, "description": entry.text}
        step["with"] = {name: _value(name, text, entry, letters, problems) for name, text in entry.args.items()}
    if entry.needs:
        step["needs"] = entry.needs
    return step


def _value(name: str, text: str, entry: _Line, letters: set[str], problems: list[PlanError]) -> Any:
    if text[0] == '"' or text in ("true", "false", "null") or text[0] in "-0123456789":
        try:
            return read_json(text)
        except ValueError:
            problems.append(_syntax(f"cannot read {name}={text}", "put the value in quotes", entry.number, entry.text))
            return None
    match = _REFERENCE.fullmatch(text)
    if match is None:
        remedy = f'put it in quotes: {name}="{text}"'
        problems.append(_syntax(f"{name}={text} is no letter of a step", remedy, entry.number, entry.text))
        return None
    if match["root"] == "inputs":
        return f"${{{{ {text} }}}}"
    letter = match["root"].lower()
    if letter not in letters:
        problems.append(_unknown(letter, letters, entry))
    return f"${{{{ steps.{letter}.output{match['rest']} }}}}"


def _unknown(letter: str, letters: set[str], entry: _Line) -> UnknownStepError:
    return UnknownStepError(
        f"step {entry.letter!r} needs {letter!r}, but no line has that letter",
        remedy=suggestion(letter, letters),
        step=entry.letter,
        line=entry.number,
        column=entry.column,
    )


def _syntax(message: str, remedy: str, number: int, line: str) -> PlanSyntaxError:
    place: Place = (number, len(line) - len(line.lstrip()) + 1)
    return PlanSyntaxError(f"{message}: {line.strip()[:80]!r}", remedy=remedy, line=place[0], column=place[1])
