"""A whole cluster with credentials, as processes: `planloom cluster`, an agent, workers of two modules, a submitter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from planloom.transport.nats.authority import ClusterAuthority
from planloom.transport.nats.server_conf import version_of
from tests.cluster.secured import SecuredNats
from tests.cluster.servers import nats_program, until
from tests.cluster.test_agent_command import PLAN, TOOLS, agent_process, planloom

pytestmark = pytest.mark.slow


def told(*args: str, folder: Path) -> str:
    process = planloom(*args, folder=folder)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


@contextmanager
def worker_process(folder: Path, url: str, name: str) -> Iterator[subprocess.Popen[str]]:
    process = planloom("worker", "--nats", url, "--creds", f"cluster/creds/{name}.creds", "--wait", "10", folder=folder)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def project(folder: Path, dsn: str, url: str) -> None:
    (folder / "tools.py").write_text(TOOLS)
    (folder / "plan.yaml").write_text(PLAN)
    (folder / "planloom.toml").write_text(
        f'tools = ["tools.py"]\njournal = "{dsn}"\n'
        f'[cluster]\nnats = "{url}"\nlease_s = 2\ncheck_s = 2\n'
        '[cluster.modules.counting]\nallow = ["add"]\n[cluster.modules.money]\nallow = ["pay"]\n'
    )


def test_a_run_goes_through_two_modules_each_with_its_own_credential_and_one_is_taken_back(
    tmp_path: Path, postgres: str
) -> None:
    project(tmp_path, postgres, "nats://127.0.0.1:1")  # the modules of `init` come from here
    version = ".".join(str(part) for part in version_of(nats_program()) or (2, 12, 0))
    served = ("--listen", "127.0.0.1:-1", "--nats-version", version)
    made = json.loads(told("cluster", "init", "cluster", *served, "--json", folder=tmp_path))
    assert made["modules"] == ["counting", "money"]
    server = SecuredNats(ClusterAuthority(tmp_path / "cluster"))
    server.start()
    with ExitStack() as ending:
        ending.callback(server.kill)
        project(tmp_path, postgres, server.url)
        for module in made["modules"]:
            where = ("--folder", "cluster", "--module", module)
            told("cluster", "credential", *where, "--worker", "w1", "--ttl", "10m", folder=tmp_path)
        ending.enter_context(agent_process(tmp_path, "--creds", "cluster/creds/agent.creds"))
        ending.enter_context(worker_process(tmp_path, server.url, "counting-w1"))
        ending.enter_context(worker_process(tmp_path, server.url, "money-w1"))
        submit = ("submit", "plan.yaml", "--creds", "cluster/creds/submitter.creds", "--wait", "--input")

        assert told(*submit, "n=1", folder=tmp_path).strip() == "3"

        revoked = json.loads(
            told(
                "cluster", "revoke", "--folder", "cluster", "cluster/creds/counting-w1.creds", "--json", folder=tmp_path
            )
        )
        assert revoked["reloaded"] == server.pid
        until(lambda: "authentication error" in server.log, what="the refusal of its credential")
        waiting = planloom(*submit, "n=5", folder=tmp_path)
        ending.callback(waiting.kill)
        told("cluster", "credential", "--folder", "cluster", "--module", "counting", "--worker", "w2", folder=tmp_path)
        ending.enter_context(worker_process(tmp_path, server.url, "counting-w2"))
        out, err = waiting.communicate(timeout=60)

        assert out.strip() == "7", err
        assert "Violation" not in server.log
