"""When a credential ends, by itself or because it was taken back, the server cuts off whoever has it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import pytest

from planloom.transport.nats import subjects
from planloom.transport.nats.authority import AGENT_FILE, SUBMITTER_FILE
from planloom.transport.nats.credentials import CredentialFile
from planloom.transport.nats.link import Broker, BrokerLink
from planloom.transport.nats.mint import CredentialMint, keep_fresh
from tests.cluster.secured import SecuredNats, connected, secured
from tests.cluster.servers import comes

MAIL = subjects.consumer("mail")
pytestmark = pytest.mark.slow


async def is_let_in(server: SecuredNats, path: Path) -> bool:
    try:
        async with connected(server, path):
            return True
    except Exception:  # whatever the client says of it
        return False


def test_a_worker_is_cut_off_within_seconds_of_its_credentials_end(tmp_path: Path) -> None:
    async def main() -> float:
        async with secured(tmp_path / "cluster") as server:
            made = server.authority.mint.worker("mail", "w1", ttl_s=2)
            async with connected(server, made) as worker:
                assert await worker.asked(subjects.outcome("mail", "run-1", "a", 1, 0), {}) is not None
                await asyncio.wait_for(worker.closed.wait(), 10)
                assert made.expires_at is not None
                late_s = time.time() - made.expires_at
            made.write(tmp_path / "late.creds")

            async def is_barred() -> bool:
                return not await is_let_in(server, tmp_path / "late.creds")

            await comes(is_barred, within_s=2)  # it counts in whole seconds
            return late_s

    assert asyncio.run(main()) < 2


def test_a_revoked_worker_is_cut_off_and_its_neighbour_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with secured(tmp_path / "cluster") as server:
            mint = server.authority.mint
            stolen, sound = mint.worker("mail", "w1"), mint.worker("mail", "w2")
            async with connected(server, stolen) as thief, connected(server, sound) as neighbour:
                assert server.authority.revoke("w1") == [stolen.public_key]
                server.reload()

                await asyncio.wait_for(thief.closed.wait(), 5)
                assert neighbour.client.is_connected
                assert await neighbour.asked(subjects.outcome("mail", "run-1", "a", 1, 0), {}) is not None
            stolen.write(tmp_path / "stolen.creds")
            mint.worker("mail", "w1").write(tmp_path / "new.creds")
            assert not await is_let_in(server, tmp_path / "stolen.creds")
            assert await is_let_in(server, tmp_path / "new.creds")  # the name is not barred

    asyncio.run(main())


def test_what_was_revoked_stays_so_when_the_server_starts_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with secured(tmp_path / "cluster") as server:
            made = server.authority.mint.worker("mail", "w1")
            made.write(tmp_path / "w1.creds")
            server.authority.revoke(str(tmp_path / "w1.creds"))
            server.restart()

            assert not await is_let_in(server, tmp_path / "w1.creds")

    asyncio.run(main())


def test_a_new_signing_key_ends_everything_that_the_old_one_signed(tmp_path: Path) -> None:
    async def main() -> None:
        async with secured(tmp_path / "cluster") as server:
            folder, mint = server.authority.folder, server.authority.mint
            for name, made in (
                ("worker", mint.worker("mail", "w1")),
                ("other", mint.worker("users", "w1")),
                ("agent", mint.agent("a1")),
                ("submitter", mint.submitter("s1")),
            ):
                made.write(tmp_path / f"{name}.creds")

            server.authority.rotate(module="mail")
            server.reload()
            one = {name: await is_let_in(server, tmp_path / f"{name}.creds") for name in ("worker", "other", "agent")}
            server.authority.rotate()
            server.reload()
            names = ("worker", "other", "agent", "submitter")
            every = {name: await is_let_in(server, tmp_path / f"{name}.creds") for name in names}

            assert one == {"worker": False, "other": True, "agent": True}
            assert every == dict.fromkeys(names, False)
            assert await is_let_in(server, folder / AGENT_FILE)
            assert await is_let_in(server, folder / SUBMITTER_FILE)
            mint.worker("mail", "w1").write(tmp_path / "new.creds")
            assert await is_let_in(server, tmp_path / "new.creds")

    asyncio.run(main())


def test_whoever_signs_with_a_key_of_its_own_is_not_let_in(tmp_path: Path) -> None:
    async def main() -> None:
        from planloom.transport.nats import claims

        async with secured(tmp_path / "cluster") as server:
            folder = tmp_path / "copy"
            for name in ("keys/modules/mail.nk", "jwt/modules/mail.jwt"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text((server.authority.folder / name).read_text())
            CredentialMint(folder).worker("mail", "w1").write(tmp_path / "sound.creds")
            assert await is_let_in(server, tmp_path / "sound.creds")  # two files are enough for one module

            own = claims.new_key(claims.KeyKind.ACCOUNT)
            body = claims.claims_in((folder / "jwt/modules/mail.jwt").read_text(), where="it")
            body["nats"]["signing_keys"] = [own.public]
            (folder / "keys/modules/mail.nk").write_text(own.seed)
            (folder / "jwt/modules/mail.jwt").write_text(claims.signed(own, body))
            CredentialMint(folder).worker("mail", "w1").write(tmp_path / "forged.creds")

            assert not await is_let_in(server, tmp_path / "forged.creds")

    asyncio.run(main())


def test_a_worker_whose_credential_is_kept_fresh_works_on_beyond_its_life(tmp_path: Path) -> None:
    """Three seconds each, for eight seconds: it is never without a connection for long, and nothing is lost."""

    async def main() -> tuple[int, set[str]]:
        async with secured(tmp_path / "cluster") as server:
            path, mint = tmp_path / "w1.creds", server.authority.mint
            first = mint.worker("mail", "w1", ttl_s=3)
            first.write(path)
            keeping = asyncio.create_task(keep_fresh(path, lambda: mint.worker("mail", "w1", ttl_s=3), first=first))
            link = BrokerLink(Broker((server.url,), credentials=path, inbox=first.inbox))
            await link.open()
            stored, keys = 0, set()
            try:
                end = time.monotonic() + 8
                while time.monotonic() < end:
                    with suppress(Exception):  # the moment in which it connects anew
                        subject = subjects.outcome("mail", f"run-{stored}", "a", 1, 0)
                        await link.store(subject, b"{}", timeout_s=1)
                        stored += 1
                    keys.add(CredentialFile(path).used.public_key)
                    await asyncio.sleep(0.05)
                assert await comes(lambda: link.is_up)
            finally:
                keeping.cancel()
                await link.close()
            return stored, keys

    stored, keys = asyncio.run(main())

    assert stored > 80
    assert len(keys) >= 4
