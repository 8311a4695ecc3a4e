"""The manifests for Kubernetes call commands that there are, and scale by metrics that are told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from planloom.cli.main import main
from planloom.observe.prometheus import exposition
from planloom.runtime.cluster.queues import IN_FLIGHT, WAITING

FOLDER = Path(__file__).parent.parent / "docs/kubernetes"
MANIFESTS = {path.name: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))}


def containers(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = manifest["spec"].get("template", {}).get("spec", {}).get("containers", [])
    return found


@pytest.mark.parametrize("name", ["agent.yaml", "worker.yaml"])
def test_a_container_calls_a_command_with_options_that_it_has(name: str) -> None:
    [container] = containers(MANIFESTS[name])
    program, command, *options = container["args"]

    assert program == "planloom"
    found = main.get_command(click.Context(main), command)
    assert found is not None
    known = {option for one in found.params for option in one.opts}
    assert {option for option in options if option.startswith("--")} <= known
    mounted = {one["mountPath"] for one in container["volumeMounts"]}
    assert {str(Path(option).parent) for option in options if option.startswith("/")} <= mounted


def test_what_scales_workers_is_told_by_agents_and_names_their_deployment() -> None:
    told = exposition([(WAITING, {("mail", ""): 1}), (IN_FLIGHT, {("mail", ""): 1})])
    keda, hpa, worker = (MANIFESTS[name] for name in ("keda.yaml", "hpa.yaml", "worker.yaml"))
    metric = hpa["spec"]["metrics"][0]["external"]["metric"]
    asked = re.findall(r"planloom_\w+", keda["spec"]["triggers"][0]["metadata"]["query"])

    assert {metric["name"], *asked} <= set(re.findall(r"^(planloom_\w+)\{", told, re.MULTILINE))
    assert list(metric["selector"]["matchLabels"]) == ["capability"]
    for scaler in (keda, hpa):
        assert scaler["spec"]["scaleTargetRef"]["name"] == worker["metadata"]["name"]


def test_each_deployment_selects_its_own_pods() -> None:
    for manifest in MANIFESTS.values():
        if manifest["kind"] == "Deployment":
            labels = manifest["spec"]["template"]["metadata"]["labels"]
            assert manifest["spec"]["selector"]["matchLabels"].items() <= labels.items()
