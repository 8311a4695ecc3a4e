"""What is said to a model, and what it answers: plain values that every adapter takes and gives.

Rule 1: JSON only, so that a conversation can go on record and be asked again as it was.
Rule 2: an answer is whole or it is an error: a refusal, a cut-off or a broken stream is never an `LLMResponse`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from planloom.core.result import Usage

if TYPE_CHECKING:
    from planloom.plan.gasa import GasaPolicy

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish that a tool be called.

    Attributes:
        id: The provider's name for it; the tool's answer carries it back.
        name: As the model was told it (`tools.registry.llm_name`).
        arguments: The arguments, or the model's own text where that was no JSON object: the caller refuses it.
    """

    id: str
    name: str
    arguments: dict[str, Any] | str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: One of ROLES.
        tool_calls: Of an assistant: what it wants called.
        tool_call_id: Of a tool: which call this answers; `name` says which tool.
        metadata: For whoever keeps the conversation; no model sees it.
    """

    role: str
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as a model is told of it.

    Attributes:
        parameters: JSON Schema of an object.
    """

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document, put before the question.

    Attributes:
        node: What it is called in the graph, e.g. a document's id.
        text: As the model reads it, its title included.
    """

    node: str
    text: str


@dataclass(frozen=True, slots=True)
class Material:
    """What a model reads before the question, and which piece may read which: for models whose attention can be masked.

    Attributes:
        passages: In the order in which they stand in the prompt.
        near: For each, the places of the others that it may read, with how many hops away each is (0: of the same
            document, or no node of the graph). A place that is not listed is not read; itself is always.
        policy: How it is masked.
        lead: What is said before the first of them.
    """

    passages: tuple[Passage, ...]
    near: tuple[dict[int, int], ...]
    policy: GasaPolicy
    lead: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """One request to a model, complete.

    Attributes:
        messages: The conversation, oldest first; system messages first of all.
        max_tokens: Most tokens of the answer; None: the model's own limit.
        temperature: 0 to 2; None: the model's own default.
        tools: What it may ask to have called.
        tool_choice: "auto", "none", "required", or the name of the one tool it must call.
        output: JSON Schema of the answer, asked for natively where the provider can; checked by whoever asks.
        json_mode: The answer must be JSON, of whatever form.
        prediction: Text the answer is likely to be: the same answer, sooner, where the provider can.
        stop: Texts at which the answer ends.
        timeout_s: Seconds to wait for the provider; None: the model's setting.
        options: Settings of one provider, as its adapter documents them.
        material: Documents that stand before the last message; only for models with the capability "attention_mask".
    """

    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: str = "auto"
    output: dict[str, Any] | None = None
    json_mode: bool = False
    prediction: str | None = None
    stop: tuple[str, ...] = ()
    timeout_s: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    material: Material | None = None


@dataclass(frozen=True, slots=True)
class LLMResponse:
    """A whole answer.

    Attributes:
        text: What it says; "" where it only wants tools called.
        usage: Tokens as the provider counted them; also ``usage["prompt_tokens"]`` and its like.
        metadata: What else the provider tells, JSON: id, finish_reason, accepted_prediction_tokens, …
    """

    text: str
    provider: str
    model_name: str
    usage: Usage = field(default_factory=Usage)
    metadata: dict[str, Any] = field(default_factory=dict)
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def function_call(self) -> dict[str, Any] | None:
        """Return the first tool call as ``{"name", "arguments"}``, or None."""
        if not self.tool_calls:
            return None
        first = self.tool_calls[0]
        return {"name": first.name, "arguments": first.arguments}

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON; `from_dict` gives an equal one back."""
        calls = [{"id": one.id, "name": one.name, "arguments": one.arguments} for one in self.tool_calls]
        return {
            "text": self.text,
            "provider": self.provider,
            "model_name": self.model_name,
            "usage": {name: getattr(self.usage, name) for name in Usage.__slots__},
            "metadata": self.metadata,
            **({"tool_calls": calls} if calls else {}),
        }

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> LLMResponse:
        """Return the answer of `to_dict`."""
        calls = tuple(ToolCall(**one) for one in told.get("tool_calls", ()))
        return cls(**(told | {"usage": Usage(**told["usage"]), "tool_calls": calls}))
