"""Metrics of the rollouts, the credit they got and the steps they caused."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from a2tgpo.method.functional import k3_kl, outside, to_tokens
from a2tgpo.rollouts.trajectory import StopReason, Task, Trajectory
from a2tgpo.scoring.batch import RolloutBatch

MASTERED = 0.9
"""From this share on, what is done right most of the time counts as mastered."""


def episode_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Means over trajectories: reward, the environment's own metrics, turns, tokens, and shares of stop reasons. A
    metric that some do not have is a mean over those that have it."""
    totals: Counter[str] = Counter()
    for trajectory in trajectories:
        totals.update(trajectory.metrics)
        totals["reward"] += trajectory.outcome
        totals["turns"] += len(trajectory.turns)
        totals["well_formed_actions"] += trajectory.well_formed_actions
        totals["action_tokens"] += sum(len(turn.action_ids) for turn in trajectory.turns)
        totals["tokens"] += len(trajectory.token_ids)
        totals[f"stop/{trajectory.stop}"] += 1
    names = dict.fromkeys([*totals, *(f"stop/{stop}" for stop in StopReason)])
    return {name: totals[name] / measured(name, trajectories) for name in names}


def measured(name: str, trajectories: Sequence[Trajectory]) -> int:
    """How many trajectories have the metric `name` of their environment: all, where it is not the environment's."""
    return sum(name in trajectory.metrics for trajectory in trajectories) or len(trajectories)


def family_metrics(means: Mapping[str, float]) -> dict[str, float]:
    """Of each family of means, named `family/member`: the least, and how many are at least `MASTERED`."""
    families: dict[str, list[float]] = {}
    for name, mean in means.items():
        family, slash, _ = name.rpartition("/")
        if slash and family != "stop":  # shares of one whole
            families.setdefault(family, []).append(float(mean))
    return {
        **{f"{family}_least": min(members) for family, members in families.items()},
        **{f"{family}_mastered": float(sum(m >= MASTERED for m in members)) for family, members in families.items()},
    }


def per_turn(name: str, values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> dict[str, float]:
    """Mean and standard deviation of `values` at each turn index, over the turns that count: the drift plot."""
    metrics = {}
    for t in range(values.shape[1]):
        column = values[:, t][mask[:, t]]
        if len(column):
            metrics[f"{name}/turn_{t + 1}/mean"] = float(column.mean())
            metrics[f"{name}/turn_{t + 1}/std"] = float(column.std(correction=0))
    return metrics


def credit_metrics(batch: RolloutBatch) -> dict[str, float]:
    """How many turns had a gain, how many groups could tell turns apart, and how credit drifts over turns."""
    credit = batch.credit
    metrics = {
        "credit/gain_coverage": float(credit.gain_mask.sum() / batch.process_mask.sum().clamp(min=1)),
        "credit/equal_outcome_prompts": _share_equal_outcomes(batch),
        **_turn_group_shares(batch),
    }
    for name, values, mask in (
        ("gain", credit.gain, credit.gain_mask),
        ("normalized_gain", credit.normalized_gain, credit.gain_mask),
        ("turn_credit", credit.turn_credit, credit.gain_mask),
        ("advantage", credit.advantage, batch.turn_mask),
    ):
        metrics |= per_turn(f"credit/{name}", values, mask)
    return metrics


def usefulness_metrics(trajectories: Sequence[Trajectory], batch: RolloutBatch) -> dict[str, float]:
    """Mean gain, îg and Â of searches that found new evidence and of those that did not: the truth about credit.

    Empty where the task does not know its evidence.
    """
    known = [
        (row, t, turn.useful)
        for row, trajectory in enumerate(trajectories)
        for t, turn in enumerate(trajectory.turns)
        if turn.useful is not None and batch.process_mask[row, t]
    ]
    metrics = {}
    for label, useful in (("useful", True), ("useless", False)):
        places = [(row, t) for row, t, truth in known if truth is useful]
        for name in ("gain", "normalized_gain", "advantage") if places else ():
            values = [float(getattr(batch.credit, name)[place]) for place in places]
            metrics[f"credit/{name}/{label}_searches"] = sum(values) / len(values)
    return metrics


def _share_equal_outcomes(batch: RolloutBatch) -> float:
    groups = batch.group_ids.unique()
    equal = [len(batch.outcome[batch.group_ids == group].unique()) == 1 for group in groups]
    return sum(equal) / len(equal)


def _turn_group_shares(batch: RolloutBatch) -> dict[str, float]:
    """Share of (prompt, turn-index) groups with one member, and of larger ones in which no turn stood out."""
    credit, singletons, flat, total = batch.credit, 0, 0, 0
    for group in batch.group_ids.unique():
        rows = batch.group_ids == group
        for t in range(credit.gain.shape[1]):
            members = credit.normalized_gain[rows, t][credit.gain_mask[rows, t]]
            total += len(members) > 0
            singletons += len(members) == 1
            flat += len(members) > 1 and not members.any()
    return {
        "credit/singleton_turn_groups": singletons / max(total, 1),
        "credit/no_spread_turn_groups": flat / max(total, 1),
    }


def policy_metrics(batch: RolloutBatch, entropy: Float[Tensor, "B L"], has_reference: bool) -> dict[str, float]:
    """Entropy, KL to the reference, and how far the engine's log-probs are from the trainer's."""
    mask = batch.turn_ids >= 0
    gap = (batch.rollout_logprobs - batch.old_logprobs)[mask].abs()
    metrics = {
        "policy/entropy": float(entropy[mask].mean()),
        "policy/rollout_gap_max": float(gap.max()),
        "policy/rollout_gap_mean": float(gap.mean()),
    }
    if has_reference:
        metrics["policy/kl_to_reference"] = float(k3_kl(batch.old_logprobs, batch.ref_logprobs)[mask].mean())
    return metrics


def staleness_metrics(trajectories: Sequence[Trajectory], iteration: int) -> dict[str, float]:
    """By how many iterations the weights that sampled actions lag behind those of `iteration`: the mean, the largest.

    Empty where the engine does not number its weights.
    """
    versions = [turn.weights_version for trajectory in trajectories for turn in trajectory.turns]
    lags = [iteration - version for version in versions if version is not None]
    if not lags:
        return {}
    return {"policy/rollout_staleness_mean": sum(lags) / len(lags), "policy/rollout_staleness_max": float(max(lags))}


def dropped_aliases(trajectories: Sequence[Trajectory], answers: Callable[[Task], Sequence[str]]) -> float:
    """Mean number of accepted answers of a trajectory's task that are not among the scored `answers`."""
    return sum(len(t.task.answers) - len(answers(t.task)) for t in trajectories) / len(trajectories)


def rollout_metrics(
    trajectories: Sequence[Trajectory],
    batch: RolloutBatch,
    entropy: Float[Tensor, "B L"],
    has_reference: bool,
    answers: Callable[[Task], Sequence[str]],
) -> dict[str, float]:
    """All numbers about a scored rollout set and the credit it was given."""
    return {
        **{f"train/{name}": value for name, value in episode_metrics(trajectories).items()},
        **credit_metrics(batch),
        **usefulness_metrics(trajectories, batch),
        **policy_metrics(batch, entropy, has_reference),
        "credit/dropped_aliases": dropped_aliases(trajectories, answers),
    }


@dataclass(frozen=True)
class Movement:
    """How far the policy of an optimizer step is from the one that the set was scored with, in a micro-batch."""

    clipped: Int[Tensor, "2 T"]
    """Action tokens whose gradient the bound zeroes, and all of them, by turn index."""
    outside: Int[Tensor, "2"]
    """Turns whose ratio is outside their clip range, and all turns."""
    max_log_ratio: float
    """The largest |log π_θ − log π_old| of any action token."""


def movement(
    batch: RolloutBatch, logprobs: Float[Tensor, "B L"], log_ratio: Float[Tensor, "B L"], clipped: Bool[Tensor, "B L"]
) -> Movement:
    """What became of `batch` under a policy with these `logprobs`; `log_ratio` is the method's."""
    row, column = (batch.turn_ids >= 0).nonzero(as_tuple=True)
    turns = batch.turn_ids[row, column]
    n_turns = batch.turn_mask.shape[1]
    counts = torch.stack([turns[clipped[row, column]].bincount(minlength=n_turns), turns.bincount(minlength=n_turns)])
    low, high = (to_tokens(bound, batch.turn_ids) for bound in (batch.credit.clip_low, batch.credit.clip_high))
    left = outside(log_ratio, low, high)[row, column]
    n_outside, n_all = (len((row * n_turns + turns)[of].unique()) for of in (left, slice(None)))
    moved = (logprobs - batch.old_logprobs)[row, column].abs()
    return Movement(counts.cpu(), torch.tensor([n_outside, n_all]), float(moved.max()) if len(moved) else 0.0)


def clip_metrics(counts: Int[Tensor, "2 T"]) -> dict[str, float]:
    """Share of action tokens whose gradient the bound zeroes: of all, and at each turn index."""
    metrics = {"update/clip_fraction": float(counts[0].sum() / counts[1].sum())}
    for t, (clipped, total) in enumerate(counts.T.tolist(), 1):
        if total:
            metrics[f"update/clip_fraction/turn_{t}"] = clipped / total
    return metrics
