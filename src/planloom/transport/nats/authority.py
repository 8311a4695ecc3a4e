"""A cluster's authority: the folder with its keys, what its servers are told, and who was given a credential.

Rule 1: what the servers go by are the tokens in `jwt/`; `accounts.conf` is drawn from these.
Rule 2: an account's users are signed by the one key that its token names; its own seed is kept nowhere.
Rule 3: private keys and credentials are their owner's alone, and what is written is whole.

    keys/operator.nk     signs accounts: to add modules, to revoke, to rotate; may be kept elsewhere
    keys/planloom.nk     signs agents
    keys/submitters.nk   signs submitters
    keys/modules/*.nk    sign workers, each those of one module
    keys/system.nk       signs whoever looks after the servers
    jwt/                 the operator and the accounts as tokens; no secret
    creds/               credentials of an agent and of a submitter
    accounts.conf        the tokens as the server reads them, written by us alone
    nats-server.conf     the server's own settings, yours to change
    issued.jsonl         whom each key was made for
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from planloom.errors import ConfigError, suggestion
from planloom.transport.nats import claims, subjects
from planloom.transport.nats.claims import KeyKind, KeyPair, new_key
from planloom.transport.nats.credentials import read_credential
from planloom.transport.nats.mint import (
    ISSUED_FILE,
    MODULES,
    STREAMS,
    SUBMITTERS,
    SYSTEM,
    CredentialMint,
    account_of_module,
    claims_of,
    read_text,
)
from planloom.transport.nats.permissions import (
    DISCONNECTS,
    Role,
    Shared,
    shared_by_streams,
    used_by_module,
    used_by_submitters,
)
from planloom.transport.nats.server_conf import ServerConf, accounts_text, conf_text
from planloom.whole_file import make_private, write_whole

ACCOUNTS_FILE, CONF_FILE = "accounts.conf", "nats-server.conf"
AGENT_FILE, SUBMITTER_FILE = "creds/agent.creds", "creds/submitter.creds"


class ClusterAuthority:
    """The keys of one cluster, in one folder.

    Args:
        folder: Where they are.
        operator_key: Where the operator's seed is, if not in the folder.
        clock: Seconds since 1970.

    Raises:
        ConfigError: There is no cluster in this folder.
    """

    def __init__(
        self, folder: Path, *, operator_key: Path | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.folder = folder
        self.mint = CredentialMint(folder, clock=clock)
        self._operator_key = operator_key or folder / "keys/operator.nk"
        self._clock = clock
        if not (folder / ACCOUNTS_FILE).is_file():
            raise ConfigError(
                f"there is no cluster in {folder}",
                remedy="make one with `planloom cluster init FOLDER`, or name its folder",
            )

    @classmethod
    def made(
        cls, folder: Path, conf: ServerConf, *, modules: Iterable[str], clock: Callable[[], float] = time.time
    ) -> ClusterAuthority:
        """Make a cluster's keys and accounts, what its server goes by, and the first credentials.

        Raises:
            ConfigError: There is a cluster in this folder already, or it cannot be written.
        """
        if (folder / ACCOUNTS_FILE).exists():
            raise ConfigError(
                f"there is a cluster in {folder} already",
                remedy="name another folder, or add to it with `planloom cluster module`",
            )
        operator, system, now = new_key(KeyKind.OPERATOR), new_key(KeyKind.ACCOUNT), clock()
        try:
            _write_private(folder / "keys/operator.nk", operator.seed)
            told = claims.operator_claims(operator.public, system.public, now=now)
            _write(folder / "jwt/operator.jwt", claims.signed(operator, told))
            making = _Making(folder, operator, now)
            gone = Shared(DISCONNECTS, "stream")
            making.account(SYSTEM, key=system, exports=[gone.export()])
            streams = making.account(
                STREAMS, exports=[one.export() for one in shared_by_streams()], imports=[gone.imported(system.public)]
            )
            making.account(SUBMITTERS, imports=[one.imported(streams) for one in used_by_submitters()])
            for module in modules:
                making.module(module, streams)
            _write(folder / CONF_FILE, conf_text(conf, folder.absolute()))
            _write_private(folder / ISSUED_FILE, "")
            mint = CredentialMint(folder, clock=clock)
            mint.agent("agent").write(folder / AGENT_FILE)
            mint.submitter("submitter").write(folder / SUBMITTER_FILE)
            _tell_server(folder)  # last: where its file is, everything is, and what was cut off is begun again
        except OSError as error:
            raise _unwritable(folder, error) from error
        return cls(folder, clock=clock)

    # --- modules ---

    def modules(self) -> list[str]:
        """Return the modules that have an account, sorted."""
        return sorted(subjects.untoken(path.stem) for path in (self.folder / f"jwt/{MODULES}").glob("*.jwt"))

    def add_module(self, module: str) -> bool:
        """Give a module its account; return False where it has one.

        Nothing changes for the other modules. It counts once the servers have read `accounts.conf` again.

        Raises:
            ConfigError: No module may be called so, or the operator's key is not here.
        """
        if account_of_module(module) in self._accounts():
            return False
        operator, streams = self._operator(), claims_of(self.folder, STREAMS)["sub"]
        try:
            _Making(self.folder, operator, self._clock()).module(module, streams)
            _tell_server(self.folder)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        return True

    # --- taking back ---

    def issued(self) -> list[dict[str, Any]]:
        """Return what is known of every key that was made with this folder, the first first."""
        path = self.folder / ISSUED_FILE
        lines = read_text(path).splitlines() if path.exists() else []
        return [found for line in lines if (found := _issue(line)) is not None]

    def counting(self) -> list[dict[str, Any]]:
        """Return what of `issued` counts still: has not ended, is not revoked, and its signing key is no older one."""
        told = {account: claims_of(self.folder, account)["nats"] for account in (*self._accounts(), SYSTEM)}
        found = []
        for one in self.issued():
            about = told.get(_account_of(Role(one["role"]), one["module"]), {})
            ended = one["expires_at"] is not None and one["expires_at"] <= self._clock()
            gone = one["key"] in about.get("revocations", {}) or one["signed_by"] not in about.get("signing_keys", [])
            if not ended and not gone:
                found.append(one)
        return found

    def revoke(self, whose: str) -> list[str]:
        """Take credentials back: the servers cut off whoever has them, once they have read `accounts.conf` again.

        Args:
            whose: Name of a worker, an agent or a submitter, a public key, or a credential's file.

        Returns:
            The keys that were revoked.

        Raises:
            ConfigError: Nobody is known by that, or the operator's key is not here.
        """
        now, operator = int(self._clock()), self._operator()
        by_account = self._keys_of(whose)
        for account, keys in by_account.items():
            body = claims_of(self.folder, account)
            kept = self._still_needed(body["nats"].get("revocations", {}), now)
            body["nats"]["revocations"] = {**kept, **dict.fromkeys(keys, now)}
            self._sign(operator, account, body)
        self._told()
        return sorted({key for keys in by_account.values() for key in keys})

    def _keys_of(self, whose: str) -> dict[str, list[str]]:
        """Return the keys that are meant, by account."""
        if Path(whose).is_file():
            meant = read_credential(Path(whose))
            return {_account_of(meant.role, meant.module): [meant.public_key]}
        counting = self.counting()
        found: dict[str, list[str]] = {}
        for one in counting:
            if whose in (one["name"], one["key"]):
                found.setdefault(_account_of(Role(one["role"]), one["module"]), []).append(one["key"])
        if not found and len(whose) == 56 and whose.startswith("U") and whose.isalnum():
            return {account: [whose] for account in self._accounts()}  # made with a copy of the keys elsewhere
        if not found:
            close = suggestion(whose, {str(one["name"]) for one in counting}, otherwise="see `planloom cluster issued`")
            raise ConfigError(
                f"no credential of {whose!r} is known that counts still",
                remedy=f"give its file or its public key; or {close}",
            )
        return found

    def _still_needed(self, revoked: dict[str, int], now: int) -> dict[str, int]:
        """Leave out those whose credential has ended meanwhile."""
        ends = {one["key"]: one["expires_at"] for one in self.issued()}
        return {key: at for key, at in revoked.items() if (end := ends.get(key)) is None or end > now}

    def rotate(self, *, module: str | None = None) -> None:
        """Give accounts other signing keys: whatever the old ones signed ends, once the servers have read it.

        The credentials in `creds/` are made anew; all others are to be made anew by whoever made them.

        Args:
            module: Whose account alone; None: every account but the system's.

        Raises:
            ConfigError: There is no such module, the operator's key is not here, or something cannot be written.
        """
        operator = self._operator()
        accounts = self._accounts() if module is None else [account_of_module(module)]
        try:
            for account in accounts:
                body, key = claims_of(self.folder, account), new_key(KeyKind.ACCOUNT)
                body["nats"]["signing_keys"] = [key.public]
                body["nats"]["revocations"] = {}
                _write_private(self.folder / f"keys/{account}.nk", key.seed)
                self._sign(operator, account, body)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        if STREAMS in accounts:
            self.mint.agent("agent").write(self.folder / AGENT_FILE)
            self.mint.submitter("submitter").write(self.folder / SUBMITTER_FILE)
        self._told()

    def _accounts(self) -> list[str]:
        """Return all accounts but the system's."""
        return [STREAMS, SUBMITTERS, *(account_of_module(module) for module in self.modules())]

    def _operator(self) -> KeyPair:
        key = claims.key_of_seed(read_text(self._operator_key), KeyKind.OPERATOR, where=str(self._operator_key))
        if key.public != claims_of(self.folder, "operator")["sub"]:
            raise ConfigError(
                f"{self._operator_key} is the key of another cluster's operator",
                remedy="give this one's: --operator-key FILE",
            )
        return key

    def _sign(self, operator: KeyPair, account: str, body: dict[str, Any]) -> None:
        try:
            _write(self.folder / f"jwt/{account}.jwt", claims.signed(operator, {**body, "iat": int(self._clock())}))
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def _told(self) -> None:
        try:
            _tell_server(self.folder)
        except OSError as error:
            raise _unwritable(self.folder, error) from error


class _Making:
    """Makes accounts: for each a key, a token that names it, and nothing else."""

    def __init__(self, folder: Path, operator: KeyPair, now: float) -> None:
        self._folder = folder
        self._operator = operator
        self._now = now

    def account(
        self,
        name: str,
        *,
        key: KeyPair | None = None,
        exports: Iterable[dict[str, Any]] = (),
        imports: Iterable[dict[str, Any]] = (),
    ) -> str:
        """Make an account; return its public key."""
        own, signing = key or new_key(KeyKind.ACCOUNT), new_key(KeyKind.ACCOUNT)
        body = claims.account_claims(
            name,
            own.public,
            [signing.public],
            now=self._now,
            streams=name == STREAMS,
            exports=list(exports),
            imports=list(imports),
        )
        _write_private(self._folder / f"keys/{name}.nk", signing.seed)
        _write(self._folder / f"jwt/{name}.jwt", claims.signed(self._operator, body))
        return own.public

    def module(self, module: str, streams: str) -> None:
        self.account(account_of_module(module), imports=[one.imported(streams) for one in used_by_module(module)])


def _account_of(role: Role, module: str) -> str:
    if role is Role.WORKER:
        return account_of_module(module)
    return {Role.AGENT: STREAMS, Role.SUBMITTER: SUBMITTERS, Role.SYSTEM: SYSTEM}[role]


def _tell_server(folder: Path) -> None:
    """Write what the servers read from the tokens that there are."""
    files: Iterator[Path] = (folder / "jwt").rglob("*.jwt")
    names = sorted(str(path.relative_to(folder / "jwt").with_suffix("")) for path in files)
    tokens = {claims_of(folder, name)["sub"]: read_text(folder / f"jwt/{name}.jwt") for name in names}
    operator, system = (claims_of(folder, name)["sub"] for name in ("operator", SYSTEM))
    _write(folder / ACCOUNTS_FILE, accounts_text(tokens.pop(operator), system, tokens))


def _issue(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
        return found if {"key", "name", "role", "module", "expires_at", "signed_by"} <= set(found) else None
    except (ValueError, TypeError):
        return None  # a line that a crash cut off


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)


def _write_private(path: Path, text: str) -> None:
    make_private(path)
    path.chmod(0o600)
    write_whole(path, text)


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{folder} cannot be written: {error.strerror}", remedy="name a folder that you may write to")
