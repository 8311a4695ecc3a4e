"""Documents put before a question, as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from planloom.context.document import documents_of
from planloom.executors.documents import written


def with_documents(prompt: str, documents: Sequence[Any] | None) -> str:
    """Return the prompt after its documents; without any, the prompt itself.

    Args:
        documents: As `documents_of` reads them: texts, dicts with "content", or objects with `.content`; "title",
            "name" or "id" is the title.

    Raises:
        ConfigError: One of them is none of these.
    """
    read = documents_of(documents)
    if not read:
        return prompt
    unnamed = {f"document {place}" for place in range(1, len(read) + 1)}
    shown = [("" if document.title in unnamed else document.title, document.content) for document in read]
    return f"{written(shown)}\n\n{prompt}"
