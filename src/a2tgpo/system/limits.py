"""What a value may be: each limit says what was expected instead of a value, or None where the value will do."""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from urllib.parse import urlsplit

Limit = Callable[[object], str | None]

LARGEST = 10**9
"""No number of a configuration is larger, unless its limit says so."""
_SIGNS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


def _limit(expected: str, admits: Callable[[object], bool]) -> Limit:
    return lambda value: None if admits(value) else expected


def number(
    noun: str = "a number",
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    infinite: bool = False,
    kind: type = Real,
) -> Limit:
    """A finite number within the bounds; `infinite` lets infinity pass. Booleans and texts are no numbers."""
    given = {">": above, ">=": at_least, "<": below, "<=": at_most}
    bounds = {sign: bound for sign, bound in given.items() if bound is not None}
    words = f"{noun} {' and '.join(f'{sign} {bound}' for sign, bound in bounds.items())}".rstrip()

    def limit(value: object) -> str | None:
        if isinstance(value, bool) or not isinstance(value, kind):
            return words
        if value != value or not all(_SIGNS[sign](value, bound) for sign, bound in bounds.items()):
            return words
        if abs(value) <= LARGEST or (infinite and value == math.inf):
            return None
        return f"{words}{' and' if bounds else ''} <= {LARGEST}" if value > 0 else f"{words} >= {-LARGEST}"

    return limit


def integer(noun: str = "an integer", *, at_least: int | None = None, at_most: int | None = None) -> Limit:
    """A whole number within the bounds; 2.0 is none."""
    return number(noun, at_least=at_least, at_most=at_most, kind=Integral)


def choice(*values: object) -> Limit:
    """One of a few values."""
    words = " or ".join(filter(None, [", ".join(map(str, values[:-1])), str(values[-1])]))
    return _limit(words, lambda value: any(value == one and type(value) is type(one) for one in values))


def flag() -> Limit:
    """True or false."""
    return _limit("true or false", lambda value: isinstance(value, bool))


def text(noun: str = "a text that is not empty", *, matching: str = "(?s).+") -> Limit:
    """A text that `matching` describes as a whole."""
    return _limit(noun, lambda value: isinstance(value, str) and re.fullmatch(matching, value) is not None)


def template(slot: str) -> Limit:
    """A text with `slot` in it."""
    return _limit(f"a text with {slot} in it", lambda value: isinstance(value, str) and slot in value)


def pattern() -> Limit:
    """A regular expression with a group."""

    def admits(value: object) -> bool:
        try:
            return isinstance(value, str) and re.compile(value).groups >= 1
        except re.error:
            return False

    return _limit("a regular expression with a group, such as (.*)", admits)


def address() -> Limit:
    """Where a server is."""

    def admits(value: object) -> bool:
        try:
            parts = urlsplit(value) if isinstance(value, str) else urlsplit("")
            return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # the port is no number
            return False

    return _limit("http://host:port", admits)


def anything() -> Limit:
    """Whatever it is."""
    return lambda value: None


def items(noun: str, each: Limit, length: int | None = None, empty: bool = False) -> Limit:
    """A list of what `each` admits: `length` of it, or any number, but none only where it may be `empty`."""

    def admits(value: object) -> bool:
        return (
            isinstance(value, Sequence)
            and not isinstance(value, str)
            and len(value) == (length or len(value) or not empty)
            and not any(map(each, value))
        )

    return _limit(noun, admits)


def mapping(noun: str, each: Limit) -> Limit:
    """Names, and what `each` admits under them."""

    def admits(value: object) -> bool:
        return isinstance(value, Mapping) and not any(each(one) for pair in value.items() for one in pair)

    return _limit(noun, admits)


def record(needed: Mapping[str, Limit], further: Mapping[str, Limit] | None = None) -> Limit:
    """Names, each with what its limit admits under it; the `further` ones may be left out."""
    limits = {**needed, **(further or {})}
    words = f"{{{', '.join(needed)}}}" + (f" and possibly {', '.join(further)}" if further else "")

    def limit(value: object) -> str | None:
        if not isinstance(value, Mapping) or not needed.keys() <= value.keys() <= limits.keys():
            return words
        return next((f"in {name} {said}" for name, one in value.items() if (said := limits[name](one))), None)

    return limit


def named(noun: str, each: Limit) -> Limit:
    """Any number of names, each with what `each` admits under it."""

    def limit(value: object) -> str | None:
        if not isinstance(value, Mapping):
            return noun
        return next((f"in {name} {said}" for name, one in value.items() if (said := each(one))), None)

    return limit


def part(group: str) -> Limit:
    """An object, or the configuration of one; `group` says on the command line which."""

    def admits(value: object) -> bool:
        if isinstance(value, Mapping):
            return "_target_" in value
        return not isinstance(value, str | Real | Sequence | None)

    return _limit(f"a part, which {group}=… chooses", admits)


def either(*limits: Limit) -> Limit:
    """What one of the limits admits."""

    def limit(value: object) -> str | None:
        expected = [one(value) for one in limits]
        return None if None in expected else " or ".join(expected)

    return limit


def or_null(limit: Limit) -> Limit:
    """Null, or what the limit admits."""
    return either(limit, _limit("null", lambda value: value is None))
