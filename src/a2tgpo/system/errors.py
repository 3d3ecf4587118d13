"""Errors that concern the whole run."""

import math
from typing import SupportsFloat


class SettingError(ValueError):
    """A setting is wrong: no other episode would fare better, so it ends the run.

    Any other exception costs the episode that raised it.
    """


def finite(key: str, value: SupportsFloat) -> float:
    """`value`, which somebody's own part gave, as a float. Raises SettingError where it is no finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise SettingError(f"{key}={value!r}: expected a finite number")
    return number
