"""Tools from the operator's side: modules named in `planloom.toml` or by `--tools`. A plan file never gets here.

Rule 1: loading a module runs it. Only names that an operator gave may come in.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from planloom.errors import ConfigError
from planloom.tools.registry import ToolRegistry

if TYPE_CHECKING:
    from types import ModuleType


def load_tools(source: str) -> ToolRegistry:
    """Return the tools of a module: its decorated functions, its `Tool`s, and those of its registries.

    Args:
        source: ``package.module``, or the path of a Python file, which ends in ``.py``.

    Raises:
        ConfigError: No such module or file, one that cannot be imported, or one without tools.
    """
    return ToolRegistry.of(_from_file(Path(source)) if source.endswith(".py") else _from_name(source))


def _from_name(name: str) -> ModuleType:
    if name.startswith("."):
        raise ConfigError(f"tools module {name!r} is relative, and to nothing", remedy="give its full name")
    try:
        return importlib.import_module(name)
    except (ImportError, SyntaxError, ValueError) as error:
        raise ConfigError(
            f"tools module {name!r} cannot be imported: {error}",
            remedy="give a module that Python finds from here, or the path of a .py file",
        ) from error


def _from_file(path: Path) -> ModuleType:
    path = path.expanduser().resolve()
    if not path.is_file():
        raise ConfigError(f"there is no tools file {path}", remedy="give the path of a Python file that exists")
    name = f"planloom_tools_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file", remedy="give the path of a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # annotations, dataclasses and pydantic look a module up by its name
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError, OSError) as error:
        del sys.modules[name]
        raise ConfigError(f"tools file {path} cannot be loaded: {error}", remedy="correct it and try again") from error
    return module
