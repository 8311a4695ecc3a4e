"""The address of a model: `scheme://name[@version][?param=value&…]`; `models/uri.py` reads one from text.

Rule 1: an address goes on record and into messages, so nothing secret is ever part of it.
Rule 2: `parse_uri(str(uri)) == uri` for every address that was parsed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

Param = bool | int | float | str
LATEST = "latest"


@dataclass(frozen=True, slots=True)
class ModelUri:
    """Which model is meant, and with which settings.

    Attributes:
        scheme: Which adapter, lower case, e.g. ``"openai"``.
        name: The whole path, e.g. ``"org/name"``.
        version: ``"latest"``, or the provider's own; "" where the address gives none.
        params: Settings by name, e.g. ``{"temperature": 0.2}``.
    """

    scheme: str
    name: str
    version: str = ""
    params: Mapping[str, Param] = field(default_factory=dict)

    def __str__(self) -> str:
        name = quote(self.name, safe="/:@")
        # A last part `latest`, and what follows an `@` in the last part, would be read as a version.
        name = re.sub(r"/(?=latest\Z)", "%2F", name)
        name = re.sub(r"(?<=[^/])@(?=[^@/]+\Z)", "%40", name)
        if self.version:
            name = re.sub(r"/\Z", "%2F", name)  # an `@` at the head of a part is no sign of a version
            name += f"/{LATEST}" if self.version == LATEST else f"@{quote(self.version, safe=':')}"
        pairs = ((quote(key, safe=""), quote(text_of(value), safe="/:")) for key, value in self.params.items())
        query = "&".join(f"{key}={value}" for key, value in pairs)
        return f"{self.scheme}://{name}" + (f"?{query}" if query else "")

    def __hash__(self) -> int:
        return hash(str(self))


def text_of(value: Param) -> str:
    """Return a setting as an address writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
