"""What a nats-server of a cluster goes by: `nats-server.conf`, and `accounts.conf` that it includes.

Rule 1: it listens on this machine alone, unless asked; on an address that others reach only with TLS.
Rule 2: nothing is on that nobody needs: no websockets, no MQTT, no leaf nodes, no monitoring but on this machine.
Rule 3: every setting that is not the server's default says why.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from planloom.errors import ConfigError

ADVISED = (2, 12)
"""Older ones have faults of consumers that were mended since."""
OLDEST = (2, 9, 10)
KNOWS_SYNC = (2, 10)
"""The first with `sync_interval`."""
MAX_PAYLOAD_BYTES = 8 << 20
PID_FILE = "nats-server.pid"


@dataclass(frozen=True, slots=True)
class ServerConf:
    """What a server's conf depends on.

    Attributes:
        host: Address it listens on.
        port: 0 stands for nothing here; -1: any that is free.
        certificate: Its TLS certificate; None: no TLS.
        key: That of the certificate.
        max_store: Most that its streams may take of the disk, e.g. "10GB".
        monitor: Port of its monitoring pages, on this machine alone; None: none.
        version: Of the server that will read it; None: a new one.
    """

    host: str = "127.0.0.1"
    port: int = 4222
    certificate: Path | None = None
    key: Path | None = None
    max_store: str = "10GB"
    monitor: int | None = None
    version: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("TLS needs a certificate and its key", remedy="give --tls-cert and --tls-key")
        if self.certificate is None and not _is_own(self.host):
            raise ConfigError(
                f"other machines can reach {self.host}, and nothing would be encrypted",
                remedy="give --tls-cert and --tls-key, or listen on 127.0.0.1",
            )
        if self.version is not None and self.version < OLDEST:
            raise ConfigError(
                f"nats-server {_dotted(self.version)} is too old", remedy=f"install {_dotted(ADVISED)} or newer"
            )
        if not re.fullmatch(r"\d+(\.\d+)?[KMGT]?B?", self.max_store):
            raise ConfigError(f"{self.max_store!r} is no size", remedy="give e.g. 10GB")


def conf_text(conf: ServerConf, folder: Path) -> str:
    """Return the text of `nats-server.conf`, for a server that finds the cluster's folder there."""
    sync = "sync_interval: always"
    if conf.version is not None and conf.version < KNOWS_SYNC:
        sync = f"# sync_interval: always   # nats-server {_dotted(conf.version)} does not know it: take 2.12 or newer"
    parts = [
        "# Settings of this server, yours to change. Made by `planloom cluster init`, which changes it no more.",
        f"listen: {_quoted(f'{conf.host}:{conf.port}')}",
        "# By it `planloom cluster revoke` has the server read its accounts again.",
        f"pid_file: {_quoted(str(folder / PID_FILE))}",
        "# What a step is given, or comes to, is one message; what is larger fails its attempt.",
        f"max_payload: {MAX_PAYLOAD_BYTES}",
        "# A worker that fell silent is noticed in 15 s; its work goes to another one when its lease ends.",
        'ping_interval: "5s"',
        "ping_max: 2",
        "jetstream {",
        f"  store_dir: {_quoted(str(folder / 'store'))}",
        f"  max_file_store: {conf.max_store}",
        "  max_memory_store: 256MB",
        "  # By default a power cut loses up to two minutes of what was acknowledged. PostgreSQL has the truth, so",
        "  # runs would go on; but each outcome that is lost is an attempt made again, or a question for a person.",
        f"  {sync}",
        "}",
        *_tls(conf),
        *_monitor(conf),
        "# Who may do what. Written anew by `planloom cluster revoke` and `rotate`.",
        "include ./accounts.conf",
    ]
    return "\n".join(parts) + "\n"


def accounts_text(operator: str, system: str, accounts: Mapping[str, str]) -> str:
    """Return the text of `accounts.conf`.

    Args:
        operator: Its token.
        system: Public key of the system's account.
        accounts: Tokens by the public key of their account.
    """
    told = [f"  {key}: {_quoted(token)}" for key, token in accounts.items()]
    return "\n".join(
        [
            "# Written by `planloom cluster`; what is changed here is lost. No secret.",
            f"operator: {_quoted(operator)}",
            f"system_account: {system}",
            "resolver: MEMORY",
            "resolver_preload {",
            *told,
            "}",
            "",
        ]
    )


def _tls(conf: ServerConf) -> list[str]:
    if conf.certificate is None or conf.key is None:
        return []
    return [
        "tls {",
        f"  cert_file: {_quoted(str(conf.certificate.absolute()))}",
        f"  key_file: {_quoted(str(conf.key.absolute()))}",
        "}",
    ]


def _monitor(conf: ServerConf) -> list[str]:
    if conf.monitor is None:
        return []
    return ["# It asks nobody who they are.", f'http: "127.0.0.1:{conf.monitor}"']


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _is_own(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def version_in(text: str) -> tuple[int, ...] | None:
    """Return the version that a text names, e.g. (2, 12, 8) of "nats-server: v2.12.8"; None if it names none."""
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    return None if found is None else tuple(int(part) for part in found.groups())


def version_of(program: str) -> tuple[int, ...] | None:
    """Return the version of a nats-server; None if it does not say it."""
    try:
        command = [program, "--version"]
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603  # ours
    except (OSError, subprocess.SubprocessError):
        return None
    return version_in(told.stdout)


def reload_server(folder: Path) -> int | None:
    """Have the server of a cluster's folder read its accounts again; return its process, None if it is not here."""
    try:
        pid = int((folder / PID_FILE).read_text())
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        if "nats-server" not in name:
            return None  # the number is another program's by now
        os.kill(pid, signal.SIGHUP)
    except (OSError, ValueError):
        return None
    return pid


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
