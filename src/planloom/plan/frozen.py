"""`@frozen`: a slotted dataclass that nobody may change; the type checker enforces it, not the interpreter.

The standard `dataclass(frozen=True)` checks at run time and pays for it whenever one is made: 1.1 µs instead of 0.2 µs
for nine fields. The heart makes a handful of these for every step, so there it is a third of what a step costs.
Use the standard one wherever fewer are made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def frozen(cls: type[T]) -> type[T]:
    return dataclass(slots=True, unsafe_hash=True)(cls)
