"""Is there something to learn from, and is it more than rounding? Spread in groups, noise of gains, first ratios."""

from collections.abc import Iterator, Sequence

from a2tgpo.check.findings import Finding, Verdict, graded
from a2tgpo.method.functional import FLOAT32_ROUNDING, NOISE_WIDTH
from a2tgpo.method.method import Method
from a2tgpo.rollouts.trajectory import Trajectory
from a2tgpo.scoring.batch import RolloutBatch
from a2tgpo.training.metrics import Movement

FEW, MANY = 0.05, 0.2
"""Shares of groups with spread: below the first nearly all of an iteration is thrown away."""
OUTSIDE = 0.01
"""Share of turns that may start outside their clip range."""


def resolution_of(method: Method, noise: float, belief: float) -> float:
    """From which difference on gains count; where they are differences of probabilities, at beliefs of this size."""
    setting = _setting(method)
    if setting == "auto":
        return max(FLOAT32_ROUNDING, NOISE_WIDTH * noise * _scale(method, belief))
    return float(setting or 0.0)


def _setting(method: Method) -> float | str | None:
    """`model.normalizer.resolution`; None for a credit without a normalizer, or with one that has none."""
    return getattr(getattr(method.credit, "normalizer", None), "resolution", None)


def _scale(method: Method, belief: float) -> float:
    """What a gain changes by where a belief of this size changes by a nat."""
    return belief if gain_of(method) == "prob" else 1.0


def gain_of(method: Method) -> str:
    """`model.signal.gain`; empty for a signal that is no change of a belief."""
    return getattr(method.signal, "gain", "")


def spread(trajectories: Sequence[Trajectory], batch: RolloutBatch) -> Iterator[Finding]:
    """Findings about the groups of a scored rollout set."""
    groups: dict[int, list[int]] = {}
    for row, trajectory in enumerate(trajectories):
        groups.setdefault(trajectory.group, []).append(row)
    whole = [rows for rows in groups.values() if len(rows) > 1]
    outcomes = sum(len({trajectories[row].outcome for row in rows}) > 1 for rows in whole)
    gains = sum(bool(batch.credit.normalized_gain[rows].any()) for rows in whole)
    taught = sum(bool(batch.credit.advantage[rows].any()) for rows in whole)
    says = (
        f"of {len(whole)} groups {outcomes} have different outcomes, {gains} different gains, {taught} teach something"
    )
    share = taught / max(len(whole), 1)
    verdict = graded(share, FEW, MANY)
    figures = {"groups": len(whole), "outcomes": outcomes, "gains": gains, "taught": taught}
    mend = "" if verdict is Verdict.GOOD else "easier questions, data.module.group_size=…, or a policy that acts"
    yield Finding("spread", verdict, says, mend, figures)


def rounding(batch: RolloutBatch, noise: float, method: Method) -> Iterator[Finding]:
    """Findings about what rounding does to the gains of a scored rollout set."""
    credit = batch.credit
    gains = credit.gain[credit.gain_mask].abs()
    if not len(gains):
        return
    middle = float(credit.belief[:, 1:][credit.gain_mask].median())
    resolution = resolution_of(method, noise, middle)
    typical = float(gains.median())
    says = f"a typical gain is {typical:.2g}; " + (
        f"rounding moves log-beliefs by {noise:.2g} nats over a turn, measured against float32"
        if noise
        else "beliefs are computed in float32"
    )
    setting = _setting(method)
    if setting is not None:
        says += f"; resolution {setting}" + (f", about {resolution:.2g}" if setting == "auto" else "")
    hidden = float((gains <= resolution).float().mean())
    verdict, mend = Verdict.GOOD, ""
    if setting not in ("auto", None) and noise and float(setting) < noise * _scale(method, middle):
        verdict, mend = Verdict.BAD, "model.normalizer.resolution=auto"
        says += ": rounding gets credit as if it were gain"
    elif noise and hidden > 0.5:
        verdict = Verdict.DOUBTFUL
        mend = "model.signal.gain=log_prob" if gain_of(method) == "prob" else "model.policy.dtype=float32"
        says += f"; {hidden:.0%} of the gains are below it"
    yield Finding("rounding", verdict, says, mend, {"noise": noise, "typical": typical, "resolution": resolution})


def first_ratio(moved: Movement, gap: float) -> Finding:
    """Where a step begins before the policy has moved."""
    outside, turns = moved.outside.tolist()
    share = outside / max(turns, 1)
    says = f"before the first step {share:.0%} of the turns are outside their clip range, the largest log-ratio is "
    says += f"{moved.max_log_ratio:.1g}; the engine's log-probs are up to {gap:.1g} from the trainer's"
    verdict = Verdict.GOOD if share <= OUTSIDE else Verdict.BAD
    mend = (
        "" if verdict is Verdict.GOOD else "trainer.precision=32-true model.policy.dtype=float32, or a wider clip range"
    )
    return Finding("first ratio", verdict, says, mend, {"outside": share, "max_log_ratio": moved.max_log_ratio})
