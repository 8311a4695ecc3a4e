"""What only the source text knows: docstrings under fields, first lines of files."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent.parent / "src" / "planloom"


def one_line(text: str | None) -> str:
    """Return a docstring as one line, for a table cell; "" for None."""
    return " ".join((text or "").split()).replace("|", "\\|")


def summary(text: str | None) -> str:
    """Return the first line of a docstring without its full stop."""
    return (text or "").strip().partition("\n")[0].rstrip(".")


def introduction(text: str | None) -> str:
    """Return a docstring up to its first section (Attributes, Raises, …), as one line."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    kept = [part for part in paragraphs if not part.partition("\n")[0].endswith(":")]
    return one_line(" ".join(kept))


def field_notes(of: type) -> dict[str, str]:
    """Return what is written about each field: the string under it, or its entry under "Attributes:"."""
    notes = _attributes(inspect.getdoc(of) or "")
    body = ast.parse(inspect.cleandoc("\n" + inspect.getsource(of))).body[0]
    assert isinstance(body, ast.ClassDef)
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_text(below):
            notes[field.target.id] = one_line(below.value.value)  # type: ignore[attr-defined]  # _is_text looked
    return notes


def field_types(of: type) -> dict[str, tuple[str, str | None]]:
    """Return each field's type as written and its default as written, None where it must be given."""
    body = ast.parse(inspect.cleandoc("\n" + inspect.getsource(of))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: (ast.unparse(field.annotation), None if field.value is None else ast.unparse(field.value))
        for field in body.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _attributes(doc: str) -> dict[str, str]:
    notes: dict[str, str] = {}
    names: list[str] = []
    for line in doc.partition("Attributes:")[2].split("\n"):
        if line.strip() and not line.startswith(" "):
            break
        head, colon, text = line.strip().partition(": ")
        if (
            colon
            and line.startswith("    ")
            and not line.startswith("     ")
            and head.replace(", ", "_").isidentifier()
        ):
            names = head.split(", ")
            notes |= dict.fromkeys(names, one_line(text))
        elif line.strip():
            notes |= {name: f"{notes[name]} {one_line(line)}" for name in names}
    return notes


def field_notes_of_enum(of: type) -> dict[str, str]:
    """Return the string written under each member of an enum."""
    body = ast.parse(inspect.cleandoc("\n" + inspect.getsource(of))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        member.targets[0].id: one_line(below.value.value)  # type: ignore[attr-defined]  # _is_text looked
        for member, below in zip(body.body, body.body[1:], strict=False)
        if isinstance(member, ast.Assign) and isinstance(member.targets[0], ast.Name) and _is_text(below)
    }
