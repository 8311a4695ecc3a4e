"""Every plan shape of the crash sweep, by name."""

from __future__ import annotations

from planloom.testing.sweep.everywhere import Sweep
from planloom.testing.sweep.report import CrashReport
from tests.crash.flow_shapes import FLOW
from tests.crash.inner_shapes import INSIDE, is_program, plan_inside
from tests.crash.inner_sweep import inner_staging, keeps_inner_laws
from tests.crash.map_shapes import MAPS
from tests.crash.model_shapes import MODELS
from tests.crash.people_shapes import LABELLED, PEOPLE
from tests.crash.shape import Shape
from tests.crash.shapes import SHAPES, plan_of

LAGS = (0, 1, 7)
"""Turns of the loop from a write to its acknowledgement."""
TWICE, TWICE_INSIDE = 4, 12
"""After every so-manieth point with a lag of 1, the power is cut a second time, everywhere."""


def _plain(name: str) -> Shape:
    fields = plan_of(name)
    steps = fields.pop("steps")
    return Shape(steps=steps, fields={key: value for key, value in fields.items() if key not in ("planloom", "name")})


OUTSIDE: dict[str, Shape] = {name: _plain(name) for name in SHAPES} | FLOW | MAPS | PEOPLE | LABELLED | MODELS
EVERY: tuple[str, ...] = (*OUTSIDE, *INSIDE)


def swept(name: str, lag: int, *, twice: bool = False) -> CrashReport:
    """Stop the runs of a shape everywhere."""
    if name in OUTSIDE:
        return OUTSIDE[name].sweep(name, lag=lag, twice=TWICE if twice else None)
    plan = plan_inside(name)
    again = TWICE_INSIDE if twice and not is_program(plan) else None
    return Sweep(inner_staging(plan, lag), laws=(keeps_inner_laws,), twice=again).run()
