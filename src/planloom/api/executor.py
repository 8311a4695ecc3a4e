"""Executor and SpeculativeExecutor: one question to a model, judged, and with a cheaper model going first.

Thin doors: they put the question as a plan of one step, have an engine run it, and say in one result what came of it.

Rule 1: what failed raises, with the model's own error; no error text is ever an answer, and none is kept.
Rule 2: what is not there yet is refused, never left out in silence.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from planloom.api.door import Door
from planloom.api.execution import ExecutionResult, ExecutorConfig, ExecutorStats
from planloom.api.gasa import GASAConfig
from planloom.api.one_step import CHECK, DRAFT, MODEL, SHADOW
from planloom.context.graph import DependencyGraph
from planloom.errors import ConfigError, field_problems
from planloom.plan.gasa import GasaPolicy
from planloom.plan.policy import SpeculatePolicy

if TYPE_CHECKING:
    from planloom.models.llm import LLM
    from planloom.plan.policy import SpeculationKind
    from planloom.ports import Model
    from planloom.verify.checks import ValidatorRegistry
    from planloom.verify.judge import JudgeAgent

__all__ = ["ExecutionResult", "Executor", "ExecutorConfig", "ExecutorStats", "SpeculativeExecutor"]


class Executor:
    """Asks one model.

    Args:
        model: An `LLM`, its URI, or a `ports.Model`.
        judge_agent: Who judges answers, for the strategies `judge`, `full` and `model`; None: the model itself.
        validator_registry: Where the validators of `validator` and `full` are looked up; None: the built-in ones.
        gasa_config: How documents are read if the configuration says `enable_gasa`; None: `GASAConfig()`.
        dependency_graph: How they hang together; `enable_gasa` needs it.
        trace_manager: Not installed yet.

    Raises:
        ConfigError: Something the configuration asks for is missing or not installed.
    """

    def __init__(
        self,
        model: LLM | Model | str,
        config: ExecutorConfig | None = None,
        gasa_config: GasaPolicy | None = None,
        dependency_graph: DependencyGraph | None = None,
        judge_agent: JudgeAgent | None = None,
        validator_registry: ValidatorRegistry | None = None,
        trace_manager: Any = None,
    ) -> None:
        config = config or ExecutorConfig()
        _check_installed(trace_manager)
        if config.enable_speculative:
            raise ConfigError(
                "speculation needs a second, cheaper model, and Executor has one",
                remedy="use SpeculativeExecutor(draft_model, verify_model, config)",
            )
        gasa = _reading(config, gasa_config, dependency_graph)
        models = {MODEL: model}
        if gasa is not None and gasa.shadow_model is not None:
            models[SHADOW] = gasa.shadow_model
            gasa = gasa.model_copy(update={"shadow_model": SHADOW})
        self._door = Door(
            models,
            config,
            judge_agent=judge_agent,
            validators=validator_registry,
            gasa=gasa,
            graph=dependency_graph,
        )

    @property
    def config(self) -> ExecutorConfig:
        return self._door.config

    @property
    def stats(self) -> ExecutorStats:
        """What this executor did so far: calls, tokens, money, time."""
        return self._door.stats

    async def execute(self, prompt: str, documents: Sequence[Any] | None = None, **generation: Any) -> ExecutionResult:
        """Ask, and return the answer with what it took.

        Args:
            documents: Texts, dicts with "content" or objects with `.content`; they come before the prompt. With
                `enable_gasa` they are read along the graph, whose nodes their ids are; `metadata["gasa_stats"]` tells
                how.
            generation: `max_tokens`, `temperature` and `system` of this call.

        Raises:
            ModelError: The model's own, if it gives no answer.
            VerificationError: The answer was not judged good enough, or could not be judged.
            MissingKeyError: There is no key for the model's provider.
            UnknownFieldError: A keyword that does not exist.
        """
        return await self._door.execute(prompt, documents, generation)

    def stream(self, prompt: str, documents: Sequence[Any] | None = None, **generation: Any) -> AsyncIterator[str]:
        """Yield the answer in pieces; put together they are the text that `execute` returns. Raises as `execute` does.

        An answer that may still be rejected is whole before its first piece is heard.
        """
        return self._door.stream(prompt, documents, generation)

    async def close(self) -> None:
        """Let go of the connections of models that were given as a URI; others belong to whoever made them."""
        await self._door.close()

    async def __aenter__(self) -> Executor:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


class SpeculativeExecutor:
    """Asks a strong model, and a cheaper one first where that is of use. See docs/guides/speculation.md.

    Args:
        draft_model: The cheaper model.
        verify_model: The model whose answer is wanted; it also judges drafts, unless `judge_model` is given.
        policy: `auto`, `token`, `ngram`, `predicted`, `cascade`, `hedged` or `compare`. With `cascade` and `hedged` an
            accepted draft is the answer, and it may be a worse one than `verify_model` would give. `token` and `ngram`
            are for models that run in this process, and change nothing but the time; `auto` chooses them there.
        allow_lossy: Whether `auto` may choose `cascade`.
        threshold: Least score, 0 to 9, that a draft is accepted with.
        latency_weight: What counts in deciding whether drafting pays: 0 money alone, 1 time alone.

    Raises:
        ConfigError: Something the configuration asks for is missing or not installed.
    """

    def __init__(
        self,
        draft_model: LLM | Model | str,
        verify_model: LLM | Model | str,
        config: ExecutorConfig | None = None,
        policy: SpeculationKind = "auto",
        *,
        allow_lossy: bool = False,
        judge_model: LLM | Model | str | None = None,
        threshold: int = 7,
        latency_weight: float = 0.5,
        judge_agent: JudgeAgent | None = None,
        validator_registry: ValidatorRegistry | None = None,
    ) -> None:
        config = config or ExecutorConfig(enable_speculative=True)
        if config.enable_gasa:
            raise ConfigError(
                "SpeculativeExecutor has no graph to read documents along (GASA)",
                remedy="use Executor(model, config, gasa_config, dependency_graph), or leave enable_gasa out",
            )
        try:
            speculate = SpeculatePolicy(
                draft=DRAFT,
                policy=policy,
                allow_lossy=allow_lossy,
                judge=None if judge_model is None else CHECK,
                threshold=threshold,
                latency_weight=latency_weight,
            )
        except ValidationError as error:
            told = "; ".join(field_problems(error))
            raise ConfigError(f"SpeculativeExecutor cannot be made: {told}", remedy="see its documentation") from error
        is_off = "enable_speculative" in config.model_fields_set and not config.enable_speculative
        models = {MODEL: verify_model, DRAFT: draft_model} | ({} if judge_model is None else {CHECK: judge_model})
        self._door = Door(
            models,
            config,
            judge_agent=judge_agent,
            validators=validator_registry,
            speculate=None if is_off else speculate,
            is_speculative=True,
        )

    @property
    def config(self) -> ExecutorConfig:
        return self._door.config

    @property
    def stats(self) -> ExecutorStats:
        """What this executor did so far: calls, tokens, money, time."""
        return self._door.stats

    async def execute(self, prompt: str, documents: Sequence[Any] | None = None, **generation: Any) -> ExecutionResult:
        """Ask as `Executor.execute` does; `metadata` also tells what speculation saved or cost: see `Speculated`."""
        return await self._door.execute(prompt, documents, generation)

    def stream(self, prompt: str, documents: Sequence[Any] | None = None, **generation: Any) -> AsyncIterator[str]:
        """Yield the answer in pieces; put together they are the text that `execute` returns."""
        return self._door.stream(prompt, documents, generation)

    async def close(self) -> None:
        """Let go of the connections of models that were given as a URI; others belong to whoever made them."""
        await self._door.close()

    async def __aenter__(self) -> SpeculativeExecutor:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


def _reading(config: ExecutorConfig, policy: GasaPolicy | None, graph: DependencyGraph | None) -> GasaPolicy | None:
    """Return how documents are read, None if as they are given.

    Raises:
        ConfigError: They are to be read along a graph, and there is none; or one of the two is something else.
    """
    if policy is not None and not isinstance(policy, GasaPolicy):
        raise ConfigError(f"gasa_config is a {type(policy).__name__}", remedy="give a GASAConfig")
    if graph is not None and not isinstance(graph, DependencyGraph):
        raise ConfigError(f"dependency_graph is a {type(graph).__name__}", remedy="give a DependencyGraph")
    if not config.enable_gasa or (policy is not None and not policy.enabled):
        return None
    if graph is None:
        raise ConfigError(
            "enable_gasa needs a dependency_graph: what depends on what",
            remedy="give dependency_graph=…, a DependencyGraph with an edge for each dependency, or no enable_gasa",
        )
    return policy or GASAConfig()


def _check_installed(trace_manager: Any) -> None:
    if trace_manager is not None:
        raise ConfigError("tracing is not installed here", remedy="leave trace_manager out; see `stats`")
