"""A41-A46, and A1-A3 for graphs of agents; the founding page's own programs about them."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable
from textwrap import dedent
from typing import Any

import pytest

from planloom.api.dag import AgentDAG, AgentNode, NodeStatus
from planloom.api.dag_executor import DAGExecutor
from planloom.api.dag_result import DAGResult
from planloom.core.result import SkipReason
from planloom.errors import CycleError

Way = Callable[[AgentDAG, dict[str, Any]], DAGResult]
WAYS: dict[str, Way] = {
    "sync": lambda dag, state: DAGExecutor(dag).execute(state),
    "sync parallel": lambda dag, state: DAGExecutor(dag).execute(state, parallel=True),
    "async": lambda dag, state: asyncio.run(DAGExecutor(dag).aexecute(state)),
    "async sequential": lambda dag, state: asyncio.run(DAGExecutor(dag).aexecute(state, parallel=False)),
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


class Worker:
    """An agent that takes its time and says what it was given.

    Args:
        fails: How often it fails before it succeeds.
    """

    def __init__(self, name: str, seconds: float = 0.0, *, fails: int = 0, log: list[str] | None = None) -> None:
        self.name = name
        self.seconds = seconds
        self.fails = fails
        self.log: list[str] = [] if log is None else log
        self.given: list[Any] = []

    async def arun(self, value: Any) -> dict[str, Any]:
        self.given.append(value)
        self.log.append(f"{self.name} begins")
        await asyncio.sleep(self.seconds)
        self.log.append(f"{self.name} ends")
        if len(self.given) <= self.fails:
            raise RuntimeError(f"{self.name} broke")
        return {"by": self.name}


def graph(*edges: str, **agents: Any) -> AgentDAG:
    """Return a graph of agents by name, or nodes; edges are written "a b"."""
    dag = AgentDAG("graph")
    for name, agent in agents.items():
        dag.add_node(agent if isinstance(agent, AgentNode) else AgentNode(name, agent))
    for edge in edges:
        dag.add_edge(*edge.split())
    return dag


def statuses(result: DAGResult) -> dict[str, str]:
    return {name: step.status.value for name, step in result.nodes.items()}


# --- A1-A3 --------------------------------------------------------------------------------------


@every_way
def test_a1_a_circle_is_told_with_its_path_and_nothing_runs(way: Way) -> None:
    lone = Worker("d")
    dag = graph("a b", "b c", "c a", a=Worker("a"), b=Worker("b"), c=Worker("c"), d=lone)

    with pytest.raises(ValueError, match="a -> b -> c -> a") as caught:
        way(dag, {})

    assert isinstance(caught.value, CycleError)
    assert lone.given == []


def test_a1_unknown_nodes_doubled_names_and_edges_to_oneself_are_errors_of_value() -> None:
    dag = graph(a=Worker("a"))

    with pytest.raises(ValueError, match="no node 'zzz'"):
        dag.add_edge("a", "zzz")
    with pytest.raises(ValueError, match="a node 'a' already"):
        dag.add_node(AgentNode("a", Worker("a")))
    with pytest.raises(ValueError, match="a -> a"):
        dag.add_edge("a", "a")


@every_way
def test_a1_a_parameter_that_nobody_gives_is_told_before_anything_runs(way: Way) -> None:
    first = Worker("a")
    dag = graph("a b", a=first, b=AgentNode("b", Worker("b"), input_mapping={"text": "missing"}))

    with pytest.raises(ValueError, match=r"node 'b'.*'missing'.*'text'.*'question', 'a'"):
        way(dag, {"question": "why"})

    assert first.given == []


@pytest.mark.slow
def test_a2_a_node_starts_as_soon_as_what_it_needs_is_done_and_waits_for_no_level() -> None:
    log: list[str] = []
    agents = {name: Worker(name, s, log=log) for name, s in (("a", 0.1), ("b", 0.4), ("c", 0.4), ("d", 0.1))}

    result = asyncio.run(DAGExecutor(graph("a c", "b d", **agents)).aexecute())

    assert log.index("c begins") < log.index("b ends")
    assert result.execution_time_seconds < 0.75  # barriers between levels would take 0.8


@every_way
def test_a3_nodes_run_after_what_they_need_in_a_triangle_and_in_a_skewed_graph(way: Way) -> None:
    for edges in (["a b", "a c", "b c"], ["a b", "b d", "a c", "d c"]):
        log: list[str] = []
        dag = graph(*edges, **{name: Worker(name, log=log) for name in ("c", "d", "b", "a")})

        result = way(dag, {})

        assert result.status == "success"
        for edge in edges:
            source, target = edge.split()
            assert log.index(f"{source} ends") < log.index(f"{target} begins")


# --- A41 ----------------------------------------------------------------------------------------


def seed_graph(seconds: float) -> AgentDAG:
    names = ("ingest", "stats", "patterns", "analysis", "report")
    edges = [edge for name in names[1:4] for edge in (f"ingest {name}", f"{name} report")]
    return graph(*edges, **{name: Worker(name, seconds) for name in names})


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.parametrize(
    ("way", "least", "most"),
    [
        ("async", 0.6, 0.72),
        ("sync parallel", 0.6, 0.72),
        ("async sequential", 1.0, 1.2),
        ("sync", 1.0, 1.2),
    ],
)
def test_a41_side_by_side_a_graph_takes_its_longest_path_and_one_by_one_the_sum(
    way: str, least: float, most: float
) -> None:
    result = WAYS[way](seed_graph(0.2), {"data": "input"})

    assert least * 0.95 <= result.execution_time_seconds <= most


@every_way
def test_a41_a_graph_comes_to_the_same_however_it_is_run(way: Way) -> None:
    result = way(seed_graph(0.001), {"data": "input"})

    assert result.status == "success"
    assert (result.total_nodes, result.completed_nodes, result.failed_nodes, result.skipped_nodes) == (5, 5, 0, 0)
    assert result.node_results == {name: {"by": name} for name in result.nodes}
    sources = {key: entry["source"] for key, entry in result.state.to_dict().items()}
    assert sources == {"data": "initial_state"} | {name: name for name in result.nodes}


@pytest.mark.slow
def test_a41_agents_without_arun_run_side_by_side_too() -> None:
    both_there = threading.Barrier(3, timeout=10)

    def meet(value: Any) -> bool:
        both_there.wait()
        return True

    dag = graph("a b", "a c", "a d", a=Worker("a"), b=meet, c=meet, d=meet)

    assert DAGExecutor(dag).execute(parallel=True).status == "success"


# --- A42 ----------------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize(
    ("on_error", "expected", "status"),
    [
        ("fail", {"a": "failed", "b": "skipped", "lone": "completed"}, "failed"),
        ("skip", {"a": "skipped", "b": "skipped", "lone": "completed"}, "partial"),
        ("continue", {"a": "failed", "b": "completed", "lone": "completed"}, "partial"),
    ],
)
def test_a42_what_a_failure_means_is_what_its_node_says(
    way: Way, on_error: Any, expected: dict[str, str], status: str
) -> None:
    after = Worker("b")
    broken = AgentNode("a", Worker("a", fails=9), on_error=on_error)
    dag = graph("a b", a=broken, b=AgentNode("b", after, input_mapping={"x": "a"}), lone=Worker("lone"))

    result = way(dag, {})

    assert (statuses(result), result.status) == (expected, status)
    assert "a broke" in result.errors["a"]
    assert after.given == ([{"x": None}] if on_error == "continue" else [])
    assert ("a" in result.final_state) is (on_error == "continue")


# --- A43 ----------------------------------------------------------------------------------------


@every_way
def test_a43_two_retries_mend_two_failures(way: Way) -> None:
    agent = Worker("a", fails=2)
    dag = graph(a=AgentNode("a", agent, retry_count=2))

    result = way(dag, {})

    assert (len(agent.given), result.status) == (3, "success")
    assert result.nodes["a"].attempts == dag.node("a").execution_count == 3


@every_way
def test_a43_one_retry_does_not_mend_two_failures(way: Way) -> None:
    agent = Worker("a", fails=2)

    result = way(graph(a=AgentNode("a", agent, retry_count=1)), {})

    assert (len(agent.given), result.status) == (2, "failed")


@pytest.mark.slow
@every_way
def test_a43_a_node_that_takes_too_long_is_timed_out(way: Way) -> None:
    began = time.monotonic()

    result = way(graph(a=AgentNode("a", Worker("a", 5.0), timeout_seconds=0.1)), {})

    assert result.nodes["a"].status is NodeStatus.TIMED_OUT
    assert (result.status, result.failed_nodes) == ("failed", 1)
    assert time.monotonic() - began < 1.0


@pytest.mark.slow
def test_a43_a_thread_that_takes_too_long_is_reported_and_its_late_answer_ignored() -> None:
    go_on, late = threading.Event(), threading.Event()

    def slow(value: Any) -> str:
        go_on.wait(10)
        late.set()
        return "too late"

    try:
        result = DAGExecutor(graph(a=AgentNode("a", slow, timeout_seconds=0.1))).execute()
    finally:
        go_on.set()

    assert result.nodes["a"].status is NodeStatus.TIMED_OUT
    assert "abandoned" in result.errors["a"]
    assert late.wait(5)
    assert (result.node_results, result.final_state) == ({}, {})


# --- A44 ----------------------------------------------------------------------------------------


def branches(high: Any, low: Any) -> AgentDAG:
    agents = {name: Worker(name) for name in ("a", "h", "l", "f")}
    dag = graph("h f", "l f", **agents)
    return dag.add_edge("a", "h", high).add_edge("a", "l", low)


CONDITIONS = {
    "text": ("steps.a.output.by == 'a'", "steps.a.output.by == 'b'"),
    "function": (lambda state: state["a"]["by"] == "a", lambda state: False),
}


@every_way
@pytest.mark.parametrize("kind", CONDITIONS)
def test_a44_a_join_runs_after_whichever_branch_was_taken(way: Way, kind: str) -> None:
    result = way(branches(*CONDITIONS[kind]), {})

    assert statuses(result) == {"a": "completed", "h": "completed", "l": "skipped", "f": "completed"}
    assert result.status == "partial"


@every_way
@pytest.mark.parametrize("kind", CONDITIONS)
def test_a44_a_join_is_skipped_when_no_branch_was_taken(way: Way, kind: str) -> None:
    no = CONDITIONS[kind][1]

    result = way(branches(no, no), {})

    assert statuses(result) == {"a": "completed", "h": "skipped", "l": "skipped", "f": "skipped"}


@every_way
def test_a44_what_comes_after_a_failure_is_skipped_all_the_way(way: Way) -> None:
    result = way(graph("a b", "b c", a=Worker("a", fails=9), b=Worker("b"), c=Worker("c")), {})

    assert statuses(result) == {"a": "failed", "b": "skipped", "c": "skipped"}
    assert result.nodes["c"].skip_reason is SkipReason.UPSTREAM_FAILED


@every_way
def test_a44_a_condition_that_raises_is_an_error_of_its_edge_and_not_false(way: Way) -> None:
    def broken(state: dict[str, Any]) -> bool:
        raise LookupError("no such score")

    result = way(branches("true", broken), {})

    assert statuses(result) == {"a": "completed", "h": "completed", "l": "failed", "f": "skipped"}
    assert result.status == "failed"
    assert "edge from 'a' to 'l'" in result.errors["l"]
    assert "no such score" in result.errors["l"]


# --- A45 ----------------------------------------------------------------------------------------


@every_way
def test_a45_a_second_run_has_no_key_of_the_first(way: Way) -> None:
    dag = graph(a=Worker("a"))
    executor = DAGExecutor(dag)

    first = executor.execute({"only_first": 1})
    second = executor.execute({"only_second": 2})

    assert set(first.final_state) == {"only_first", "a"}
    assert set(second.final_state) == set(second.state) == {"only_second", "a"}


@pytest.mark.parametrize("slower", ["one", "two"])
def test_a45_of_two_that_write_one_key_the_later_in_order_counts_whoever_was_faster(slower: str) -> None:
    end = Worker("end")
    dag = graph(
        "one end",
        "two end",
        one=AgentNode("one", Worker("one", 0.02 * (slower == "one")), output_key="k"),
        two=AgentNode("two", Worker("two", 0.02 * (slower == "two")), output_key="k"),
        end=end,
    )

    result = DAGExecutor(dag).execute(parallel=True)

    assert sorted(str(entry.source) for entry in result.state.get_history("k")) == ["one", "two"]
    assert result.state.get("k") == result.final_state["k"] == {"by": "two"}
    assert end.given == [{"k": {"by": "two"}}]


def test_a45_runs_of_one_graph_at_the_same_time_share_no_status_and_no_state() -> None:
    async def main() -> list[DAGResult]:
        def agent(value: dict[str, Any]) -> str:
            if value["number"] % 2:
                raise RuntimeError("odd")
            return f"even {value['number']}"

        executor = DAGExecutor(graph("a b", a=agent, b=Worker("b", 0.001)))
        return await asyncio.gather(*(executor.aexecute({"number": number}) for number in range(8)))

    results = asyncio.run(main())

    assert [result.status for result in results] == ["success", "failed"] * 4
    assert [result.final_state.get("a") for result in results[::2]] == [f"even {number}" for number in (0, 2, 4, 6)]
    assert [set(result.state) for result in results[1::2]] == [{"number"}] * 4


@every_way
def test_a45_a_key_that_is_mapped_stays_even_where_its_value_is_none(way: Way) -> None:
    agent = Worker("a")

    way(graph(a=AgentNode("a", agent, input_mapping={"text": "nothing", "more": "x"})), {"nothing": None, "x": 1})

    assert agent.given == [{"text": None, "more": 1}]


# --- A46 ----------------------------------------------------------------------------------------


def test_a46_a_graph_under_way_is_drawn_with_a_sign_of_its_own_for_each_status_and_with_levels() -> None:
    drawn: list[tuple[str, str, str]] = []

    async def main() -> None:
        async def draw(value: Any) -> None:
            for _ in range(1000):
                if dag.node("bad").status is NodeStatus.FAILED and dag.node("look").status is NodeStatus.RUNNING:
                    break
                await asyncio.sleep(0.001)
            drawn.append((dag.visualize(), dag.mermaid(), dag.dot()))

        dag = graph("ok bad", "bad after", "ok look", "look later", ok=Worker("ok"), bad=Worker("bad", fails=9),
                    after=Worker("after"), look=draw, later=Worker("later"))  # fmt: skip
        await DAGExecutor(dag).aexecute()

    asyncio.run(main())

    text, mermaid, dot = drawn[0]
    signs = {line.split()[1]: line.split()[0] for line in text.splitlines() if line.startswith("  ") and "(" in line}
    assert signs == {"ok": "✓", "bad": "✗", "look": "▶", "after": "↷", "later": "○"}
    assert [line for line in text.splitlines() if line.startswith("level")] == ["level 0", "level 1", "level 2"]
    assert mermaid.count("classDef") == 5
    assert dot.startswith('digraph "graph" {')
    assert dot.count("->") == 4


def test_a46_a_result_is_drawn_as_it_was_whatever_the_nodes_show_since() -> None:
    agent = Worker("a", fails=1)
    dag = graph(a=agent)
    first = DAGExecutor(dag).execute()

    DAGExecutor(dag).execute()

    assert "✗ a" in dag.visualize(first)
    assert "✓ a" in dag.visualize()


# --- the founding page --------------------------------------------------------------------------

SEQUENTIAL = """
    async def sequential_dag():
        from linus.agents.graph import AgentDAG, AgentNode, DAGExecutor

        # Create DAG
        dag = AgentDAG("Pipeline")
        dag.add_node(AgentNode(name="step1", agent=agent1, output_key="result1"))
        dag.add_node(AgentNode(name="step2", agent=agent2, output_key="result2"))
        dag.add_edge("step1", "step2")

        # Execute asynchronously but sequentially
        executor = DAGExecutor(dag)
        result = await executor.aexecute(
            initial_state={"input": "data"},
            parallel=False  # Sequential execution
        )

        print(f"Status: {result.status}")
"""
PARALLEL = """
    async def parallel_dag():
        dag = AgentDAG("ParallelPipeline")
        dag.add_node(AgentNode(name="ingest", agent=ingest_agent))
        dag.add_node(AgentNode(name="stats", agent=stats_agent))
        dag.add_node(AgentNode(name="patterns", agent=pattern_agent))
        dag.add_node(AgentNode(name="analysis", agent=analysis_agent))
        dag.add_node(AgentNode(name="report", agent=report_agent))

        dag.add_edge("ingest", "stats")
        dag.add_edge("ingest", "patterns")
        dag.add_edge("ingest", "analysis")
        dag.add_edge("stats", "report")
        dag.add_edge("patterns", "report")
        dag.add_edge("analysis", "report")

        # Execute with parallel processing (default)
        executor = DAGExecutor(dag)
        result = await executor.aexecute(
            initial_state={"data": "input"},
            parallel=True  # Parallel execution (default)
        )

        print(f"Completed in: {result.execution_time_seconds:.2f}s")
"""
COMPARE = """
    async def compare_dag_execution():
        # DAG with 3 parallel nodes in level 2
        dag = create_parallel_dag()  # 1 -> [2,3,4] -> 5
        executor = DAGExecutor(dag)

        # Sequential execution
        start = time.time()
        result_seq = await executor.aexecute(parallel=False)
        time_seq = time.time() - start

        # Parallel execution
        start = time.time()
        result_par = await executor.aexecute(parallel=True)
        time_par = time.time() - start

        print(f"Sequential: {time_seq:.2f}s")
        print(f"Parallel: {time_par:.2f}s")
        print(f"Speedup: {time_seq/time_par:.2f}x")
"""
MIGRATED = """
    # Before (sync, sequential)
    executor = DAGExecutor(dag)
    result = executor.execute(initial_state=data)
"""


def run_page(program: str, **names: Any) -> dict[str, Any]:
    """Run a program of the page, its imports led to where things are here; return what it defined."""
    text = re.sub(r"from linus\.agents\.graph import .*", "", dedent(program))
    known = {"AgentDAG": AgentDAG, "AgentNode": AgentNode, "DAGExecutor": DAGExecutor, "time": time, **names}
    exec(compile(text, "<the founding page>", "exec"), known)
    return known


def test_a70_the_founding_pages_sequential_graph_runs(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = Worker("one"), Worker("two")

    page = run_page(SEQUENTIAL, agent1=first, agent2=second)
    asyncio.run(page["sequential_dag"]())

    assert capsys.readouterr().out == "Status: success\n"
    assert first.given == ["data"]
    assert second.given == [{"input": "data", "result1": {"by": "one"}}]


def test_a70_the_founding_pages_parallel_graph_runs(capsys: pytest.CaptureFixture[str]) -> None:
    log: list[str] = []
    names = ("ingest_agent", "stats_agent", "pattern_agent", "analysis_agent", "report_agent")

    page = run_page(PARALLEL, **{name: Worker(name, 0.01, log=log) for name in names})
    asyncio.run(page["parallel_dag"]())

    assert capsys.readouterr().out.startswith("Completed in: 0.")
    assert log[:2] == ["ingest_agent begins", "ingest_agent ends"]
    assert sorted(log[2:5]) == ["analysis_agent begins", "pattern_agent begins", "stats_agent begins"]
    assert log[-2:] == ["report_agent begins", "report_agent ends"]


@pytest.mark.slow
def test_a70_the_founding_pages_comparison_shows_a_speed_up_below_what_five_equal_nodes_can_have(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = run_page(COMPARE, create_parallel_dag=lambda: seed_graph(0.1))
    asyncio.run(page["compare_dag_execution"]())

    speedup = float(capsys.readouterr().out.rpartition("Speedup: ")[2].removesuffix("x\n"))
    assert 1.2 < speedup <= 5 / 3 + 0.1


def test_a70_the_founding_pages_migration_keeps_the_sync_form() -> None:
    page = run_page(MIGRATED, dag=seed_graph(0), data={"data": 1})

    assert page["result"].status == "success"
