"""From the numbers of a rollout file to the whole arithmetic of a turn: what the file leaves out, worked out again."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

ROUNDING = 1e-5
"""Of a ratio, from fp32 log-probs: one that is nearer to 1 has not moved."""

SURE = 2
"""Standard errors from which on A* has a sign."""


@dataclass(frozen=True)
class Composition:
    """What config.yaml says of how credit was made; names are those of the parts' classes, "" where there is none."""

    signal: str = ""
    unit: str = ""
    """prob or log: what gains are differences of."""
    credit: str = ""
    outcome: str = ""
    normalizer: str = ""
    accumulator: str = ""
    combiner: str = ""
    gamma: float | None = None
    alpha: float | None = None
    clipper: str = ""
    beta: float | None = None
    eps_low: float | None = None
    eps_high: float | None = None

    @property
    def rescaled(self) -> bool:
        """Is the turn credit α·D/√n (eq. 9)?"""
        return self.combiner == "Additive" and self.accumulator == "VarianceRescaled"

    @property
    def summed(self) -> bool:
        """Is it α·D/√n or α·D?"""
        return self.combiner == "Additive" and self.accumulator in ("VarianceRescaled", "Discounted")


def composition(config: Mapping[str, Any]) -> Composition:
    """The composition of a run's configuration; parts that are not there are left empty."""
    model = config.get("model") or {}
    signal, credit, clipper = (model.get(part) or {} for part in ("signal", "credit", "clipper"))
    stages = {name: credit.get(name) or {} for name in ("outcome", "normalizer", "accumulator", "combiner")}
    return Composition(
        signal=_name(signal),
        unit=signal.get("gain", ""),
        credit=_name(credit),
        **{name: _name(stage) for name, stage in stages.items()},
        gamma=stages["accumulator"].get("gamma"),
        alpha=stages["combiner"].get("alpha"),
        clipper=_name(clipper),
        beta=clipper.get("beta"),
        eps_low=clipper.get("eps_low"),
        eps_high=clipper.get("eps_high"),
    )


def _name(part: Any) -> str:
    return part.get("_target_", "").rpartition(".")[2] if isinstance(part, Mapping) else ""


def explain(
    trajectories: Sequence[Mapping[str, Any]], made_of: Composition
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The trajectories of one group with the terms of their turns, and its turn groups: mean, σ (population), n.

    Terms of a turn: `d` and `n` (eq. 7, n counts the gains to come), `turn_credit` (α·D/√n), `outcome_advantage` (R̂,
    what the advantage has beside it), `clip_scale` (c, eq. 11). `moved_against`: did the ratio move against the sign of
    the advantage? `oracle_sign`: that of A*, 0 within its error. `contradicts`: what the sign of the advantage goes
    against, A* or, without forks, the usefulness; "" where neither. None where the composition has no such term or the
    file does not tell.
    """
    n_turns = max((len(t["turns"]) for t in trajectories), default=0)
    columns = [_moments([t["turns"][k]["gain"] for t in trajectories if _has_gain(t, k)]) for k in range(n_turns)]
    outcomes = _moments([t["outcome"] for t in trajectories])
    told = [
        {**t, "outcome_mean": outcomes["mean"], "outcome_std": outcomes["std"], "turns": _turns(t, made_of)}
        for t in trajectories
    ]
    return told, columns


def _has_gain(trajectory: Mapping[str, Any], k: int) -> bool:
    return k < len(trajectory["turns"]) and trajectory["turns"][k]["has_gain"]


def _moments(values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {"mean": None, "std": None, "n": 0}
    return {"mean": fmean(values), "std": pstdev(values), "n": len(values)}


def _turns(trajectory: Mapping[str, Any], made_of: Composition) -> list[dict[str, Any]]:
    turns, told = trajectory["turns"], []
    for t, turn in enumerate(turns):
        later = [k for k in range(t, len(turns)) if turns[k]["has_gain"]] if turn["has_gain"] else []
        d = turn_credit = None
        if made_of.summed:
            d = sum(made_of.gamma ** (k - t) * turns[k]["normalized_gain"] for k in later)
            turn_credit = made_of.alpha * d / (math.sqrt(max(len(later), 1)) if made_of.rescaled else 1)
        turn_credit = turn.get("turn_credit", turn_credit)
        rest = None if turn_credit is None or t < trajectory["n_shared"] else turn["advantage"] - turn_credit
        terms = {"d": d, "n": len(later), "turn_credit": turn_credit, "outcome_advantage": rest}
        terms |= {"clip_scale": _scale(turn, made_of), "moved_against": _moved_against(turn)}
        sign = _oracle_sign(turn)
        terms |= {"oracle_sign": sign, "contradicts": "" if t < trajectory["n_shared"] else _contradicts(turn, sign)}
        told.append({**turn, **terms})
    return told


def _moved_against(turn: Mapping[str, Any]) -> bool:
    moved = turn.get("ratio", 1.0) - 1
    return abs(moved) > ROUNDING and moved * turn["advantage"] < 0


def _oracle_sign(turn: Mapping[str, Any]) -> int | None:
    """The sign of A* in forks, 0 within two standard errors; None where no fork tells."""
    value, error = turn.get("oracle_advantage"), turn.get("oracle_error")
    if value is None or error is None:
        return None
    return (value > SURE * error) - (value < -SURE * error)


def _contradicts(turn: Mapping[str, Any], sign: int | None) -> str:
    if sign is not None:
        return "A*" if sign * turn["advantage"] < 0 else ""
    useful = turn.get("useful")
    return "" if useful is None or (1 if useful else -1) * turn["advantage"] >= 0 else "usefulness"


def _scale(turn: Mapping[str, Any], made_of: Composition) -> float | None:
    """c = low / ε_low: by how much the clip range is wider than that of a turn without a gain."""
    for bound, width in ((turn["clip_low"], made_of.eps_low), (turn["clip_high"], made_of.eps_high)):
        if width is not None and 0 < width < math.inf:
            return bound / width
    return None
