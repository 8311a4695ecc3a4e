"""`python -m scripts.reference` writes the pages; with `--check` it only says which of them are stale."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from planloom.plan.schema import plan_schema
from scripts.reference import asyncapi, commands, errors, events, expressions, plan_format, settings, states, tree

FOLDER = Path(__file__).resolve().parent.parent.parent / "docs" / "reference"
PAGES = {
    "tree.md": tree,
    "states.md": states,
    "events.md": events,
    "errors.md": errors,
    "plan-format.md": plan_format,
    "expressions.md": expressions,
    "cli.md": commands,
    "settings.md": settings,
}
EVENTS = "asyncapi.json"
"""What whoever follows a cluster hears."""
SCHEMA = "plan.schema.json"
"""The published JSON Schema, for editors and for models that write plans."""
NOTE = "<!-- Drawn from the code by `make docs`; change the code, not this page. -->"


def drawn() -> dict[str, str]:
    """Return the text of every page by file name."""
    pages = {name: f"{NOTE}\n# {page.TITLE}\n\n{page.body().strip()}\n" for name, page in PAGES.items()}
    documents = {SCHEMA: plan_schema(), EVENTS: asyncapi.document()}
    return pages | {
        name: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for name, document in documents.items()
    }


def stale() -> list[str]:
    """Return the names of pages that are missing, differ from the code, or are drawn by nobody."""
    on_disk = {path.name: path.read_text(encoding="utf-8") for path in (*FOLDER.glob("*.md"), *FOLDER.glob("*.json"))}
    pages = drawn()
    return sorted(name for name in on_disk.keys() | pages.keys() if on_disk.get(name) != pages.get(name))


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        names = stale()
        for name in names:
            sys.stderr.write(f"docs/reference/{name} is stale: run `make docs`\n")
        return 1 if names else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    pages = drawn()
    for name in stale():
        if name in pages:
            (FOLDER / name).write_text(pages[name], encoding="utf-8")
            sys.stdout.write(f"drew docs/reference/{name}\n")
        else:
            (FOLDER / name).unlink()
            sys.stdout.write(f"removed docs/reference/{name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
