"""Which worker can make an attempt: it does the kind, has the very tools the run was started with, and may use them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planloom.core.commands import RunStep
    from planloom.plan.model import Step
    from planloom.transport.worker import Offer

REQUIRE, PREFER = "require.", "prefer."
"""What labels of a step begin with that are about its worker: ``require.region: eu``."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an attempt is to be made."""

    require: Mapping[str, str]
    prefer: Mapping[str, str]
    patience_s: float
    """Seconds to wait for a worker like this."""


def place_of(request: RunStep, patience_s: float) -> Placement:
    """Return the place that a step's labels ask for."""
    labels = request.step.labels
    require = {name.removeprefix(REQUIRE): value for name, value in labels.items() if name.startswith(REQUIRE)}
    prefer = {name.removeprefix(PREFER): value for name, value in labels.items() if name.startswith(PREFER)}
    return Placement(require, prefer, patience_s)


def kind_of_work(request: RunStep) -> str:
    return "replan" if request.role == "replan" else request.step.kind


def tools_of(step: Step) -> list[str]:
    """Return the tools that a step names, as it spells them."""
    code, agent = step.code, step.agent
    named = [step.tool] if step.tool is not None else []
    return [*named, *(step.tools or ()), *(code.tools if code else ()), *((agent.tools or ()) if agent else ())]


def misfit(request: RunStep, offer: Offer) -> str:
    """Return why a worker that offers this cannot make the attempt, or ""."""
    kind = kind_of_work(request)
    if kind not in offer.kinds:
        return f"it does no {kind} steps"
    has = set(offer.tools.values())
    for name in tools_of(request.step):
        pinned = request.tools.get(name)
        if pinned is not None and pinned.digest not in has:
            same_name = name in offer.tools
            return f"its tool {name!r} is another one than this run's" if same_name else f"it may not use tool {name!r}"
    return ""
