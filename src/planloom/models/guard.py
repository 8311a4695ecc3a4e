"""The gate between the models and the network: open, unless a test has shut it.

Rule 1: every adapter that sends something asks here first, with the address it is about to connect to.
Rule 2: shut is shut for the whole process, whatever thread or task asks: a test must not reach a provider by a detour.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from urllib.parse import urlsplit

from planloom.errors import ConfigError

_lock = threading.Lock()
_shut = 0
"""How many blocks that refuse hosts are under way."""


def check(base_url: str) -> None:
    """Do nothing, unless hosts are refused just now and this address is on another machine.

    Raises:
        ConfigError: It is, or it names no host at all.
    """
    if _shut and not _is_here(base_url):
        host = _host(base_url) or "somewhere unknown"
        raise ConfigError(
            f"a model would be asked at {host}, and this test lets no model be reached on another machine",
            remedy="use scripted:// or cassette://, or a planloom.testing.provider.ProviderServer on this machine",
        )


@contextmanager
def refuse_hosts() -> Iterator[None]:
    """Let no model be reached on another machine while this is open; may be nested."""
    global _shut  # noqa: PLW0603 - rule 2: one gate for the process
    with _lock:
        _shut += 1
    try:
        yield
    finally:
        with _lock:
            _shut -= 1


def _is_here(base_url: str) -> bool:
    host = _host(base_url)
    if host is None:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _host(base_url: str) -> str | None:
    """Return the host of an address, or None; the rest of it may hold what nobody should read in a message."""
    try:
        return urlsplit(base_url).hostname
    except ValueError:
        return None
