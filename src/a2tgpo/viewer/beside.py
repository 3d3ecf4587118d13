"""Another credit on a run's recorded trajectories: what it would have given to each of their turns."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from a2tgpo.method.method import Method
from a2tgpo.method.protocols import Signal, WithoutTurns
from a2tgpo.method.turns import Observed
from a2tgpo.rollouts.trajectory import Call, CallResult, StopReason, Task, Trajectory, Turn
from a2tgpo.scoring.batch import collate
from a2tgpo.scoring.score import observe
from a2tgpo.viewer.groups import Line

SINCE = 3
"""Version of the lines that have all that credits ask for."""


@dataclass(frozen=True)
class Beside:
    """Writes what `other` gives to each turn beside what `own`, the method of the run, gave.

    `beside` is Â of the other. `disagreement` is Â / rms(Â) of the run less that of the other, rms over the rollout
    set: credits differ in scale, which the optimizer takes out. A credit with a memory remembers the sets before, as
    far as they were recorded.
    """

    name: str
    own: Method
    other: Method
    memory: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, lines: Sequence[Line], log_gain_noise: float) -> None:
        """Raises ValueError where the recorded beliefs are not those that the other's signal asks for."""
        if any(line.get("version", 1) < SINCE for line in lines):
            raise ValueError(
                f"--beside: rollout files before version {SINCE} lack what credits compare turns by; expected a run of "
                "this version"
            )
        seen = observed(lines, log_gain_noise)
        require_beliefs(self.own.signal, self.other.signal, [trajectory.task for trajectory in seen.trajectories])
        given = self.other.assign(seen, self.memory).advantage
        own = torch.zeros_like(given)
        for row, line in enumerate(lines):
            own[row, : len(line["turns"])] = torch.tensor(line["advantage"])
        differs = _in_own_size(own, seen.turn_mask) - _in_own_size(given, seen.turn_mask)
        for row, line in enumerate(lines):
            turns = len(line["turns"])
            line["beside"], line["disagreement"] = given[row, :turns].tolist(), differs[row, :turns].tolist()


def require_beliefs(own: Signal, other: Signal, tasks: Sequence[Task]) -> None:
    """Raises ValueError where `other` asks for beliefs that a run with the signal `own` did not record."""
    asks = any(other.answers(task) for task in tasks)
    joined = [vars(signal).get("aliases") for signal in (own, other)]
    same = own == other or (type(own) is type(other) and joined[0] is not None and joined[0] == joined[1])
    if isinstance(other, WithoutTurns) or (asks and not same):
        raise ValueError(
            f"--beside: its signal, {type(other).__name__}, asks for beliefs that a run with {type(own).__name__} did "
            "not record; expected a credit on the run's own gains, or to view the other run beside this one"
        )


def observed(lines: Sequence[Line], log_gain_noise: float) -> Observed:
    """What signals see of recorded trajectories; `rank` and `group` of a line name its prompt."""
    n_groups = 1 + max(line["group"] for line in lines)
    trajectories = [replace(recorded(line), group=line["rank"] * n_groups + line["group"]) for line in lines]
    batch = collate(trajectories, 0)
    belief = torch.zeros(len(lines), batch.turn_mask.shape[1] + 1)
    for row, line in enumerate(lines):
        belief[row, : len(line["belief"])] = torch.tensor(line["belief"])
    aliases = torch.ones(len(lines), 1, dtype=torch.bool)
    seen = observe(trajectories, batch, belief.log()[..., None], aliases, belief > 0)
    return replace(seen, log_gain_noise=log_gain_noise)


def recorded(line: Mapping) -> Trajectory:
    """The trajectory of a line of version 3; states and actions have numbers for names."""
    task = Task(line["task_id"], line["question"], tuple(line["answers"]), kind=line["kind"])
    turns = tuple(_turn(line, t) for t in range(len(line["turns"])))
    return Trajectory(
        task=task,
        group=line["group"],
        sample=line["sample"],
        prompt_ids=tuple(line["prompt_ids"]),
        turns=turns,
        outcome=line["outcome"],
        stop=StopReason(line["stop"]),
        metrics=line["metrics"],
        n_shared=line["n_shared"],
        values=tuple(line["values"]),
    )


def _turn(line: Mapping, t: int) -> Turn:
    turn = line["turns"][t]
    return Turn(
        action_ids=tuple(turn["action_ids"]),
        action_logprobs=tuple(turn["action_logprobs"]),
        observation_ids=tuple(turn["observation_ids"]),
        action_text=turn["action"],
        observation_text=turn["observation"],
        useful=turn["useful"],
        calls=tuple(Call(c["tool"], CallResult(c["result"]), c["why"]) for c in turn["calls"]),
        state=str(line["state_ids"][t]),
        action=str(line["did_ids"][t]),
        n_new_pieces=line["n_new_pieces"][t],
    )


def _in_own_size(advantage: Float[Tensor, "B T"], mask: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """In root mean squares over the turns; all 0 where nothing has credit."""
    size = float(advantage[mask].square().mean().sqrt())
    return advantage / size if size > 0 and math.isfinite(size) else torch.zeros_like(advantage)
