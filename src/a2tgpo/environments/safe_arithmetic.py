"""A calculator that cannot be hurt: exact rational arithmetic over a whitelist of syntax, with bounds on the work.

A thread that computes cannot be stopped, so the bounds stand in front of the work: the length of the expression, its
depth, and the digits of every number on the way. Within them nothing takes longer than milliseconds.
"""

import ast
import operator
import re
from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction

from a2tgpo.environments.protocols import ToolError

MAX_CHARACTERS = 200
MAX_DEPTH = 50
MAX_DIGITS = 100
SHOWN_DIGITS = 12
"""Digits of a result whose decimals have no end, or no end in sight."""

_LIMIT = 10**MAX_DIGITS
_ALLOWED = re.compile(r"[0-9.+\-*/%() ]")
_NUMBER = re.compile(r"(-?)\$?([0-9]{1,100}(?:\.[0-9]{1,100})?|\.[0-9]{1,100})")
_ROUNDED = Context(prec=SHOWN_DIGITS)


class ExpressionError(ToolError):
    """An expression that has no value; the message says why, in words for the policy."""


def evaluate(expression: str) -> Fraction:
    """The exact value of an expression of numbers, + - * / // % ** and parentheses. Nothing is ever executed.

    Raises ExpressionError where it is malformed, has no rational value, or is too long, too deep or too large.
    """
    source = " ".join(expression.split())
    if len(source) > MAX_CHARACTERS:
        raise ExpressionError(f"it has {len(source)} characters, at most {MAX_CHARACTERS} are allowed")
    for character in source:
        if not _ALLOWED.fullmatch(character):
            raise ExpressionError(f"unexpected {character!r}; use numbers, + - * / // % ** and parentheses")
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, MemoryError, RecursionError):  # deep nesting overflows the parser's own stack
        raise ExpressionError("it is not one complete expression") from None
    return _value(tree.body, source, 0)


def _value(node: ast.expr, source: str, depth: int) -> Fraction:
    if depth > MAX_DEPTH:
        raise ExpressionError(f"it is nested more than {MAX_DEPTH} deep")
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(Fraction(source[node.col_offset : node.end_col_offset].rstrip(".")))
    if isinstance(node, ast.UnaryOp) and type(node.op) in (ast.UAdd, ast.USub):
        value = _value(node.operand, source, depth + 1)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left, source, depth + 1), _value(node.right, source, depth + 1)
        try:
            return _bounded(Fraction(_OPERATORS[type(node.op)](left, right)))
        except ZeroDivisionError:
            raise ExpressionError("division by zero") from None
    raise ExpressionError("an operator or a number is missing")


def _bounded(value: Fraction) -> Fraction:
    if max(abs(value.numerator), value.denominator) >= _LIMIT:
        raise ExpressionError(f"a number has more than {MAX_DIGITS} digits")
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ExpressionError("a power needs a whole exponent")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits > 1 and bits * abs(exponent.numerator) > 2 * _LIMIT.bit_length():  # before the work, not after
        raise ExpressionError(f"a number has more than {MAX_DIGITS} digits")
    return base**exponent.numerator


_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction | int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}


def write_number(value: Fraction) -> str:
    """`value` as a decimal: exact where its decimals end within `SHOWN_DIGITS` places, else rounded."""
    scaled = value * 10**SHOWN_DIGITS
    if scaled.denominator != 1:
        rounded = _ROUNDED.divide(Decimal(value.numerator), Decimal(value.denominator))
        return f"{rounded:f}"  # never 1e15, which is no expression
    whole, places = divmod(abs(scaled.numerator), 10**SHOWN_DIGITS)
    sign = "-" if value < 0 else ""
    return f"{sign}{whole}.{places:0{SHOWN_DIGITS}d}".rstrip("0").rstrip(".")


def read_number(text: str) -> Fraction | None:
    """The number that `text` is, or None: a currency sign, commas and a final full stop do not matter."""
    number = _NUMBER.fullmatch(text.strip().removesuffix(".").replace(",", ""))
    return Fraction(number[1] + number[2]) if number else None
