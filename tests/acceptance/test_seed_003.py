"""A70, agents in event loops and their graphs: the founding page's programs run, against a provider on this machine.

Rule 1: each program is the page's where the page can be read, else ours (`OURS`); what it takes for granted is given.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from planloom import AgentDAG, AgentNode, DAGExecutor, create_agent, create_gemma_agent, get_default_tools
from planloom.api import agent_factory
from planloom.errors import ConfigError
from planloom.testing.models import ScriptedModel
from planloom.testing.provider import ProviderServer, RecordedRequest, Reply
from tests.acceptance.founding import pieces, program, run

pytestmark = pytest.mark.slow

OURS = {
    0: """
        import asyncio
        from linus.agents.agent.agent import create_gemma_agent
        from linus.agents.agent.tools import get_default_tools

        async def main():
            done = await create_gemma_agent(tools=get_default_tools()).arun("What is 42 times 17?", return_metrics=True)
            print(f"Result: {done.result}")
            print(f"Metrics: {done.metrics.to_dict()}")

        asyncio.run(main())
    """,
    1: """
        async def parallel_agents():
            several = [create_gemma_agent(tools=get_default_tools()) for _ in range(3)]
            found = await asyncio.gather(*(one.arun("task", return_metrics=False) for one in several))
            print(f"All results: {found}")
    """,
    2: """
        async def sequential_dag():
            from linus.agents.graph import AgentDAG, AgentNode, DAGExecutor
            dag = AgentDAG("two")
            dag.add_node(AgentNode(name="step1", agent=agent1, output_key="result1"))
            dag.add_node(AgentNode(name="step2", agent=agent2, output_key="result2"))
            dag.add_edge("step1", "step2")
            done = await DAGExecutor(dag).aexecute(initial_state={"input": "data"}, parallel=False)
            print(f"Status: {done.status}")
    """,
    3: """
        async def parallel_dag():
            dag = AgentDAG("five")
            given = {"ingest": ingest_agent, "stats": stats_agent, "patterns": pattern_agent}
            for name, agent in (given | {"analysis": analysis_agent, "report": report_agent}).items():
                dag.add_node(AgentNode(name=name, agent=agent))
            for name in ("stats", "patterns", "analysis"):
                dag.add_edge("ingest", name)
                dag.add_edge(name, "report")
            done = await DAGExecutor(dag).aexecute(initial_state={"data": "input"}, parallel=True)
            print(f"Completed in: {done.execution_time_seconds:.2f}s")
    """,
    5: """
        async def compare_agent_performance():
            return create_gemma_agent(tools=tools).run("task", return_metrics=False)
    """,
    6: """
        async def compare_multiple_agents():
            return [create_gemma_agent(tools=tools).run(task, return_metrics=False) for task in ("one", "two")]
    """,
    7: """
        async def compare_dag_execution():
            executor = DAGExecutor(create_parallel_dag())
            took = []
            for parallel in (False, True):
                start = time.time()
                await executor.aexecute(parallel=parallel)
                took.append(time.time() - start)
            print(f"Speedup: {took[0] / took[1]:.2f}x")
    """,
    8: """
        from fastapi import FastAPI
        from linus.agents.agent.agent import create_gemma_agent

        app = FastAPI()
        agent = create_gemma_agent(tools=tools)

        @app.post("/agent/query")
        async def query_agent(query: str):
            done = await agent.arun(query, return_metrics=True)
            return {"result": done.result, "metrics": done.metrics.to_dict()}

        @app.post("/dag/execute")
        async def execute_dag(data: dict):
            done = await DAGExecutor(dag).aexecute(initial_state=data, parallel=True)
            return {"status": done.status, "results": done.node_results}
    """,
    9: "result = await asyncio.get_running_loop().run_in_executor(None, tool.run, tool_args)",
    10: "result = await agent.arun(query)\nresult = compute_heavy_math()",
    11: "for parallel in (True, False):\n    result = await executor.aexecute(parallel=parallel)",
    12: """
        try:
            result = await agent.arun(query)
        except Exception as error:
            logger.error(f"Agent failed: {error}")
    """,
    13: """
        doing = (agent1.arun(task1), agent2.arun(task2), agent3.arun(task3))
        results = await asyncio.gather(*doing, return_exceptions=True)
    """,
    14: """
        result_sync = agent.run(query)

        result_async = asyncio.run(agent.arun(query))

        result = await agent.arun(query)
    """,
    15: """
        def process_data(data):
            return create_gemma_agent(tools=tools).run(data)

        async def process_data(data):
            return await create_gemma_agent(tools=tools).arun(data)
    """,
    16: """
        executor = DAGExecutor(dag)
        result = executor.execute(initial_state=data)

        executor = DAGExecutor(dag)
        result = await executor.aexecute(initial_state=data, parallel=True)
    """,
    18: "# the wider a graph, the more of it goes on at once",
    19: """
        tasks = [agent.arun(q) for q in queries[:10]]
        results = await asyncio.gather(*tasks)
        tasks = [agent.arun(q) for q in queries[:1000]]
    """,
    20: """
        semaphore = asyncio.Semaphore(5)

        async def limited_run(query):
            async with semaphore:
                return await agent.arun(query)
    """,
}
"""By their place on the page."""
PLAN = {"has_sufficient_info": True, "tasks": [{"description": "multiply", "tool_name": "math.calculate"}]}
PHASES = {"Plan what": PLAN, "Write the": {"expression": "42 * 17"}, "Look at": {"is_complete": True}}
ANSWER = 714


def text_of(place: int) -> str:
    return program("003", place, OURS)


class Worker:
    """An agent of a graph: takes its time, says what it was given."""

    def __init__(self, name: str, log: list[str], seconds: float = 0.0) -> None:
        self.name, self.log, self.seconds = name, log, seconds

    async def arun(self, value: Any) -> dict[str, Any]:
        self.log.append(f"{self.name} begins")
        await asyncio.sleep(self.seconds)
        self.log.append(f"{self.name} ends")
        return {"by": self.name, "given": value}


def five(seconds: float = 0.0, log: list[str] | None = None) -> AgentDAG:
    """Return the page's graph: one, then three at once, then one."""
    dag = AgentDAG("five")
    for name in ("one", "two", "three", "four", "last"):
        dag.add_node(AgentNode(name=name, agent=Worker(name, [] if log is None else log, seconds)))
    for name in ("two", "three", "four"):
        dag.add_edge("one", name)
        dag.add_edge(name, "last")
    return dag


@pytest.fixture
def gemma(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProviderServer]:
    """Bind the address that the page's agents ask to a provider on this machine."""

    def answer(request: RecordedRequest) -> Reply:
        return Reply(text=json.dumps(next(told for word, told in PHASES.items() if word in request.prompt)))

    with ProviderServer(answer) as server:
        _, *others = create_gemma_agent.__defaults__ or ()
        monkeypatch.setattr(agent_factory.create_gemma_agent, "__defaults__", (server.openai_url, *others))
        yield server


def given(**more: Any) -> dict[str, Any]:
    """Return the names that programs of the page take for granted."""
    known = {"asyncio": asyncio, "time": time, "create_gemma_agent": create_gemma_agent}
    known |= {"get_default_tools": get_default_tools, "AgentDAG": AgentDAG, "AgentNode": AgentNode}
    return known | {"DAGExecutor": DAGExecutor, "tools": get_default_tools(), "query": "42 * 17?"} | more


def agent() -> Any:
    return create_gemma_agent(tools=get_default_tools())


def test_a70_an_agent_works_a_task_out_with_its_tools(
    gemma: ProviderServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run(text_of(0))

    shown = capsys.readouterr().out
    assert f"Result: {ANSWER}\n" in shown
    assert "'llm_calls': 3" in shown


def test_a70_several_agents_work_at_once(gemma: ProviderServer, capsys: pytest.CaptureFixture[str]) -> None:
    names = run(text_of(1), **given())
    asyncio.run(names["parallel_agents"]())

    assert capsys.readouterr().out == f"All results: {[ANSWER] * 3}\n"
    assert gemma.count == 9


def test_a70_a_graph_runs_one_node_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    log: list[str] = []
    names = run(text_of(2), agent1=Worker("1", log, 0.01), agent2=Worker("2", log))
    asyncio.run(names["sequential_dag"]())

    assert capsys.readouterr().out == "Status: success\n"
    assert log == ["1 begins", "1 ends", "2 begins", "2 ends"]


def test_a70_a_graph_runs_what_can_go_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    log: list[str] = []
    wanted = ("ingest", "stats", "pattern", "analysis", "report")
    names = run(text_of(3), **given(**{f"{name}_agent": Worker(name, log, 0.01) for name in wanted}))
    asyncio.run(names["parallel_dag"]())

    assert re.fullmatch(r"Completed in: \d+\.\d\ds\n", capsys.readouterr().out)
    assert sorted(log[2:5]) == ["analysis begins", "pattern begins", "stats begins"]
    assert log[-2:] == ["report begins", "report ends"]


@pytest.mark.parametrize(("place", "name"), [(5, "compare_agent_performance"), (6, "compare_multiple_agents")])
def test_a70_decided_otherwise_a_sync_run_inside_a_running_loop_is_a_clear_error(
    gemma: ProviderServer, place: int, name: str
) -> None:
    """The page calls `run` there, which would block the loop it says it does not block."""
    names = run(text_of(place), **given())

    with pytest.raises(ConfigError, match=r"arun"):
        asyncio.run(names[name]())


def test_a70_a_graph_is_faster_where_nodes_go_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    names = run(text_of(7), **given(create_parallel_dag=lambda: five(0.1)))
    asyncio.run(names["compare_dag_execution"]())

    assert float(capsys.readouterr().out.rpartition("Speedup: ")[2].removesuffix("x\n")) > 1.2


def test_a70_agents_and_graphs_answer_requests_of_a_web_application(gemma: ProviderServer) -> None:
    app = run(text_of(8), **given(dag=five()))["app"]

    async def main() -> tuple[Any, Any]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            asked = await client.post("/agent/query", params={"query": "42 * 17?"})
            drawn = await client.post("/dag/execute", json={"data": 1})
            return asked.json(), drawn.json()

    answer, graph = asyncio.run(main())

    assert answer["result"] == ANSWER
    assert answer["metrics"]["llm_calls"] == 3
    assert graph["status"] == "success"
    assert graph["results"]["one"]["by"] == "one"


def test_a70_tools_that_block_run_in_threads(gemma: ProviderServer) -> None:
    class Calculator:
        name, description, effects = "math.calculate", "Calculate.", "none"
        args_schema = {"type": "object", "properties": {"expression": {"type": "string"}}}  # noqa: RUF012
        thread = ""

        def run(self, arguments: dict[str, Any]) -> int:
            self.thread = threading.current_thread().name
            return ANSWER

    tool = Calculator()

    names = run(text_of(9), asyncio=asyncio, tool=tool, tool_args={"expression": "42 * 17"})
    page = tool.thread
    answer = create_gemma_agent(tools=[tool]).run("42 * 17?", return_metrics=False)

    assert names["result"] == answer == ANSWER
    assert threading.main_thread().name not in (page, tool.thread)


def test_a70_an_agent_is_awaited_and_what_only_calculates_is_not(gemma: ProviderServer) -> None:
    heard: list[Any] = []
    one = agent()
    names = run(text_of(10), **given(agent=one, compute_heavy_math=lambda: heard.append("calculated") or 3))

    assert (names["result"], heard, gemma.count) == (3, ["calculated"], 3)


def test_a70_one_executor_runs_a_graph_both_ways() -> None:
    log: list[str] = []
    names = run(text_of(11), executor=DAGExecutor(five(log=log)))

    assert names["result"].status == "success"
    assert log.count("last ends") == 2


def test_a70_what_fails_raises_and_can_be_caught(caplog: pytest.LogCaptureFixture) -> None:
    nobody = create_agent(ScriptedModel([]), [])

    run(text_of(12), agent=nobody, query="x", logger=logging.getLogger("page"))

    assert [record.message.startswith("Agent failed: ") for record in caplog.records if record.name == "page"] == [True]


def test_a70_one_of_many_that_fails_does_not_stop_the_others(gemma: ProviderServer) -> None:
    broken = create_agent(ScriptedModel([]), [])
    tasks = dict.fromkeys(("task1", "task2", "task3"), "42 * 17?")

    found = run(text_of(13), asyncio=asyncio, agent1=agent(), agent2=broken, agent3=agent(), **tasks)["results"]

    assert [getattr(one, "result", None) for one in found] == [ANSWER, None, ANSWER]
    assert isinstance(found[1], Exception)


def test_a70_agents_are_called_from_sync_code_and_from_async_code(gemma: ProviderServer) -> None:
    """The page shows three ways one below the other; a program is in one of these places at a time."""
    found = [run(piece, **given(agent=agent())) for piece in pieces(text_of(14))]

    assert [
        names[name].result for names, name in zip(found, ("result_sync", "result_async", "result"), strict=True)
    ] == [ANSWER] * 3


def test_a70_sync_code_and_its_async_form_come_to_the_same(gemma: ProviderServer) -> None:
    before, after = (run(piece, **given())["process_data"] for piece in pieces(text_of(15)))

    assert before("42 * 17?").result == asyncio.run(after("42 * 17?")).result == ANSWER


def test_a70_a_graph_runs_from_sync_code_and_from_async_code() -> None:
    found = [run(piece, **given(dag=five(), data={"data": 1})) for piece in pieces(text_of(16))]

    assert [names["result"].status for names in found] == ["success", "success"]


def test_a70_a_block_that_is_a_drawing_holds_nothing_to_run() -> None:
    assert run(text_of(18)).keys() <= {"__name__", "__builtins__"}


def test_a70_many_tasks_of_one_agent_at_once(gemma: ProviderServer) -> None:
    names = run(text_of(19), asyncio=asyncio, agent=agent(), queries=[f"task {place}" for place in range(12)])
    for never_awaited in names.pop("tasks"):  # the page makes a second list to say that it should not be awaited
        never_awaited.close()
    gc.collect()

    assert [one.result for one in names["results"]] == [ANSWER] * 10


def test_a70_a_semaphore_bounds_how_many_go_at_once(gemma: ProviderServer) -> None:
    names = run(text_of(20), **given(agent=agent()))

    async def main() -> list[Any]:
        return await asyncio.gather(*(names["limited_run"](f"task {place}") for place in range(7)))

    assert [one.result for one in asyncio.run(main())] == [ANSWER] * 7
    assert gemma.most_open_connections <= 5
