"""The language of references and conditions: roots, step fields, functions."""

from __future__ import annotations

from planloom.plan.expression import MAX_DEPTH, MAX_EXPRESSION
from planloom.plan.terms import FUNCTIONS, MAX_DIGITS, MAX_TEXT, ROOTS, STEP_FIELDS

TITLE = "References and conditions"


def body() -> str:
    return "\n".join(
        [
            "`${{ … }}` holds paths, literals, `==` `!=` `<` `<=` `>` `>=`, `and` `or` `not`, `in` and the functions",
            "below. A lone reference keeps its type; inside a longer text it becomes text.",
            "",
            f"- A path begins with one of: {', '.join(f'`{root}`' for root in ROOTS)}.",
            f"- `steps.ID.` goes on with one of: {', '.join(f'`{field}`' for field in STEP_FIELDS)}.",
            f"- Bounds: {MAX_EXPRESSION:,} characters an expression, {MAX_DEPTH} nested brackets, "
            f"{MAX_TEXT:,} characters a text may grow to, and those that nested functions make in all; "
            f"{MAX_DIGITS:,} places to round to.",
            "",
            "| function | use |",
            "|---|---|",
            *(f"| `{name}` | {use.replace('|', chr(92) + '|')} |" for name, (_, _, use) in FUNCTIONS.items()),
        ]
    )
