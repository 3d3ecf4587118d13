"""One group with its arithmetic, for a terminal."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from a2tgpo.viewer.arithmetic import Composition
from a2tgpo.viewer.groups import Group
from a2tgpo.viewer.run_data import RunData

HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
"""Characters that are not seen, or steer a terminal."""


def choose(run: RunData, iteration: str | None, group: int | None) -> Group:
    """The group of that iteration (the last that was trained on) and number; without a number the one whose advantages
    differ most.

    Raises ValueError where there is none.
    """
    iterations = list(dict.fromkeys(g.when for g in run.groups))
    last = max(run.groups, key=lambda g: (not g.forked, g.iteration)).when
    groups = [g for g in run.groups if g.when == (last if iteration is None else iteration)]
    if not groups:
        raise ValueError(f"--iteration {iteration}: expected one of {', '.join(iterations)}")
    if group is None:
        return max(groups, key=_spread)
    for one in groups:
        if one.number == group:
            return one
    raise ValueError(f"--group {group}: expected one of {', '.join(str(g.number) for g in groups)}")


def _spread(group: Group) -> float:
    advantages = [turn["advantage"] for t in group.trajectories for turn in t["turns"]]
    return max(advantages, default=0.0) - min(advantages, default=0.0)


def tell(group: Group, run: RunData) -> str:
    """Question, turn groups, and each trajectory with its turns and their arithmetic."""
    solved = sum(t["solved"] for t in group.trajectories)
    lines = [
        f"iteration {group.when}, rank {group.rank}, group {group.number}: {plain(group.prompt['question'])}",
        f"accepted: {plain(', '.join(group.prompt['answers']))}",
        f"{len(group.trajectories)} trajectories, {solved} solved",
        "",
        "turn group        mean gain            σ    n",
        *(f"  turn {t:<10} {_n(c['mean']):>10} {_n(c['std']):>12} {c['n']:>4}" for t, c in enumerate(group.columns, 1)),
    ]
    for member in group.trajectories:
        lines += ["", f"trajectory {member['sample']}: outcome {_n(member['outcome'])}, {member['stop']}"]
        for t, turn in enumerate(member["turns"]):
            lines += [f"  turn {t + 1}", f"    action   {_indented(turn['action'])}"]
            lines += [f"    result   {_indented(turn['observation'])}"] if turn["observation"] else []
            lines += [f"    {line}" for line in arithmetic(member, t, group.columns, run.composition)]
            lines += [f"    {line}" for line in beside(turn, run.beside)]
    return "\n".join(lines)


def arithmetic(
    member: Mapping[str, Any], t: int, columns: Sequence[Mapping[str, Any]], made_of: Composition
) -> Iterator[str]:
    """The numbers of turn `t`, counted from 0, a line a step."""
    turn, column = member["turns"][t], columns[t]
    if t < member["n_shared"]:
        yield "shared with an earlier trajectory, which has its credit"
        return
    if turn["has_gain"]:
        if t + 1 < len(member["belief"]):
            before, after = member["belief"][t : t + 2]
            yield f"belief   {_n(before)} → {_n(after)}"
        group = f"mean {_n(column['mean'])}, σ {_n(column['std'])}, n {column['n']}"
        yield f"gain     ig = {_n(turn['gain'])}; turn group: {group}"
        yield f"         îg = {_normalised(turn, column, made_of)}"
        if turn["d"] is not None:
            yield f"to come  D = Σ γᵏ⁻ᵗ îg = {_n(turn['d'])}, terms = {turn['n']}, γ = {_n(made_of.gamma)}"
    else:
        yield "no gain"
    if turn["outcome_advantage"] is None:
        yield f"credit   Â = {_n(turn['advantage'])}"
    else:
        name = "α·D/√terms" if made_of.rescaled else "α·D" if made_of.summed else "turn credit"
        alpha = f", α = {_n(made_of.alpha)}" if made_of.summed else ""
        own, rest = turn["turn_credit"], turn["outcome_advantage"]
        yield f"credit   Â = {name} + R̂ = {_n(own)} + {_n(rest)} = {_n(turn['advantage'])}{alpha}"
    adaptive = made_of.clipper == "AdaptiveTurn"
    sigmoid, beta = ("1 + β(2·sigmoid(îg) − 1) = ", f", β = {_n(made_of.beta)}") if adaptive else ("", "")
    scale = "" if turn["clip_scale"] is None else f", c = {sigmoid}{_n(turn['clip_scale'])}{beta}"
    yield f"clip     ratio in [1 − {_n(turn['clip_low'])}, 1 + {_n(turn['clip_high'])}]{scale}"
    if "ratio" in turn:
        moved = f", moved by {turn['ratio'] - 1:.1e} against Â (other turns and tokens moved it too)"
        against = moved if turn["moved_against"] else ""
        yield f"after    ratio {_n(turn['ratio'])} behind the last step: {clipping(turn)}{against}"
    if turn["useful"] is not None:
        against = "; Â goes against it" if turn["contradicts"] == "usefulness" else ""
        yield f"useful   {'yes: new' if turn['useful'] else 'no: no new'} evidence of the task{against}"
    yield from (f"failed   {plain(call['tool'])}: {plain(call['why'])}" for call in turn["calls"] if call["why"])


def beside(turn: Mapping[str, Any], other: str) -> Iterator[str]:
    """What forks and another credit say of the turn, a line each."""
    if "oracle_advantage" in turn:
        yield f"oracle   A* = {_n(turn['oracle_advantage'])} ± {_n(turn['oracle_error'])}{_agrees(turn)}"
    if other:
        yield f"beside   Â = {_n(turn['beside'])} by {plain(other)}"


def _agrees(turn: Mapping[str, Any]) -> str:
    sign = turn["oracle_sign"]
    if not sign or not turn["advantage"]:
        return ", within two errors of 0" if sign == 0 else ""
    return ", contradicts the sign of Â" if turn["contradicts"] else ", agrees with the sign of Â"


def clipping(turn: Mapping[str, Any]) -> str:
    """Where the ratio stands to the bounds that the surrogate clips at."""
    if turn["clipped"] == 1:
        return "clipped"
    return f"{turn['clipped']:.0%} of its tokens clipped" if turn["clipped"] else "not clipped"


def _normalised(turn: Mapping[str, Any], column: Mapping[str, Any], made_of: Composition) -> str:
    value = _n(turn["normalized_gain"])
    if made_of.normalizer != "TurnGroup":
        return f"{value}, by {made_of.normalizer or made_of.credit}"
    if column["n"] == 1:
        return f"{value}, as nobody else has a gain at this turn"
    if turn["normalized_gain"] == 0 and abs(turn["gain"] - column["mean"]) > 0.01 * column["std"]:
        return f"{value}, as the gains differ by less than model.normalizer.resolution"
    return f"(ig − mean) / σ = {value}"


def plain(text: str) -> str:
    """`text` with what is not seen, or steers a terminal, written out."""
    return HIDDEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


def _indented(text: str) -> str:
    return plain(text).replace("\n", "\n             ")


def _n(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}"
