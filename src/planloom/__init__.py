"""planloom executes plans for AI agents. The public names, loaded when first used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from planloom.plan.shown import drawn_by

drawn_by("planloom.observe.html")  # imported when a notebook first shows a plan or a result

_HOMES = {
    "planloom.agents.memory": ("AgentMemory",),
    "planloom.agents.metrics": ("AgentMetrics",),
    "planloom.agents.planner": ("LargePlanner",),
    "planloom.agents.reasoning": ("Reasoner",),
    "planloom.agents.pool": ("AgentPool",),
    "planloom.agents.roster": ("AgentRegistry",),
    "planloom.agents.small": ("SmallModelWorker",),
    "planloom.api.agent": ("Agent", "AgentConfig"),
    "planloom.api.agent_factory": ("create_agent", "create_gemma_agent"),
    "planloom.api.dag": ("AgentDAG",),
    "planloom.api.dag_executor": ("DAGExecutor",),
    "planloom.api.dag_node": ("AgentNode", "NodeStatus"),
    "planloom.api.dag_result": ("DAGResult",),
    "planloom.api.execute": ("execute_plan", "run_plan"),
    "planloom.api.execution": ("ExecutionResult", "ExecutorConfig"),
    "planloom.api.executor": ("Executor", "SpeculativeExecutor"),
    "planloom.api.gasa": ("GASAConfig",),
    "planloom.api.reasoning": ("AgentResponse", "ReasoningAgent"),
    "planloom.api.sandbox_environment": ("ProgrammaticToolExecutor", "SandboxEnvironment"),
    "planloom.api.shared_state": ("SharedState", "StateEntry"),
    "planloom.api.state_manager": ("StateManager",),
    "planloom.api.step_forms": ("ExecutionStep", "RetryConfig", "StepType"),
    "planloom.api.step_wrappers": ("CachedStepExecutor", "MetricsStepExecutor", "PooledStepExecutor"),
    "planloom.api.steps": ("StepExecutor",),
    "planloom.context.document": ("Document",),
    "planloom.context.graph": ("DependencyGraph",),
    "planloom.context.store": ("MemoryStore",),
    "planloom.core.chat": ("LLMResponse", "Message"),
    "planloom.core.result": ("RunResult", "RunStatus", "StepResult", "StepStatus", "Usage"),
    "planloom.errors": (
        "AgentNotFoundError",
        "ConfigError",
        "JournalConflictError",
        "JournalError",
        "MissingKeyError",
        "ModelError",
        "NoWorkerError",
        "NotAllowedError",
        "NotDoneError",
        "OverloadedError",
        "PlanError",
        "PlanTimeoutError",
        "PlanloomError",
        "PlanningError",
        "ResourceLimitError",
        "RunBlockedError",
        "SecurityError",
        "StepError",
        "ToolExecutionError",
        "UnknownPriceError",
        "ValidationError",
        "VerificationError",
        "WorkerError",
        "WorkerLostError",
    ),
    "planloom.journal.memory": ("MemoryJournal",),
    "planloom.journal.sqlite": ("SqliteJournal",),
    "planloom.models.llm": ("LLM",),
    "planloom.plan.load": ("load_plan", "parse_plan"),
    "planloom.plan.model": ("ExecutionPlan", "Plan", "Step"),
    "planloom.plan.policy": ("Effects", "ResourceLimits", "RetryPolicy"),
    "planloom.plan.schema": ("plan_schema",),
    "planloom.runtime.cluster.client": ("ClusterClient",),
    "planloom.runtime.engine": ("Engine",),
    "planloom.runtime.execution_agent": ("ExecutionAgent",),
    "planloom.runtime.modules": ("Module",),
    "planloom.runtime.run": ("Run",),
    "planloom.runtime.settings": ("Settings",),
    "planloom.runtime.workers": ("on_workers",),
    "planloom.sandbox.program": ("SandboxLimits", "SandboxResult"),
    "planloom.sandbox.sandbox": ("Sandbox",),
    "planloom.tools.catalogue": ("ToolCatalog",),
    "planloom.tools.context": ("ToolContext",),
    "planloom.tools.declare": ("a2a_agent", "mcp_tool", "tool"),
    "planloom.tools.definition": ("ToolDefinition", "ToolExample", "ToolParameter"),
    "planloom.tools.registry": ("ToolRegistry",),
    "planloom.tools.standard": ("get_default_tools",),
    "planloom.tools.tool": ("Tool",),
    "planloom.transport.bus": ("EventBus",),
    "planloom.transport.event": ("Event",),
    "planloom.transport.pool": ("WorkerPool",),
    "planloom.transport.setup": ("WorkerSetup",),
    "planloom.transport.slots": ("SlotPool",),
    "planloom.verify.checks": ("ValidatorRegistry",),
    "planloom.verify.expected": ("FormatValidator",),
    "planloom.verify.flow": ("VerificationFlow",),
    "planloom.verify.judge": ("JudgeAgent", "JudgeConfig"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = ["__version__", *sorted(_HOME_OF)]  # noqa: PLE0604  # the names are text, only not written out


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'planloom' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
