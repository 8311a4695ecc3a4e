"""Who may publish and hear what: the rights of every role of a cluster, which the servers themselves enforce.

Rule 1: what is not listed is refused; nobody is refused by name.
Rule 2: a module's rights follow from its own name and its worker's labels alone: another module changes nothing for it.
Rule 3: no subject of a worker has a wildcard where a module, a worker, a consumer or a stream stands.
Rule 4: servers do not hold the subject that an answer is to go to against these lists: whoever could name any would
have JetStream answer onto another module's commands, or onto `$JS.API.STREAM.DELETE`. So those who are not agents have
accounts of their own, with what they need of the account with the streams imported: there, no other subject exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from planloom.errors import ConfigError
from planloom.transport.nats import subjects

DISCONNECTS = "$SYS.ACCOUNT.*.DISCONNECT"
"""Where the server tells that a connection has ended."""
LONGEST_MODULE = 100
"""Characters of its token."""
NO_LABELS: Mapping[str, str] = {}
INBOX = "_INBOX"
COMMANDS = "CMD"
"""The stream that workers take their work from."""


class Role(StrEnum):
    """What a credential is for."""

    WORKER = "worker"
    """Makes the attempts of one module."""
    AGENT = "agent"
    """Decides what runs do next, and asks for attempts."""
    SUBMITTER = "submitter"
    """Submits runs, sends signals to them and follows their news."""
    SYSTEM = "system"
    """Looks after the server: of the system's account, so no run is within its reach."""


@dataclass(frozen=True, slots=True)
class Rights:
    """Subjects that a user may publish to, and may subscribe to."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def checked_module(name: str) -> str:
    """Return the name of a module.

    Raises:
        ConfigError: No module may be called so.
    """
    if name in subjects.RESERVED:
        raise ConfigError(
            f"no module may be called {name!r}",
            remedy="submissions and signals go where its outcomes would: take another name",
        )
    if not 1 <= len(subjects.token(name)) <= LONGEST_MODULE or name != name.strip():
        raise ConfigError(f"no module may be called {name[:LONGEST_MODULE]!r}", remedy='take a short name, e.g. "mail"')
    return name


def inbox_of(role: Role, name: str, *, module: str = "") -> str:
    """Return where answers to somebody come in, without the last dot; no two share one."""
    if role is Role.WORKER:
        return subjects.inbox(module, name)
    # No token is "=agent": after its `=` come two hexadecimal digits. So no module is taken for a role.
    return f"{INBOX}.={role}.{subjects.token(name)}"


def rights_of_worker(module: str, worker: str, labels: Mapping[str, str] = NO_LABELS) -> Rights:
    """Return what a worker may: take its module's work from the places where it is, and tell what came of it.

    Raises:
        ConfigError: No module may be called so, or it has too many labels.
    """
    own = subjects.token(checked_module(module))
    consumers = [subjects.consumer(module, place) for place in subjects.places_of(labels)]
    return Rights(
        publish=(
            *(f"$JS.API.CONSUMER.{what}.{COMMANDS}.{one}" for what in ("MSG.NEXT", "INFO") for one in consumers),
            *(f"$JS.ACK.{COMMANDS}.{one}.>" for one in consumers),
            f"{subjects.ROOT}.in.{own}.>",
            f"{subjects.ROOT}.ask.{own}.>",
        ),
        subscribe=(
            f"{inbox_of(Role.WORKER, worker, module=module)}.>",
            subjects.stop(module),
            subjects.drain(module, worker),
        ),
    )


def rights_of_agent() -> Rights:
    """Return what an agent may: everything of its account but to say what workers and submitters say."""
    root = subjects.ROOT
    asked_by_others = "_R_"
    return Rights(
        publish=(
            *(f"{root}.{kind}.>" for kind in ("cmd", "ctl", "evt")),
            *(f"{inbox}.>" for inbox in (INBOX, asked_by_others)),
            "$JS.API.>",
            "$JS.ACK.>",
        ),
        subscribe=(subjects.ALL_ASKED, subjects.ALL_NEWS, f"{INBOX}.>", DISCONNECTS),
    )


def rights_of_submitter(name: str) -> Rights:
    """Return what a submitter may: submit, signal, and hear the news of runs."""
    root = subjects.ROOT
    return Rights(
        publish=(f"{root}.in.{subjects.SUBMIT}.*", f"{root}.in.{subjects.SIGNAL}.*.*"),
        subscribe=(f"{inbox_of(Role.SUBMITTER, name)}.>", subjects.ALL_NEWS),
    )


def rights_of_system() -> Rights:
    """Return what whoever looks after the server may, within the system's account."""
    return Rights(publish=("$SYS.>",), subscribe=(f"{INBOX}.>", "$SYS.>"))


@dataclass(frozen=True, slots=True)
class Shared:
    """A subject of the account with the streams that other accounts may use.

    Attributes:
        kind: "service" (they ask or tell) or "stream" (they hear).
        many: Whether a question may have several answers.
    """

    subject: str
    kind: str
    many: bool = False

    def export(self) -> dict[str, Any]:
        """Return it as the account that has it says it."""
        answers = {"response_type": "Stream" if self.many else "Singleton"} if self.kind == "service" else {}
        return {"name": self.subject, "subject": self.subject, "type": self.kind, **answers}

    def imported(self, account: str) -> dict[str, Any]:
        """Return it as the account that uses it says it."""
        return {"name": self.subject, "subject": self.subject, "type": self.kind, "account": account}


_WORK = (
    Shared(f"$JS.API.CONSUMER.MSG.NEXT.{COMMANDS}.*", "service", many=True),
    Shared(f"$JS.API.CONSUMER.INFO.{COMMANDS}.*", "service"),
    # No worker may ask this. Without it the server would answer the questions above itself: "JetStream not enabled".
    Shared("$JS.API.INFO", "service"),
    Shared(f"$JS.ACK.{COMMANDS}.>", "service"),
)


def shared_by_streams() -> list[Shared]:
    """Return what the account with the streams lets others use; which others, the operator alone says."""
    root = subjects.ROOT
    told = (Shared(f"{root}.{kind}.>", "service") for kind in ("in", "ask"))
    heard = (Shared(f"{root}.{kind}.>", "stream") for kind in ("ctl", "evt"))
    return [*_WORK, *told, *heard]


def used_by_module(module: str) -> list[Shared]:
    """Return what a module's account uses.

    Raises:
        ConfigError: No module may be called so.
    """
    root, own = subjects.ROOT, subjects.token(checked_module(module))
    told = (Shared(f"{root}.{kind}.{own}.>", "service") for kind in ("in", "ask"))
    # Which consumers of its own a worker may pull from, its labels say, and so its own rights.
    return [*_WORK, *told, Shared(f"{root}.ctl.{own}.>", "stream")]


def used_by_submitters() -> list[Shared]:
    """Return what the submitters' account uses."""
    told = (Shared(subject, "service") for subject in rights_of_submitter("").publish)
    return [*told, Shared(subjects.ALL_NEWS, "stream")]
