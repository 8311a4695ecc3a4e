"""`planloom cluster`: the folder it makes, and what it refuses; no server is needed for any of it."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cli.conftest import Folder
from planloom.errors import ConfigError
from planloom.transport.nats.credentials import CredentialFile, read_credential
from planloom.transport.nats.mint import CredentialMint, lent


def private(path: Path) -> bool:
    return stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.fixture
def made(folder: Folder) -> Folder:
    ended = folder.call("cluster", "init", "cl", "--module", "mail", "--module", "users", "--nats-version", "2.12.1")
    assert ended.code == 0, ended.err
    return folder


def told(folder: Folder, *arguments: str) -> str:
    """Return what was told on stderr of a command that failed."""
    ended = folder.call("cluster", *arguments)
    assert ended.code != 0
    return ended.err


def test_init_makes_keys_and_credentials_that_only_their_owner_may_read(made: Folder) -> None:
    keys = sorted((made.path / "cl/keys").rglob("*.nk"))
    credentials = sorted((made.path / "cl/creds").glob("*.creds"))

    names = [str(key.relative_to(made.path / "cl/keys")) for key in keys]
    assert names == ["modules/mail.nk", "modules/users.nk", "operator.nk", "planloom.nk", "submitters.nk", "system.nk"]
    assert [path.name for path in credentials] == ["agent.creds", "submitter.creds"]
    assert all(private(path) for path in (*keys, *credentials, made.path / "cl/issued.jsonl"))


def test_nothing_that_the_server_reads_and_nothing_that_is_printed_is_secret(folder: Folder) -> None:
    ended = folder.call("cluster", "init", "cl")
    files = ("cl/accounts.conf", "cl/nats-server.conf", "cl/issued.jsonl", *("cl/jwt/" + n for n in ("operator.jwt",)))
    seeds = [path.read_text().strip() for path in (folder.path / "cl/keys").rglob("*.nk")]
    seeds += re.findall(r"\bSU[A-Z2-7]{56}\b", (folder.path / "cl/creds/agent.creds").read_text())

    texts = [ended.out, ended.err, *((folder.path / name).read_text() for name in files)]

    assert len(seeds) == 6
    assert not [seed for seed in seeds if any(seed in text for text in texts)]


def test_the_servers_conf_listens_on_this_machine_and_waits_for_the_disk(made: Folder) -> None:
    conf = (made.path / "cl/nats-server.conf").read_text()

    assert 'listen: "127.0.0.1:4222"' in conf
    assert "\n  sync_interval: always\n" in conf
    assert "max_payload: 8388608" in conf
    assert "include ./accounts.conf" in conf
    assert not re.search(r"^(http|websocket|mqtt|leafnodes|cluster|no_auth_user)", conf, re.MULTILINE)


def test_a_server_that_does_not_know_a_setting_is_not_given_it(folder: Folder) -> None:
    folder.call("cluster", "init", "cl", "--nats-version", "2.9.10")

    conf = (folder.path / "cl/nats-server.conf").read_text()

    assert "\n  # sync_interval: always   # nats-server 2.9.10 does not know it" in conf


def test_the_modules_are_those_of_the_settings(folder: Folder) -> None:
    folder.write(
        "planloom.toml", '[cluster.modules.mail]\nallow = ["mail.*"]\n[cluster.modules.code]\nkinds = ["code"]\n'
    )

    ended = folder.call("cluster", "init", "cl", "--json")

    assert ended.value["modules"] == ["code", "mail"]


def test_other_machines_are_served_with_tls_only(folder: Folder) -> None:
    folder.write("cert.pem", "a certificate")
    folder.write("key.pem", "its key")

    assert "nothing would be encrypted" in told(folder, "init", "cl", "--listen", "0.0.0.0:4222")
    assert not (folder.path / "cl").exists()
    tls = ("--tls-cert", "cert.pem", "--tls-key", "key.pem")
    assert "TLS needs a certificate and its key" in told(folder, "init", "cl", *tls[:2])
    assert folder.call("cluster", "init", "cl", "--listen", "0.0.0.0:4222", *tls).code == 0
    conf = (folder.path / "cl/nats-server.conf").read_text()
    assert f'cert_file: "{folder.path}/cert.pem"' in conf


@pytest.mark.parametrize("listen", ["4222:", "host", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:4222;http"])
def test_an_address_that_is_none_is_refused(listen: str, folder: Folder) -> None:
    assert "no address to listen on" in told(folder, "init", "cl", "--listen", listen)


def test_there_is_one_cluster_in_a_folder(made: Folder) -> None:
    before = (made.path / "cl/accounts.conf").read_text()

    assert "already" in told(made, "init", "cl")
    assert (made.path / "cl/accounts.conf").read_text() == before


def test_what_was_cut_off_is_begun_again(made: Folder) -> None:
    (made.path / "cl/accounts.conf").unlink()  # it is written last

    assert made.call("cluster", "init", "cl").code == 0


def test_a_workers_credential_says_whose_it_is_and_until_when(made: Folder) -> None:
    labels = ("--label", "region=eu")
    ended = made.call(
        "cluster",
        "credential",
        "--folder",
        "cl",
        "--module",
        "mail",
        "--worker",
        "w.1",
        *labels,
        "--ttl",
        "90s",
        "--json",
    )

    path = Path(ended.value["file"])
    found = read_credential(made.path / path)
    assert path == Path("cl/creds/mail-w=2E1.creds")
    assert private(made.path / path)
    assert (found.role, found.module, found.name, found.labels) == ("worker", "mail", "w.1", {"region": "eu"})
    assert found.expires_at is not None
    assert found.expires_at - found.issued_at == pytest.approx(90, abs=1)
    assert found.inbox == "_INBOX.mail.w=2E1"
    assert "SU" not in ended.out.replace(ended.value["key"], "")
    assert "seed" not in repr(found).lower()


def test_a_credential_is_one_persons_or_programs(made: Folder) -> None:
    for arguments in (
        ("--worker", "w1"),
        ("--module", "mail"),
        ("--agent", "a", "--submitter", "s"),
        ("--agent", "a", "--label", "region=eu"),
        (),
    ):
        assert "whose credential is it?" in told(made, "credential", "--folder", "cl", *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--module", "mial", "--worker", "w"), "the key of module 'mial' is not in cl"),
        (("--module", "submit", "--worker", "w"), "no module may be called 'submit'"),
        (("--module", "mail", "--worker", "w", "--ttl", "60d"), "cannot last"),
        (("--module", "mail", "--worker", "w", "--ttl", "soon"), "no length of time"),
        (("--module", "mail", "--worker", ""), "whose credential is it?"),
        (("--module", "mail", "--worker", "w", *(part for n in "abcde" for part in ("--label", f"{n}=1"))), "5 labels"),
    ],
    ids=["unknown", "reserved", "too long", "no time", "no name", "labels"],
)
def test_a_credential_that_cannot_be_is_refused(arguments: tuple[str, ...], words: str, made: Folder) -> None:
    assert words in told(made, "credential", "--folder", "cl", *arguments)


def test_what_was_made_is_listed_until_it_is_taken_back(made: Folder) -> None:
    made.call("cluster", "credential", "--folder", "cl", "--module", "mail", "--worker", "w1")
    before = made.call("cluster", "issued", "--folder", "cl", "--json").value

    ended = made.call("cluster", "revoke", "--folder", "cl", "w1", "--json")
    after = made.call("cluster", "issued", "--folder", "cl", "--json").value

    assert [one["name"] for one in before] == ["agent", "submitter", "w1"]
    assert [one["name"] for one in after] == ["agent", "submitter"]
    assert ended.value == {"revoked": [before[2]["key"]], "reloaded": None}
    assert "counts still" in told(made, "revoke", "--folder", "cl", "w1")


def test_whoever_is_not_known_by_name_is_revoked_by_key_in_every_account(made: Folder) -> None:
    key = "U" + "A" * 55

    ended = made.call("cluster", "revoke", "--folder", "cl", key, "--json")

    assert ended.value["revoked"] == [key]
    assert "did you mean" in told(made, "revoke", "--folder", "cl", "agnet")


def test_after_a_rotation_nothing_made_before_is_listed(made: Folder) -> None:
    made.call("cluster", "credential", "--folder", "cl", "--module", "mail", "--worker", "w1")
    old = read_credential(made.path / "cl/creds/agent.creds").public_key

    assert made.call("cluster", "rotate", "--folder", "cl").code == 0

    listed = made.call("cluster", "issued", "--folder", "cl", "--json").value
    assert [one["name"] for one in listed] == ["agent", "submitter"]
    assert read_credential(made.path / "cl/creds/agent.creds").public_key == listed[0]["key"] != old


def test_rights_change_only_with_the_operators_key(made: Folder) -> None:
    kept = made.path / "safe.nk"
    (made.path / "cl/keys/operator.nk").rename(kept)
    before = (made.path / "cl/accounts.conf").read_text()

    for arguments in (("module", "code"), ("revoke", "agent"), ("rotate",)):
        assert "cannot be read" in told(made, *arguments, "--folder", "cl")
    assert (made.path / "cl/accounts.conf").read_text() == before
    assert made.call("cluster", "module", "--folder", "cl", "--operator-key", str(kept), "code", "mail").code == 0
    assert (made.path / "cl/keys/modules/code.nk").exists()

    made.call("cluster", "init", "other")
    assert "another cluster's operator" in told(
        made, "rotate", "--folder", "cl", "--operator-key", "other/keys/operator.nk"
    )


def test_a_new_module_changes_no_other_account(made: Folder) -> None:
    before = {path.name: path.read_text() for path in (made.path / "cl/jwt").rglob("*.jwt")}

    made.call("cluster", "module", "--folder", "cl", "code")

    after = {path.name: path.read_text() for path in (made.path / "cl/jwt").rglob("*.jwt")}
    assert after.keys() - before.keys() == {"code.jwt"}
    assert {name: after[name] for name in before} == before


def test_names_that_are_no_modules_leave_everything_as_it_was(made: Folder) -> None:
    before = (made.path / "cl/accounts.conf").read_text()

    assert "no module may be called 'signal'" in told(made, "module", "--folder", "cl", "code", "signal")
    assert (made.path / "cl/accounts.conf").read_text() == before


def test_a_damaged_folder_is_told_and_no_traceback(made: Folder) -> None:
    (made.path / "cl/jwt/modules/mail.jwt").write_text("x.y.z")
    (made.path / "cl/keys/modules/users.nk").write_text("SAnothing")
    with (made.path / "cl/issued.jsonl").open("a") as file:
        file.write('{"key": "UAB')  # cut off by a crash

    assert "holds no token" in told(made, "credential", "--folder", "cl", "--module", "mail", "--worker", "w")
    assert "no account seed" in told(made, "credential", "--folder", "cl", "--module", "users", "--worker", "w")
    assert "there is no cluster in nowhere" in told(made, "issued", "--folder", "nowhere")


@pytest.mark.slow
def test_a_credential_is_kept_until_whoever_keeps_it_is_told_to_go(made: Folder) -> None:
    command = ("credential", "--folder", "cl", "--module", "mail", "--worker", "w1", "--ttl", "1s", "--out", "w1.creds")
    process = subprocess.Popen(
        [sys.executable, "-m", "planloom", "cluster", *command, "--keep"],
        cwd=made.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    seen: set[str] = set()
    end = time.monotonic() + 20
    while len(seen) < 3 and time.monotonic() < end:
        with suppress(ConfigError):  # it is not there yet
            seen.add(read_credential(made.path / "w1.creds").public_key)
        time.sleep(0.01)
    process.terminate()
    _, err = process.communicate(timeout=20)

    assert len(seen) == 3
    assert (process.returncode, err) == (0, b"")
    assert private(made.path / "w1.creds")


def test_a_worker_that_is_provisioned_has_a_credential_while_it_is(made: Folder) -> None:
    path = made.path / "lent" / "w1.creds"

    async def main() -> str:
        async with lent(CredentialMint(made.path / "cl"), "mail", "w1", path, labels={"region": "eu"}) as first:
            assert read_credential(path) == first
            assert private(path)
            return first.name

    assert asyncio.run(main()) == "w1"
    assert not path.exists()


def test_a_connection_reads_its_file_anew_and_whole(made: Folder) -> None:
    for name in ("w1", "w2"):
        made.call(
            "cluster", "credential", "--folder", "cl", "--module", "mail", "--worker", name, "--out", f"{name}.creds"
        )
    file = CredentialFile(made.path / "w1.creds")
    first = file.used.public_key
    assert not file.newer()

    (made.path / "w2.creds").replace(made.path / "w1.creds")
    assert file.newer()
    file.sign("nonce")
    (made.path / "w1.creds").unlink()  # between the signature and the token

    body = file.jwt().decode().split(".")[1]
    assert json.loads(base64.urlsafe_b64decode(body + "==="))["sub"] == file.used.public_key != first
