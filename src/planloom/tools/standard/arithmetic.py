"""`math.calculate`: arithmetic on an expression nobody has read.

Rule 1: the text is parsed, never evaluated: what is not on the lists below does not exist.
Rule 2: every intermediate number is bounded before it is made, so no expression can use up memory or time.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable

from planloom.errors import ArgumentsError
from planloom.tools.tool import Tool

MAX_LENGTH = 500
MAX_BITS = 1_024
"""Bits of an integer, about 308 digits: where floats end too."""

Number = int | float

_OPERATORS: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_FUNCTIONS: dict[str, tuple[Callable[..., Number], int, int]] = {
    "abs": (abs, 1, 1),
    "round": (round, 1, 2),
    "floor": (math.floor, 1, 1),
    "ceil": (math.ceil, 1, 1),
    "sqrt": (math.sqrt, 1, 1),
    "exp": (math.exp, 1, 1),
    "log": (math.log, 1, 2),
    "log10": (math.log10, 1, 1),
    "sin": (math.sin, 1, 1),
    "cos": (math.cos, 1, 1),
    "tan": (math.tan, 1, 1),
    "min": (min, 2, 50),
    "max": (max, 2, 50),
}
"""Name: function, fewest and most arguments."""
_CONSTANTS = {"pi": math.pi, "e": math.e, "tau": math.tau}
_REMEDY = f"use numbers, + - * / // % **, parentheses, {', '.join(_FUNCTIONS)}, {', '.join(_CONSTANTS)}"


def calculate(expression: str) -> int | float:
    """Work out an arithmetic expression, e.g. "(3 + 4) * 2 ** 0.5".

    Args:
        expression: Numbers, + - * / // % **, parentheses, and functions such as sqrt, log, round, min, max.
    """
    if len(expression) > MAX_LENGTH:
        raise _refused(f"it has more than {MAX_LENGTH} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise _refused("it cannot be read") from error
    try:
        return _value(tree.body)
    except ArgumentsError:
        raise
    except RecursionError as error:
        raise _refused("it is nested too deeply") from error
    except ZeroDivisionError as error:
        raise _refused("it divides by zero") from error
    except (ArithmeticError, ValueError) as error:
        raise _refused(str(error)) from error


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _applied(op, _value(left), _value(right))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _called(name, [_value(one) for one in args])
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case _:
            raise _refused(f"it has {ast.unparse(node)[:60]!r}, which is not arithmetic")


def _applied(op: ast.operator, left: Number, right: Number) -> Number:
    if isinstance(op, ast.Pow) and isinstance(left, int) and isinstance(right, int):
        if abs(left) > 1 and left.bit_length() * right > MAX_BITS:
            raise OverflowError(f"its result has more than {MAX_BITS} bits")
        if right < 0:
            left = float(left)
    return _bounded(_OPERATORS[type(op)](left, right))


def _called(name: str, args: list[Number]) -> Number:
    function, fewest, most = _FUNCTIONS[name]
    if not fewest <= len(args) <= most:
        raise ValueError(f"{name} takes {fewest if fewest == most else f'{fewest} to {most}'} numbers, not {len(args)}")
    if name == "round" and len(args) == 2 and (not isinstance(args[1], int) or abs(args[1]) > 300):
        raise ValueError("round takes a whole number of digits, at most 300, as its second number")
    return _bounded(function(*args))


def _bounded(number: Number) -> Number:
    if type(number) is complex:
        raise ArithmeticError("its result is not a real number")
    if isinstance(number, int):
        if number.bit_length() > MAX_BITS:
            raise OverflowError(f"its result has more than {MAX_BITS} bits")
    elif not math.isfinite(number):
        raise OverflowError("its result is too large")
    return number


def _refused(problem: str) -> ArgumentsError:
    return ArgumentsError(f"the expression cannot be worked out: {problem}", remedy=_REMEDY)


def arithmetic_tools() -> list[Tool]:
    """Return `math.calculate`."""
    return [Tool.from_function(calculate, name="math.calculate", effects="none")]
