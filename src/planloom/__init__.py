"""planloom executes plans for AI agents. The public names, loaded when first used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "planloom.api.execute": ("execute_plan", "run_plan"),
    "planloom.core.result": ("RunResult", "RunStatus", "StepResult", "StepStatus", "Usage"),
    "planloom.errors": (
        "ConfigError",
        "JournalConflictError",
        "JournalError",
        "NotAllowedError",
        "NotDoneError",
        "PlanError",
        "PlanTimeoutError",
        "PlanloomError",
        "ResourceLimitError",
        "RunBlockedError",
        "StepError",
        "ToolExecutionError",
    ),
    "planloom.journal.memory": ("MemoryJournal",),
    "planloom.journal.sqlite": ("SqliteJournal",),
    "planloom.plan.load": ("load_plan", "parse_plan"),
    "planloom.plan.model": ("ExecutionPlan", "Plan", "Step"),
    "planloom.plan.policy": ("Effects", "ResourceLimits", "RetryPolicy"),
    "planloom.plan.schema": ("plan_schema",),
    "planloom.runtime.engine": ("Engine",),
    "planloom.runtime.run": ("Run",),
    "planloom.runtime.settings": ("Settings",),
    "planloom.tools.context": ("ToolContext",),
    "planloom.tools.declare": ("tool",),
    "planloom.tools.registry": ("ToolRegistry",),
    "planloom.tools.standard": ("get_default_tools",),
    "planloom.tools.tool": ("Tool",),
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
