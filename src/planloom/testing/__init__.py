"""What tests of plans and of planloom itself are made with. The public names, loaded when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planloom.testing.history.check import check_history
    from planloom.testing.history.violation import LoggedCall, Violation
    from planloom.testing.sweep.everywhere import crash_everywhere
    from planloom.testing.sweep.report import CrashReport
    from planloom.testing.sweep.story import CrashWorld

_HOMES = {
    "planloom.testing.history.check": ("check_history",),
    "planloom.testing.history.violation": ("LoggedCall", "Violation"),
    "planloom.testing.sweep.everywhere": ("crash_everywhere",),
    "planloom.testing.sweep.report": ("CrashReport",),
    "planloom.testing.sweep.story": ("CrashWorld",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = ["CrashReport", "CrashWorld", "LoggedCall", "Violation", "check_history", "crash_everywhere"]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
