"""AgentMetrics: what one task took an agent, counted while it works.

Rule 1: one per task; an agent that works on several at once shares none.
Rule 2: unknown is None, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planloom.core.result import Usage


@dataclass(slots=True)
class AgentMetrics:
    """Counts of one task.

    Attributes:
        total_iterations: Times it planned, did tasks and looked whether that is enough.
        reasoning_calls: Times it planned.
        completion_checks: Times it looked whether the task is completed.
        llm_calls: Answers of its model, those it had to ask for again included.
        tool_executions: Tools that were called; whatever they came to.
        successful_tool_calls: Those that gave a result.
        failed_tool_calls: Those that did not, and those that were asked for and could not be made.
        iterations_to_completion: Iterations it took to complete the task, None if it is not completed.
    """

    total_iterations: int = 0
    total_input_tokens: int = 0
    total_output_tokens: int = 0
    total_tokens: int = 0
    execution_time_seconds: float = 0.0
    reasoning_calls: int = 0
    tool_executions: int = 0
    completion_checks: int = 0
    llm_calls: int = 0
    successful_tool_calls: int = 0
    failed_tool_calls: int = 0
    task_completed: bool = False
    iterations_to_completion: int | None = None

    def answered(self, usage: Usage) -> None:
        """Count an answer of the model."""
        self.llm_calls += 1
        self.total_input_tokens += usage.input_tokens
        self.total_output_tokens += usage.output_tokens
        self.total_tokens += usage.total_tokens

    @property
    def avg_tokens_per_llm_call(self) -> float:
        return self.total_tokens / self.llm_calls if self.llm_calls else 0.0

    @property
    def success_rate(self) -> float | None:
        """Share of tool calls that gave a result; None if none was asked for."""
        asked = self.successful_tool_calls + self.failed_tool_calls
        return self.successful_tool_calls / asked if asked else None

    def to_dict(self) -> dict[str, Any]:
        """Return all counts, `avg_tokens_per_llm_call` and `success_rate`, ready for JSON."""
        return asdict(self) | {
            "avg_tokens_per_llm_call": self.avg_tokens_per_llm_call,
            "success_rate": self.success_rate,
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> AgentMetrics:
        """Return the counts of `to_dict`."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in told.items() if name in known})
