"""Agent: one model with its documents, its plans and its judge. A thin door to what does each of these.

Rule 1: it keeps its documents and nothing else: no conversation, no answer goes from one call into the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from planloom import blocking
from planloom.agents.planner import LargePlanner
from planloom.api.checked import checked
from planloom.api.documents import with_documents
from planloom.api.execute import execute_plan
from planloom.api.execution import ExecutorConfig
from planloom.api.executor import Executor
from planloom.api.one_step import llm_of
from planloom.context.document import Document, documents_of
from planloom.context.lexical import LexicalIndex
from planloom.verify.judge import JudgeAgent

if TYPE_CHECKING:
    from planloom.models.llm import LLM
    from planloom.plan.model import Plan
    from planloom.ports import Model
    from planloom.runtime.checks import PlanSource
    from planloom.verify.judge import Judgement
    from planloom.verify.rubric import Rubric


class AgentConfig(BaseModel):
    """What an agent is.

    Raises:
        UnknownFieldError: A keyword that is not listed here.
        ConfigError: A value of the wrong type, or no `model_uri`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_uri: str
    """Model that answers, e.g. ``"openai://gpt-4o"``."""
    planner_model_uri: str | None = None
    """Model that writes plans; None: the one that answers."""
    judge_model_uri: str | None = None
    """Model that judges; None: the one that answers."""
    system: str | None = None
    """Told to the model before every question."""
    executor: ExecutorConfig = ExecutorConfig()
    """How questions are asked."""

    def __init__(self, **fields: Any) -> None:
        with checked(AgentConfig, fields, remedy='give at least model_uri="openai://gpt-4o"'):
            super().__init__(**fields)


class Agent:
    """Answers, plans, carries plans out and judges, with the models of its configuration.

    Args:
        model: Answers in place of the one at `model_uri`.
        tools: What its plans may use: a registry or a list of functions; None: the tools decorated in this process.
    """

    def __init__(self, config: AgentConfig, *, model: LLM | Model | None = None, tools: Any = None) -> None:
        self.config = config
        self._llm = llm_of(config.model_uri if model is None else model)
        self._tools = tools
        self._documents: list[Any] = []
        self._executor = Executor(self._llm, config.executor)

    @property
    def documents(self) -> tuple[Any, ...]:
        return tuple(self._documents)

    def add_document(self, document: Any) -> None:
        """Keep a document; every question from here on is asked with it.

        Args:
            document: A text, a dict with "content", or an object with `.content`.

        Raises:
            ConfigError: It is none of these.
        """
        with_documents("", [document])
        self._documents.append(document)

    def add_documents(self, documents: Iterable[Any]) -> None:
        """Keep several documents, or, if one of them is none, nothing."""
        added = list(documents)
        with_documents("", added)
        self._documents += added

    def retrieve(self, query: str, limit: int = 5) -> list[Document]:
        """Return the documents that were added and have most to do with a question, best first; see `LexicalIndex`."""
        documents = documents_of(self._documents)
        index = LexicalIndex([f"{one.title}\n{one.content}" for one in documents])
        return [documents[place] for place, _ in index.best(query, limit)]

    async def execute(self, prompt: str, documents: Sequence[Any] | None = None, **generation: Any) -> dict[str, Any]:
        """Return the answer: `text`, `usage`, `cost` in US dollars (None where no price is known) and `metadata`.

        Args:
            documents: For this question alone, after those that were added.
            generation: As for `Executor.execute`, which also says what is raised.
        """
        if self.config.system is not None:
            generation.setdefault("system", self.config.system)
        result = await self._executor.execute(prompt, [*self._documents, *(documents or ())], **generation)
        return {
            "text": result.text,
            "usage": result.usage.to_dict(),
            "cost": result.cost_usd,
            "metadata": result.metadata,
        }

    def run(self, prompt: str, documents: Sequence[Any] | None = None, **generation: Any) -> dict[str, Any]:
        """Do what `execute` does from code that is not async.

        Raises:
            ConfigError: Called where an event loop runs already: await `execute` there.
        """
        return blocking.run(self.execute(prompt, documents, **generation))

    async def plan(self, task: str, context: Mapping[str, Any] | None = None) -> Plan:
        """Return a plan for a task, by what the agent's tools can do; see `LargePlanner.create_plan`."""
        named = self.config.planner_model_uri
        planner = LargePlanner(self._llm if named is None else named)
        try:
            return await planner.create_plan(task, self._tools, context)
        finally:
            if named is not None:
                await planner.close()

    async def execute_plan(
        self, plan: PlanSource, context: Mapping[str, Any] | None = None, **options: Any
    ) -> dict[str, Any]:
        """Carry out a plan with the agent's tools; what the plan calls the default model is the agent's.

        Args:
            options: As for `execute_plan`, which also says what is returned and raised.
        """
        return await execute_plan(plan, context=context, tools=self._tools, models={"default": self._llm}, **options)

    async def judge_output(
        self, output: Any, prompt: str, rubric: Rubric | Mapping[str, float] | str | None = None
    ) -> Judgement:
        """Return what the agent's judge says of an answer; see `JudgeAgent.judge`."""
        named = self.config.judge_model_uri
        judge = JudgeAgent(self._llm if named is None else named)
        try:
            return await judge.judge(output, prompt, rubric)
        finally:
            if named is not None:
                await judge.model.close()

    async def close(self) -> None:
        """Let go of the connections of its model."""
        await self._llm.close()
