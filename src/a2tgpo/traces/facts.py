"""What is known of a trajectory and its turns beside what was said: its names, and what each may be."""

import math
from collections.abc import Mapping
from typing import Any

from a2tgpo.rollouts.trajectory import CallResult, StopReason
from a2tgpo.system.limits import Limit, choice, flag, integer, items, named, or_null, record, text

CREDIT = ("gain", "has_gain", "normalized_gain", "advantage", "turn_credit", "clip_low", "clip_high")
"""What a turn was given."""
NOT_FINITE = ("NaN", "Infinity", "-Infinity")
"""Numbers that JSON has not, as texts."""


def _number(value: object) -> str | None:
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return None if is_one or value in NOT_FINITE else "a number"


def _finite(value: object) -> str | None:
    return None if _number(value) is None and math.isfinite(float(value)) else "a finite number"


_WORDS = text("a text that is not blank", matching=r"(?s).*\S.*")
_TEXT = text("a text", matching="(?s).*")
_COUNT = integer(at_least=0)
_NUMBERS = items("a list of numbers", _number, empty=True)
_IDS = items("a list of token ids", _COUNT, empty=True)
_CALL = record({"tool": _TEXT, "result": choice(*map(str, CallResult)), "why": _TEXT})

NEEDED: Mapping[str, Limit] = {
    "question": _WORDS,
    "answers": items("a list of accepted answers, none of them blank", _WORDS),
    "outcome": _finite,
}
"""What nothing can be said of a trajectory without."""
TRAJECTORY: Mapping[str, Limit] = {
    **NEEDED,
    "task_id": _TEXT,
    "kind": _TEXT,
    "iteration": _COUNT,
    "rank": _COUNT,
    "group": _COUNT,
    "sample": _COUNT,
    "n_shared": _COUNT,
    "stop": choice(*map(str, StopReason)),
    "metrics": named("a mapping of numbers", _number),
    "belief": _NUMBERS,
    "prompt_ids": _IDS,
}
"""What may be known of a trajectory; the names are those of rollout files."""
TURN: Mapping[str, Limit] = {
    "action": _TEXT,
    "observation": _TEXT,
    "useful": or_null(flag()),
    "called": items("a list of {tool, result, why}", _CALL, empty=True),
    "action_ids": _IDS,
    "action_logprobs": _NUMBERS,
    "observation_ids": _IDS,
    **dict.fromkeys(CREDIT, _number),
    "has_gain": flag(),
}
"""What may be known of a turn. `action` and `observation` are the exact texts, with all tags."""
_NAME = text("a name", matching=r"\w*")
ORIGIN: Mapping[str, Limit] = {
    "run": _TEXT,
    "experiment": or_null(_TEXT),
    "overrides": items("a list of overrides", _TEXT, empty=True),
    **dict.fromkeys(("signal", "unit", "credit", "outcome", "normalizer", "accumulator", "combiner", "clipper"), _NAME),
    **dict.fromkeys(("gamma", "alpha", "beta", "eps_low", "eps_high"), or_null(_number)),
}
"""What the run was, and what its credit was made of: names of parts and their numbers, nothing that could be run."""


def checked(facts: Any, limits: Mapping[str, Limit], place: str) -> dict[str, Any]:
    """Those of `facts` that `limits` knows. Raises ValueError naming the field that is not what was expected."""
    if not isinstance(facts, Mapping):
        raise ValueError(f"{place}: expected an object")
    for name, limit in limits.items():
        if name in facts and (expected := limit(facts[name])):
            raise ValueError(f"{place}.{name}: expected {expected}")
    return {name: facts[name] for name in limits if name in facts}


def require_needed(facts: Mapping[str, Any], place: str) -> None:
    """Raises ValueError naming what is missing of `NEEDED`."""
    for name in NEEDED:
        if name not in facts:
            raise ValueError(f"{place}.{name}: missing; expected {NEEDED[name](None)}")


def known(facts: Mapping[str, Any]) -> dict[str, Any]:
    """`facts` without those that are None."""
    return {name: value for name, value in facts.items() if value is not None}
