"""Tools: what a step can call, with its schema, its effects, and who may use it."""

from planloom.tools.context import ToolContext
from planloom.tools.declare import tool
from planloom.tools.load import load_tools
from planloom.tools.registry import ToolRegistry, default_registry
from planloom.tools.tool import Tool

__all__ = ["Tool", "ToolContext", "ToolRegistry", "default_registry", "load_tools", "tool"]
