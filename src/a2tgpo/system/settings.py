"""Values of the configuration are held against what is expected of them, key by key. Light: an entry point does so
before it imports anything that takes seconds."""

from collections.abc import Mapping

from a2tgpo.system.errors import SettingError
from a2tgpo.system.limit_table import LIMITS
from a2tgpo.system.limits import Limit

KNOWN = ("a2tgpo.", "datetime.", "lightning.", "peft.", "torch.", "transformers.")
"""Where the parts come from whose values the table describes; what any other part takes is its own business."""


def require(key: str, value: object, limit: Limit | None = None) -> None:
    """Raises SettingError that begins with `key` unless `value` is what `limit`, or else the table, expects of it."""
    expected = (limit or LIMITS[key])(value)
    if expected is not None:
        raise SettingError(f"{key}={shown(value)}: expected {expected}")


def require_all(values: Mapping[str, object], under: str = "") -> None:
    """Hold the nested `values` against the table, key by key; their keys begin with `under`.

    Raises SettingError naming the first that is not what was expected. Keys that the table does not know may be
    anything, and so may the values of parts from elsewhere.
    """
    for name, value in values.items():
        key = f"{under}.{name}" if under else name
        if key in LIMITS:
            require(key, value)
        if isinstance(value, Mapping) and str(value.get("_target_", KNOWN[0])).startswith(KNOWN):
            require_all(value, key)


def shown(value: object) -> str:
    """As on the command line, but for texts, which have quotation marks."""
    return {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))
