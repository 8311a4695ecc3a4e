from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from planloom.agents.reasoning import Reasoner
from planloom.api.dag import AgentDAG, AgentNode, NodeStatus
from planloom.api.dag_executor import DAGExecutor
from planloom.api.shared_state import SharedState
from planloom.core.chat import ModelCall
from planloom.core.events import WentOn
from planloom.errors import ConfigError, FieldError, InputsError, PlanError
from planloom.journal.memory import MemoryJournal
from planloom.plan.policy import ResourceLimits
from planloom.ports import Recorded
from planloom.testing.models import FunctionModel


def echo(value: Any) -> Any:
    return value


def chain(*nodes: AgentNode) -> AgentDAG:
    dag = AgentDAG("chain")
    for node in nodes:
        dag.add_node(node)
    names = list(dag.nodes)
    for above, below in pairwise(names):
        dag.add_edge(above, below)
    return dag


# --- what an agent may be -----------------------------------------------------------------------


class WithRun:
    def run(self, value: Any) -> Any:
        return f"run {value}"


class WithArun(WithRun):
    async def arun(self, value: Any) -> Any:
        return f"arun {value}"


class WithRunStep(WithArun):
    async def run_step(self, request: Any, context: dict[str, Any]) -> Any:
        return f"run_step {request} in {context['step']}"


async def coroutine(value: Any) -> Any:
    return f"awaited {value}"


@pytest.mark.parametrize(
    ("agent", "answer"),
    [
        (WithRun(), "run x"),
        (WithArun(), "arun x"),
        (WithRunStep(), "run_step x in n"),
        (coroutine, "awaited x"),
        (lambda value: f"called {value}", "called x"),
    ],
)
def test_a_node_takes_whatever_can_be_asked(agent: Any, answer: str) -> None:
    result = DAGExecutor(AgentDAG().add_node(AgentNode("n", agent))).execute({"input": "x"})

    assert result.node_results == {"n": answer}


def test_an_agent_that_is_not_async_runs_in_a_thread() -> None:
    dag = AgentDAG().add_node(AgentNode("n", lambda value: threading.current_thread() is threading.main_thread()))

    assert DAGExecutor(dag).execute().node_results == {"n": False}


def test_the_same_agent_may_stand_at_several_places() -> None:
    agent = WithRun()

    result = DAGExecutor(chain(AgentNode("a", agent), AgentNode("b", agent, input_mapping={"input": "a"}))).execute(
        {"input": "x"}
    )

    assert result.node_results == {"a": "run x", "b": "run run x"}


# --- what a run is ------------------------------------------------------------------------------


def test_a_result_says_everything_and_is_json() -> None:
    dag = chain(AgentNode("a", echo, output_key="first"), AgentNode("b", lambda value: 2))

    told = DAGExecutor(dag).execute({"x": 1}).to_dict()

    assert {name: told[name] for name in ("dag_name", "status", "node_results", "errors", "final_state")} == {
        "dag_name": "chain",
        "status": "success",
        "node_results": {"a": {"x": 1}, "b": 2},
        "errors": {},
        "final_state": {"x": 1, "first": {"x": 1}, "b": 2},
    }
    assert [told[f"{word}_nodes"] for word in ("total", "completed", "failed", "skipped")] == [2, 2, 0, 0]
    assert told["execution_time_seconds"] >= 0
    assert told["nodes"]["a"]["status"] == "completed"


def test_a_result_can_be_changed_without_changing_the_state() -> None:
    result = DAGExecutor(AgentDAG().add_node(AgentNode("a", lambda value: {"list": [1]}))).execute()

    result.final_state["a"]["list"].append(2)
    result.to_dict()["node_results"]["a"]["list"].append(3)

    assert result.node_results["a"] == result.state.get("a") == {"list": [1]}


def test_what_is_no_json_is_refused_before_anything_runs() -> None:
    ran: list[Any] = []
    dag = AgentDAG().add_node(AgentNode("a", ran.append))

    with pytest.raises(InputsError):
        DAGExecutor(dag).execute({"x": object()})

    assert ran == []


def test_what_no_agent_can_be_asked_with_is_refused() -> None:
    with pytest.raises(ConfigError, match="int is no agent"):
        DAGExecutor(AgentDAG().add_node(AgentNode("a", 3))).execute()
    with pytest.raises(ConfigError, match="no graph"):
        DAGExecutor([AgentNode("a", echo)])  # type: ignore[arg-type]


def test_execute_inside_a_running_loop_says_what_to_await() -> None:
    async def main() -> None:
        DAGExecutor(AgentDAG()).execute()

    with pytest.raises(ConfigError, match="aexecute"):
        asyncio.run(main())


def test_a_graph_without_nodes_ends_well() -> None:
    result = DAGExecutor(AgentDAG()).execute({"x": 1})

    assert (result.status, result.total_nodes, result.final_state) == ("success", 0, {"x": 1})


@pytest.mark.parametrize("max_concurrent", [1, 2])
def test_no_more_nodes_are_under_way_than_allowed(max_concurrent: int) -> None:
    running: set[str] = set()
    peak: list[int] = []

    def agent(name: str) -> Any:
        async def act(value: Any) -> None:
            running.add(name)
            peak.append(len(running))
            await asyncio.sleep(0.01)
            running.discard(name)

        return act

    dag = AgentDAG()
    for number in range(6):
        dag.add_node(AgentNode(f"n{number}", agent(f"n{number}")))

    result = DAGExecutor(dag, max_concurrent=max_concurrent).execute(parallel=True)

    assert result.status == "success"
    assert max(peak) == max_concurrent


@pytest.mark.parametrize("max_concurrent", [0, -1, True, 1.5])
def test_a_limit_that_lets_nothing_run_is_refused(max_concurrent: Any) -> None:
    with pytest.raises(ConfigError):
        DAGExecutor(AgentDAG(), max_concurrent=max_concurrent)


def test_a_run_that_reaches_its_time_limit_says_so() -> None:
    async def slow(value: Any) -> None:
        await asyncio.sleep(30)

    limits = ResourceLimits(timeout_seconds=0.05)

    result = DAGExecutor(chain(AgentNode("a", slow), AgentNode("b", echo)), limits=limits).execute()

    assert result.status == "limit_exceeded"
    assert result.nodes["a"].status is NodeStatus.TIMED_OUT
    assert (result.failed_nodes, result.skipped_nodes) == (1, 1)


def test_cancelling_whoever_waits_cancels_the_run_and_its_nodes() -> None:
    seen: list[str] = []

    async def main() -> None:
        started = asyncio.Event()

        async def slow(value: Any) -> None:
            started.set()
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                seen.append("stopped")
                raise

        task = asyncio.create_task(DAGExecutor(AgentDAG().add_node(AgentNode("a", slow))).aexecute())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert seen == ["stopped"]


# --- conditions ---------------------------------------------------------------------------------


def test_a_condition_that_is_async_is_awaited_and_sees_the_state_after_its_source() -> None:
    seen: list[dict[str, Any]] = []

    async def is_wanted(state: dict[str, Any]) -> bool:
        await asyncio.sleep(0)
        seen.append(state)
        return bool(state["score"] > 3)

    class Asked:
        async def __call__(self, state: dict[str, Any]) -> bool:
            return bool(state["score"] < 3)

    dag = AgentDAG().add_node(AgentNode("rate", lambda value: 5, output_key="score"))
    for name, condition in (("high", is_wanted), ("low", Asked())):
        dag.add_node(AgentNode(name, echo)).add_edge("rate", name, condition)

    result = DAGExecutor(dag).execute({"x": 1})

    assert seen == [{"x": 1, "score": 5}]
    assert [result.nodes[name].status for name in ("high", "low")] == [NodeStatus.COMPLETED, NodeStatus.SKIPPED]


def test_a_condition_in_the_language_that_cannot_be_worked_out_fails_its_node() -> None:
    dag = AgentDAG().add_node(AgentNode("a", lambda value: {"n": 1})).add_node(AgentNode("b", echo))
    dag.add_edge("a", "b", "steps.a.output.score > 3")

    result = DAGExecutor(dag).execute()

    assert result.status == "failed"
    assert "the edge from 'a'" in result.errors["b"]
    assert "no 'score'" in result.errors["b"]


def test_hidden_steps_are_in_the_run_and_are_no_nodes() -> None:
    dag = AgentDAG().add_node(AgentNode("a", echo)).add_node(AgentNode("b", echo))
    dag.add_edge("a", "b", lambda state: True)

    result = DAGExecutor(dag).execute()

    assert [step.id for step in result.run.steps] == ["a -> b", "a", "b"]
    assert list(result.nodes) == list(result.node_results) == ["a", "b"]
    assert result.total_nodes == 2


# --- the state ----------------------------------------------------------------------------------


def test_a_state_that_is_given_is_what_runs_begin_with_and_is_filled_while_they_run() -> None:
    state = SharedState({"kept": 1})
    seen: list[dict[str, Any]] = []

    async def look(value: Any) -> str:
        for _ in range(100):
            if state.has("a"):
                break
            await asyncio.sleep(0.001)
        seen.append(state.get_all())
        return "looked"

    result = DAGExecutor(chain(AgentNode("a", echo), AgentNode("b", look)), state).execute({"more": 2})

    assert seen == [{"kept": 1, "more": 2, "a": {"kept": 1, "more": 2}}]
    assert result.state is state
    assert result.final_state == state.get_all()
    sources = {key: entry["source"] for key, entry in state.to_dict().items()}
    assert sources == {"kept": "initial", "more": "initial_state", "a": "a", "b": "b"}


def test_what_a_run_left_in_a_given_state_is_there_for_the_next() -> None:
    executor = DAGExecutor(AgentDAG().add_node(AgentNode("seen", lambda value: sorted(value))), SharedState())

    executor.execute({"x": 1})

    assert executor.execute().node_results == {"seen": ["seen", "x"]}


def test_what_nodes_show_is_how_the_run_that_was_started_last_stands() -> None:
    dag = chain(AgentNode("a", echo), AgentNode("b", lambda value: 1 / 0))

    DAGExecutor(dag).execute({"x": 1})

    a, b = dag.node("a"), dag.node("b")
    assert (a.status, a.result, a.execution_count, a.error) == (NodeStatus.COMPLETED, {"x": 1}, 1, None)
    assert (b.status, b.result, b.execution_count) == (NodeStatus.FAILED, None, 1)
    assert "ZeroDivisionError" in str(b.error)
    assert a.start_time is not None
    assert a.end_time is not None
    assert a.end_time >= a.start_time


def test_a_run_that_ends_last_does_not_take_the_nodes_from_the_one_that_was_started_last() -> None:
    async def main() -> None:
        second_is_over = asyncio.Event()

        async def wait(value: dict[str, Any]) -> int:
            if value["run"] == 1:
                await second_is_over.wait()
            return int(value["run"])

        dag = AgentDAG().add_node(AgentNode("a", wait))
        first = asyncio.create_task(DAGExecutor(dag).aexecute({"run": 1}))
        while dag.node("a").status is not NodeStatus.RUNNING:
            await asyncio.sleep(0)
        await DAGExecutor(dag).aexecute({"run": 2})
        second_is_over.set()
        result = await first

        assert result.node_results == {"a": 1}
        assert dag.node("a").result == 2

    asyncio.run(main())


@pytest.mark.parametrize("way", ["execute", "aexecute"])
def test_one_by_one_means_in_the_order_the_nodes_were_added_where_that_can_be(way: str) -> None:
    log: list[str] = []

    def agent(name: str) -> Any:
        async def act(value: Any) -> None:
            log.append(name)
            await asyncio.sleep(0)
            log.append(f"/{name}")

        return act

    dag = AgentDAG()
    for name in "dacb":
        dag.add_node(AgentNode(name, agent(name)))
    dag.add_edge("a", "d", lambda state: True).add_edge("c", "b")

    executor = DAGExecutor(dag)
    if way == "execute":
        executor.execute()
    else:
        asyncio.run(executor.aexecute(parallel=False))

    assert log == ["a", "/a", "d", "/d", "c", "/c", "b", "/b"]


# --- on record ----------------------------------------------------------------------------------


def test_a_run_of_a_known_name_is_taken_up_and_a_finished_one_is_told_again(tmp_path: Path) -> None:
    calls: list[Any] = []

    def count(value: Any) -> int:
        calls.append(value)
        return len(calls)

    executor = DAGExecutor(AgentDAG("g").add_node(AgentNode("n", count)), journal=tmp_path / "runs.db")

    first = executor.execute({"x": 1}, run_id="mine")
    again = executor.execute(run_id="mine")

    assert calls == [{"x": 1}]
    assert again.final_state == first.final_state == {"x": 1, "n": 1}
    assert again.state.get_all() == first.final_state
    assert again.run_id == "mine"


def test_a_run_of_a_known_name_is_not_taken_up_with_another_graph_or_state() -> None:
    journal = MemoryJournal()
    dag = AgentDAG("g").add_node(AgentNode("n", echo))

    async def main() -> None:
        await DAGExecutor(dag, journal=journal).aexecute({"x": 1}, run_id="mine")
        with pytest.raises(ConfigError, match="another"):
            await DAGExecutor(dag, journal=journal).aexecute({"x": 2}, run_id="mine")
        dag.add_node(AgentNode("more", echo))
        with pytest.raises(ConfigError, match="another"):
            await DAGExecutor(dag, journal=journal).aexecute(run_id="mine")

    asyncio.run(main())


KILLED = """
import os, signal, sys
from pathlib import Path
from planloom.api.dag import AgentDAG, AgentNode
from planloom.api.dag_executor import DAGExecutor

def agent(name):
    def act(value):
        with open("calls.txt", "a") as file:
            file.write(name)
        if name == "b" and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return f"{name} saw {sorted(value)}"
    return act

dag = AgentDAG("g")
for name in "abc":
    dag.add_node(AgentNode(name, agent(name), effects="idempotent"))
dag.add_edge("a", "b", lambda state: "x" in state).add_edge("b", "c")
result = DAGExecutor(dag, journal="runs.db").execute(eval(sys.argv[1]), run_id="mine")
print(result.status, result.final_state == result.state.get_all(), sorted(result.final_state.items()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("again", ["{'x': 1}", "None"])
def test_a_killed_run_goes_on_where_it_was_and_its_state_is_made_of_the_record(tmp_path: Path, again: str) -> None:
    def start(initial: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, initial]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    killed, resumed = start("{'x': 1}"), start(again)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / "calls.txt").read_text() == "abbc"
    values = [("a", "a saw ['x']"), ("b", "b saw ['a', 'x']"), ("c", "c saw ['a', 'b', 'x']"), ("x", 1)]
    assert resumed.stdout == f"success True {values}\n"


@pytest.mark.slow
def test_a_node_that_may_run_only_once_waits_for_a_person_when_it_was_killed(tmp_path: Path) -> None:
    script = KILLED.replace('effects="idempotent"', 'effects="once"') + "print(result.run.blockers()[0]['command'])"
    command = [sys.executable, "-c", script, "{'x': 1}"]

    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert (tmp_path / "calls.txt").read_text() == "ab"
    first, second = done.stdout.splitlines()
    assert first.startswith("waiting True [('a', ")
    assert second.startswith("planloom resolve mine b")


def test_the_state_of_a_run_that_rests_has_all_that_its_nodes_left_however_slow_whoever_follows_is() -> None:
    class NobodyHears(MemoryJournal):
        """A journal whose followers have not heard anything yet."""

        async def follow(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
            await asyncio.Event().wait()
            yield Recorded(0, 0, WentOn(0.0))

    dag = AgentDAG("g").add_node(AgentNode("a", lambda value: "done"))

    result = DAGExecutor(dag, journal=NobodyHears()).execute({"x": 1})

    assert result.state.get_all() == result.final_state == {"x": 1, "a": "done"}


def test_plan_tells_what_would_run_without_running_it() -> None:
    ran: list[Any] = []
    executor = DAGExecutor(AgentDAG("g").add_node(AgentNode("a", ran.append)))

    plan = executor.plan({"x": 1})

    assert [step.id for step in plan.steps] == ["a"]
    assert ran == []
    with pytest.raises(PlanError):
        DAGExecutor(AgentDAG().add_node(AgentNode("a", echo, input_mapping={"x": "y"}))).plan()


# --- agents of planloom's own making --------------------------------------------------------------


def thinker(name: str, answer: str, asked: list[str], **fields: Any) -> Reasoner:
    """Return an agent whose model answers at once, and notes what it was asked to do."""

    def respond(call: ModelCall) -> Any:
        text = "\n".join(message.content for message in call.messages)
        if "is_complete" in text:
            return {"is_complete": True, "reasoning": "done", "missing_steps": [], "next_action": None}
        if "has_sufficient_info" in text:
            asked.append(text)
            task = {"description": "say it", "tool_name": None}
            return {"has_sufficient_info": True, "reasoning": "easy", "tasks": [task]}
        return answer

    return Reasoner(name=name, model=FunctionModel(respond), **fields)


def test_agents_that_reason_work_as_nodes_and_what_they_asked_is_counted() -> None:
    asked: list[str] = []
    dag = chain(
        AgentNode("a", thinker("first", "forty-two", asked), output_key="answer"),
        AgentNode("b", thinker("second", "done", asked, max_iterations=20), input_mapping={"input": "answer"}),
    )

    result = DAGExecutor(dag).execute({"input": "What is six times seven?"})

    assert result.status == "success", result.errors
    assert result.node_results == {"a": "forty-two", "b": "done"}
    assert "What is six times seven?" in asked[0]
    assert "forty-two" in asked[1]
    assert "input:" not in asked[1]
    assert result.run.usage.requests >= 4


def test_an_agent_that_may_run_only_once_is_not_given_retries() -> None:
    class Pays:
        effects = "once"

        def run(self, value: Any) -> str:
            return "paid"

    with pytest.raises(FieldError, match=r"'pay'.*only once"):
        DAGExecutor(AgentDAG().add_node(AgentNode("pay", Pays(), retry_count=1))).execute()
    said = AgentDAG().add_node(AgentNode("pay", Pays(), retry_count=1, effects="idempotent"))
    assert DAGExecutor(said).execute().status == "success"
