"""Having a model's config name an attention function for as long as anybody needs it: `held`.

Rule 1: a config belongs to all threads. It is set by the first who holds the model and undone after the last.
Rule 2: a pass of the model under way holds it too, whoever began it: a layer that attends otherwise than the pass began
would take a missing mask for plain causal attention of its own kind, which is wrong behind a cache.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock, local
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Check = Callable[[Any, tuple[Any, ...], dict[str, Any]], None]
"""Given a module and what it is called with, raises if that cannot be."""


class _Passes(local):
    """How many passes that hold the model are under way in this thread."""

    count = 0


@dataclass(slots=True)
class _Holding:
    """A model whose config names our function, who needs that, and how to undo it."""

    configs: list[tuple[Any, str | None]]
    hooks: list[Any] = field(default_factory=list)
    holders: int = 0
    passes: _Passes = field(default_factory=_Passes)


_HOLDINGS: dict[int, _Holding] = {}
_LOCK = Lock()


@contextmanager
def held(model: Any, name: str, check: Check) -> Iterator[None]:
    """Have the model's configs name this attention function while the block lasts.

    Args:
        check: Called before every pass of the model, by anyone, while it is held.
    """
    with _LOCK:
        holding = _HOLDINGS.get(id(model))
        if holding is None:
            holding = _HOLDINGS[id(model)] = _hold(model, name, check)
        holding.holders += 1
    try:
        yield
    finally:
        with _LOCK:
            _let_go(model)


def _hold(model: Any, name: str, check: Check) -> _Holding:
    found = {
        id(config): config for module in model.modules() if (config := getattr(module, "config", None)) is not None
    }
    configs = [one for one in found.values() if hasattr(one, "_attn_implementation")]
    holding = _Holding([(config, config._attn_implementation) for config in configs])
    for config in configs:
        config._attn_implementation = name

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        check(module, args, kwargs)
        with _LOCK:
            if _HOLDINGS.get(id(model)) is holding:
                holding.holders += 1
                holding.passes.count += 1

    def after(_module: Any, _args: tuple[Any, ...], _found: Any) -> None:
        with _LOCK:
            # A pass that began before the model was held ends here, too.
            if holding.passes.count:
                holding.passes.count -= 1
                _let_go(model)

    # The inner model is what makes masks; a model without a head is its own inner one.
    inner = getattr(model, "base_model", model)
    holding.hooks = [
        inner.register_forward_pre_hook(before, with_kwargs=True),
        inner.register_forward_hook(after, always_call=True),
    ]
    return holding


def _let_go(model: Any) -> None:
    """Undo it if nobody is left. The lock is held."""
    holding = _HOLDINGS[id(model)]
    holding.holders -= 1
    if holding.holders:
        return
    del _HOLDINGS[id(model)]
    for hook in holding.hooks:
        hook.remove()
    for config, before in holding.configs:
        config._attn_implementation = before
