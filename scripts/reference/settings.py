"""Every setting of `planloom.toml`."""

from __future__ import annotations

import re
from typing import Any

from planloom.plan.flow import FlowPolicy
from planloom.runtime.cluster.settings import ClusterSettings, ModuleSetting
from planloom.runtime.settings import FILE_NAME, AgentSetting, LogSetting, PriceSetting, RateSetting, Settings
from planloom.server.settings import ServerSettings, TokenScope, TokenSetting
from planloom.tools.mcp_terms import McpLabels, McpTerms
from planloom.tools.sparing import BreakerPolicy
from scripts.reference import plan_format
from scripts.reference.source import introduction

TITLE = "Settings"
SECTIONS: tuple[type, ...] = (
    BreakerPolicy,
    LogSetting,
    PriceSetting,
    RateSetting,
    AgentSetting,
    FlowPolicy,
    McpTerms,
    McpLabels,
)
SERVER: tuple[type, ...] = (ServerSettings, TokenSetting)
CLUSTER: tuple[type, ...] = (ClusterSettings, ModuleSetting)


def body() -> str:
    schema, served, shared = (of.model_json_schema() for of in (Settings, ServerSettings, ClusterSettings))
    text = "\n".join(
        [
            f"`{FILE_NAME}` is looked for in the plan's folder and the folders above it, then from the current folder",
            "upwards. An option on the command line comes before the environment, that before this file.",
            "",
            introduction(Settings.__doc__),
            "",
            *plan_format.field_rows(Settings, schema),
            "",
            *_sections(SECTIONS, schema["$defs"]),
            *_sections(SERVER, served["$defs"] | {"ServerSettings": served}),
            *_sections(CLUSTER, shared["$defs"] | {"ClusterSettings": shared}),
        ]
    )
    scopes = ", ".join(f"`{scope}`" for scope in TokenScope)
    text = text.replace("[TokenScope](#tokenscope)", scopes)
    choices = "|".join(of.__name__.lower() for of in plan_format.CHOICES)
    return re.sub(rf"\(#({choices})\)", r"(plan-format.md#\1)", text)


def _sections(classes: tuple[type, ...], schemas: dict[str, Any]) -> list[str]:
    return [line for of in classes for line in plan_format.section(of, schemas[of.__name__])]
