"""GASAConfig: a model step's `gasa`, made in Python."""

from __future__ import annotations

from typing import Any, Self

from planloom.api.checked import checked
from planloom.errors import ConfigError
from planloom.plan.gasa import GasaPolicy

__all__ = ["GASAConfig"]


class GASAConfig(GasaPolicy):
    """What a plan writes below `gasa:`, checked where it is made.

    Raises:
        UnknownFieldError: A keyword that does not exist; the message lists those that do.
        ConfigError: A value out of bounds, or `mask_strategy="learned"`, for which there are no weights.
    """

    def __init__(self, **fields: Any) -> None:
        with checked(GASAConfig, fields, remedy="give a value within bounds"):
            if fields.get("mask_strategy") == "learned":
                raise ConfigError(
                    "mask_strategy 'learned' needs weights that were trained for it, and there are none",
                    remedy="use 'binary' or 'soft'",
                )
            super().__init__(**fields)

    @classmethod
    def for_local_models(cls, **fields: Any) -> Self:
        """Return a config for a model whose attention can be masked; one that cannot is given all documents."""
        return cls(**{"backend": "auto", "fallback_strategy": "dense", **fields})

    @classmethod
    def for_openai(cls, **fields: Any) -> Self:
        """Return a config for a hosted model: the best chunks, in an order that prefix caches find again."""
        return cls(**{"backend": "packing", "fallback_strategy": "prompt_composer", **fields})

    @classmethod
    def for_vllm(cls, **fields: Any) -> Self:
        """Return a config for a model on a vLLM server, which takes no mask either."""
        return cls.for_openai(**fields)
