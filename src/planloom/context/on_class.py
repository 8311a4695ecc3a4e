"""A method that can be called on a class too, where it works on a new object: `on_class_too`."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class on_class_too(Generic[P, R]):  # noqa: N801 - it is used as a decorator
    """`graph.load(path)` fills that graph, `DependencyGraph.load(path)` a new one: either is what somebody expects."""

    def __init__(self, method: Callable[Concatenate[Any, P], R]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, owned: Any, owner: type) -> Callable[P, R]:
        return MethodType(self._method, owner() if owned is None else owned)
