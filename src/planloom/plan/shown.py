"""How plans and results are shown in notebooks: the doors, and the name of whoever draws.

Rule 1: nothing here knows how anything looks. `planloom` itself says who draws (`drawn_by`), for the rooms above may
not be named here; that module is imported when something is shown for the first time, and costs nothing before.
Rule 2: without anybody who draws, a value is shown by its `repr`, as it would be without this file.
"""

from __future__ import annotations

from importlib import import_module

_drawer = ""


def drawn_by(module: str) -> None:
    """Say which module has `html_of` and `svg_of`: of a value they return the text, or None for "not like this"."""
    global _drawer  # noqa: PLW0603  # said once, by the package, before anything of it can be used
    _drawer = module


class Shown:
    """What notebooks show as a picture and tables, where it is the last line of a cell."""

    __slots__ = ()

    def _repr_html_(self) -> str | None:
        return _drawn("html_of", self)

    def _repr_svg_(self) -> str | None:
        return _drawn("svg_of", self)


def _drawn(way: str, value: Shown) -> str | None:
    if not _drawer:
        return None
    text: str | None = getattr(import_module(_drawer), way)(value)
    return text
