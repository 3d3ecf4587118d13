"""What the dialects share: how an argument of a tool call is read as its parameter's type, and written."""

import math
import re
from typing import Any

from a2tgpo.environments.protocols import Argument, Parameter

MAX_CHARACTERS = 100
"""Of a written number."""

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_BOOLEANS = {"true": True, "false": False}


def argument_from_text(text: str, parameter: Parameter) -> Argument | None:
    """The argument that `text` is, without its outer blanks; None where it is blank or not of the parameter's type."""
    text = text.strip()
    if parameter.type is str:
        return text or None
    if parameter.type is bool:
        return _BOOLEANS.get(text.lower())
    if len(text) > MAX_CHARACTERS or not (_INTEGER if parameter.type is int else _NUMBER).fullmatch(text):
        return None
    return int(text) if parameter.type is int else _finite(text)


def argument_from_json(value: Any, parameter: Parameter) -> Argument | None:
    """The argument that the JSON value `value` is; None where it is blank or not of the parameter's type. An integer
    does for a float."""
    if isinstance(value, bool) or parameter.type is bool:
        return value if isinstance(value, bool) and parameter.type is bool else None
    if parameter.type is float:
        return _finite(value) if isinstance(value, int | float) else None
    if not isinstance(value, parameter.type) or (isinstance(value, str) and not value.strip()):
        return None
    return value


def argument_to_text(argument: Argument) -> str:
    """The text that `argument_from_text` reads as `argument`."""
    return str(argument).lower() if isinstance(argument, bool) else str(argument)


def _finite(number: str | float) -> float | None:
    try:
        value = float(number)
    except OverflowError:  # an integer beyond all floats
        return None
    return value if math.isfinite(value) else None
