"""`planloom doctor` says how a cluster does: from real servers, and from the words it is told."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from planloom.cli.doctor_cluster import clock_finding, credential_finding, version_finding
from planloom.transport.nats.link import Broker, BrokerLink
from planloom.transport.nats.mint import CredentialMint
from planloom.transport.nats.server_conf import ServerConf, version_of
from planloom.transport.nats.streams import StreamTerms, ensure_streams, ensure_workers
from tests.cluster.secured import SecuredNats, secured
from tests.cluster.servers import nats_program


def doctor(folder: Path) -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "planloom", "doctor", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("PLANLOOM_")},
        timeout=60,
    )
    found = json.loads(done.stdout)["findings"]
    return {one["about"]: one for one in found if one["about"].startswith("cluster")}


def set_up(folder: Path, server: SecuredNats | str, credentials: Path) -> None:
    url = server if isinstance(server, str) else server.url
    (folder / "planloom.toml").write_text(
        f'[cluster]\nnats = "{url}"\ncredentials = "{credentials}"\n[cluster.modules.mail]\nkinds = ["model"]\n'
    )


@pytest.mark.slow
def test_it_tells_of_the_broker_the_streams_and_who_works(tmp_path: Path) -> None:
    async def main() -> list[dict[str, dict[str, Any]]]:
        async with secured(tmp_path / "cluster", streams=False) as server:
            set_up(tmp_path, server, server.authority.folder / "creds/agent.creds")
            before = await asyncio.to_thread(doctor, tmp_path)
            link = BrokerLink(Broker((server.url,), credentials=server.authority.folder / "creds/agent.creds"))
            await link.open()
            await ensure_streams(link, StreamTerms())
            await ensure_workers(link, "mail")
            await link.store("pl.cmd.mail.any.run-1.a.1-0", b"{}")
            after = await asyncio.to_thread(doctor, tmp_path)
            await link.close()
            return [before, after]

    before, after = asyncio.run(main())

    assert before["cluster broker"]["words"].endswith(" answers") or before["cluster broker"]["verdict"] == "hint"
    assert before["cluster streams"]["words"] == "there are none yet"
    assert after["cluster credential"]["words"].endswith("agent agent; it does not end")
    assert after["cluster streams"]["words"] == "1 in CMD, 0 in IN"
    assert after["cluster agents"]["words"] == "0 messages waiting, 0 under way, nobody there"
    assert after["cluster workers mail"]["words"] == "1 message waiting, 0 under way, nobody there"
    assert "planloom worker" in after["cluster workers mail"]["remedy"]
    known = version_of(nats_program())
    if known is not None and known >= (2, 12):
        assert after["cluster clock"]["verdict"] == "ok"
    assert {one["verdict"] for one in after.values()} <= {"ok", "hint"}


@pytest.mark.slow
def test_a_broker_that_is_not_there_or_lets_nobody_in_is_wrong(tmp_path: Path) -> None:
    async def main() -> list[dict[str, dict[str, Any]]]:
        async with secured(tmp_path / "cluster", streams=False) as server:
            CredentialMint(server.authority.folder, clock=lambda: 1_000_000.0).agent("old", ttl_s=60).write(
                tmp_path / "old.creds"
            )
            set_up(tmp_path, server, tmp_path / "old.creds")
            ended = await asyncio.to_thread(doctor, tmp_path)
            agent = server.authority.folder / "creds/agent.creds"
            set_up(tmp_path, server, agent)
            server.kill()
            gone = await asyncio.to_thread(doctor, tmp_path)
            return [ended, gone]

    ended, gone = asyncio.run(main())

    assert ended["cluster credential"]["verdict"] == "wrong"
    assert "ended" in ended["cluster credential"]["words"]
    assert ended["cluster broker"]["verdict"] == "wrong"
    assert gone["cluster credential"]["verdict"] == "ok"
    assert gone["cluster broker"]["verdict"] == "wrong"
    assert "start nats-server" in gone["cluster broker"]["remedy"]


@pytest.mark.slow
def test_a_workers_credential_is_enough_to_look(tmp_path: Path) -> None:
    async def main() -> dict[str, dict[str, Any]]:
        async with secured(tmp_path / "cluster") as server:
            server.authority.mint.worker("mail", "w1").write(tmp_path / "w1.creds")
            set_up(tmp_path, server, tmp_path / "w1.creds")
            return await asyncio.to_thread(doctor, tmp_path)

    found = asyncio.run(main())

    assert set(found) == {"cluster credential", "cluster broker"}
    assert "worker w1 of module mail; it ends in" in found["cluster credential"]["words"]


def test_a_credential_about_to_end_or_open_to_others_is_told(tmp_path: Path) -> None:
    from planloom.transport.nats.authority import ClusterAuthority

    clock = 1_000_000.0
    mint = ClusterAuthority.made(tmp_path / "cluster", ServerConf(), modules=["mail"], clock=lambda: clock).mint
    made, path = mint.worker("mail", "w1", ttl_s=3600), tmp_path / "w1.creds"

    assert credential_finding(made, path, private=True, now=clock + 1800).verdict == "ok"
    assert credential_finding(made, path, private=True, now=clock + 3300).verdict == "hint"
    assert credential_finding(made, path, private=True, now=clock + 3600).verdict == "wrong"
    assert credential_finding(made, path, private=False, now=clock).remedy == f"chmod 600 {path}"


@pytest.mark.parametrize(
    ("version", "verdict"), [((2, 9, 9), "wrong"), ((2, 9, 10), "hint"), ((2, 11, 9), "hint"), ((2, 12, 0), "ok")]
)
def test_an_old_server_works_and_a_newer_one_is_advised(version: tuple[int, ...], verdict: str) -> None:
    assert version_finding(version).verdict == verdict


def test_clocks_that_differ_are_told() -> None:
    told = {"ts": "2026-11-21T16:08:50.31834768Z"}

    (same,) = clock_finding(told, 1_795_277_330.4)
    (off,) = clock_finding(told, 1_795_277_333.4)

    assert (same.verdict, off.verdict) == ("ok", "hint")
    assert "NTP" in off.remedy
    assert list(clock_finding({}, 0.0)) == []
