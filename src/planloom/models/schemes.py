"""Schemes of model addresses, and which module makes the models of each.

Rule 1: a module is imported when the first model of its scheme is made: some bring large libraries.
Rule 2: `openai://` and the like are always ours; plugins add schemes and replace none.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from planloom import plugins
from planloom.errors import UnknownModelError, suggestion

if TYPE_CHECKING:
    from planloom.core.model_uri import ModelUri
    from planloom.ports import Model

_HOSTED = "planloom.models.hosted"
_LOCAL = "planloom.models.local.model"

BUILT_IN: dict[str, tuple[str, str]] = {
    "openai": (_HOSTED, "OpenAI, or with base_url= any server that speaks its chat completions"),
    "anthropic": (_HOSTED, "Anthropic"),
    "google": (_HOSTED, "Google Gemini"),
    "ollama": (_HOSTED, "an Ollama server, http://localhost:11434 unless base_url= says otherwise"),
    "vllm": (_HOSTED, "a vLLM server, http://localhost:8000 unless base_url= says otherwise"),
    "transformers": (_LOCAL, "a model in this process, from a folder or the Hugging Face cache"),
    "huggingface": (_LOCAL, "the same as transformers://"),
    "scripted": ("planloom.models.scripted", "answers from a list, for tests and docs"),
    "cassette": ("planloom.models.cassette", "answers recorded once and replayed"),
}
"""Module and description by scheme; the module has `model_of(uri: ModelUri) -> Model`."""


def schemes() -> dict[str, str]:
    """Return every scheme there is, those of plugins included, each with a description of one line."""
    return plugins.model_schemes() | {scheme: told for scheme, (_, told) in BUILT_IN.items()}


def open_model(uri: ModelUri) -> Model:
    """Return the model at this address. Connects to nothing.

    Raises:
        UnknownModelError: No adapter and no plugin knows the scheme.
        ConfigError: The params are wrong, or an extra is not installed.
    """
    if uri.scheme in BUILT_IN:
        make: Callable[[ModelUri], Model] = import_module(BUILT_IN[uri.scheme][0]).model_of
        return make(uri)
    model = plugins.model_at(uri)
    if model is None:
        known = schemes()
        listed = "; ".join(f"{scheme}:// {told}" for scheme, told in sorted(known.items()))
        raise UnknownModelError(
            f"no adapter knows models of the scheme {uri.scheme!r}; there are: {listed}",
            remedy=f"{suggestion(uri.scheme, known)}, or install a plugin that brings {uri.scheme}://",
            schemes=sorted(known),
        )
    return model
