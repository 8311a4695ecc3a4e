"""The public names with their types; `__init__.py` loads each when it is first used."""

from planloom.api.execute import execute_plan as execute_plan, run_plan as run_plan
from planloom.core.result import (
    RunResult as RunResult,
    RunStatus as RunStatus,
    StepResult as StepResult,
    StepStatus as StepStatus,
    Usage as Usage,
)
from planloom.errors import (
    ConfigError as ConfigError,
    JournalConflictError as JournalConflictError,
    JournalError as JournalError,
    NotAllowedError as NotAllowedError,
    NotDoneError as NotDoneError,
    PlanError as PlanError,
    PlanloomError as PlanloomError,
    PlanTimeoutError as PlanTimeoutError,
    ResourceLimitError as ResourceLimitError,
    RunBlockedError as RunBlockedError,
    StepError as StepError,
    ToolExecutionError as ToolExecutionError,
)
from planloom.journal.memory import MemoryJournal as MemoryJournal
from planloom.journal.sqlite import SqliteJournal as SqliteJournal
from planloom.plan.load import load_plan as load_plan, parse_plan as parse_plan
from planloom.plan.model import ExecutionPlan as ExecutionPlan, Plan as Plan, Step as Step
from planloom.plan.policy import Effects as Effects, ResourceLimits as ResourceLimits, RetryPolicy as RetryPolicy
from planloom.plan.schema import plan_schema as plan_schema
from planloom.runtime.engine import Engine as Engine
from planloom.runtime.run import Run as Run
from planloom.runtime.settings import Settings as Settings
from planloom.tools.context import ToolContext as ToolContext
from planloom.tools.declare import tool as tool
from planloom.tools.registry import ToolRegistry as ToolRegistry
from planloom.tools.standard import get_default_tools as get_default_tools
from planloom.tools.tool import Tool as Tool

__version__: str
__all__: list[str]
