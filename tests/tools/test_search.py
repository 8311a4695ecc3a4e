"""The tools that a task is about come first, in the same order every time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from planloom.errors import ConfigError
from planloom.tools.catalogue import ToolCatalog
from planloom.tools.definition import ToolDefinition, ToolExample, ToolParameter
from planloom.tools.search import ToolIndex, terms

AREAS = ["calendar", "weather", "invoice", "photo", "music", "parcel", "ticket", "garden", "flight", "recipe"]
ACTS = ["list", "create", "delete", "update", "share", "archive", "rename", "count", "print", "lock"]


def many(number: int) -> list[ToolDefinition]:
    """Return tools of ten areas with ten acts each, over and over."""
    return [
        ToolDefinition(
            name=f"{AREAS[place % 10]}.{ACTS[place // 10 % 10]}_{place // 100}",
            description=f"{ACTS[place // 10 % 10].capitalize()} one {AREAS[place % 10]} of the user",
            parameters=(ToolParameter(name="id", description=f"Which {AREAS[place % 10]}"),),
        )
        for place in range(number)
    ]


def described(name: str, description: str = "", **more: object) -> ToolDefinition:
    return ToolDefinition.model_validate({"name": name, "description": description, **more})


NEEDED = described("receipts.extract", "Read merchant, date and total from the text of a receipt")


def names(found: Sequence[tuple[ToolDefinition, float]]) -> list[str]:
    return [definition.name for definition, _ in found]


@pytest.mark.parametrize(
    "task",
    [
        "Extract the fields of these receipts and categorize them",
        "I have a photo of a bill; extract who was paid and the total",
        "what is the merchant on this receipt?",
        "call receipts.extract on every file",
        "Receipt extraction",
    ],
)
def test_a9_of_200_tools_at_most_10_are_found_and_the_needed_one_is_among_them(task: str) -> None:
    catalogue = ToolCatalog([*many(199), NEEDED])

    found = catalogue.search(task)

    assert len(catalogue) == 200
    assert len(found) <= 10
    assert "receipts.extract" in names(found)


def test_the_best_comes_first_and_what_shares_nothing_is_not_found() -> None:
    index = ToolIndex([described("mail.send", "Send a mail"), NEEDED, described("sum", "Add numbers")])

    assert names(index.search("read the receipt")) == ["receipts.extract"]
    assert index.search("quaternions") == []
    assert index.search("") == []
    assert index.search("all of the and with it") == []


def test_scores_are_shares_and_go_down() -> None:
    found = ToolIndex(many(50)).search("delete a photo")

    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)


def test_equal_scores_go_by_name_whatever_the_order_of_the_tools() -> None:
    tools = [described(f"same.{letter}", "fold paper") for letter in "dacb"]

    forwards, backwards = ToolIndex(tools).search("paper"), ToolIndex(tools[::-1]).search("paper")

    assert names(forwards) == names(backwards) == ["same.a", "same.b", "same.c", "same.d"]


@pytest.mark.parametrize("query", ["tools", "sendMailNow", "send_mail_now", "send.mail-now", "Send the mail now"])
def test_names_are_read_in_every_spelling_of_words(query: str) -> None:
    index = ToolIndex([described("sendMailNow"), described("garden.water")])

    assert names(index.search(query)) == ([] if query == "tools" else ["sendMailNow"])


def test_a_tool_is_found_by_its_domain_its_parameters_and_its_examples() -> None:
    index = ToolIndex(
        [
            described("a", domain="finance"),
            described("b", parameters=[ToolParameter(name="iban", description="Account to be debited")]),
            described(
                "c",
                parameters=[ToolParameter(name="q")],
                examples=[ToolExample(input={"q": "Reykjavik"}, description="Look a city up")],
            ),
        ]
    )

    assert names(index.search("finance")) == ["a"]
    assert names(index.search("iban")) == names(index.search("debited account")) == ["b"]
    assert names(index.search("reykjavik")) == names(index.search("cities")) == ["c"]


def test_words_of_the_name_count_more_than_words_beside_it() -> None:
    index = ToolIndex([described("a.other", "Translate a text"), described("b.translateNow", "Work")])

    assert names(index.search("please translate")) == ["b.translateNow", "a.other"]


def test_a_tool_called_by_its_name_comes_before_all_others() -> None:
    noisy = [described(f"x{place}", "the run of a go run go run") for place in range(20)]
    index = ToolIndex([*noisy, described("go.run", "Start a build")])

    found = index.search("First go, run, go and run; then use Go.Run.", limit=1)

    assert names(found) == ["go.run"]
    assert found[0][1] > 1


def test_a_tool_whose_name_is_a_word_of_every_text_is_called_only_by_that_word_alone() -> None:
    index = ToolIndex([described("all", "Everything"), NEEDED])

    assert names(index.search("all receipts")) == ["receipts.extract"]
    assert names(index.search(" all ")) == ["all"]


def test_the_exact_spelling_of_a_name_goes_before_another_tool_of_those_letters() -> None:
    index = ToolIndex([described("Build", "build build build"), described("build")])

    assert names(index.search("build", limit=1)) == ["build"]


NAMES = st.from_regex(r"[a-zA-Z][a-zA-Z0-9_.-]{0,12}", fullmatch=True)


@pytest.mark.slow
@given(
    name=NAMES,
    others=st.lists(st.tuples(NAMES, st.text(max_size=40)), max_size=15, unique_by=lambda one: one[0].lower()),
    more=st.text(max_size=30),
    irrelevant=st.text(max_size=60),
    limit=st.integers(1, 10),
)
def test_a9_an_irrelevant_tool_never_pushes_out_the_one_that_is_named(
    name: str, others: list[tuple[str, str]], more: str, irrelevant: str, limit: int
) -> None:
    named = described(name)
    rest = [described(other, text) for other, text in others if other.lower() != name.lower()]
    assume(terms(name))  # a tool called `all` is named only by a text that says nothing else
    query = f"{name} {more}"
    called = sum(one.name.lower() in query.lower() for one in [named, *rest])
    added = described("zz~".replace("~", "_irrelevant_tool"), irrelevant)

    before = names(ToolIndex([*rest, named]).search(query, limit=limit))
    after = names(ToolIndex([*rest, named, added]).search(query, limit=limit))

    if called == 1:
        assert before[0] == name
    if name in before and added.name not in query:
        assert name in after


def test_only_tools_of_a_type_or_domain_are_searched_where_asked() -> None:
    catalogue = ToolCatalog(
        [
            described("files.read", "Read a file", type="mcp"),
            described("mail.read", "Read a mail", type="mcp"),
            described("read", "Read anything"),
        ]
    )

    assert sorted(names(catalogue.search("read", kind="mcp"))) == ["files.read", "mail.read"]
    assert names(catalogue.search("read", domain="mail")) == ["mail.read"]
    assert names(catalogue.search("use read", kind="mcp", domain="mail")) == ["mail.read"]


def test_the_index_is_made_once_for_the_same_tools() -> None:
    asked: list[int] = []

    def embed(texts: list[str]) -> list[list[float]]:
        asked.append(len(texts))
        return [[1.0, float(len(text))] for text in texts]

    catalogue = ToolCatalog(many(30), embed=embed)
    catalogue.search("photo")
    catalogue.search("music")
    catalogue.add_tool(NEEDED)
    catalogue.search("receipt")

    assert asked == [30, 1, 1, 31, 1]


def meaning(texts: list[str]) -> list[list[float]]:
    """Return vectors that know what two words have in common with others."""
    kin = [("bill", "receipt", "invoice"), ("car", "flight", "travel")]
    return [[float(any(word in text.lower() for word in words)) for words in kin] for text in texts]


def test_an_embedding_finds_what_is_meant_in_other_words() -> None:
    tools = [described("a.pack", "Pack a box"), NEEDED, described("b.travel", "Book a journey")]

    assert ToolIndex(tools).search("a bill") == []
    assert names(ToolIndex(tools, embed=meaning).search("a bill")) == ["receipts.extract"]


def test_both_orders_count_in_the_fused_one() -> None:
    tools = [described("t1", "pay the bill"), described("t2", "pay the wages"), described("t3", "receipt")]

    found = ToolIndex(tools, embed=meaning).search("pay a bill")

    assert names(found) == ["t1", "t2", "t3"]
    assert found[0][1] == pytest.approx(60 / 61)
    assert all(score < 60 / 61 for _, score in found[1:])


@pytest.mark.parametrize(
    ("vectors", "problem"),
    [
        ([[1.0]], "1 vectors for 2 texts"),
        ([[1.0], [1.0, 2.0]], "vectors of different lengths"),
        ([[], []], "vectors of different lengths, or empty"),
        ([[float("nan")], [1.0]], "not finite"),
    ],
)
def test_an_embedding_that_gives_something_else_is_told(vectors: list[list[float]], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        ToolIndex([described("a"), described("b")], embed=lambda _: vectors)


def test_an_embedding_whose_vectors_change_length_is_told() -> None:
    index = ToolIndex([described("a")], embed=lambda texts: [[1.0] * len(texts[0])] * len(texts))

    with pytest.raises(ConfigError, match="vectors of"):
        index.search("a longer text")


def test_an_index_of_nothing_finds_nothing() -> None:
    assert ToolIndex([], embed=meaning).search("bill") == []
    assert ToolCatalog().search("bill") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("HTTPServer", ["http", "server", "serve…"]),
        ("readPDFText2", ["read", "pdf", "text2"]),
        ("categories", ["category", "categ…"]),
        ("status address analysis", ["status", "statu…", "address", "addre…", "analysis", "analy…"]),
        ("größe_Ärger", ["größe", "ärger"]),
    ],
)
def test_words_are_split_and_made_singular(text: str, words: list[str]) -> None:
    assert list(terms(text)) == words
