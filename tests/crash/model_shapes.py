"""Shapes about models: what they answer, who judges it, what runs ahead on it, and plans that they write.

Every model answers by what it is asked, never by how often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from planloom import Tool
from planloom.core.chat import ModelCall, ToolCall
from planloom.models.scripted import echo
from planloom.testing.models import FunctionModel
from tests.crash.flow_shapes import RETRY
from tests.crash.shape import Shape, do, out

DRAFT_S, SLOW_S = 1.0, 10.0
OTHER_WAY = {
    "name": "other",
    "steps": [
        {"id": "x", "tool": "pure", "with": {"n": "${{ inputs.n }}"}},
        {"id": "y", "tool": "pure", "with": {"n": "${{ steps.x.output }}"}},
    ],
    "outputs": {"n": "${{ steps.y.output }}"},
}


def answer(call: ModelCall) -> str:
    return f"<{echo(call)[-40:]}>"


def with_tools(call: ModelCall) -> Any:
    """Call each of two tools, one after the other, then say what they said."""
    said = [message for message in call.messages if message.role == "tool"]
    if len(said) < len(call.tools):
        return ToolCall(f"call-{len(said)}", call.tools[len(said)].name, {"n": 5 + len(said)})
    return "they said " + ", ".join(str(message.content) for message in said)


def judge(call: ModelCall) -> Any:
    """Like only an answer that was given again."""
    good = "again" in call.messages[-1].content
    return {"scores": {"warmth": 0.9 if good else 0.1}, "critique": "cold", "suggestions": ["say it again"]}


def improved(call: ModelCall) -> str:
    return "again, warmly" if len(call.messages) > 1 or "cold" in call.messages[-1].content else "hello"


def plan_writer(call: ModelCall) -> Any:
    return OTHER_WAY


def parts(tools: Sequence[Tool]) -> Mapping[str, Any]:
    return {
        "models": {
            "m": FunctionModel(answer),
            "slow": FunctionModel(answer, latency_s=SLOW_S),
            "draft": FunctionModel(answer, latency_s=DRAFT_S),
            "wrong": FunctionModel(lambda call: "WRONG", latency_s=DRAFT_S),
            "handy": FunctionModel(with_tools),
            "judge": FunctionModel(judge),
            "writer": FunctionModel(improved),
            "default": FunctionModel(plan_writer),
        }
    }


def ask(step_id: str, model: str, prompt: str, *needs: str, **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "model": model, "prompt": prompt, **({"needs": list(needs)} if needs else {}), **fields}


def ahead(draft: str) -> Shape:
    """Return a chain of model steps that speculate, with steps of every effect behind it."""
    speculate = {"draft": draft, "latency_weight": 1.0}
    return Shape(
        parts=parts,
        steps=[
            ask("a", "slow", "one", speculate=speculate),
            ask("b", "slow", out("a"), speculate=speculate),
            do("look", "pure", "${{ len(steps.a.output) }}"),
            do("save", "pay", "${{ len(steps.b.output) }}", "look"),
            do("put", "put", "${{ len(steps.a.output) }}"),
            ask("end", "slow", out("b"), "save", "put"),
        ],
    )


MODELS: dict[str, Shape] = {
    "models and tools in turn": Shape(
        parts=parts,
        steps=[
            do("a", "pay", 1),
            ask("say", "m", f"tell {out('a')}"),
            do("b", "pay", "${{ len(steps.say.output) }}"),
            ask("again", "m", f"tell {out('b')}", stream=True),
            do("end", "put", "${{ len(steps.again.output) }}"),
        ],
    ),
    "a map of models": Shape(
        parts=parts,
        steps=[
            ask("each", "slow", "say ${{ item }}", for_each=[1, 2, 3], max_parallel=2),
            do("end", "pay", "${{ len(steps.each.output) }}"),
        ],
    ),
    "a model with tools": Shape(
        parts=parts,
        steps=[
            do("a", "pay", 1),
            ask("do", "handy", "do it", "a", tools=["pay", "put"]),
            do("end", "pay", "${{ len(steps.do.output) }}"),
        ],
    ),
    "a map of models with tools": Shape(
        parts=parts,
        steps=[
            ask("each", "handy", "do ${{ item }}", tools=["put", "pay"], for_each=[1, 2]),
            do("end", "pay", "${{ len(steps.each.output) }}"),
        ],
    ),
    "an answer that is judged": Shape(
        parts=parts,
        steps=[
            ask(
                "write",
                "writer",
                "greet",
                verify={
                    "strategy": "judge",
                    "model": "judge",
                    "rubric": {"warmth": 1},
                    "refinement": "feedback",
                    "threshold": 0.8,
                },
            ),
            do("end", "pay", "${{ len(steps.write.output) }}"),
        ],
    ),
    "an answer that does not pass": Shape(
        parts=parts,
        fields={"fail_fast": False},
        steps=[
            ask(
                "write",
                "m",
                "greet",
                verify={"strategy": "judge", "model": "judge", "rubric": {"warmth": 1}},
                retry=RETRY,
            ),
            do("never", "pay", 1, "write"),
            do("clean", "put", 1, "write", join="always"),
        ],
    ),
    "several samples": Shape(
        parts=parts,
        steps=[
            ask("vote", "slow", "what?", verify={"strategy": "self_consistency", "samples": 3}),
            do("end", "pay", "${{ len(steps.vote.output) }}"),
        ],
    ),
    "drafts that are confirmed": ahead("draft"),
    "drafts that are rolled back": ahead("wrong"),
    "a plan in place of a failed step": Shape(
        parts=parts,
        fields={"allow": ["picky", "pure", "pay"]},
        steps=[
            do("get", "picky", 2, replan={"max_steps": 3}),
            do("end", "pay", "${{ steps.get.output.n }}"),
        ],
    ),
}
