"""MemoryStore: documents in a SQLite file, found by their words and, where there are embeddings, by their meaning.

Rule 1: what is added, changed or taken out is so whole, or not at all, and durable when the call returns.
Rule 2: one thread at a time is at work in a store, whoever calls it; another process may use the same file.
Rule 3: the same documents and the same query give the same answer, to the last place.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

from planloom.context.document import Document, document_of, documents_of, own_id
from planloom.context.repository import Indexed, text_files
from planloom.context.store_file import IN_MEMORY, connected, copy_into_file, copy_into_memory, translated
from planloom.context.store_rows import all_documents, document_at, free_id, insert, named, place_of, update
from planloom.context.store_vectors import StoredVectors, as_kept
from planloom.context.store_words import words_of
from planloom.context.vectors import Embed, embedded, fused, unit
from planloom.errors import StoreError, ValidationError

AT_ONCE = 64
"""Texts that `embed` is given, and files that are written, in one go."""
FUSED_FROM = 200
"""At least so many of each order are fused into one."""


class MemoryStore:
    """Documents by id, and a search over them.

    Words are searched by SQLite's FTS5 with BM25 (English endings, accents and capitals make no difference, a word of
    the title or id counts twice). A SQLite built without FTS5 is made up for by an index in memory, which reads all
    documents after each change. Embeddings are kept as 32-bit floats and compared one by one.

    Args:
        path: The file; made, with the folders above it, when it is not there. ":memory:" keeps all in this process.
        embed: Gives vectors for texts. Documents are embedded as they come, and `search` fuses both orders by rank.
        use_fts5: False: search words in memory even where SQLite has FTS5.

    Raises:
        StoreError: The file is something else, of a newer planloom, or cannot be opened.
    """

    def __init__(
        self, path: str | os.PathLike[str] = IN_MEMORY, embed: Embed | None = None, *, use_fts5: bool = True
    ) -> None:
        told = os.fspath(path)
        self.path = told if told == IN_MEMORY else os.path.realpath(told)
        self._open(connected(self.path), embed, use_fts5=use_fts5)

    def _open(self, connection: sqlite3.Connection, embed: Embed | None, *, use_fts5: bool) -> None:
        self._connection = connection
        self._embed = embed
        self._lock = threading.RLock()
        self._close = weakref.finalize(self, connection.close)
        """A store that nobody holds any more is closed, too."""
        self._vectors = StoredVectors(connection, self._revision)
        try:
            with translated(self.path):
                self._words = words_of(connection, self._revision, self._transaction, use_fts5=use_fts5)
        except BaseException:
            self._close()
            raise

    @classmethod
    def load(cls, path: str | os.PathLike[str], embed: Embed | None = None, *, use_fts5: bool = True) -> MemoryStore:
        """Return a store in memory with what a file holds. The file stays as it is; `MemoryStore(path)` works in it.

        Raises:
            StoreError: There is no store at that path.
        """
        store = cls.__new__(cls)
        store.path = IN_MEMORY
        store._open(copy_into_memory(os.path.realpath(os.fspath(path))), embed, use_fts5=use_fts5)
        return store

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of it as a file, in place of the store that may be there; whole, or not at all.

        Raises:
            StoreError: Something else is there, or it cannot be written.
        """
        with self._working():
            target = os.path.realpath(os.fspath(path))
            if target != self.path:
                copy_into_file(self._connection, Path(target))

    def close(self) -> None:
        """Close the file. What was in memory only is gone."""
        with self._lock:
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what is in it --------------------------------------------------------------------------

    def __len__(self) -> int:
        with self._working():
            number: int = self._connection.execute("SELECT count(*) FROM documents").fetchone()[0]
            return number

    def __contains__(self, document_id: object) -> bool:
        with self._working():
            return isinstance(document_id, str) and place_of(self._connection, document_id) is not None

    def __iter__(self) -> Iterator[Document]:
        return iter(self.documents())

    def ids(self) -> list[str]:
        """Return the ids of all documents, in the order in which they were added."""
        with self._working():
            return [name for (name,) in self._connection.execute("SELECT id FROM documents ORDER BY place")]

    def documents(self) -> list[Document]:
        """Return all documents, in the order in which they were added."""
        with self._working():
            return list(all_documents(self._connection))

    def get(self, document_id: str) -> Document | None:
        """Return a document, or None where there is none of that id."""
        with self._working():
            place = place_of(self._connection, document_id)
            return None if place is None else document_at(self._connection, place)

    # --- changing it ----------------------------------------------------------------------------

    def add_document(
        self,
        content: Any,
        metadata: Mapping[str, Any] | None = None,
        document_id: str | None = None,
        embedding: Sequence[float] | None = None,
    ) -> Document:
        """Add a document and return it as it is kept.

        Args:
            content: Its text; or a `Document`, or what `documents_of` takes for one.
            metadata: JSON; "title" is what it is called. None: what the document itself has.
            document_id: One that no other has. None: the document's own, else "document 1", "document 2", …
            embedding: Its vector, as long as all others. None: the document's own, else what `embed` gives.

        Raises:
            ValidationError: There is a document of that id, or one of these is not of its form.
            ConfigError: `embed` gave something else than a vector.
            StoreError: It cannot be written.
        """
        with self._working():
            document = document_of(content, "a new document")
            if metadata is not None:
                document = replace(document, metadata=dict(metadata))
            if embedding is not None:
                document = replace(document, embedding=tuple(embedding))
            prepared = self._prepared([document])[0]
            with self._transaction("BEGIN IMMEDIATE"):
                name = document_id if document_id is not None else own_id(content)
                if document_id is not None or name is None:
                    prepared = named(prepared, free_id(self._connection) if name is None else name)
                self._write(prepared, replacing=False)
            return prepared

    def add_documents(self, documents: Iterable[Any]) -> list[Document]:
        """Add all of these, or none, and return them as they are kept; errors as `add_document`.

        Args:
            documents: What `documents_of` takes: each needs an id of its own, or is called "document 1", … by its
                place in the list.
        """
        found = documents_of(documents)
        with self._working():
            return self._written(found, replacing=False)

    def update(
        self,
        document_id: str,
        content: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        embedding: Sequence[float] | None = None,
    ) -> Document:
        """Replace what is given of a document, and return it as it is kept.

        With another text it loses its chunks, and its embedding where neither `embedding` nor `embed` gives a new one.

        Raises:
            ValidationError: There is no document of that id, or what is given is not of its form.
        """
        with self._working():
            old = self.get(document_id)
            if old is None:
                raise ValidationError(
                    f"the store has no document {document_id!r}", remedy="add it with `add_document`, or see `ids()`"
                )
            new = old if metadata is None else replace(old, metadata=dict(metadata))
            if content is not None and content != old.content:
                new = _rewritten(new, content)
            if embedding is not None:
                new = replace(new, embedding=tuple(embedding))
            return self._written([new], replacing=True)[0]

    def delete(self, document_id: str) -> bool:
        """Take a document out; return whether there was one of that id."""
        with self._working(), self._transaction("BEGIN IMMEDIATE"):
            place = place_of(self._connection, document_id)
            if place is None:
                return False
            self._words.forget(place)
            self._connection.execute("DELETE FROM documents WHERE place = ?", (place,))
            return True

    def index_repository(
        self,
        path: str | os.PathLike[str],
        suffixes: Sequence[str] | str = (".py", ".md"),
        *,
        max_bytes: int = 1_000_000,
        prefix: str = "",
    ) -> Indexed:
        """Add the text files of a folder, each called by its path within it; of one that is there, take the new text.

        Links are not followed. What is hidden (".git"), made by tools ("__pycache__", "node_modules", a virtual
        environment), larger than `max_bytes`, binary or not UTF-8 is left out, and told. A document whose file is gone
        stays: `delete` it. Metadata of a document that is there is kept.

        Args:
            suffixes: Endings of files to read.
            prefix: What ids begin with, e.g. "planloom/", where a store holds several repositories.

        Returns:
            Which documents were added, replaced or found unchanged, and what was skipped, and why.

        Raises:
            ValidationError: There is no such folder.
        """
        became: dict[str, list[str]] = {"added": [], "replaced": [], "unchanged": []}
        skipped: dict[str, str] = {}
        files = text_files(path, suffixes, max_bytes)
        while some := list(islice(files, AT_ONCE)):
            skipped.update({file.path: file.problem for file in some if file.text is None})
            with self._working():
                told = [self._read(prefix, file.path, file.text) for file in some if file.text is not None]
                self._written([document for how, document in told if how != "unchanged"], replacing=True)
            for how, document in told:
                became[how].append(document.id)
        return Indexed(tuple(became["added"]), tuple(became["replaced"]), tuple(became["unchanged"]), skipped)

    def _read(self, prefix: str, path: str, text: str) -> tuple[str, Document]:
        """Return what becomes of a file's document, and how it is then."""
        old = self.get(f"{prefix}{path}")
        if old is None:
            return "added", Document(f"{prefix}{path}", text, {"path": path})
        return ("unchanged", old) if old.content == text else ("replaced", _rewritten(old, text))

    def embed_missing(self) -> int:
        """Embed the documents that came while the store had no `embed`; return how many.

        Raises:
            ConfigError: The store was opened without `embed`, or that gave something else than vectors.
        """
        with self._working():
            if self._embed is None:
                raise ValidationError("nothing here makes embeddings", remedy="give MemoryStore(path, embed=...)")
            missing = [document for document in self.documents() if document.embedding is None]
            for first in range(0, len(missing), AT_ONCE):
                self._written(missing[first : first + AT_ONCE], replacing=True)
            return len(missing)

    # --- searching it ---------------------------------------------------------------------------

    def search(
        self, query: str, limit: int = 5, *, embedding: Sequence[float] | None = None
    ) -> list[tuple[Document, float]]:
        """Return the documents that a text is about, best first.

        Without embeddings a document that shares no word with the text is not found, and words such as "the" count for
        nothing. With them, both orders are fused by rank (reciprocal rank fusion).

        Args:
            query: A question or a few words; no sign in it has a meaning of its own.
            limit: Most documents to return.
            embedding: The vector of the query; None: what `embed` gives, if there is one.

        Returns:
            Each with its score, above 0 and below 1, to be compared within one answer only; of equals the one that was
            added first.
        """
        if not isinstance(query, str):
            raise ValidationError(f"a query is a text, not {type(query).__name__}", remedy="give a str")
        with self._working():
            if limit < 1:
                return []
            pool = max(limit, FUSED_FROM)
            asked = self._asked(query, embedding)
            with self._transaction("BEGIN"):  # all of it is read as of one moment
                by_words = self._words.best(query, pool)
                alike = None if asked is None else self._vectors.best(asked, pool)
                scores = dict(by_words) if alike is None else fused([place for place, _ in by_words], alike)
                best = sorted(scores, key=lambda place: (-scores[place], place))[:limit]
                return [(document_at(self._connection, place), scores[place]) for place in best]

    def _asked(self, query: str, embedding: Sequence[float] | None) -> list[float] | None:
        if embedding is not None:
            return unit([float(number) for number in embedding])
        return embedded(self._embed, [query])[0] if self._embed is not None and query.strip() else None

    # --- inside ---------------------------------------------------------------------------------

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Keep other threads out, and tell what SQLite raises in our words."""
        with self._lock, translated(self.path):
            if not self._close.alive:
                raise StoreError(f"store {self.path} was closed", remedy="open it again")
            yield

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        self._connection.execute(begin)
        try:
            yield
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _revision(self) -> Hashable:
        """Return what is another value after any change, whoever made it."""
        others = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return others, self._connection.total_changes

    def _prepared(self, documents: Iterable[Document]) -> list[Document]:
        """Return the documents as they will be kept: embedded, where something embeds."""
        found = list(documents)
        missing = [at for at, document in enumerate(found) if document.embedding is None and document.content.strip()]
        if self._embed is not None:
            for first in range(0, len(missing), AT_ONCE):
                places = missing[first : first + AT_ONCE]
                vectors = embedded(self._embed, [found[at].content for at in places])
                for at, vector in zip(places, vectors, strict=True):
                    found[at] = replace(found[at], embedding=tuple(vector))
        return [
            one if one.embedding is None else replace(one, embedding=as_kept(one.embedding, one.id)) for one in found
        ]

    def _written(self, documents: Iterable[Document], *, replacing: bool) -> list[Document]:
        prepared = self._prepared(documents)
        with self._transaction("BEGIN IMMEDIATE"):
            for document in prepared:
                self._write(document, replacing=replacing)
        return prepared

    def _write(self, document: Document, *, replacing: bool) -> None:
        if document.embedding is not None:
            self._vectors.must_fit(len(document.embedding), besides=document.id)
        place = place_of(self._connection, document.id)
        if place is None:
            place = insert(self._connection, document)
        elif replacing:
            self._words.forget(place)
            update(self._connection, place, document)
        else:
            raise ValidationError(
                f"the store has a document {document.id!r} already",
                remedy="change it with `update`, or give this one another `document_id`",
            )
        self._words.learn(place)


def _rewritten(document: Document, content: str) -> Document:
    """Return the document with another text; what was made of the old one is gone."""
    return replace(document, content=content, chunks=(), embedding=None)
