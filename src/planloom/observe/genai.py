"""The names that spans go by: OpenTelemetry's for generative AI, and planloom's own where there are none.

Rule 1: every attribute name of a span stands here and nowhere else: the conventions still change.

Source: opentelemetry-semantic-conventions 0.66b2 (`gen_ai`, `error`), read 2026-11.
"""

from __future__ import annotations

# --- OpenTelemetry's -----------------------------------------------------------------------------

OPERATION = "gen_ai.operation.name"
CHAT = "chat"
EXECUTE_TOOL = "execute_tool"
INVOKE_AGENT = "invoke_agent"
INVOKE_WORKFLOW = "invoke_workflow"

WORKFLOW_NAME = "gen_ai.workflow.name"
AGENT_NAME = "gen_ai.agent.name"
TOOL_NAME = "gen_ai.tool.name"
TOOL_TYPE = "gen_ai.tool.type"
TOOL_RESULT = "gen_ai.tool.call.result"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_STREAM = "gen_ai.request.stream"
OUTPUT_TYPE = "gen_ai.output.type"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
OUTPUT_MESSAGES = "gen_ai.output.messages"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - no secret
ERROR_TYPE = "error.type"

PROVIDERS = {"google": "gcp.gemini"}
"""What the conventions call providers that planloom calls otherwise."""

CAPTURE_CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""Variable of the environment that asks for content; "true" does."""

# --- planloom's own ------------------------------------------------------------------------------

RUN_ID = "planloom.run.id"
RUN_STATUS = "planloom.run.status"
STEP = "planloom.step"
STEP_KIND = "planloom.step.kind"
STEP_STATUS = "planloom.step.status"
STEPS_SKIPPED = "planloom.steps.skipped"
ATTEMPT = "planloom.attempt"
EPOCH = "planloom.epoch"
ROLE = "planloom.role"
CACHED = "planloom.cached"
COST_USD = "planloom.cost_usd"
REQUESTS = "planloom.requests"
OUTPUT = "planloom.output"
"""Of runs and steps, where content is asked for."""
REASON = "planloom.reason"
UNTIL = "planloom.until"
FAILURES = "planloom.failures"
