"""The hooks that a plugin may implement, and the plugins that are here.

A plugin is a module or an object with functions marked `@planloom.plugins.hook`. It is found by the entry point group
``planloom`` of an installed package, or given to `register`.

Rule 1: plugins of installed packages are loaded when the first hook is called, not when planloom is imported.
Rule 2: what planloom has itself comes first: no plugin can stand in for a built-in scheme.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

import pluggy

from planloom.errors import ConfigError

if TYPE_CHECKING:
    from planloom.core.model_uri import ModelUri
    from planloom.ports import Model

GROUP = "planloom"
"""Entry point group in which packages name their plugins."""

_spec = pluggy.HookspecMarker(GROUP)
hook = pluggy.HookimplMarker(GROUP)
"""Marks a function of a plugin as the implementation of the hook of the same name."""


@_spec(firstresult=True)
def planloom_model(uri: ModelUri) -> Model | None:
    """Return the model at this address, or None if it is not one of yours.

    Called for schemes that planloom does not have itself, once for each `LLM` made. Do not connect to anything and do
    not ask for a key yet: that is for the first call. Refuse params you do not know with `UnknownFieldError`.
    """


@_spec
def planloom_model_schemes() -> Mapping[str, str]:
    """Return the schemes that your `planloom_model` answers to, each with a description of one line."""
    return {}


class _Plugins:
    """The plugins there are; those of installed packages from the first time they are asked for."""

    def __init__(self) -> None:
        self._pluggy = pluggy.PluginManager(GROUP)
        self._pluggy.add_hookspecs(sys.modules[__name__])
        self._found = False

    def register(self, plugin: object, name: str | None = None) -> None:
        was_here = self._pluggy.is_registered(plugin)
        try:
            self._pluggy.register(plugin, name)
            self._pluggy.check_pending()
        except (ValueError, pluggy.PluginValidationError) as error:
            if not was_here:
                self.unregister(plugin)
            raise ConfigError(f"{name or plugin!r} is no plugin: {error}", remedy="see planloom.plugins") from error

    def unregister(self, plugin: object) -> None:
        if self._pluggy.is_registered(plugin):
            self._pluggy.unregister(plugin)

    def find(self) -> pluggy.PluginManager:
        if not self._found:
            for entry in entry_points(group=GROUP):
                if not self._pluggy.has_plugin(entry.name):
                    self.register(_loaded(entry), entry.name)
            self._found = True
        return self._pluggy


def _loaded(entry: EntryPoint) -> object:
    try:
        plugin: object = entry.load()
    except (ImportError, AttributeError, SyntaxError) as error:
        raise ConfigError(
            f"the plugin {entry.name!r} ({entry.value}) cannot be loaded: {error}",
            remedy=f"mend or uninstall the package that brings {entry.value.partition(':')[0]}",
        ) from error
    return plugin


_PLUGINS = _Plugins()


def register(plugin: object, *, name: str | None = None) -> None:
    """Take a module or an object as a plugin, until `unregister`.

    Raises:
        ConfigError: It is registered already, or implements a hook that does not exist.
    """
    _PLUGINS.register(plugin, name)


def unregister(plugin: object) -> None:
    """Forget a plugin; nothing happens if it is not one."""
    _PLUGINS.unregister(plugin)


def model_at(uri: ModelUri) -> Model | None:
    """Return the model that the first plugin to know this address makes of it, or None."""
    model: Model | None = _PLUGINS.find().hook.planloom_model(uri=uri)
    return model


def model_schemes() -> dict[str, str]:
    """Return the schemes of all plugins, each with its description."""
    found: dict[str, str] = {}
    for schemes in _PLUGINS.find().hook.planloom_model_schemes():
        found.update(schemes)
    return found
