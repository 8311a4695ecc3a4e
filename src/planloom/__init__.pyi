"""The public names with their types; `__init__.py` loads each when it is first used."""

from planloom.agents.memory import (
    AgentMemory as AgentMemory,
)
from planloom.agents.metrics import (
    AgentMetrics as AgentMetrics,
)
from planloom.agents.planner import (
    LargePlanner as LargePlanner,
)
from planloom.agents.reasoning import (
    Reasoner as Reasoner,
)
from planloom.agents.pool import (
    AgentPool as AgentPool,
)
from planloom.agents.roster import (
    AgentRegistry as AgentRegistry,
)
from planloom.agents.small import (
    SmallModelWorker as SmallModelWorker,
)
from planloom.api.agent import (
    Agent as Agent,
    AgentConfig as AgentConfig,
)
from planloom.api.agent_factory import (
    create_agent as create_agent,
    create_gemma_agent as create_gemma_agent,
)
from planloom.api.dag import (
    AgentDAG as AgentDAG,
)
from planloom.api.dag_executor import (
    DAGExecutor as DAGExecutor,
)
from planloom.api.dag_node import (
    AgentNode as AgentNode,
    NodeStatus as NodeStatus,
)
from planloom.api.dag_result import (
    DAGResult as DAGResult,
)
from planloom.api.execute import (
    execute_plan as execute_plan,
    run_plan as run_plan,
)
from planloom.api.execution import (
    ExecutionResult as ExecutionResult,
    ExecutorConfig as ExecutorConfig,
)
from planloom.api.executor import (
    Executor as Executor,
    SpeculativeExecutor as SpeculativeExecutor,
)
from planloom.api.gasa import (
    GASAConfig as GASAConfig,
)
from planloom.api.reasoning import (
    AgentResponse as AgentResponse,
    ReasoningAgent as ReasoningAgent,
)
from planloom.api.sandbox_environment import (
    ProgrammaticToolExecutor as ProgrammaticToolExecutor,
    SandboxEnvironment as SandboxEnvironment,
)
from planloom.api.shared_state import (
    SharedState as SharedState,
    StateEntry as StateEntry,
)
from planloom.api.state_manager import (
    StateManager as StateManager,
)
from planloom.api.step_forms import (
    ExecutionStep as ExecutionStep,
    RetryConfig as RetryConfig,
    StepType as StepType,
)
from planloom.api.step_wrappers import (
    CachedStepExecutor as CachedStepExecutor,
    MetricsStepExecutor as MetricsStepExecutor,
    PooledStepExecutor as PooledStepExecutor,
)
from planloom.api.steps import (
    StepExecutor as StepExecutor,
)
from planloom.context.document import (
    Document as Document,
)
from planloom.context.graph import (
    DependencyGraph as DependencyGraph,
)
from planloom.context.store import (
    MemoryStore as MemoryStore,
)
from planloom.core.chat import (
    LLMResponse as LLMResponse,
    Message as Message,
)
from planloom.core.result import (
    RunResult as RunResult,
    RunStatus as RunStatus,
    StepResult as StepResult,
    StepStatus as StepStatus,
    Usage as Usage,
)
from planloom.errors import (
    AgentNotFoundError as AgentNotFoundError,
    ConfigError as ConfigError,
    JournalConflictError as JournalConflictError,
    JournalError as JournalError,
    MissingKeyError as MissingKeyError,
    ModelError as ModelError,
    NoWorkerError as NoWorkerError,
    NotAllowedError as NotAllowedError,
    NotDoneError as NotDoneError,
    OverloadedError as OverloadedError,
    PlanError as PlanError,
    PlanTimeoutError as PlanTimeoutError,
    PlanloomError as PlanloomError,
    PlanningError as PlanningError,
    ResourceLimitError as ResourceLimitError,
    RunBlockedError as RunBlockedError,
    SecurityError as SecurityError,
    StepError as StepError,
    ToolExecutionError as ToolExecutionError,
    UnknownPriceError as UnknownPriceError,
    ValidationError as ValidationError,
    VerificationError as VerificationError,
    WorkerError as WorkerError,
    WorkerLostError as WorkerLostError,
)
from planloom.journal.memory import (
    MemoryJournal as MemoryJournal,
)
from planloom.journal.sqlite import (
    SqliteJournal as SqliteJournal,
)
from planloom.models.llm import (
    LLM as LLM,
)
from planloom.plan.load import (
    load_plan as load_plan,
    parse_plan as parse_plan,
)
from planloom.plan.model import (
    ExecutionPlan as ExecutionPlan,
    Plan as Plan,
    Step as Step,
)
from planloom.plan.policy import (
    Effects as Effects,
    ResourceLimits as ResourceLimits,
    RetryPolicy as RetryPolicy,
)
from planloom.plan.schema import (
    plan_schema as plan_schema,
)
from planloom.runtime.cluster.client import (
    ClusterClient as ClusterClient,
)
from planloom.runtime.engine import (
    Engine as Engine,
)
from planloom.runtime.execution_agent import (
    ExecutionAgent as ExecutionAgent,
)
from planloom.runtime.modules import (
    Module as Module,
)
from planloom.runtime.run import (
    Run as Run,
)
from planloom.runtime.settings import (
    Settings as Settings,
)
from planloom.runtime.workers import (
    on_workers as on_workers,
)
from planloom.sandbox.program import (
    SandboxLimits as SandboxLimits,
    SandboxResult as SandboxResult,
)
from planloom.sandbox.sandbox import (
    Sandbox as Sandbox,
)
from planloom.tools.catalogue import (
    ToolCatalog as ToolCatalog,
)
from planloom.tools.context import (
    ToolContext as ToolContext,
)
from planloom.tools.declare import (
    a2a_agent as a2a_agent,
    mcp_tool as mcp_tool,
    tool as tool,
)
from planloom.tools.definition import (
    ToolDefinition as ToolDefinition,
    ToolExample as ToolExample,
    ToolParameter as ToolParameter,
)
from planloom.tools.registry import (
    ToolRegistry as ToolRegistry,
)
from planloom.tools.standard import (
    get_default_tools as get_default_tools,
)
from planloom.tools.tool import (
    Tool as Tool,
)
from planloom.transport.bus import (
    EventBus as EventBus,
)
from planloom.transport.event import (
    Event as Event,
)
from planloom.transport.pool import (
    WorkerPool as WorkerPool,
)
from planloom.transport.setup import (
    WorkerSetup as WorkerSetup,
)
from planloom.transport.slots import (
    SlotPool as SlotPool,
)
from planloom.verify.checks import (
    ValidatorRegistry as ValidatorRegistry,
)
from planloom.verify.expected import (
    FormatValidator as FormatValidator,
)
from planloom.verify.flow import (
    VerificationFlow as VerificationFlow,
)
from planloom.verify.judge import (
    JudgeAgent as JudgeAgent,
    JudgeConfig as JudgeConfig,
)

__version__: str
__all__: list[str]
