"""Which documents name which: in their metadata, by links, wiki links and citations: `links_of`.

Rule 1: no guessing: an edge is made only where a name is that of one document, and not of several.
Rule 2: what stands in code, fenced or between backticks, is an example and no link.
Rule 3: every pattern is linear in the length of the text: a document may be hostile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from posixpath import dirname, normpath
from posixpath import join as join_path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from planloom.context.code_graph import SUFFIXES as CODE
from planloom.context.graph_parts import Found, GraphEdge, Skipped
from planloom.context.names import Names
from planloom.context.paths import path_of
from planloom.context.prose import prose_of

if TYPE_CHECKING:
    from planloom.context.document import Document

NAMED = {"links": "links_to", "cites": "cites", "depends_on": "depends_on"}
"""Fields of metadata that hold an id or a list of ids, and the type of their edges."""

_LINK = re.compile(r"\]\(\s*(?:<([^<>\n]*)>|([^\s()<>]*(?:\([^\s()<>]*\)[^\s()<>]*)*))")
_DEFINITION = re.compile(r"^ {0,3}\[[^\[\]^\n][^\[\]\n]*\]:[ \t]*(?:<([^<>\n]*)>|(\S+))", re.MULTILINE)
_WIKI = re.compile(r"\[\[([^\[\]|#\n]+)(?:[#|][^\[\]\n]*)?\]\]")
_BRACKETS = re.compile(r"\[([^\[\]\n]*)\]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_KEY = re.compile(r"(?<![\w@.])@\{?(\w[\w:.#$%&+?<>~/-]*)")
_AND = re.compile(r"[\"'”’*_]{0,3}\s*(?:,\s*and|,|;|and|or|&)\s+[\"'“‘*_]{0,3}")
_KIND = re.compile(r"(?:the|section|clause|article|chapter|appendix|document|page|file|note)\s+", re.IGNORECASE)
_SEE = re.compile(r"\b(?:see also|see|cf\.|refer to)\s+[\"'“‘(*_]{0,3}", re.IGNORECASE)
_WORD = re.compile(r"\s*[^\s,;()\[\]{}\"“”‘’]+")
MAX_WORDS = 6
"""Of a title or an id after "see"."""
MAX_LIST = 400
"""Characters of what is to be seen."""


def links_of(documents: Sequence[Document]) -> Found:
    """Return the edges from each document to those it names.

    "links_to": of metadata "links", Markdown links and definitions, `[[wiki links]]`. "cites": of metadata "cites",
    `[@key]` with an id or metadata "key", and "see X, Y and section Z" with ids or titles. "depends_on": of metadata of
    that name.

    Args:
        documents: All there are. Of Python files only the metadata is looked at.
    """
    names = Names(documents)
    edges: dict[tuple[str, str, str], GraphEdge] = {}
    skipped: list[Skipped] = []
    for document in documents:
        found = list(_named(document, names, skipped))
        path = path_of(document)
        if not path.endswith(CODE):
            text = prose_of(document.content)
            found += [("links_to", one) for one in _linked(text, dirname(path), names)]
            found += [("links_to", one) for one in _wiki_linked(text, names, document.id, skipped)]
            found += [("cites", one) for one in _cited(text, names)]
        for relationship_type, other in found:
            if other != document.id:
                edge = GraphEdge(document.id, other, relationship_type)
                edges[edge.key] = edge
    return Found(tuple(edges.values()), tuple(skipped))


def _named(document: Document, names: Names, skipped: list[Skipped]) -> Iterator[tuple[str, str]]:
    for field, relationship_type in NAMED.items():
        told: Any = document.metadata.get(field)
        for one in [told] if isinstance(told, str) else told if isinstance(told, list) else []:
            other = names.exact(one) if isinstance(one, str) else None
            if other is None:
                skipped.append(Skipped(document.id, f"metadata {field!r} names {one!r:.80}, which is no document"))
            else:
                yield relationship_type, other
        if told is not None and not isinstance(told, str | list):
            skipped.append(Skipped(document.id, f"metadata {field!r} is no list of ids"))


def _linked(text: str, folder: str, names: Names) -> Iterator[str]:
    for match in (*_LINK.finditer(text), *_DEFINITION.finditer(text)):
        target = match[1] or match[2]
        bare = unquote(target.partition("#")[0].partition("?")[0])
        where = bare.lstrip("/") if bare.startswith("/") else join_path(folder, bare)
        other = names.at(normpath(where)) if bare else None
        if other is None and _SCHEME.match(target):
            other = names.exact(target)
        if other is not None:
            yield other


def _wiki_linked(text: str, names: Names, document: str, skipped: list[Skipped]) -> Iterator[str]:
    for match in _WIKI.finditer(text):
        found = names.called(match[1].strip())
        if len(found) == 1:
            yield found[0]
        elif found:
            meant = " or ".join(repr(one)[:80] for one in found[:3])
            skipped.append(Skipped(document, f"[[{match[1].strip():.80}]] may mean {meant}"))


def _cited(text: str, names: Names) -> Iterator[str]:
    for brackets in _BRACKETS.finditer(text):
        for match in _KEY.finditer(brackets[1]):
            other = names.keyed(match[1]) or names.keyed(match[1].rstrip(":.#$%&+?<>~/-"))
            if other:
                yield other
    for match in _SEE.finditer(text):
        yield from _listed(text[match.end() : match.end() + MAX_LIST], names)


def _listed(text: str, names: Names) -> Iterator[str]:
    """Yield the documents that a text begins with: "X, Y and section Z"."""
    found = _longest(text, names)
    while found:
        other, rest = found
        yield other
        more = _AND.match(rest)
        found = _longest(rest[more.end() :], names) if more else None


def _longest(text: str, names: Names) -> tuple[str, str] | None:
    """Return the document whose id or title stands at the beginning of a text, of several the longest, and the rest."""
    ends: list[int] = []
    while len(ends) < MAX_WORDS and (match := _WORD.match(text, ends[-1] if ends else 0)):
        ends.append(match.end())
    for end in reversed(ends):
        said = " ".join(text[:end].split())
        other = names.titled(said) or names.titled(said.rstrip(".:!?*_'"))
        if other:
            return other, text[end:]
    kind = _KIND.match(text)
    return _longest(text[kind.end() :], names) if kind else None
