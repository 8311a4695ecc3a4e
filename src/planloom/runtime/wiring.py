"""Settings → adapters. The only file that names them, and the order of the wrappers around the executors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planloom.agents.roster import AgentRegistry
from planloom.executors.acceptance import AcceptanceGate
from planloom.executors.agent import AgentExecutor
from planloom.executors.attempt import Attempts
from planloom.executors.by_kind import ByKind
from planloom.executors.calls import ToolCalls
from planloom.executors.code import CodeExecutor
from planloom.executors.llm import LlmExecutor
from planloom.executors.replan import ReplanExecutor
from planloom.executors.speculative import DraftThenCheck
from planloom.executors.threads import ThreadPool
from planloom.executors.tool import ToolExecutor
from planloom.executors.wrap.cached import CachedExecutor, LruCache
from planloom.executors.wrap.guarded import Guards
from planloom.executors.wrap.verified import VerifiedExecutor
from planloom.models.catalogue import Models
from planloom.plan.model import DEFAULT_AGENT
from planloom.sandbox.sandbox import BACKENDS, backend_of
from planloom.transport.local import LocalTransport
from planloom.verify.checks import ValidatorRegistry

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.models.llm import LLM
    from planloom.ports import AttemptExecutor, Clock, MakeTransport, Model, SandboxBackend, Transport
    from planloom.runtime.settings import Settings
    from planloom.tools.registry import ToolRegistry
    from planloom.verify.judge import JudgeAgent

HEART_KINDS = frozenset({"plan", "approve", "wait"})
"""Kinds of step that the heart does itself."""


@dataclass(frozen=True, slots=True)
class Wired:
    """What an engine stands on.

    Attributes:
        attempts: What makes an attempt in this process, wherever the transport has it made.
        sandboxes: Those that the engine made, and closes.
        runtimes: All that code steps can name, with those that it was given.
        kinds: Kinds of step that can be done here, and what steps may ask for on top (`plan.against.EXTRAS`).
    """

    transport: Transport
    attempts: Attempts
    threads: ThreadPool
    sandboxes: tuple[SandboxBackend, ...]
    runtimes: Mapping[str, SandboxBackend]
    kinds: frozenset[str]


def catalogue_of(settings: Settings, given: Mapping[str, LLM | str | Model] | None, clock: Clock | None) -> Models:
    """Return the models of an engine; without a clock of its own, it shares providers' rates with the whole process."""
    return Models(
        default=settings.default_model,
        named=settings.models,
        given=given,
        prices=settings.prices,
        rates=settings.rates,
        timeout_s=settings.model_timeout_s,
        max_answer_tokens=settings.max_answer_tokens,
        clock=clock,
    )


def wire(
    registry: ToolRegistry,
    settings: Settings,
    clock: Clock,
    models: Models,
    *,
    validators: ValidatorRegistry | None = None,
    judges: Mapping[str, JudgeAgent] | None = None,
    gate: AcceptanceGate | None = None,
    agents: AgentRegistry | None = None,
    transport: MakeTransport | None = None,
    sandboxes: Mapping[str, SandboxBackend] | None = None,
) -> Wired:
    """Return what makes attempts, behind a transport; None: the local one."""
    threads = ThreadPool(settings.max_threads)
    own: dict[str, SandboxBackend] = {name: backend_of(name) for name in BACKENDS}
    backends = own | dict(sandboxes or {})
    executors = _by_kind(registry, settings, clock, models, threads, backends, gate, agents)

    def digest_of(request: RunStep) -> str:
        return _digest(request, registry, models, agents)

    verified = VerifiedExecutor(ByKind(executors), models, validators or ValidatorRegistry(), judges or {})
    cached = CachedExecutor(verified, LruCache(clock, size=settings.cache_size), digest_of)
    kinds = HEART_KINDS | executors.keys() | {"verify", "speculate"}
    attempts = Attempts(cached)
    return Wired(
        (transport or LocalTransport)(attempts, clock), attempts, threads, tuple(own.values()), backends, kinds
    )


def _by_kind(
    registry: ToolRegistry,
    settings: Settings,
    clock: Clock,
    models: Models,
    threads: ThreadPool,
    backends: Mapping[str, SandboxBackend],
    gate: AcceptanceGate | None,
    agents: AgentRegistry | None,
) -> dict[str, AttemptExecutor]:
    guards = Guards(registry, clock, breakers=settings.breakers, rates=settings.tool_rates)
    calls = ToolCalls(registry, threads, guards)
    roster = AgentRegistry() if agents is None else agents
    doing = AgentExecutor(roster, models, calls)
    tasks: dict[str, AttemptExecutor] = {"task": doing} if DEFAULT_AGENT in roster else {}
    return {
        **tasks,
        "tool": ToolExecutor(calls),
        "agent": doing,
        "code": CodeExecutor(calls, backends),
        "model": DraftThenCheck(LlmExecutor(models, calls), models, gate or AcceptanceGate()),
        "replan": ReplanExecutor(models, registry),
    }


def _digest(request: RunStep, registry: ToolRegistry, models: Models, agents: AgentRegistry | None) -> str:
    """Return everything besides its arguments that decides what a step answers: models, tools, what both are asked."""
    step = request.step
    asked = step.agent_name
    refs = [step.model, step.verify.model if step.verify else None, step.replan.model if step.replan else None]
    if step.speculate is not None:
        refs += [step.speculate.draft, step.speculate.judge]
    if step.gasa is not None:
        refs.append(step.gasa.shadow_model)
    tools = [name for name in (step.tool, *(step.tools or ())) if name is not None]
    parts: list[Any] = [
        request.role,
        [None if ref is None else [ref, _uri_of(ref, request, models)] for ref in refs],
        [registry.get(name).digest if name in registry else name for name in tools],
        None if asked is None or agents is None else agents.facts(asked).digest,
        [one and one.model_dump(mode="json") for one in (step.agent, step.code)],
        step.task,
        step.max_tokens,
        step.temperature,
        step.output,
        step.verify.model_dump(mode="json") if step.verify else None,
        step.speculate.model_dump(mode="json") if step.speculate else None,
        step.gasa.model_dump(mode="json") if step.gasa else None,
    ]
    return json.dumps(parts, sort_keys=True, separators=(",", ":"))


def _uri_of(ref: str, request: RunStep, models: Models) -> str:
    facts = request.models.get(ref)
    return facts.uri if facts is not None else str(models.get(ref).uri)
