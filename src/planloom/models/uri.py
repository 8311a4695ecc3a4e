"""Addresses of models, read from text.

Rule 1: the whole path is the name; a version is only what follows the last `@` of its last part, `?version=`, or a
literal `/latest`.
Rule 2: a key is never part of an address: `key_env=NAME` names the environment variable that holds it.
Rule 3: no message repeats a value out of an address: it may be a key that somebody put there by mistake.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote, urlsplit

from planloom.core.model_uri import LATEST, ModelUri, Param
from planloom.errors import UnknownModelError

__all__ = ["ModelUri", "Param", "checked", "parse_uri", "uri_for"]

FORM = "scheme://name[@version][?param=value&…], e.g. openai://gpt-4o?temperature=0.2"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*\Z")
_INT = re.compile(r"-?(0|[1-9][0-9]{0,17})\Z")
_FLOAT = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?\Z")
_SECRET = re.compile(
    r"((api|access|secret|private|auth)[-_]?)?(key|token)|secret|password|passwd|authorization|credentials?", re.I
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_AS_TEXT = frozenset({"version", "key_env", "base_url"})
"""Params that are text even if they look like numbers."""

_PROVIDERS = (
    ("openai", re.compile(r"gpt-|chatgpt|o[134](-|\Z)")),
    ("anthropic", re.compile(r"claude")),
    ("google", re.compile(r"gemini")),
)


def parse_uri(text: str) -> ModelUri:
    """Return the address that a text gives.

    Params are typed by their looks: `true` and `false`, whole numbers, decimal numbers, else text.

    Raises:
        UnknownModelError: It is no address, or it carries a key.
    """
    scheme, separator, rest = text.strip().partition("://")
    if not separator or not _SCHEME.match(scheme):
        raise UnknownModelError("a model is given without a scheme", remedy=f"write {FORM}")
    path, _, query = rest.partition("?")
    path, version = _split(path)
    params: dict[str, Param] = {}
    for pair in filter(None, query.split("&")):
        key, equals, value = pair.partition("=")
        key = unquote(key)
        if not key or not equals:
            raise UnknownModelError(f"a param of a {scheme}:// address has no name or no value", remedy=f"write {FORM}")
        if key in params or (key == "version" and version):
            raise UnknownModelError(f"{key!r} is given twice in a {scheme}:// address", remedy="give it once")
        if key == "version":
            version = unquote(value)
        else:
            params[key] = unquote(value) if key in _AS_TEXT else _typed(unquote(value))
    return checked(ModelUri(scheme.lower(), unquote(path), version, params))


def checked(uri: ModelUri) -> ModelUri:
    """Return the address itself.

    Raises:
        UnknownModelError: It names no model, or carries a key.
    """
    if not uri.name:
        raise UnknownModelError(f"a {uri.scheme}:// address names no model", remedy=f"write {FORM}")
    try:
        str(uri)
    except UnicodeEncodeError:
        raise UnknownModelError(f"a {uri.scheme}:// address is not text", remedy=f"write {FORM}") from None
    for key, value in uri.params.items():
        if _SECRET.fullmatch(key):
            raise UnknownModelError(
                f"a {uri.scheme}:// address has a param {key!r}, and an address goes on record",
                remedy="put the key into an environment variable and write key_env=NAME",
            )
        if key == "key_env" and not _VARIABLE.match(str(value)):
            raise UnknownModelError(
                f"key_env of a {uri.scheme}:// address is not the name of an environment variable",
                remedy="name the variable that holds the key, e.g. key_env=MY_OPENAI_KEY; never the key itself",
            )
        if key == "base_url":
            _check_base_url(uri.scheme, str(value))
    return uri


def uri_for(model: str, provider: str | None = None) -> str:
    """Return the address that a bare model name stands for, and an address as it is.

    Args:
        model: E.g. ``"gpt-4o"``, ``"claude-sonnet-4-5"``, ``"ollama://llama3:8b"``.
        provider: A scheme, e.g. ``"openai"``; None: told by the name, where it is well known.

    Raises:
        UnknownModelError: Nothing says whose model it is.
    """
    if "://" in model:
        return model
    if provider is None:
        provider = next((known for known, names in _PROVIDERS if names.match(model)), None)
    if provider is None:
        raise UnknownModelError(
            f"nothing says whose model {model!r} is", remedy=f"give provider=, or an address: {FORM}"
        )
    return str(checked(ModelUri(provider.lower(), model)))


def _split(path: str) -> tuple[str, str]:
    """Return name and version of a path, the name not decoded yet."""
    name, slash, last = path.rpartition("/")
    if slash and name and last == LATEST:
        return name, LATEST
    at = last.rfind("@")
    if at > 0 and at + 1 < len(last):
        return f"{name}{slash}{last[:at]}", unquote(last[at + 1 :])
    return path, ""


def _typed(text: str) -> Param:
    if text in ("true", "false"):
        return text == "true"
    if _INT.match(text):
        return int(text)
    if _FLOAT.match(text) and math.isfinite(number := float(text)):
        return number
    return text


def _check_base_url(scheme: str, base_url: str) -> None:
    try:
        parts = urlsplit(base_url)
        with_host = parts.scheme in ("http", "https") and bool(parts.hostname)
        names: Mapping[str, str] = dict(parse_qsl(parts.query, keep_blank_values=True))
    except ValueError:
        raise UnknownModelError(
            f"base_url of a {scheme}:// address is no URL", remedy="write http(s)://host/v1"
        ) from None
    if not with_host:
        raise UnknownModelError(f"base_url of a {scheme}:// address is no URL", remedy="write http(s)://host/v1")
    if "@" in parts.netloc or any(_SECRET.fullmatch(name) for name in names):
        raise UnknownModelError(
            f"base_url of a {scheme}:// address carries a password or a key, and an address goes on record",
            remedy="put the key into an environment variable and write key_env=NAME",
        )
