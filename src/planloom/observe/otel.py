"""OpenTelemetry's API, where it is installed.

Rule 1: `opentelemetry` is imported here and nowhere else, and this file only where telemetry is switched on.
"""

from __future__ import annotations

from planloom.errors import ConfigError

try:
    from opentelemetry import metrics, trace
except ImportError as error:
    raise ConfigError(
        "telemetry needs the OpenTelemetry API, which is not installed", remedy="pip install 'planloom[otel]'"
    ) from error

__all__ = ["metrics", "trace"]
