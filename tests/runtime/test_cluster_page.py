"""What the page of the cluster says of settings and metrics is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from planloom.runtime.cluster.inputs import Fate
from planloom.runtime.cluster.queues import IN_FLIGHT, WAITING
from planloom.runtime.cluster.settings import ClusterSettings, ModuleSetting
from planloom.transport.nats.commands import Sent

PAGE = (Path(__file__).parent.parent.parent / "docs/cluster.md").read_text()
OTHERS = {
    "inputs": {"unwritten", "unreadable", "submissions_refused", "dead_letters"},
    "commands": {"unsent", "rated"},
    "broker": {"losses", "refused"},
}


def test_every_count_of_an_agent_is_on_the_page_and_nothing_else() -> None:
    counted = {"inputs": {fate.value for fate in Fate}, "commands": {sent.value for sent in Sent}, "broker": set[str]()}
    names = {f"planloom_cluster_{kind}_{one}_total" for kind in counted for one in counted[kind] | OTHERS[kind]}
    names |= {f"planloom_cluster_{one}_total" for one in ("work_not_found", "turns_failed", "news_dropped")}
    names |= {one.name.replace(".", "_") for one in (WAITING, IN_FLIGHT)}
    told = set()
    for row in re.findall(r"^\| (`planloom_cluster_.*?`) \|.*$|^\| (`planloom_cluster_[^|]*) \|", PAGE, re.MULTILINE):
        first, *more = re.findall(r"`([\w…]+)`", "".join(row))
        found = re.match(r"planloom_cluster_(?:inputs|commands)_", first)
        heads = [found[0]] if found else []
        for one in more:
            spelled = [one.replace("…_", head) for head in (*heads, "planloom_cluster_")]
            told |= {name for name in spelled if name in names} or {one} if "…" in one else set()
        told.add(first)

    assert told == names


def test_the_defaults_on_the_page_are_those_of_the_settings() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d,.]+|true|false|none) \|", PAGE, re.MULTILINE))
    fields = {**ClusterSettings.model_fields, **ModuleSetting.model_fields}

    assert {"lease_s", "check_s", "patience_s", "replicas"} <= rows.keys()
    for name, written in rows.items():
        if name in fields:
            assert float(written.replace(",", "")) == fields[name].default, name
    [both] = re.findall(r"^\| `max_queued`, `max_submissions` \| ([\d,]+) \|", PAGE, re.MULTILINE)
    assert int(both.replace(",", "")) == fields["max_queued"].default == fields["max_submissions"].default
