"""A graph of agents: side by side where they can, a branch that depends on a result, one that fails and is tolerated.

          ┌─ weather ─┐
question ─┤           ├─ advice ─┬─ (if it is short)  send
          └─ traffic ─┘          └─ (else)            shorten
"""

import asyncio
from typing import Any

from planloom import AgentDAG, AgentNode, DAGExecutor


class Weather:
    """An agent is anything that can be asked: here, with `arun`."""

    async def arun(self, value: dict[str, Any]) -> str:
        await asyncio.sleep(0.1)
        return f"rain in {value['city']}"


class Traffic:
    """Out of order today."""

    async def arun(self, value: dict[str, Any]) -> str:
        await asyncio.sleep(0.1)
        raise ConnectionError("no answer from the traffic service")


def advise(value: dict[str, Any]) -> str:
    """An agent may be a plain function too; it runs in a thread."""
    traffic = value["traffic"] or "traffic unknown"
    return f"Take an umbrella: {value['weather']}, {traffic}."


def is_short(state: dict[str, Any]) -> bool:
    return len(state["advice"]) < 100


def build() -> AgentDAG:
    return (
        AgentDAG("advice")
        .add_node(AgentNode("question", lambda value: value["city"].title(), output_key="city"))
        .add_node(AgentNode("weather", Weather(), input_mapping={"city": "city"}))
        .add_node(AgentNode("traffic", Traffic(), retry_count=1, on_error="continue"))
        .add_node(AgentNode("advice", advise, input_mapping={"weather": "weather", "traffic": "traffic"}))
        .add_node(AgentNode("send", lambda text: f"sent: {text}", input_mapping={"input": "advice"}))
        .add_node(AgentNode("shorten", lambda text: text[:100], input_mapping={"input": "advice"}))
        .add_edge("question", "weather")
        .add_edge("question", "traffic")
        .add_edge("weather", "advice")
        .add_edge("traffic", "advice")
        .add_edge("advice", "send", condition=is_short)
        .add_edge("advice", "shorten", condition=lambda state: not is_short(state))
    )


async def main() -> None:
    dag = build()
    result = await DAGExecutor(dag).aexecute({"city": "bern"})

    print(dag.visualize())
    print(result.node_results["send"])
    assert result.status == "partial"
    assert result.node_results["send"] == "sent: Take an umbrella: rain in Bern, traffic unknown."
    assert result.nodes["traffic"].attempts == 2
    assert "no answer" in result.errors["traffic"]
    assert (result.completed_nodes, result.failed_nodes, result.skipped_nodes) == (4, 1, 1)
    assert result.execution_time_seconds < 5


if __name__ == "__main__":
    asyncio.run(main())
