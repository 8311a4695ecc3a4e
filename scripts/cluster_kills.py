"""`python -m scripts.cluster_kills`: kill the parts of a cluster while it works, and judge what became of its runs.

Rule 1: PostgreSQL, nats-server, agents and workers are real processes; `kill -9` and SIGSTOP are real.
Rule 2: it ends with 0 only if no run is lost or without an end, nothing that may happen once happened twice, and every
record keeps the laws.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cluster.kill_shapes import EFFECTS, TOOLS
from tests.cluster.kills import Trial, as_json, table
from tests.cluster.members import Deployment

LEASE_S = 3.0
VERIFIED = 10
"""Runs that `planloom verify` itself is asked about, beside the judging of all of them."""


def main() -> int:
    """Live one trial; return 0 if all is well."""
    parser = argparse.ArgumentParser(prog="cluster-kills", description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--agents", type=int, default=2)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--pace", type=float, default=1.5, help="seconds between kills, in the middle")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, help="folder for the logs; default: one that is removed")
    options = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory(prefix="planloom-kills-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return _lived(options, folder, seed)


def _lived(options: argparse.Namespace, folder: Path, seed: int) -> int:
    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    say(f"seed {seed}: {options.runs} runs, {options.kills} kills; logs in {folder}")
    settings = f"lease_s = {LEASE_S:g}\ncheck_s = 3\n"
    cluster = Deployment(
        folder, tools=TOOLS, agents=options.agents, workers=options.workers, capacity=8, settings=settings
    )
    with cluster.running():
        trial = Trial(
            cluster, runs=options.runs, kills=options.kills, seed=seed, lease_s=LEASE_S, pace_s=options.pace, say=say
        )
        told = asyncio.run(trial.live())
        refused = [run_id for run_id in trial.some(VERIFIED) if not _verified(cluster, run_id)]
    told.verdict.wrong += [f"{run_id}: planloom verify says no" for run_id in refused]
    print(as_json(told) if options.json else table(told))
    return 0 if told.verdict.is_good else 1


def _verified(cluster: Deployment, run_id: str) -> bool:
    log = ("--tool-log", str(cluster.folder / EFFECTS))
    command = [sys.executable, "-m", "planloom", "verify", run_id, "--journal", cluster.dsn, *log]
    done = subprocess.run(command, cwd=cluster.folder, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout, done.stderr, file=sys.stderr)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
