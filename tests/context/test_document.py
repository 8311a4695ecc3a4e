"""A document is a text with a name, and its chunks cover it whatever is asked for."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from planloom.context.document import Chunk, Document, documents_of
from planloom.errors import ConfigError, ValidationError

PROSE = "The plan is checked first. Then it is run.\nEvery step is on record.\n\nWhat fails is tried again.\n"


def joined(chunks: list[Chunk], overlap: int) -> str:
    return "".join(chunk.content[overlap if number else 0 :] for number, chunk in enumerate(chunks))


@pytest.mark.parametrize("letters", ["x", "words and more ", PROSE, "日本語", "é\u0301"], ids=list("abcde"))
def test_a68_chunks_of_512_with_overlap_64_cover_1500_characters_and_end(letters: str) -> None:
    text = (letters * 1500)[:1500]

    chunks = Document("d", text).chunk(512, 64)

    assert joined(chunks, 64) == text
    assert all(len(chunk.content) <= 512 for chunk in chunks)
    assert [one.start for one in chunks[1:]] == [one.end - 64 for one in chunks[:-1]]
    assert chunks[-1].end == 1500


def test_a68_a_text_without_any_ends_is_cut_at_exactly_the_size() -> None:
    chunks = Document("d", "x" * 1500).chunk(512, 64)

    assert [(chunk.start, chunk.end) for chunk in chunks] == [(0, 512), (448, 960), (896, 1408), (1344, 1500)]


@pytest.mark.parametrize(("size", "overlap"), [(64, 64), (64, 65), (0, 0), (-1, 0), (8, -1), (True, 0), (8, 2.0)])
def test_a68_an_overlap_as_large_as_the_size_is_refused(size: Any, overlap: Any) -> None:
    document = Document("d", "x")

    with pytest.raises(ValueError, match="chunk_") as refused:
        document.chunk(size, overlap)

    assert isinstance(refused.value, ConfigError)
    assert refused.value.remedy


@given(
    text=st.text(alphabet=st.sampled_from("ab .\n\r\u0301\u200d👍🏽é"), max_size=200),
    size=st.integers(1, 40),
    overlap=st.integers(0, 39),
)
def test_chunks_cover_the_text_within_size_and_with_exactly_the_overlap(text: str, size: int, overlap: int) -> None:
    overlap %= size

    chunks = Document("d", text).chunk(size, overlap)

    assert joined(chunks, overlap) == text
    assert all(0 < len(chunk.content) <= size for chunk in chunks)
    assert all(chunk.content == text[chunk.start : chunk.end] for chunk in chunks)
    assert [one.start for one in chunks[1:]] == [one.end - overlap for one in chunks[:-1]]
    assert [chunk.id for chunk in chunks] == [f"d#{number}" for number in range(len(chunks))]


@pytest.mark.parametrize(
    ("text", "size", "first"),
    [
        ("one line\n\nanother line\nand more", 24, "one line\n\nanother line\n"),
        ("first part here\n\nsecond\nline of it", 25, "first part here\n\n"),
        ("A first sentence. Then another one", 24, "A first sentence. "),
        ("nothing but words in it", 10, "nothing "),
        ("a averyverylongword", 10, "a averyver"),
        ("12345678\r\n12345678", 9, "12345678"),
        ("123456789e\u0301 and on", 10, "123456789"),
        ("12345678\U0001f44d\U0001f3fd and on", 9, "12345678"),
    ],
    ids=["line", "paragraph", "sentence", "word", "too early an end", "line break", "accent", "skin tone"],
)
def test_a_cut_falls_where_something_ends(text: str, size: int, first: str) -> None:
    assert Document("d", text).chunk(size)[0].content == first


def test_an_empty_text_has_no_chunks_and_a_short_one_has_itself() -> None:
    assert Document("d", "").chunk(10) == []
    assert Document("d", "ten or so").chunk(10, 3) == [Chunk("d#0", "d", "ten or so", 0, 9)]


def test_chunking_leaves_the_document_as_it_was() -> None:
    document = Document("d", PROSE, {"title": "On plans"})

    pieces = document.chunked(40, 5)

    assert document.chunks == ()
    assert pieces.chunks == tuple(document.chunk(40, 5))
    assert (pieces.id, pieces.content, pieces.title) == ("d", PROSE, "On plans")


def test_a_document_comes_back_from_json_as_it_was() -> None:
    document = Document("ä", PROSE, {"title": "On plans", "years": (2024, 2025)}, embedding=(0.5, 1)).chunked(40, 5)

    again = Document.from_dict(json.loads(json.dumps(document.to_dict())))

    assert again == document
    assert again.metadata["years"] == [2024, 2025]


def test_a_document_cannot_be_changed_through_what_it_was_made_from() -> None:
    metadata = {"tags": ["a"]}

    document = Document("d", "text", metadata)
    metadata["tags"].append("b")

    assert document.metadata == {"tags": ["a"]}
    with pytest.raises(FrozenInstanceError):
        document.content = "other"  # type: ignore[misc]


@pytest.mark.parametrize("metadata", [{}, {"title": ""}, {"title": 7}])
def test_a_document_without_a_title_is_called_by_its_id(metadata: dict[str, Any]) -> None:
    assert Document("notes.md", "text", metadata).title == "notes.md"


@dataclass
class Found:
    """As other libraries have them."""

    page_content: str
    metadata: dict[str, Any]


class Page(BaseModel):
    id: str
    content: str


def test_whatever_users_pass_for_documents_is_read() -> None:
    values = [
        "a text",
        Document("own", "a document"),
        {"content": "a dict", "title": "Title", "metadata": {"year": 2024}},
        {"id": 7, "text": "numbered"},
        Found("an object", {"source": "web"}),
        Page(id="page", content="a model"),
    ]

    documents = documents_of(values)

    assert [(one.id, one.content) for one in documents] == [
        ("document 1", "a text"),
        ("own", "a document"),
        ("document 3", "a dict"),
        ("7", "numbered"),
        ("document 5", "an object"),
        ("page", "a model"),
    ]
    assert documents[2].title == "Title"
    assert documents[2].metadata == {"title": "Title", "year": 2024}
    assert documents[4].metadata == {"source": "web"}


@pytest.mark.parametrize(
    "alone",
    ["a text", {"content": "a text"}, Found("a text", {}), Page(id="document 1", content="a text")],
    ids=["text", "dict", "object", "model"],
)
def test_one_document_need_not_be_in_a_list(alone: Any) -> None:
    assert [(one.id, one.content) for one in documents_of(alone)] == [("document 1", "a text")]


def test_none_and_nothing_are_no_documents_and_dots_are_left_out() -> None:
    assert documents_of(None) == documents_of([]) == documents_of([...]) == ()
    assert [one.id for one in documents_of(["a", ..., "b"])] == ["document 1", "document 2"]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([{"title": "no text"}], "document 1: a dict without a text is no document"),
        ([7], "document 1: a int without a text is no document"),
        ([None], "document 1: a NoneType without a text is no document"),
        ([{"content": b"bytes"}], "is bytes, no text"),
        ([{"id": " ", "content": "x"}], "cannot be called ' '"),
        ([{"id": "a", "content": "x"}, {"id": "a", "content": "y"}], "two documents are called 'a'"),
        ([{"content": "x", "metadata": ["a"]}], "metadata of document 'document 1' is no dict"),
        ([{"content": "x", "metadata": {"f": open}}], "document 'document 1': "),
        ([{"content": "x", "embedding": [float("nan")]}], "embedding of document 'document 1' is no vector"),
        ([{"content": "x", "embedding": "abc"}], "is no vector"),
        ([{"content": "half \ud83d of a sign"}], "half of a character at 5"),
        ([{"id": "\ud83d", "content": "x"}], "the id of document"),
        ([{"content": "x", "chunks": [{"start": 0, "end": 9}]}], "does not say where it stands"),
        ([{"content": "x", "chunks": [Chunk("other#0", "other", "x", 0, 1)]}], "none of its pieces"),
        ([{"content": "x", "chunks": [Chunk("document 1#0", "document 1", "y", 0, 1)]}], "not what stands at 0"),
    ],
)
def test_what_is_no_document_is_told(values: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as refused:
        documents_of(values)

    assert isinstance(refused.value, ValueError)
    assert refused.value.remedy


@pytest.mark.parametrize("told", [{"content": "x"}, {"id": "a"}, "text"])
def test_from_dict_takes_nothing_without_an_id_and_a_text(told: Any) -> None:
    with pytest.raises(ValidationError):
        Document.from_dict(told)
