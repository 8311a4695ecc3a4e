"""DAGExecutor: has an agent graph done. A thin door: a plan made of the graph, an engine, a result made of the run's.

Rule 1: runs share nothing but what the caller hands to several of them: a state, a journal, the agents themselves.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from planloom import blocking
from planloom.agents.roster import AgentRegistry
from planloom.api.dag import AgentDAG
from planloom.api.dag_live import LiveRun
from planloom.api.dag_plan import plan_of
from planloom.api.dag_result import dag_result
from planloom.api.shared_state import SharedState
from planloom.core.events import RunStarted
from planloom.errors import ConfigError, InputsError, RunNotFoundError
from planloom.plan.inputs import check_inputs
from planloom.plan.model import Plan
from planloom.plan.policy import ResourceLimits
from planloom.runtime.engine import Engine
from planloom.runtime.settings import Settings

if TYPE_CHECKING:
    from planloom.api.dag_plan import GraphPlan
    from planloom.api.dag_result import DAGResult
    from planloom.models.llm import LLM
    from planloom.ports import Clock, Journal, Model, Recorded
    from planloom.runtime.run import Run

__all__ = ["DAGExecutor"]


class DAGExecutor:
    """Runs one graph, as often as wanted and also several times at once.

    Args:
        state: What runs begin with besides their `initial_state`, and where what nodes leave is kept while they run;
            what a run leaves there is there for the next. None: each run has a state of its own.
        journal: A path (SQLite) or a journal, so that a run survives its process; None: in memory.
        max_concurrent: Nodes under way at the same time, in one run; None: no limit but that of `limits`.
        limits: What one run may use; None: no limits.
        models: Models by the names that the agents use, besides those of the settings.
        settings: See `Settings`.
        clock: Time; None: the real one.
    """

    def __init__(
        self,
        dag: AgentDAG,
        state: SharedState | None = None,
        journal: str | os.PathLike[str] | Journal | None = None,
        max_concurrent: int | None = None,
        *,
        limits: ResourceLimits | None = None,
        models: Mapping[str, LLM | Model | str] | None = None,
        settings: Settings | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not isinstance(dag, AgentDAG):
            raise ConfigError(f"a {type(dag).__name__} is no graph of agents", remedy="give an AgentDAG")
        self.dag = dag
        self.state = state
        self._journal = journal
        self._limits = _limits(limits, max_concurrent)
        self._models = models
        self._settings = settings
        self._clock = clock

    def execute(
        self, initial_state: Mapping[str, Any] | None = None, parallel: bool = False, *, run_id: str | None = None
    ) -> DAGResult:
        """Do what `aexecute` does from code that is not async; one node at a time, unless `parallel`.

        Raises:
            ConfigError: Called where an event loop runs already: await `aexecute` there.
        """
        return blocking.run(self.aexecute(initial_state, parallel, run_id=run_id))

    async def aexecute(
        self, initial_state: Mapping[str, Any] | None = None, parallel: bool = True, *, run_id: str | None = None
    ) -> DAGResult:
        """Run the graph to its end and return what came of it; a node that fails is told there, not raised.

        Args:
            initial_state: What the nodes see from the start, JSON.
            parallel: False: one node at a time, in stable topological order.
            run_id: Name of the run. If the journal has it, it is taken up where its record ends, and `initial_state`
                may be left out.

        Raises:
            PlanError: The graph or what it is given is not sound; no node has run.
            ConfigError: The run is on record with another graph or another initial state.
        """
        initial = {**(self.state.get_all() if self.state is not None else {}), **_given(initial_state)}
        recorded = None if run_id is None or self._journal is None else await self._recorded(run_id)
        if recorded is not None and initial_state is None:
            initial = recorded.inputs
        graph = plan_of(self.dag, initial)
        if recorded is not None and (recorded.plan, recorded.inputs) != (graph.plan, _checked(graph, initial)):
            raise ConfigError(
                f"run {run_id} is on record with another graph or another initial state",
                remedy="give the same ones to resume it, or another run_id for a new run",
            )
        async with self._engine(graph) as engine:
            if recorded is not None and run_id is not None:
                run = await engine.resume(run_id)
            else:
                run = await engine.start(graph.plan, initial, limits=self._limits, run_id=run_id, parallel=parallel)
            return await self._followed(engine, run, graph, initial)

    def plan(self, initial_state: Mapping[str, Any] | None = None) -> Plan:
        """Return the plan that running the graph with this initial state would run.

        Raises:
            PlanError: The graph is not sound, or a node is to be given what nobody before it sets.
        """
        return plan_of(self.dag, [*(self.state or ()), *_given(initial_state)]).plan

    def _engine(self, graph: GraphPlan) -> Engine:
        return Engine(
            self._journal,
            tools=graph.tools,
            agents=self._agents(),
            models=self._models,
            settings=self._settings,
            clock=self._clock,
        )

    def _agents(self) -> AgentRegistry:
        """Return the agents of the nodes; what a node says of its effects is said by whoever knows its agent."""
        agents = AgentRegistry()
        for name, node in self.dag.nodes.items():
            agents.register(node.agent, name, effects=node.effects)
        return agents

    async def _recorded(self, run_id: str) -> RunStarted | None:
        """Return how a run began that is on record, None if there is none of that name."""
        known = self._settings or Settings()
        settings = Settings(journal_key_env=known.journal_key_env, journal_key_file=known.journal_key_file)
        async with Engine(self._journal, tools=(), settings=settings) as engine:
            try:
                first = (await engine.journal.read(run_id, limit=1))[0].event
            except RunNotFoundError:
                return None
        return first if isinstance(first, RunStarted) else None

    async def _followed(self, engine: Engine, run: Run, graph: GraphPlan, initial: Mapping[str, Any]) -> DAGResult:
        """Wait for a run, showing it on the way, and return what came of it."""
        state = SharedState() if self.state is None else self.state
        live = LiveRun(self.dag, graph, state)

        shown = 0

        def take(recorded: Recorded) -> None:
            nonlocal shown
            if isinstance(recorded.event, RunStarted):
                live.begin(recorded.event.inputs, recorded.event.at)
            live.take(recorded.event)
            shown = recorded.seq

        async def show() -> None:
            async for recorded in run.follow():
                take(recorded)

        showing = asyncio.create_task(show())
        try:
            ended = await engine.finish(run)
        finally:
            showing.cancel()
            with suppress(asyncio.CancelledError):
                await showing
        # Whoever follows may be behind the run, also behind one that rests and not only behind one that has ended.
        for recorded in await engine.journal.read(run.run_id, after=shown):
            take(recorded)
        result = dag_result(graph, initial, ended, state)
        live.end(result)
        return result


def _given(initial_state: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a caller has a run begin with.

    Raises:
        InputsError: It is no mapping of texts to values, or a text is none that can be written down.
    """
    if initial_state is None:
        return {}
    if not isinstance(initial_state, Mapping):
        raise InputsError(f"the initial state is a {type(initial_state).__name__}", remedy="give a dict: key → value")
    for key in initial_state:
        if not isinstance(key, str) or any("\ud800" <= letter <= "\udfff" for letter in key):
            raise InputsError(f"{key!r:.80} is no key of a state", remedy="make every key a text")
    return dict(initial_state)


def _checked(graph: GraphPlan, initial: Mapping[str, Any]) -> dict[str, Any]:
    return check_inputs(graph.plan, initial)


def _limits(limits: ResourceLimits | None, max_concurrent: int | None) -> ResourceLimits | None:
    if max_concurrent is None:
        return limits
    if isinstance(max_concurrent, bool) or not isinstance(max_concurrent, int) or max_concurrent < 1:
        raise ConfigError(f"max_concurrent={max_concurrent!r} lets nothing run", remedy="give 1 or more, or None")
    if limits is None:
        nothing = dict.fromkeys(ResourceLimits.model_fields)
        return ResourceLimits(**(nothing | {"max_concurrent": max_concurrent}))
    return limits.model_copy(update={"max_concurrent": max_concurrent})
