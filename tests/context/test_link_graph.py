"""Which documents name which: links, wiki links, citations and metadata, and what is no link."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from planloom.context.document import Document
from planloom.context.graph import DependencyGraph
from planloom.context.link_graph import links_of
from planloom.context.prose import prose_of
from planloom.context.store import MemoryStore
from planloom.errors import ConfigError

SHELF = (
    Document("docs/guide.md", "", {"title": "The Guide"}),
    Document("docs/deep/more (2).md", ""),
    Document("notes/Ideas.md", ""),
    Document("src/main.py", ""),
    Document("doe2020", "", {"title": "On Graphs"}),
    Document("smith", "", {"key": "smith:99"}),
    Document("https://example.org/page", ""),
    Document("SEC-4.2", "", {"title": "Limits of liability"}),
    Document("old/twin.md", ""),
    Document("new/twin.md", ""),
)


def named_by(text: str, metadata: dict[str, object] | None = None, *, id: str = "docs/here.md") -> set[tuple[str, str]]:
    found = links_of([*SHELF, Document(id, text, metadata or {})])
    assert {edge.src for edge in found.edges} <= {id}
    return {(edge.relationship_type, edge.dst) for edge in found.edges}


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("[it](guide.md)", "docs/guide.md"),
        ("[it](./guide.md)", "docs/guide.md"),
        ("[it](guide.md#part)", "docs/guide.md"),
        ('[it](guide.md "Its title")', "docs/guide.md"),
        ("[it](<guide.md>)", "docs/guide.md"),
        ("[it]( guide.md )", "docs/guide.md"),
        ("[it](/docs/guide.md)", "docs/guide.md"),
        ("[it](../docs/guide.md?plain=1)", "docs/guide.md"),
        ("[it](../src/main.py#L3)", "src/main.py"),
        ("[it](deep/more%20(2).md)", "docs/deep/more (2).md"),
        ("[it](<deep/more (2).md>)", "docs/deep/more (2).md"),
        ("[![picture](p.png)](guide.md)", "docs/guide.md"),
        ("![embedded](guide.md)", "docs/guide.md"),
        ("[it](https://example.org/page)", "https://example.org/page"),
        ("[it][1]\n\n[1]: guide.md 'title'", "docs/guide.md"),
        ("[1]: <deep/more (2).md>", "docs/deep/more (2).md"),
        ("- a list\n  with [it](guide.md)", "docs/guide.md"),
        ("a ` alone and [it](guide.md)", "docs/guide.md"),
        ("a ` alone\n\n[it](guide.md)\n\nand ` another", "docs/guide.md"),
        ("```\ncode\n```\n[it](guide.md)", "docs/guide.md"),
        ("[[docs/guide.md]]", "docs/guide.md"),
        ("[[docs/guide]]", "docs/guide.md"),
        ("[[Guide]]", "docs/guide.md"),
        ("[[the guide|called so]]", "docs/guide.md"),
        ("[[ The Guide#Part ]]", "docs/guide.md"),
        ("![[ideas]]", "notes/Ideas.md"),
        ("[[main.py]]", "src/main.py"),
        ("[[SEC-4.2]]", "SEC-4.2"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_link_leads_to_the_document_it_names(text: str, other: str) -> None:
    assert named_by(text) == {("links_to", other)}


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("[@doe2020]", "doe2020"),
        ("[see @doe2020, pp. 3-4]", "doe2020"),
        ("[-@doe2020]", "doe2020"),
        ("[@nobody; @smith:99.]", "smith"),
        ("[@{smith:99}]", "smith"),
        ("As said, see SEC-4.2.", "SEC-4.2"),
        ("(see SEC-4.2)", "SEC-4.2"),
        ("See also Limits of liability, which holds.", "SEC-4.2"),
        ("see the\nbook; cf. “On Graphs”", "doe2020"),
        ('refer to "On\nGraphs"', "doe2020"),
        ("see *On Graphs*", "doe2020"),
        ("see the section SEC-4.2", "SEC-4.2"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_citation_leads_to_the_document_of_that_key_id_or_title(text: str, other: str) -> None:
    assert named_by(text) == {("cites", other)}


def test_several_documents_can_be_cited_at_once() -> None:
    assert named_by("see SEC-4.2, *On Graphs*, and section docs/guide.md; not smith") == {
        ("cites", "SEC-4.2"),
        ("cites", "doe2020"),
        ("cites", "docs/guide.md"),
    }


@pytest.mark.parametrize(
    "text",
    [
        "[it](nowhere.md)",
        "[it](docs/guide.md)",  # that would be docs/docs/guide.md
        "[it](#guide)",
        "[it]()",
        "[it](https://example.org/docs/guide.md)",
        "[it](mailto:guide.md)",
        "[it] (guide.md)",
        "guide.md, docs/guide.md, The Guide",
        "`[it](guide.md)`",
        "`` [it](guide.md) ` ``",
        "```\n[it](guide.md)\n\n[[Guide]]\n```",
        "~~~ md\n[it](guide.md)\n```\n[[Guide]]\n~~~",
        "- in a list\n\n      ```\n      [[Guide]]\n\n      ```",
        "````\n```\n[it](guide.md)\n```\n[[Guide]]\n````",
        "```\n``` py\n[[Guide]]\n```",
        "```\n[it](guide.md) and the fence is never closed",
        r"\[it\](guide.md) \[[Guide]]",
        "[^1]: guide.md",
        "[[twin]]",
        "[[]] [[ ]] [[a\nb]]",
        "[[here]] [it](here.md)",
        "[@nobody] @doe2020 [me@doe2020] [mail @ doe2020]",
        "overseeSEC-4.2, see SEC-4, see all of SEC-4.2",
        "see",
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_no_link_or_names_no_document_or_itself_makes_no_edge(text: str) -> None:
    assert named_by(text) == set()


def test_metadata_names_ids_or_paths_and_what_it_names_in_vain_is_told() -> None:
    found = links_of(
        [
            *SHELF,
            Document(
                "x",
                "",
                {"links": "smith", "cites": ["doe2020", "smith"], "depends_on": ["docs/guide.md", "Guide", 3]},
            ),
            Document("y", "", {"links": {"a": 1}, "cites": None}),
        ]
    )

    assert {edge.key for edge in found.edges} == {
        ("x", "smith", "links_to"),
        ("x", "doe2020", "cites"),
        ("x", "smith", "cites"),
        ("x", "docs/guide.md", "depends_on"),
    }
    assert [(one.document, one.why) for one in found.skipped] == [
        ("x", "metadata 'depends_on' names 'Guide', which is no document"),
        ("x", "metadata 'depends_on' names 3, which is no document"),
        ("y", "metadata 'links' is no list of ids"),
    ]


def test_a_wiki_link_that_may_mean_two_documents_means_none_and_is_told() -> None:
    found = links_of([*SHELF, Document("x", "[[twin]] [[old/twin]]")])

    assert [edge.dst for edge in found.edges] == ["old/twin.md"]
    assert [one.why for one in found.skipped] == ["[[twin]] may mean 'old/twin.md' or 'new/twin.md'"]


def test_a_key_a_title_and_a_path_that_two_documents_have_are_nobodys() -> None:
    found = links_of(
        [
            Document("one", "", {"title": "Twin", "key": "twin99", "path": "t.md"}),
            Document("two", "", {"title": "Twin", "key": "twin99", "path": "t.md"}),
            Document("x", "see Twin [@twin99] [it](t.md)"),
        ]
    )

    assert found.edges == ()


def test_an_id_goes_before_a_title_and_a_file_name() -> None:
    found = links_of([*SHELF, Document("twin", ""), Document("x", "[[twin]]")])

    assert [edge.dst for edge in found.edges] == ["twin"]
    assert found.skipped == ()


def test_the_longest_name_is_meant() -> None:
    found = links_of(
        [Document("Limits", ""), Document("Limits of liability", ""), Document("x", "see Limits of liability of any")]
    )

    assert [edge.dst for edge in found.edges] == ["Limits of liability"]


def test_links_count_from_where_a_document_stands_and_of_several_repositories_from_its_own() -> None:
    found = links_of(
        [
            Document("one/a/x.md", "[y](../y.md) [z](/z.md)", {"path": "a/x.md"}),
            Document("one/y.md", "", {"path": "y.md"}),
            Document("two/y.md", "", {"path": "y.md"}),
            Document("z", "", {"path": "z.md"}),
        ]
    )

    assert [edge.key for edge in found.edges] == [
        ("one/a/x.md", "one/y.md", "links_to"),
        ("one/a/x.md", "z", "links_to"),
    ]


def test_a_program_is_no_prose_but_its_metadata_counts() -> None:
    text = "rows[[guide]] = '[it](guide.md)'  # see SEC-4.2 [@doe2020]"

    assert named_by(text, {"depends_on": "smith"}, id="docs/program.py") == {("depends_on", "smith")}


def test_a_link_and_a_citation_of_one_document_are_two_edges_and_two_links_are_one() -> None:
    assert named_by("[it](guide.md) [it](guide.md#b) [[Guide]] see The Guide") == {
        ("links_to", "docs/guide.md"),
        ("cites", "docs/guide.md"),
    }


@pytest.mark.parametrize(
    "piece",
    [
        "[",
        "](",
        "[[",
        "](<",
        "](a(",
        "[[a|",
        "[@",
        "@a",
        "`",
        "``` ",
        "`` ` ",
        "see ",
        "see a b c d e f ",
        "the ",
        "see the the ",
        "[a]: ",
        "> ",
        " ",
        "\\[",
        "\n",
        "~~~\n",
        "a`b``c",
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_hostile_text_is_read_in_time_that_grows_with_its_length(piece: str) -> None:
    document = Document("x", "[" + piece * (50_000 // len(piece)))

    began = time.process_time()
    links_of([*SHELF, document])

    assert time.process_time() - began < 2


def test_paragraphs_stay_apart_where_code_is_taken_out() -> None:
    assert prose_of("a `b` c\n\nd\n```\ne\n```\nf") == "a   c\n\nd\n\nf"


class Shelf:
    """What holds documents, and is no `MemoryStore`."""

    def documents(self) -> tuple[Document, ...]:
        return (
            Document("a.py", "import b", {"links": "c.md"}),
            Document("b.py", "def half("),
            Document("c.md", "[code](a.py), see d", {"depends_on": "d"}),
            Document("d", "", {"title": "D"}),
        )


def test_a_graph_is_built_from_a_store_with_what_could_not_be_read() -> None:
    graph = DependencyGraph.build_from_memory(Shelf())

    assert [edge.key for edge in graph.edges] == [
        ("a.py", "b.py", "imports"),
        ("a.py", "c.md", "links_to"),
        ("c.md", "a.py", "links_to"),
        ("c.md", "d", "cites"),
        ("c.md", "d", "depends_on"),
    ]
    assert graph.nodes["d"].title == "D"
    assert [one.document for one in graph.skipped] == ["b.py"]
    assert DependencyGraph.from_dict(graph.to_dict()) == graph


def test_a_graph_that_is_there_is_added_to_and_only_what_is_asked_for_is_made() -> None:
    graph = DependencyGraph()
    graph.add_entity_node("topic")
    graph.add_document_node("d")
    graph.add_edge("d", "topic", "mentions")

    built = graph.build_from_memory(Shelf(), relationship_types=["imports", "cites"])

    assert built is graph
    assert [edge.relationship_type for edge in graph.edges] == ["imports", "cites", "mentions"]


def test_a_graph_stays_as_it_was_when_a_store_does_not_fit_it() -> None:
    graph = DependencyGraph()
    graph.add_entity_node("d")

    with pytest.raises(ConfigError, match="'d' is a document in one graph"):
        graph.build_from_memory(Shelf())
    with pytest.raises(ConfigError, match="no builder makes edges 'import'"):
        graph.build_from_memory(Shelf(), relationship_types="import")

    assert list(graph.nodes) == ["d"]


def a_repository(folder: Path) -> Path:
    for path, text in {
        "pkg/__init__.py": "",
        "pkg/a.py": "from pkg import b",
        "pkg/b.py": "",
        "docs/use.md": "[code](../pkg/a.py)",
        ".git/hidden.py": "import pkg",
        "huge.md": "x" * 1_000_001,
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def test_a_graph_of_a_folder_is_that_of_a_store_that_holds_it(tmp_path: Path) -> None:
    folder = a_repository(tmp_path)
    with MemoryStore() as store:
        store.index_repository(folder)

        graph = DependencyGraph.build_from_repository(folder)

        assert graph == DependencyGraph.build_from_memory(store)
    assert [edge.key for edge in graph.edges] == [
        ("docs/use.md", "pkg/a.py", "links_to"),
        ("pkg/a.py", "pkg/b.py", "imports"),
    ]
    assert graph.hops("docs/use.md", 2) == {"docs/use.md": 0, "pkg/a.py": 1, "pkg/b.py": 2}
    assert [one.document for one in graph.skipped] == ["huge.md"]


def test_repositories_in_one_store_do_not_mix(tmp_path: Path) -> None:
    folder = a_repository(tmp_path)
    with MemoryStore() as store:
        store.index_repository(folder, prefix="one/")
        store.index_repository(folder, prefix="two/")

        graph = DependencyGraph.build_from_memory(store)

    assert {(edge.src[:3], edge.dst[:3]) for edge in graph.edges} == {("one", "one"), ("two", "two")}
    assert len(graph.edges) == 4


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        DependencyGraph.build_from_repository(tmp_path / "gone")
