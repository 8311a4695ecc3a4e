"""Makes credentials, with the signing keys in a cluster's folder, and keeps them fresh.

Rule 1: whoever mints needs the signing key of one account and nothing of the operator: it makes users of that account,
and can change no account.
Rule 2: a worker's credential always ends; each renewal has a key of its own, so that one can be revoked alone.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from planloom.errors import ConfigError
from planloom.transport.nats import claims, subjects
from planloom.transport.nats.claims import KeyKind, KeyPair
from planloom.transport.nats.credentials import Credential, credential_in, credential_text
from planloom.transport.nats.permissions import (
    NO_LABELS,
    Rights,
    Role,
    checked_module,
    rights_of_agent,
    rights_of_submitter,
    rights_of_system,
    rights_of_worker,
)

STREAMS, SUBMITTERS, SYSTEM, MODULES = "planloom", "submitters", "system", "modules/"
"""Accounts: that with the streams, which is the agents'; the others'; and before the name of each module's."""
ISSUED_FILE = "issued.jsonl"
WORKER_TTL_S = 3600.0
LONGEST_WORKER_TTL_S = 30 * 86_400.0


class CredentialMint:
    """Makes credentials, with the signing keys in a cluster's folder.

    Of the folder it needs `keys/NAME.nk` and `jwt/NAME.jwt` of the accounts whose users it makes: `modules/MODULE` for
    workers, `planloom` for agents, `submitters`, `system`. Whoever provisions workers of one module needs two files.

    Args:
        folder: Where they are.
        clock: Seconds since 1970.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock

    def worker(
        self, module: str, name: str, *, labels: Mapping[str, str] = NO_LABELS, ttl_s: float = WORKER_TTL_S
    ) -> Credential:
        """Return the credential of one worker: its module's work and outcomes, and nothing else.

        Raises:
            ConfigError: A name, labels or a time that cannot be, or the module's key is not here.
        """
        if not 1 <= ttl_s <= LONGEST_WORKER_TTL_S:
            raise ConfigError(
                f"a worker's credential cannot last {ttl_s:g} s",
                remedy=f"give 1 to {LONGEST_WORKER_TTL_S:.0f} s, and renew it while the worker is meant to be there",
            )
        rights = rights_of_worker(module, _named(name), labels)
        return self._made(account_of_module(module), Role.WORKER, name, rights, ttl_s, module=module, labels=labels)

    def agent(self, name: str, *, ttl_s: float | None = None) -> Credential:
        """Return the credential of an agent; without a time it does not end by itself."""
        return self._made(STREAMS, Role.AGENT, _named(name), rights_of_agent(), ttl_s)

    def submitter(self, name: str, *, ttl_s: float | None = None) -> Credential:
        """Return the credential of whoever submits runs; without a time it does not end by itself."""
        return self._made(SUBMITTERS, Role.SUBMITTER, name, rights_of_submitter(_named(name)), ttl_s)

    def system(self, name: str, *, ttl_s: float | None = None) -> Credential:
        """Return the credential of whoever looks after the servers; without a time it does not end by itself."""
        return self._made(SYSTEM, Role.SYSTEM, _named(name), rights_of_system(), ttl_s)

    def _made(
        self,
        account: str,
        role: Role,
        name: str,
        rights: Rights,
        ttl_s: float | None,
        *,
        module: str = "",
        labels: Mapping[str, str] = NO_LABELS,
    ) -> Credential:
        if ttl_s is not None and ttl_s < 1:
            raise ConfigError(f"a credential cannot last {ttl_s:g} s", remedy="give at least 1 s")
        key, belongs_to = self._signer(account)
        user, now = claims.new_key(KeyKind.USER), self._clock()
        body = claims.user_claims(
            user.public,
            belongs_to,
            name=name,
            publish=list(rights.publish),
            subscribe=list(rights.subscribe),
            now=now,
            expires_at=None if ttl_s is None else now + ttl_s,
        )
        body["planloom"] = {"role": role.value, "module": module, "labels": dict(labels)}
        made = credential_in(credential_text(claims.signed(key, body), user.seed), where="what was made")
        self._note(made, key.public)
        return made

    def _signer(self, account: str) -> tuple[KeyPair, str]:
        """Return an account's signing key, and the account."""
        path = self._folder / f"keys/{account}.nk"
        if not path.is_file() and account.startswith(MODULES):
            raise ConfigError(
                f"the key of module {subjects.untoken(account.removeprefix(MODULES))!r} is not in {self._folder}",
                remedy="give the module its account with `planloom cluster module`, or copy its key and token here",
            )
        key = claims.key_of_seed(read_text(path), KeyKind.ACCOUNT, where=str(path))
        body = claims_of(self._folder, account)
        if key.public not in body["nats"].get("signing_keys", []):
            raise ConfigError(
                f"{path} is no signing key of its account any more",
                remedy=f"it was rotated: copy keys/{account}.nk and jwt/{account}.jwt here together",
            )
        return key, str(body["sub"])

    def _note(self, made: Credential, signed_by: str) -> None:
        issued = self._folder / ISSUED_FILE
        if not issued.exists():
            return  # a folder with some of the keys, on another machine
        try:
            with issued.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**made.facts(), "signed_by": signed_by}) + "\n")
        except OSError as error:
            raise ConfigError(
                f"{issued} cannot be written: {error.strerror}",
                remedy="it says whom a key belongs to: without it nobody is revoked by name",
            ) from error


def account_of_module(module: str) -> str:
    """Return the name of a module's account, as its files have it."""
    return MODULES + subjects.token(checked_module(module))


def claims_of(folder: Path, account: str) -> dict[str, Any]:
    """Return what the token of an account says.

    Raises:
        ConfigError: It is not here, or is none.
    """
    path = folder / f"jwt/{account}.jwt"
    return claims.claims_in(read_text(path), where=str(path))


def read_text(path: Path) -> str:
    """Return the text of a file of a cluster.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text"
        raise ConfigError(
            f"{path} cannot be read: {why}",
            remedy="make a cluster with `planloom cluster init FOLDER`, or name its folder",
        ) from None


def _named(name: str) -> str:
    if not name:
        raise ConfigError("whose credential is it?", remedy="give it a name, e.g. the machine's")
    return name


async def keep_fresh(
    path: Path,
    mint: Callable[[], Credential],
    *,
    first: Credential | None = None,
    clock: Callable[[], float] = time.time,
    retry_s: float = 5.0,
) -> None:
    """Write a credential's file anew at half its life, until cancelled or until it is one that never ends.

    Args:
        mint: Makes the next one.
        first: That in the file; None: it is made and written at once.
        retry_s: Seconds to the next try where one fails: the one that counts has half its life left.

    Raises:
        ConfigError: The first one cannot be made or written.
    """
    made = first or mint()
    if first is None:
        made.write(path)
    while made.expires_at is not None:
        half_s = (made.expires_at - clock()) / 2
        await asyncio.sleep(max(0.2, half_s))
        try:
            made = mint()
            made.write(path)
        except ConfigError:
            await asyncio.sleep(retry_s)


@asynccontextmanager
async def lent(
    mint: CredentialMint,
    module: str,
    name: str,
    path: Path,
    *,
    labels: Mapping[str, str] = NO_LABELS,
    ttl_s: float = WORKER_TTL_S,
) -> AsyncIterator[Credential]:
    """Have a worker's credential in a file for a block of code, kept fresh; afterwards the file is gone.

    What was made last ends by itself within `ttl_s`; to cut a worker off at once, have its name revoked.

    Raises:
        ConfigError: It cannot be made or written.
    """

    def make() -> Credential:
        return mint.worker(module, name, labels=labels, ttl_s=ttl_s)

    first = make()
    first.write(path)
    keeping = asyncio.get_running_loop().create_task(keep_fresh(path, make, first=first))
    try:
        yield first
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])
        path.unlink(missing_ok=True)  # noqa: ASYNC240  # one small file of our own
