"""What a tool declares about what passes through it, as it is written: words made tuples, and checked.

Rule 1: what cannot be meant is refused where it is declared: a tool that would never be asked about is no safer.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator

from planloom.errors import ConfigError
from planloom.plan.flow import Labels, labels_of

FLOW_OPTIONS = ("source", "secret", "sink", "accepts", "cleans", "needs_approval")
"""What `@tool` takes of it; see `plan.flow.FlowFacts`."""
_LABELS = ("source", "accepts", "cleans")
_SWITCHES = ("secret", "sink", "needs_approval")


def checked_flow(options: dict[str, Any], *, where: str = "a tool") -> dict[str, Any]:
    """Return those of FLOW_OPTIONS that are there, labels as tuples.

    Args:
        where: Who declares them, for the error.

    Raises:
        ConfigError: Not labels, or a switch that is neither on nor off.
    """
    found: dict[str, Any] = {}
    for name in _LABELS:
        if name in options:
            found[name] = labels_of(options[name], where=f"{name} of {where}", reserved=name == "source")
    for name in _SWITCHES:
        if name in options:
            if not isinstance(options[name], bool):
                raise ConfigError(f"{name}={options[name]!r:.60} of {where} is no switch", remedy="give True or False")
            found[name] = options[name]
    return found


def _no_secret(source: tuple[str, ...]) -> tuple[str, ...]:
    checked_flow({"source": source})
    return source


SourceLabels = Annotated[Labels, AfterValidator(_no_secret)]
"""Labels of a source, where outside data comes in: any but "secret"."""
