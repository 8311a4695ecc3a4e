"""Every setting of `planloom.toml`."""

from __future__ import annotations

from planloom.runtime.settings import FILE_NAME, Settings
from scripts.reference.plan_format import field_rows
from scripts.reference.source import introduction

TITLE = "Settings"


def body() -> str:
    return "\n".join(
        [
            f"`{FILE_NAME}` is looked for in the plan's folder and the folders above it, then from the current folder",
            "upwards. An option on the command line comes before the environment, that before this file.",
            "",
            introduction(Settings.__doc__),
            "",
            *field_rows(Settings, Settings.model_json_schema()),
        ]
    )
