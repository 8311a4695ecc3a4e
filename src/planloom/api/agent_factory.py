"""create_agent and create_gemma_agent: a reasoning agent of a model, tools and a few words.

Rule 1: what a model or its provider cannot be told is an error here, never left out in silence.
Rule 2: a key is handed to the model and to nobody else: it is in no address, no record and no message.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from planloom.agents.memory import AgentMemory, Backend
from planloom.agents.reasoning import MAX_ITERATIONS, Reasoner
from planloom.api.one_step import llm_of
from planloom.api.reasoning import CONTEXT_TOKENS, Forms, Keeping, ReasoningAgent
from planloom.core.model_uri import ModelUri
from planloom.errors import ConfigError
from planloom.models.hosted import HOSTS, HostedModel
from planloom.models.llm import LLM
from planloom.models.uri import checked
from planloom.tools.registry import ToolRegistry
from planloom.tools.tool import Tool

if TYPE_CHECKING:
    from planloom.context.vectors import Embed
    from planloom.core.chat import Message
    from planloom.plan.policy import ResourceLimits
    from planloom.ports import Journal, Model

Schema = type[BaseModel] | Mapping[str, Any]
GEMMA = "gemma3:27b"
GEMMA_SERVER = "http://localhost:11434/v1"
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
"""Schema of a tool that says nothing about its arguments."""


def create_agent(
    model: LLM | Model | str,
    tools: Any = None,
    *,
    name: str = "agent",
    system: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    options: Mapping[str, Any] | None = None,
    max_iterations: int = MAX_ITERATIONS,
    input_schema: Schema | None = None,
    output_schema: Schema | None = None,
    output_key: str | None = None,
    state: Any = None,
    enable_memory: bool = False,
    memory: AgentMemory | None = None,
    memory_backend: Backend = "in_memory",
    embed: Embed | None = None,
    max_context_tokens: int = CONTEXT_TOKENS,
    summarise: Callable[[list[Message]], Any] | None = None,
    journal: str | os.PathLike[str] | Journal | None = None,
    limits: ResourceLimits | None = None,
    verbose: bool = False,
) -> ReasoningAgent:
    """Return an agent that reasons.

    Args:
        model: An `LLM`, its address, or any `ports.Model`.
        tools: What it may call: a registry, a module, or a list of tools, functions and objects that have `name`,
            `description`, `args_schema` and `run(dict)` or `arun(dict)`; None: nothing.
        temperature: Of every call of the model, as are `max_tokens`, `top_p`, `top_k` and `options`.
        input_schema: A pydantic model, or a JSON Schema, that every task must fit.
        output_schema: The same for results; of a pydantic model, results are its instances.
        output_key: Where in `state` each result is put.
        state: A dict, or anything with `set(key, value)`; None: a dict of its own.
        enable_memory: Whether tasks are told of those before them.
        memory: What was said before; None: nothing yet.
        memory_backend: How that memory is searched: "in_memory" by words, "vector" by likeness, which takes `embed`.
        summarise: Sums up messages that no longer fit into `max_context_tokens`; None: they are left out.
        journal: Where tasks go on record, so that one broken off can go on; a path or a journal.
        limits: What each task may use; None: tasks are not limited.
        verbose: Whether what was done goes to the log "planloom.agent".

    Raises:
        ConfigError: Something of this makes no sense, or cannot be told to this model.
    """
    llm = llm_of(model)
    memory = _memory(enable_memory, memory, memory_backend, embed)
    state = {} if output_key is not None and state is None else state
    if output_key is not None and not isinstance(state, dict) and not callable(getattr(state, "set", None)):
        raise ConfigError(f"state is a {type(state).__name__}", remedy="give a dict, or something with set(key, value)")
    return ReasoningAgent(
        Reasoner(
            name=name,
            model=llm,
            tools=None if tools is None else tools_of(tools),
            system=system,
            max_iterations=max_iterations,
            temperature=temperature,
            max_tokens=max_tokens,
            options=_options(llm, {"top_p": top_p, "top_k": top_k}) | dict(options or {}),
            input_schema=_schema(input_schema),
            output_schema=_schema(output_schema),
        ),
        Keeping(
            memory=memory,
            max_context_tokens=max_context_tokens,
            summarise=summarise,
            state=state,
            output_key=output_key,
            journal=journal,
            verbose=verbose,
        ),
        Forms(input=_form(input_schema), output=_form(output_schema)),
        limits,
    )


def create_gemma_agent(
    api_base: str = GEMMA_SERVER,
    model: str = GEMMA,
    api_key: str | None = None,
    temperature: float = 0.7,
    max_tokens: int | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    tools: Any = None,
    verbose: bool = False,
    input_schema: Schema | None = None,
    output_schema: Schema | None = None,
    output_key: str | None = None,
    state: Any = None,
    max_iterations: int = MAX_ITERATIONS,
    enable_memory: bool = False,
    **options: Any,
) -> ReasoningAgent:
    """Return an agent whose model answers at any address that speaks OpenAI's chat completions, e.g. an Ollama server.

    Args:
        api_base: That address.
        model: The model's name there.
        api_key: Sent there; None: none is needed.
        options: Everything else that `create_agent` takes.

    Raises: as `create_agent`.
    """
    uri = checked(ModelUri("openai", model, "", {"base_url": api_base}))
    return create_agent(
        LLM(HostedModel(uri, key=api_key), uri),
        tools,
        temperature=temperature,
        max_tokens=max_tokens,
        top_p=top_p,
        top_k=top_k,
        verbose=verbose,
        input_schema=input_schema,
        output_schema=output_schema,
        output_key=output_key,
        state=state,
        max_iterations=max_iterations,
        enable_memory=enable_memory,
        **options,
    )


# --- tools ------------------------------------------------------------------------------------


def tools_of(source: Any) -> ToolRegistry:
    """Return a registry of whatever a caller gives as tools; see `create_agent`.

    Raises:
        ConfigError: Something among them is no tool.
    """
    if isinstance(source, Iterable) and not isinstance(source, ToolRegistry | Mapping | str | bytes):
        return ToolRegistry(map(_tool, source))
    return ToolRegistry.of(source if ToolRegistry is type(source) or not _is_foreign(source) else [_tool(source)])


def _is_foreign(one: Any) -> bool:
    """Return whether this is a tool of another framework: an object with a name that is run with a dict."""
    if isinstance(one, Tool) or inspect.isroutine(one) or inspect.isclass(one):
        return False
    return isinstance(getattr(one, "name", None), str) and any(
        callable(getattr(one, way, None)) for way in ("run", "arun")
    )


def _tool(one: Any) -> Any:
    if not _is_foreign(one):
        return one
    schema = _schema(getattr(one, "args_schema", None))
    function: Callable[..., Any]
    if inspect.iscoroutinefunction(getattr(one, "arun", None)):

        async def arun(**arguments: Any) -> Any:
            return await one.arun(arguments)

        function = arun
    else:

        def run(**arguments: Any) -> Any:
            return one.run(arguments)

        function = run
    return Tool.from_schema(
        one.name,
        function,
        NOTHING if schema is None else schema,
        description=str(getattr(one, "description", "") or ""),
        effects=getattr(one, "effects", None),
    )


# --- small parts ------------------------------------------------------------------------------


def _memory(is_wanted: bool, given: AgentMemory | None, backend: Backend, embed: Embed | None) -> AgentMemory | None:
    """Return the agent's memory.

    Raises:
        ConfigError: Something is said of a memory that it has not.
    """
    says_how = backend != "in_memory" or embed is not None
    if not is_wanted and (given is not None or says_how):
        raise ConfigError("this agent has no memory, and something is said of it", remedy="give enable_memory=True")
    if given is not None and says_how:
        raise ConfigError("the memory that is given has its own way to search", remedy="give memory= alone")
    return AgentMemory(backend=backend, embed=embed) if is_wanted and given is None else given


def _options(llm: LLM, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a call's options was asked for.

    Raises:
        ConfigError: The model's provider cannot be told of one.
    """
    found = {name: value for name, value in wanted.items() if value is not None}
    host = HOSTS.get(llm.uri.scheme)
    if "top_k" in found and host is not None and host.family == "openai":
        raise ConfigError(
            f"{llm.uri.scheme}:// models cannot be told top_k: OpenAI's interface does not have it",
            remedy="leave top_k out, or set it where the model is served",
        )
    return found


def _schema(given: Schema | None) -> dict[str, Any] | None:
    if given is None:
        return None
    if inspect.isclass(given) and issubclass(given, BaseModel):
        return given.model_json_schema()
    if isinstance(given, Mapping):
        return dict(given)
    raise ConfigError(f"a {type(given).__name__} is no schema", remedy="give a pydantic model or a JSON Schema")


def _form(given: Schema | None) -> type[BaseModel] | None:
    return given if inspect.isclass(given) and issubclass(given, BaseModel) else None
