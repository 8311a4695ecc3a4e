"""What is composed for a question: chosen whole, within a budget, in an order of its own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planloom.context.composer import ContextComposer
from planloom.context.document import Document
from planloom.context.graph import DependencyGraph
from planloom.core.asking import estimated_tokens
from planloom.errors import ConfigError
from planloom.plan.gasa import GasaPolicy

POLICY = GasaPolicy()


def words(text: str) -> int:
    return len(text.split())


def graph_of(*edges: str, nodes: Sequence[str] = ()) -> DependencyGraph:
    """Return the graph of edges such as "a>b": a depends on b."""
    graph = DependencyGraph()
    for node in (*nodes, *(name for edge in edges for name in edge.split(">"))):
        graph.add_document_node(node)
    for edge in edges:
        dependent, dependency = edge.split(">")
        graph.add_edge(dependent, dependency)
    return graph


def documents_of(**texts: str) -> list[Document]:
    return [Document(name, text) for name, text in texts.items()]


CHAIN = documents_of(
    start="invoices are signed by the clerk",
    middle="nothing in common with what was asked",
    end="the seal is kept downstairs",
    other="invoices and more invoices",
    far="invoices of another year",
)
LINKED = graph_of("start>middle", "middle>end", nodes=["other", "far"])


def test_what_a_graph_leads_to_is_chosen_though_it_shares_no_word_with_the_question() -> None:
    composer = ContextComposer(LINKED, POLICY.model_copy(update={"trust_edges": True}), count=words)

    found = composer.compose("who signed invoices: the clerk?", CHAIN, budget=18)

    assert found.chosen == ("start", "middle", "end")
    assert [one.node for one in found.dropped] == ["other", "far"]
    assert (found.tokens_before, found.tokens_after) == (26, 18)
    assert found.fallback_reason is None


def test_where_edges_may_be_wrong_half_of_the_choice_is_by_score() -> None:
    composer = ContextComposer(LINKED, POLICY, count=words)

    found = composer.compose("who signed invoices: the clerk?", CHAIN, budget=18)

    assert set(found.chosen) == {"start", "middle", "other"}


def test_passages_stand_with_dependencies_first_whatever_the_question() -> None:
    composer = ContextComposer(LINKED, POLICY, count=words)
    asked = ("invoices", "the seal", "clerk and year", "")

    orders = [composer.compose(question, CHAIN).documents for question in asked]

    assert set(orders) == {("end", "far", "middle", "other", "start")}


def test_the_order_edges_puts_the_best_at_both_ends() -> None:
    composer = ContextComposer(None, GasaPolicy(order="edges"), count=words)

    found = composer.compose("invoices clerk", CHAIN)

    assert found.chosen[0] == found.documents[0] == "start"
    assert found.chosen[1] == found.documents[-1]


def test_the_order_given_is_kept() -> None:
    found = ContextComposer(LINKED, GasaPolicy(order="given"), count=words).compose("the seal", CHAIN, budget=12)

    assert found.documents == tuple(one.id for one in CHAIN if one.id in found.chosen)


def test_without_a_budget_everything_is_read_and_nothing_told_as_dropped() -> None:
    found = ContextComposer(LINKED, POLICY, count=words).compose("anything", CHAIN)

    assert set(found.documents) == {one.id for one in CHAIN}
    assert (found.dropped, found.stubs, found.tokens_after) == ((), (), found.tokens_before)


def test_everything_that_fits_is_read_whether_or_not_the_question_names_it() -> None:
    found = ContextComposer(LINKED, POLICY, count=words).compose("nowhere to be found", CHAIN, budget=26)

    assert set(found.documents) == {one.id for one in CHAIN}
    assert found.fallback_reason is None


def test_passages_know_who_may_read_them_in_the_order_they_stand() -> None:
    composer = ContextComposer(LINKED, GasaPolicy(max_hops=1, unknown_nodes="isolate"))

    found = composer.compose("invoices", [*CHAIN, Document("stranger", "invoices")])

    near = {
        name: {found.documents[at]: hops for at, hops in row.items()}
        for name, row in zip(found.documents, found.near, strict=True)
    }
    assert near["middle"] == {"end": 1, "start": 1}
    assert near["end"] == {"middle": 1}
    assert near["far"] == near["stranger"] == {}
    assert found.unknown == 1


def test_a_ranking_is_the_order_in_which_chunks_are_chosen() -> None:
    composer = ContextComposer(LINKED, POLICY.model_copy(update={"trust_edges": True}), count=words)
    question = "who signed invoices: the clerk?"

    ranked = composer.ranking(question, CHAIN)

    assert [one.document for one in ranked] == ["start", "middle", "end", "other", "far"]
    assert [one.tokens for one in ranked] == [6, 7, 5, 4, 4]
    assert composer.compose(question, CHAIN, budget=18).chosen == tuple(one.id for one in ranked[:3])


@pytest.mark.parametrize(("direction", "second"), [("both", "middle"), ("dependencies", "start")])
def test_the_search_follows_the_direction_of_the_policy(direction: str, second: str) -> None:
    policy = GasaPolicy.model_validate({"direction": direction})

    ranked = ContextComposer(LINKED, policy.model_copy(update={"trust_edges": True}), count=words).ranking(
        "is the seal kept", CHAIN
    )

    assert [one.id for one in ranked[:2]] == ["end", second]


# --- what keeps the graph out of it -------------------------------------------------------------


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (None, "nothing that the question is about is in the graph"),
        (graph_of("middle>end"), "nothing that the question is about is in the graph"),
        (
            graph_of("middle>end", nodes=["start", "other", "far"]),
            "the graph has no edge at what the question is about",
        ),
    ],
    ids=["none", "elsewhere", "edgeless"],
)
def test_where_the_graph_cannot_help_scores_choose_alone(graph: DependencyGraph | None, reason: str) -> None:
    found = ContextComposer(graph, POLICY, count=words).compose("invoices of the clerk", CHAIN, budget=14)

    assert found.chosen == ("start", "other", "far")
    assert found.fallback_reason == reason


def test_a_graph_of_everything_with_everything_tells_nothing_apart() -> None:
    documents = [Document(name, f"text of {name}") for name in ("a1", "b2", "c3", "d4", "e5", "f6")]
    names = [one.id for one in documents]
    graph = graph_of(*(f"{one}>{other}" for one in names for other in names if one < other))

    found = ContextComposer(graph, POLICY, count=words).compose("text of d4", documents, budget=6)

    assert found.chosen == ("d4", "a1")
    assert found.fallback_reason == "the graph links what the question is about with most documents"


# --- scope --------------------------------------------------------------------------------------


def scoped(*anchors: str, **more: object) -> GasaPolicy:
    return GasaPolicy.model_validate({"reader_scope": "hops", "anchors": anchors, "max_hops": 1, **more})


def test_what_is_further_than_the_hops_from_an_anchor_is_left_out() -> None:
    found = ContextComposer(LINKED, scoped("start"), count=words).compose("invoices", CHAIN)

    assert found.documents == ("middle", "start")
    assert {one.node for one in found.dropped} == {"end", "other", "far"}


def test_an_anchor_begins_the_search() -> None:
    policy = GasaPolicy(anchors=("end",))

    found = ContextComposer(LINKED, policy.model_copy(update={"trust_edges": True}), count=words).compose(
        "a year", CHAIN, budget=16
    )

    assert found.chosen == ("end", "far", "middle")


def test_the_scope_follows_dependencies_where_the_policy_says_so() -> None:
    policy = scoped("middle", direction="dependencies")

    assert ContextComposer(LINKED, policy).compose("", CHAIN).documents == ("end", "middle")


@pytest.mark.parametrize(("unknown", "read"), [("dense", ("start", "stranger")), ("isolate", ("start",))])
def test_what_the_graph_does_not_know_is_in_scope_unless_isolated(unknown: str, read: tuple[str, ...]) -> None:
    documents = [*documents_of(start="a", far="b"), Document("stranger", "c")]
    graph = graph_of("start>middle", nodes=["far"])

    found = ContextComposer(graph, scoped("start", unknown_nodes=unknown)).compose("", documents)

    assert found.documents == read


def test_anchors_that_nobody_knows_leave_everything_in_scope_and_it_is_told() -> None:
    found = ContextComposer(LINKED, scoped("nowhere")).compose("", CHAIN)

    assert len(found.passages) == len(CHAIN)
    assert found.fallback_reason == "no anchor is a document or a node of the graph"


# --- chunks -------------------------------------------------------------------------------------

LONG = " ".join(f"word{number}" for number in range(400)) + " needle " + " ".join(["hay"] * 100)


def test_a_document_larger_than_the_budget_gives_its_best_chunks_uncut() -> None:
    composer = ContextComposer(None, POLICY, count=words)

    found = composer.compose("where is the needle", [Document("long", LONG)], budget=200)

    assert "needle" in dict(zip(found.chunks, (one.text for one in found.passages), strict=True))[found.chosen[0]]
    assert 100 < found.tokens_after <= 200
    assert {one.node for one in found.passages} == {"long"}
    assert len(found.passages) > 3
    assert all(one.text in LONG for one in (*found.passages, *found.dropped))
    assert sum(len(one.text) for one in (*found.passages, *found.dropped)) == len(LONG)


def test_chunks_are_those_of_the_document_or_of_the_policy() -> None:
    document = Document("long", LONG)

    own = ContextComposer(None, POLICY).compose("", [document.chunked(500)])
    by_policy = ContextComposer(None, GasaPolicy(chunk_size=500)).compose("", [document])

    assert own.passages == by_policy.passages
    assert [one.text for one in own.passages] == [one.content for one in document.chunk(500)]
    assert own.chunks[0] == "long#0"


def test_chunks_that_are_nodes_of_the_graph_stand_at_their_own() -> None:
    document = Document("long", LONG).chunked(2_000)
    graph = graph_of("long#1>long")

    found = ContextComposer(graph, POLICY).compose("", [document])

    assert sorted(one.node for one in found.passages) == ["long", "long#1"]


def test_a_document_that_does_not_fit_beside_others_is_dropped_whole() -> None:
    documents = documents_of(small="needle", large="needle " * 9)

    found = ContextComposer(None, POLICY, count=words).compose("needle", documents, budget=9)

    assert [one.text for one in (*found.passages, *found.dropped)] in (
        ["needle", "needle " * 9],
        ["needle " * 9, "needle"],
    )


# --- stubs --------------------------------------------------------------------------------------


def test_a_neighbour_that_is_left_out_is_named_in_a_line_where_it_fits() -> None:
    large = Document("b", "much " * 9, {"title": "All of it"})
    short, long = Document("a", "the question"), Document("a", "the question is asked here")

    found = [
        ContextComposer(graph_of("a>b"), POLICY, count=words).compose("the question", [one, large], budget=9)
        for one in (short, long)
    ]

    assert [one.stubs for one in found] == [("- b: All of it",), ()]
    assert [one.tokens_after for one in found] == [7, 5]


def test_what_is_no_neighbour_is_not_named() -> None:
    found = ContextComposer(LINKED, POLICY, count=words).compose("seal", CHAIN, budget=8)

    assert found.documents == ("end",)
    assert found.stubs == ("- middle",)


# --- numbers ------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(
    st.lists(st.text("ab cé\n", min_size=1, max_size=60), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=12),
    st.integers(1, 60),
    st.booleans(),
    st.sampled_from([None, 7, 20]),
)
def test_the_budget_is_never_passed_and_what_is_read_is_never_cut(
    texts: list[str], edges: list[tuple[int, int]], budget: int, trust: bool, chunk_size: int | None
) -> None:
    documents = [Document(f"d{place}", text) for place, text in enumerate(texts)]
    graph = graph_of(*(f"d{one}>d{other}" for one, other in edges if one != other))
    composer = ContextComposer(graph, GasaPolicy(chunk_size=chunk_size, trust_edges=trust))

    found = composer.compose("ab c", documents, budget)

    told = sum(estimated_tokens(one.text) for one in found.passages)
    told += sum(estimated_tokens(f"{line}\n") for line in found.stubs)
    assert told == found.tokens_after <= budget
    assert all(one.text in texts[int(name[1:])] for one, name in zip(found.passages, found.documents, strict=True))
    assert found == ContextComposer(graph, composer._policy).compose("ab c", documents, budget)
    if chunk_size is None and all(estimated_tokens(text) <= budget for text in texts):
        assert {*(one.text for one in found.passages), *(one.text for one in found.dropped)} == set(texts)


def test_given_scores_are_used_instead_of_words() -> None:
    composer = ContextComposer(None, POLICY, count=words, scores=lambda _, texts: [float(len(text)) for text in texts])

    assert composer.compose("the seal", CHAIN, budget=8).chosen[0] == "middle"


@pytest.mark.parametrize("given", [[1.0], [float("nan")] * 5])
def test_scores_that_are_no_number_for_each_text_are_refused(given: list[float]) -> None:
    with pytest.raises(ConfigError, match="for 5 texts"):
        ContextComposer(None, POLICY, scores=lambda _, __: given).compose("", CHAIN)


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="a budget of 0 tokens"):
        ContextComposer(None, POLICY).compose("", CHAIN, budget=0)


def test_documents_that_changed_are_read_again() -> None:
    composer = ContextComposer(None, POLICY)
    composer.compose("", CHAIN)

    assert composer.compose("", documents_of(new="text")).documents == ("new",)


def test_a_document_is_cut_anew_for_another_budget() -> None:
    composer, documents = ContextComposer(None, POLICY, count=words), [Document("long", LONG)]

    found = [composer.compose("needle", documents, budget) for budget in (100, 250, None, 600, 100)]

    cut = [len(one.passages) + len(one.dropped) for one in found]
    assert cut[0] == cut[4] > cut[1] > cut[2] == cut[3] == 1


def test_no_documents_are_no_passages() -> None:
    found = ContextComposer(LINKED, POLICY).compose("anything", [], budget=5)

    assert (found.passages, found.tokens_before, found.tokens_after) == ((), 0, 0)
