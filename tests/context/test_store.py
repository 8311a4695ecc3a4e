"""A store keeps documents as they were given, and finds those that a text is about."""

from __future__ import annotations

import gc
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planloom import Document, MemoryStore
from planloom.context.document import documents_of
from planloom.errors import ConfigError, StoreError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXTS = {
    "plans": "A plan is checked before it runs; plans that hold no water are refused.",
    "journal": "The journal records every event, so that a run can be resumed after a crash.",
    "mail": "Call sendMailNow with a recipient to send a letter at once.",
    "paris": "Le café de la Gare à Paris est fermé le dimanche.",
    "tokyo": "東京都に住んでいます",
}


def meaning(texts: list[str]) -> list[list[float]]:
    """Return vectors that know what some words have in common with others, and a little of everything else."""
    kin = [("plan", "scheme"), ("journal", "diary", "log"), ("mail", "post", "letter")]
    return [[0.01, *(float(any(word in text.lower() for word in words)) for words in kin)] for text in texts]


@pytest.fixture(params=[True, False], ids=["fts5", "in memory"])
def store(request: pytest.FixtureRequest) -> Iterator[MemoryStore]:
    with MemoryStore(use_fts5=request.param) as made:
        made.add_documents({"id": name, "content": text} for name, text in TEXTS.items())
        yield made


def found(store: MemoryStore, query: str, limit: int = 5) -> list[str]:
    return [document.id for document, _ in store.search(query, limit)]


# --- finding ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("which plan is refused?", "plans"),
        ("resume a run", "journal"),
        ("records of events", "journal"),
        ("send mail", "mail"),
        ("sendMailNow", "mail"),
        ("café", "paris"),
        ("cafe\u0301", "paris"),
        ("東京", "tokyo"),
        ("paris", "paris"),
    ],
)
def test_a68_without_an_embedder_documents_are_found_by_their_words(
    store: MemoryStore, query: str, expected: str
) -> None:
    assert found(store, query)[0] == expected


@pytest.mark.parametrize(
    "query",
    [
        "",
        "   ",
        "the of and with",
        '"',
        '""""',
        "'",
        "NEAR(plan, 2",
        "plan AND",
        "NOT",
        "title:plan",
        "^plan*",
        "plan OR (",
        "{content} : plan",
        "- + ^ * : ( ) { } [ ] \\ % _ ;",
        "DROP TABLE documents; --",
        "\0plan\0",
        "\ud83d",
        "👍🏽",
        "²",
        "plan " * 3000,
        " ".join(f"word{number}" for number in range(3000)),
    ],
    ids=lambda query: ascii(query)[:20],
)
def test_no_query_has_a_meaning_but_its_words(store: MemoryStore, query: str) -> None:
    answer = found(store, query)

    assert answer == (["plans"] if "plan" in query else [])
    assert len(store) == len(TEXTS)


@given(query=st.text(max_size=40))
def test_any_text_may_be_asked_for(query: str) -> None:
    with MemoryStore() as store:
        store.add_document("a text")

        assert all(0 < score < 1 for _, score in store.search(query))


def test_scores_are_shares_and_go_down_to_the_limit(store: MemoryStore) -> None:
    answer = store.search("plan run mail paris event", limit=3)

    scores = [score for _, score in answer]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    assert store.search("plan", limit=0) == []


@pytest.mark.parametrize("use_fts5", [True, False])
def test_equal_documents_are_found_in_the_order_in_which_they_were_added(use_fts5: bool) -> None:
    with MemoryStore(use_fts5=use_fts5) as store:
        store.add_documents({"id": name, "content": "same words"} for name in "dbec")

        assert found(store, "words") == ["d", "b", "e", "c"]


@pytest.mark.parametrize("use_fts5", [True, False])
def test_a_word_of_the_title_or_the_id_counts_more_than_one_of_the_text(use_fts5: bool) -> None:
    with MemoryStore(use_fts5=use_fts5) as store:
        store.add_document("It says engine once and nothing else of it.", document_id="a")
        store.add_document("It says motor once and nothing else of it.", document_id="src/engine.py")
        store.add_document("It says motor once and nothing else of it.", {"title": "The engine"}, "c")
        store.add_documents(["unrelated"] * 4)

        assert sorted(found(store, "engine")[:2]) == ["c", "src/engine.py"]
        assert found(store, "engine")[2] == "a"


def test_a_query_that_is_no_text_is_refused(store: MemoryStore) -> None:
    with pytest.raises(ValidationError, match="not list"):
        store.search(["plan"])  # type: ignore[arg-type]


# --- meaning ------------------------------------------------------------------------------------


def test_with_an_embedder_documents_are_found_by_what_they_mean() -> None:
    with MemoryStore(embed=meaning) as store:
        store.add_documents({"id": name, "content": text} for name, text in TEXTS.items())

        assert found(store, "my diary")[0] == "journal"
        assert found(store, "scheme")[0] == "plans"


def test_what_is_first_by_words_and_by_meaning_is_first_of_all() -> None:
    with MemoryStore(embed=meaning) as store:
        store.add_document("the diary of a cat", document_id="a")
        store.add_document("a log of wood", document_id="b")
        store.add_document("a cat on a mat", document_id="c")

        answer = store.search("cat diary")

    assert answer[0][0].id == "a"
    assert answer[0][1] == pytest.approx(60 / 61)


def test_what_is_embedded_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    with MemoryStore(tmp_path / "s.db", embed=meaning) as store:
        added = store.add_document("my diary")

        assert added == store.get("document 1")
        assert added.embedding is not None
        assert len(added.embedding) == 4
        assert sum(number**2 for number in added.embedding) == pytest.approx(1)


def test_a_vector_may_be_given_with_a_document_and_with_a_query() -> None:
    with MemoryStore() as store:
        store.add_document("one", embedding=[1, 0])
        store.add_document("two", embedding=[0, 2])
        store.add_document("three")

        assert [document.content for document, _ in store.search("?", embedding=[0.1, 1])] == ["two", "one"]
        assert store.search("?") == []


def test_documents_that_came_before_the_embedder_can_be_embedded_later(tmp_path: Path) -> None:
    with MemoryStore(tmp_path / "s.db") as store:
        store.add_documents({"id": name, "content": text} for name, text in TEXTS.items())
    with MemoryStore(tmp_path / "s.db", embed=meaning) as store:
        before = found(store, "diary")

        count = store.embed_missing()

        assert (before, count, store.embed_missing()) == ([], 5, 0)
        assert found(store, "diary")[0] == "journal"


def test_an_empty_text_is_not_sent_to_the_embedder() -> None:
    def picky(texts: list[str]) -> list[list[float]]:
        assert all(texts)
        return [[1.0] for _ in texts]

    with MemoryStore(embed=picky) as store:
        store.add_document("")

        assert store.search("") == []
        assert len(store) == 1


@pytest.mark.parametrize(
    ("vectors", "problem"),
    [([], "0 vectors for 1 texts"), ([[float("inf")]], "not finite"), ([[1e39, 1e39]], "")],
)
def test_an_embedder_that_gives_no_vectors_changes_nothing(vectors: Any, problem: str) -> None:
    with MemoryStore(embed=lambda _: vectors) as store:
        if problem:
            with pytest.raises(ConfigError, match=problem):
                store.add_document("a text")
            assert len(store) == 0
        else:
            assert store.add_document("a text").embedding == pytest.approx((0.7071068, 0.7071068))


@pytest.mark.parametrize("embedding", [[1.0, 2.0, 3.0], [1e39, 0.0], [], [float("nan"), 1.0]])
def test_a_vector_of_another_length_or_of_no_numbers_is_refused(embedding: list[float]) -> None:
    with MemoryStore() as store:
        store.add_document("one", embedding=[1, 0])

        with pytest.raises(ConfigError, match="embedding"):
            store.add_document("two", embedding=embedding)

        assert len(store) == 1


def test_a_query_of_another_length_is_refused() -> None:
    with MemoryStore() as store:
        store.add_document("one", embedding=[1, 0])

        with pytest.raises(ConfigError, match="an embedding of 3 numbers, where the store has those of 2"):
            store.search("one", embedding=[1, 0, 0])


# --- keeping ------------------------------------------------------------------------------------


def test_a_document_comes_back_as_it_was_given(store: MemoryStore) -> None:
    document = Document("ä/ö.md", "one\r\ntwo\0 🦊", {"title": "T", "n": 10**30, "f": 0.1, "deep": [{"a": None}]})

    added = store.add_document(document.chunked(4, 1))

    assert added == store.get("ä/ö.md") == document.chunked(4, 1)


def test_documents_have_an_order_and_names() -> None:
    with MemoryStore() as store:
        store.add_document("first")
        store.add_document("second", document_id="own")
        store.add_document({"content": "third", "title": "Third"}, metadata={"title": "Another"})
        store.delete("document 1")
        last = store.add_document("fourth")

        assert store.ids() == ["own", "document 3", "document 4"]
        assert [document.content for document in store] == ["second", "third", "fourth"]
        assert store.documents()[1].title == "Another"
        assert last.id == "document 4"
        assert "own" in store
        assert "document 1" not in store
        assert 7 not in store
        assert documents_of(store) == tuple(store.documents())


def test_a_document_without_an_id_never_takes_one_that_is_there() -> None:
    with MemoryStore() as store:
        store.add_document("taken", document_id="document 2")

        assert store.add_document("new").id == "document 3"


def test_a_document_put_in_under_another_id_keeps_its_chunks() -> None:
    with MemoryStore() as store:
        added = store.add_document(Document("a", "some words").chunked(5), document_id="b")

        assert [(chunk.id, chunk.document) for chunk in added.chunks] == [("b#0", "b"), ("b#1", "b")]
        assert store.get("b") == added


def test_an_id_given_twice_is_refused_and_names_the_way_out(store: MemoryStore) -> None:
    with pytest.raises(ValidationError, match="has a document 'plans' already") as refused:
        store.add_document("other", document_id="plans")

    assert "update" in refused.value.remedy
    assert store.documents()[0].content == TEXTS["plans"]


def test_of_several_documents_all_are_added_or_none(store: MemoryStore) -> None:
    with pytest.raises(ValidationError, match="'mail' already"):
        store.add_documents([{"id": "new", "content": "quaternion"}, {"id": "mail", "content": "again"}])

    assert store.ids() == list(TEXTS)
    assert found(store, "quaternion") == []


def test_an_update_replaces_what_is_given_and_what_is_found(store: MemoryStore) -> None:
    store.update("mail", metadata={"kind": "how-to"})
    store.update("mail", "Ring the bell.")

    assert store.get("mail") == Document("mail", "Ring the bell.", {"kind": "how-to"})
    assert found(store, "letter recipient") == []
    assert found(store, "bell") == ["mail"]
    assert store.ids() == list(TEXTS)


def test_another_text_has_another_embedding_and_no_chunks() -> None:
    with MemoryStore(embed=meaning) as store:
        before = store.add_document(Document("a", "my diary").chunked(3))
        untouched = store.update("a", metadata={"x": 1})

        after = store.update("a", "my letter")

        assert untouched.embedding == before.embedding
        assert untouched.chunks == before.chunks
        assert after.embedding != before.embedding
        assert after.chunks == ()
        assert store.update("a", "my log", embedding=[0, 0, 0, 1]).embedding == (0, 0, 0, 1)


def test_a_document_that_is_not_there_is_told(store: MemoryStore) -> None:
    with pytest.raises(ValidationError, match="no document 'nobody'"):
        store.update("nobody", "text")

    assert store.get("nobody") is None
    assert store.get("\ud800") is None
    assert store.delete("nobody") is False


def test_what_was_deleted_is_not_found(store: MemoryStore) -> None:
    assert store.delete("journal") is True

    assert found(store, "journal crash event") == []
    assert len(store) == 4


# --- files --------------------------------------------------------------------------------------


def test_a68_what_is_saved_and_loaded_is_equal(store: MemoryStore, tmp_path: Path) -> None:
    store.add_document(Document("a", "some words", {"title": "T"}, (0.1, 0.2)).chunked(5, 1))

    store.save(tmp_path / "new" / "copy.db")
    with MemoryStore.load(tmp_path / "new" / "copy.db") as loaded, MemoryStore(tmp_path / "new" / "copy.db") as opened:
        assert loaded.documents() == opened.documents() == store.documents()
        assert found(loaded, "crash") == found(opened, "crash") == ["journal"]

    assert os.listdir(tmp_path / "new") == ["copy.db"]
    assert (tmp_path / "new" / "copy.db").stat().st_mode & 0o077 == 0


def test_a_store_that_is_opened_again_is_as_it_was(tmp_path: Path) -> None:
    with MemoryStore(tmp_path / "s.db") as store:
        store.add_documents(TEXTS.values())
        store.update("document 1", "other")
        store.delete("document 2")
        expected, answer = store.documents(), store.search("letter")

    with MemoryStore(tmp_path / "s.db") as again:
        assert again.documents() == expected
        assert again.search("letter") == answer


def test_what_is_loaded_is_a_copy(tmp_path: Path) -> None:
    with MemoryStore(tmp_path / "s.db") as store:
        store.add_document("kept", document_id="a")

        with MemoryStore.load(tmp_path / "s.db") as loaded:
            loaded.delete("a")

        assert store.ids() == ["a"]


def test_a_store_saved_where_it_is_goes_on_there(tmp_path: Path) -> None:
    with MemoryStore(tmp_path / "s.db") as store:
        store.save(tmp_path / "s.db")
        store.add_document("added afterwards")

    with MemoryStore(tmp_path / "s.db") as again:
        assert len(again) == 1


def test_only_its_owner_may_read_a_store(tmp_path: Path) -> None:
    MemoryStore(tmp_path / "s.db").close()

    assert (tmp_path / "s.db").stat().st_mode & 0o777 == 0o600


def test_saving_replaces_a_store_and_nothing_else(store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("no database " * 100)
    with MemoryStore(tmp_path / "old.db") as old:
        old.add_document("old")

    store.save(tmp_path / "old.db")

    with MemoryStore(tmp_path / "old.db") as replaced:
        replaced.save(tmp_path / "old.db")
        assert replaced.documents() == store.documents()
    with pytest.raises(StoreError, match="is no store"):
        store.save(tmp_path / "notes.db")
    assert (tmp_path / "notes.db").read_text() == "no database " * 100


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE things (name)")


def newer(path: Path) -> None:
    MemoryStore(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (foreign, "database of another program"),
        (newer, "has format 99; this planloom reads up to 1"),
        (lambda path: path.write_text("short"), "is no store"),
        (lambda path: path.write_text("no database at all " * 100), "is no store"),
        (lambda path: path.mkdir(), "is no store"),
    ],
    ids=["foreign", "newer", "short", "text", "folder"],
)
def test_a_file_that_is_no_store_is_refused_and_left_alone(make: Any, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None

    for open_it in (MemoryStore, MemoryStore.load):
        with pytest.raises(StoreError, match=problem) as refused:
            open_it(path)
        assert refused.value.remedy

    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_store_that_is_not_there_can_be_made_but_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        MemoryStore.load(tmp_path / "s.db")
    assert not (tmp_path / "s.db").exists()

    MemoryStore(tmp_path / "deep" / "s.db").close()

    assert MemoryStore.load(tmp_path / "deep" / "s.db").documents() == []


def test_an_empty_file_becomes_a_store_and_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "s.db").touch()

    with pytest.raises(StoreError, match="is empty"):
        MemoryStore.load(tmp_path / "s.db")
    with MemoryStore(tmp_path / "s.db") as store:
        assert len(store) == 0


def test_a_row_that_is_not_what_was_written_is_told(tmp_path: Path) -> None:
    with MemoryStore(tmp_path / "s.db") as store:
        store.add_document("text", document_id="a")
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        connection.execute("UPDATE documents SET metadata = '{'")
        connection.commit()

    with MemoryStore(tmp_path / "s.db") as store, pytest.raises(StoreError, match="document 'a' of a store is damaged"):
        store.documents()


def test_a_path_below_a_file_cannot_hold_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with MemoryStore() as store, pytest.raises(StoreError, match="cannot be written"):
        store.save(tmp_path / "file" / "s.db")
    with pytest.raises(StoreError):
        MemoryStore(tmp_path / "file" / "s.db")


def test_a_file_written_without_fts5_is_caught_up_with_it(tmp_path: Path) -> None:
    with MemoryStore(tmp_path / "s.db") as store:
        store.add_document("the first text", document_id="a")
        store.add_document("the second text", document_id="b")
    with MemoryStore(tmp_path / "s.db", use_fts5=False) as store:
        store.update("a", "quaternions")
        store.delete("b")
        store.add_document("a third text", document_id="c")

    with MemoryStore(tmp_path / "s.db") as store:
        assert found(store, "first second text") == ["c"]
        assert found(store, "quaternion") == ["a"]


@pytest.mark.parametrize("use_fts5", [True, False])
def test_what_another_process_writes_is_found(use_fts5: bool, tmp_path: Path) -> None:
    with MemoryStore(tmp_path / "s.db", meaning, use_fts5=use_fts5) as one, MemoryStore(tmp_path / "s.db") as other:
        before = found(one, "diary")
        other.add_document("my diary", document_id="a", embedding=[0, 0, 1, 0])

        assert before == []
        assert found(one, "diary") == found(one, "a log") == ["a"]


def test_a_closed_store_says_so(store: MemoryStore) -> None:
    store.close()
    store.close()

    with pytest.raises(StoreError, match="was closed"):
        store.search("plan")


def test_a_store_that_nobody_holds_any_more_is_closed(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "s.db")
    connection = store._connection

    del store
    gc.collect()

    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        connection.execute("SELECT 1")


@pytest.mark.parametrize("use_fts5", [True, False])
def test_threads_may_share_a_store(use_fts5: bool, tmp_path: Path) -> None:
    problems: list[BaseException] = []

    def work(name: str, store: MemoryStore) -> None:
        try:
            for number in range(10):
                store.add_document(f"text of {name}", document_id=f"{name} {number}")
                store.search("text")
                store.update(f"{name} {number}", f"new text of {name}")
        except BaseException as error:  # told below
            problems.append(error)
            raise

    with MemoryStore(use_fts5=use_fts5) as store:
        threads = [threading.Thread(target=work, args=(name, store)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert problems == []
        assert len(store) == 40
        assert len(store.search("new text of", limit=100)) == 40
