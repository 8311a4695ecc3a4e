"""What a model can be given to read: `Document`, and `documents_of`, which reads what users pass for documents.

Rule 1: a document is a value: whatever makes another of it leaves it as it was, and two of the same content are equal.
Rule 2: it is JSON throughout, so that it can go on record, and UTF-8 can write it, so that it can go into a store.
Rule 3: its chunks are pieces of its own text, never of another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from planloom.context.chunking import spans
from planloom.errors import OutputError, ValidationError
from planloom.plan.values import as_json

_CONTENT = ("content", "text", "page_content")
"""Under which names others keep the text of a document."""
_ID = ("id", "document_id")
_TITLE = ("title", "name")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document.

    Attributes:
        id: "DOC#0", "DOC#1", …, with the document's own id before the number.
        document: Id of the document.
        start, end: Where it stands in the document's text, in characters; `end` is the first that is not in it.
    """

    id: str
    document: str
    content: str
    start: int
    end: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "id": self.id,
            "document": self.document,
            "content": self.content,
            "start": self.start,
            "end": self.end,
        }


@dataclass(frozen=True, slots=True)
class Document:
    """A text with a name.

    Args:
        id: What it is called in a store and in a graph; one document of each id.
        content: Its text.
        metadata: JSON; "title" is what a model is told it is called.
        embedding: Its vector, if it has one.
        chunks: The pieces it is read in; none: it is read whole. `chunked` makes them.

    Raises:
        ValidationError: One of these is not of its form.
    """

    id: str
    content: str
    metadata: dict[str, Any] = field(default_factory=dict)
    embedding: tuple[float, ...] | None = None
    chunks: tuple[Chunk, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id.strip():
            raise ValidationError(f"a document cannot be called {self.id!r}", remedy="give it an id that is a text")
        if not isinstance(self.content, str):
            raise ValidationError(
                f"the content of document {self.id!r} is {type(self.content).__name__}, no text",
                remedy="give its text as a str",
            )
        for what, text in (("id", self.id), ("content", self.content)):
            _must_be_writable(text, f"the {what} of document {self.id!r}")
        object.__setattr__(self, "metadata", _metadata(self.metadata, self.id))
        if self.embedding is not None:
            object.__setattr__(self, "embedding", _vector(self.embedding, self.id))
        object.__setattr__(self, "chunks", self._own(self.chunks))

    @property
    def title(self) -> str:
        """What a reader calls it: "title" of its metadata, or its id."""
        title = self.metadata.get("title")
        return title if isinstance(title, str) and title.strip() else self.id

    def chunk(self, chunk_size: int, chunk_overlap: int = 0) -> list[Chunk]:
        """Return its text in pieces; the document itself stays as it is. [] for an empty text.

        A cut falls where a paragraph, a line, a sentence or a word ends, if one does in the second half of a piece.

        Args:
            chunk_size: Most characters of a piece.
            chunk_overlap: Characters of each that are also the last of the one before: exactly so many.

        Raises:
            ValidationError: `chunk_size` is below 1, or `chunk_overlap` is below 0 or not below `chunk_size`. It is a
                `ValueError`, too.
        """
        return [
            Chunk(f"{self.id}#{number}", self.id, self.content[start:end], start, end)
            for number, (start, end) in enumerate(spans(self.content, chunk_size, chunk_overlap))
        ]

    def chunked(self, chunk_size: int, chunk_overlap: int = 0) -> Document:
        """Return the same document, to be read in these pieces; arguments and errors as `chunk`."""
        return replace(self, chunks=tuple(self.chunk(chunk_size, chunk_overlap)))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON; `from_dict` gives an equal document back."""
        return {
            "id": self.id,
            "content": self.content,
            "metadata": as_json(self.metadata, where="metadata"),
            "embedding": None if self.embedding is None else list(self.embedding),
            "chunks": [chunk.to_dict() for chunk in self.chunks],
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Document:
        """Return the document of `to_dict`, or of any dict with an id and a text.

        Raises:
            ValidationError: It is none.
        """
        if not isinstance(told, Mapping):
            raise _no_document(told, "this")
        name = _first(told, _ID)
        if name is None:
            raise ValidationError("a document without an id", remedy="give it an `id`, one that no other has")
        return _read(told, name, told)

    def _own(self, chunks: Iterable[Any]) -> tuple[Chunk, ...]:
        found: list[Chunk] = []
        for number, one in enumerate(chunks):
            chunk = _read_chunk(one, number, self.id, self.content) if isinstance(one, Mapping) else one
            if not isinstance(chunk, Chunk) or chunk.document != self.id:
                raise ValidationError(
                    f"chunk {number} of document {self.id!r} is none of its pieces",
                    remedy="make them with `document.chunked(chunk_size, chunk_overlap)`",
                )
            if self.content[chunk.start : chunk.end] != chunk.content:
                raise ValidationError(
                    f"chunk {number} of document {self.id!r} is not what stands at {chunk.start} of its text",
                    remedy="make the chunks again after the text has changed",
                )
            found.append(chunk)
        return tuple(found)


def documents_of(values: Any) -> tuple[Document, ...]:
    """Return as documents what a user passes for them, in its order.

    Args:
        values: Any number of texts, `Document`s, dicts with "content" (or "text", "page_content") and perhaps "id",
            "title" or "name", "metadata", "embedding" and "chunks", or objects with attributes of these names; or one
            of these alone; or a `MemoryStore`; or None. What has no id is called "document 1", "document 2", … by its
            place. `...` stands for documents that are yet to be filled in and is left out.

    Raises:
        ValidationError: A value is none of these, or two documents have one id. It is a `ConfigError`, too.
    """
    if values is None:
        return ()
    if isinstance(values, str | Document | Mapping) or not isinstance(values, Iterable) or _has_text(values):
        values = (values,)
    found: dict[str, Document] = {}
    for place, value in enumerate((value for value in values if value is not ...), start=1):
        document = document_of(value, f"document {place}")
        if document.id in found:
            raise ValidationError(
                f"two documents are called {document.id!r}", remedy="give each document an `id` of its own"
            )
        found[document.id] = document
    return tuple(found.values())


def _has_text(value: object) -> bool:
    """Tell whether it is one document itself, although something can be gone through: a pydantic model's fields can."""
    return any(isinstance(getattr(value, name, None), str) for name in _CONTENT)


def document_of(value: Any, otherwise: str) -> Document:
    """Return as a document what `documents_of` takes for one; `otherwise` is its id where it has none.

    Raises:
        ValidationError: It is none.
    """
    if isinstance(value, Document):
        return value
    name = own_id(value)
    return _read(_told(value), otherwise if name is None else name, value)


def own_id(value: Any) -> Any:
    """Return the id that comes with what `documents_of` takes for a document; None where it has none."""
    return value.id if isinstance(value, Document) else _first(_told(value), _ID)


def _told(value: Any) -> Mapping[str, Any]:
    """Return by name what is said of a document."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, str):
        return {"content": value}
    names = (*_ID, *_TITLE, *_CONTENT, "metadata", "embedding", "chunks")
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _read(told: Mapping[str, Any], name: Any, value: object) -> Document:
    content = _first(told, _CONTENT)
    if content is None:
        raise _no_document(value, str(name))
    metadata = told.get("metadata")
    title = _first(told, _TITLE)
    if title is not None and (metadata is None or isinstance(metadata, Mapping)):
        metadata = {"title": str(title), **(metadata or {})}
    return Document(
        str(name) if isinstance(name, int) else name,
        content,
        {} if metadata is None else metadata,
        told.get("embedding"),
        tuple(told.get("chunks") or ()),
    )


def _first(told: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((told[name] for name in names if told.get(name) is not None), None)


def _read_chunk(told: Mapping[str, Any], number: int, document: str, text: str) -> Chunk:
    """Return the chunk of `to_dict`; its id may be missing."""
    start, end = told.get("start"), told.get("end")
    if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start < end <= len(text):
        raise ValidationError(
            f"chunk {number} of document {document!r} does not say where it stands",
            remedy="give its `start` and `end`, in characters of the document's text",
        )
    return Chunk(str(told.get("id", f"{document}#{number}")), document, text[start:end], start, end)


def _metadata(metadata: Any, name: str) -> dict[str, Any]:
    """Return a copy of its own: nobody changes a document through what it was made from."""
    if not isinstance(metadata, Mapping):
        raise ValidationError(f"the metadata of document {name!r} is no dict", remedy="give names with JSON values")
    try:
        copy: dict[str, Any] = as_json(dict(metadata), where="metadata")
    except OutputError as error:
        raise ValidationError(f"document {name!r}: {error.message}", remedy=error.remedy) from error
    return copy


def _vector(numbers: Any, name: str) -> tuple[float, ...]:
    try:
        vector = tuple(float(number) for number in numbers)
    except (TypeError, ValueError):
        vector = ()
    if not vector or not all(map(math.isfinite, vector)):
        raise ValidationError(
            f"the embedding of document {name!r} is no vector", remedy="give a list of finite numbers, or None"
        )
    return vector


def _must_be_writable(text: str, what: str) -> None:
    """Refuse half of a surrogate pair, which no file, no store and no model could take."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValidationError(
            f"{what} has half of a character at {error.start}",
            remedy="decode the bytes it came from as UTF-8, e.g. with errors='replace'",
        ) from error


def _no_document(value: object, name: str) -> ValidationError:
    return ValidationError(
        f"{name:.80}: a {type(value).__name__} without a text is no document",
        remedy="give a text, a Document, or a dict with `content` and perhaps `id`, `title` and `metadata`",
    )
