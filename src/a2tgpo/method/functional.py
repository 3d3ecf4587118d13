"""The equations of A²TGPO (arXiv 2605.06200) as pure tensor functions.

Axes: B trajectories, T turns, L tokens, A accepted answers; S = T+1 belief states, state 0 is the query alone.
A mask is True where an entry counts, results are 0 where it does not, and what lies under a False is never read.
`turn_ids[b, l]` is k ≥ 0 for an action token of turn k and −1 for every other token.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# ---- Information gain ------------------------------------------------------------------------------------------------


def log_belief(
    answer_logprob: Float[Tensor, "B S A"], alias_mask: Bool[Tensor, "B A"], aliases: str
) -> Float[Tensor, "B S"]:
    """Log-probability of the accepted answers in each state: log π(a | q, τ≤t) = (1/|a|) Σⱼ log π(aⱼ | q, τ≤t, a<ⱼ).

    Eq. 2. `answer_logprob` holds that mean over the answer's tokens, in nats, for every alias. `aliases` joins them:
    `first` keeps alias 0, `max` the likeliest, `mean` averages probabilities. Non-finite where no alias counts.
    Raises ValueError for any other `aliases`.
    """
    scored = answer_logprob.masked_fill(~alias_mask[:, None, :], -torch.inf)
    if aliases == "first":
        return scored[..., 0]
    if aliases == "max":
        return scored.amax(-1)
    if aliases == "mean":
        return scored.logsumexp(-1) - alias_mask.sum(-1, keepdim=True).to(scored.dtype).log()
    raise ValueError(f"aliases={aliases}: expected first, max or mean")


def information_gain(belief: Float[Tensor, "B S"], gain_mask: Bool[Tensor, "B S-1"]) -> Float[Tensor, "B S-1"]:
    """What a turn added to the belief: igₜ = π(a | q, τ≤t) − π(a | q, τ<t).

    Eq. 3, a difference of probabilities; of log-probabilities (nats) when log-beliefs are given.
    """
    return torch.where(gain_mask, belief[:, 1:] - belief[:, :-1], 0.0)


# ---- Credit ----------------------------------------------------------------------------------------------------------


def turn_groups(group_ids: Int[Tensor, " B"], n_turns: int) -> Int[Tensor, "B T"]:
    """Label of the turn group G(q, t): equal for the same turn index t of trajectories of the same prompt q."""
    return group_ids[:, None] * n_turns + torch.arange(n_turns, device=group_ids.device)


def _above_lowest(
    reward: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], labels: Int[Tensor, "B T"]
) -> tuple[Float[Tensor, " N"], Int[Tensor, " N"], int]:
    """The N counted rewards less the lowest of their group, each one's group number, and the number of groups.

    Starting from the lowest makes a group of equal rewards exactly 0, which starting from their mean would not.
    """
    groups, index = torch.unique(labels[mask], return_inverse=True)
    values = reward[mask]
    lowest = values.new_zeros(len(groups)).scatter_reduce(0, index, values, "amin", include_self=False)
    return values - lowest[index], index, len(groups)


def _mean_in_group(values: Float[Tensor, " N"], index: Int[Tensor, " N"], n_groups: int) -> Float[Tensor, " N"]:
    total = values.new_zeros(n_groups).index_add(0, index, values)
    return (total / index.bincount(minlength=n_groups))[index]


def centre(reward: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], labels: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Reward less the mean of its group: r − mean(r), in the reward's own unit. Rewards share a group by `labels`."""
    above, index, n_groups = _above_lowest(reward, mask, labels)
    return torch.zeros_like(reward).masked_scatter(mask, above - _mean_in_group(above, index, n_groups))


def group_mean(
    reward: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], labels: Int[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Mean of the group, at each of its members; 0 where the mask is False."""
    return torch.where(mask, reward - centre(reward, mask, labels), 0.0)


def leave_one_out(
    reward: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], labels: Int[Tensor, "B T"]
) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Reward less the mean of the others of its group, (r − mean(r)) · n/(n − 1), and who has others; 0 where none.

    RLOO (arXiv 2402.14740) on outcomes. Rewards share a group by `labels`.
    """
    above, index, n_groups = _above_lowest(reward, mask, labels)
    size = index.bincount(minlength=n_groups)[index]
    deviation = (above - _mean_in_group(above, index, n_groups)) * size / (size - 1).clamp(min=1)
    has_others = torch.zeros_like(mask).masked_scatter(mask, size > 1)
    return torch.zeros_like(reward).masked_scatter(mask, deviation), has_others


FLOAT32_ROUNDING = 1e-6
"""A gain scored in another batch differs by as much."""
NOISE_WIDTH = 4.0
"""Root mean squares: 18 times in 20 the errors of a group of eight are no further apart."""
SIGN_WIDTH = 2.0
"""Root mean squares: 19 times in 20 an error is smaller."""


def standardise(
    reward: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    labels: Int[Tensor, "B T"],
    resolution: float | str,
    noise: Float[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B T"]:
    """Reward in standard deviations of its group: r̂ = (r − mean(r)) / std(r), population standard deviation.

    Eq. 6 for the gains (îg), R̂ of eq. 9 for the outcome. Rewards share a group by `labels`. A group whose max − min is
    at most `resolution`, a singleton included, is all 0; one above it is not bent by any epsilon. `auto` is the
    distance that rounding alone brings about: NOISE_WIDTH · the group's largest `noise`, at least FLOAT32_ROUNDING. It
    also makes 0 what is within SIGN_WIDTH · its own `noise` of the mean, as its sign is not known.
    """
    above, index, n_groups = _above_lowest(reward, mask, labels)
    spread = above.new_zeros(n_groups).scatter_reduce(0, index, above, "amax", include_self=False)[index]
    scaled = above / spread  # in units of the spread, so that the squares of tiny gains do not underflow
    deviation = scaled - _mean_in_group(scaled, index, n_groups)
    std = _mean_in_group(deviation.square(), index, n_groups).sqrt()
    if resolution == "auto":
        errors = torch.zeros_like(above) if noise is None else noise[mask]
        finest = above.new_full((n_groups,), FLOAT32_ROUNDING)
        resolution = finest.scatter_reduce(0, index, NOISE_WIDTH * errors, "amax")[index]
        deviation = torch.where(deviation.abs() * spread > SIGN_WIDTH * errors, deviation, 0.0)
    return torch.zeros_like(reward).masked_scatter(mask, torch.where(spread > resolution, deviation / std, 0.0))


def discounted_sum(reward: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], gamma: float) -> Float[Tensor, "B T"]:
    """Rewards still to come: Dₜ = Σ_{k≥t} γ^{k−t} r̂ₖ over the counted turns k, 0 at turns that do not count.

    Eq. 7. The exponent is the distance in turns, so a turn without a gain adds no term but is a step away.
    """
    turn = torch.arange(reward.shape[1], device=reward.device)
    distance = (turn - turn[:, None]).clamp(min=0).to(reward.dtype)
    decay = (gamma**distance).triu()
    total = (torch.where(mask, reward, 0.0)[:, None, :] * decay).sum(-1)  # no matmul: TF32 would round the credit
    return torch.where(mask, total, 0.0)


def sqrt_rescale(total: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Sum brought back to the scale of one term: Dₜ / √nₜ, nₜ = number of counted turns k ≥ t (eq. 8)."""
    n_terms = mask.flip(-1).cumsum(-1).flip(-1)
    return torch.where(mask, total / n_terms.clamp(min=1).to(total.dtype).sqrt(), 0.0)


# ---- Ratio, clipping, loss -------------------------------------------------------------------------------------------

MAX_EXPONENT = 20.0
"""Log-ratios (nats) go no further up, and have no gradient beyond. No run comes near: a ratio of e²⁰ = 5e8 is a hundred
billion clip widths. In float32 e⁸⁹ is infinite, and infinity times an advantage or a gradient of 0 is NaN; e²⁰ leaves
room for products, and for the squares in a gradient's norm."""


def clip_scale(normalized: Float[Tensor, "B T"], beta: float) -> Float[Tensor, "B T"]:
    """Factor on the clip range: c = 1 + β(2σ(îg) − 1), in (1 − β, 1 + β), 1 where îg = 0 (eq. 11)."""
    return 1 + beta * (2 * normalized.sigmoid() - 1)


def to_tokens(per_turn: Float[Tensor, "B T"], turn_ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """Each action token gets the value of its turn, every other token 0."""
    return torch.where(turn_ids >= 0, per_turn.gather(1, turn_ids.clamp(min=0)), 0.0)


def turn_mean(values: Float[Tensor, "B L"], turn_ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """Each action token gets the mean over its turn's tokens: (1/|yₜ|) Σ_{l∈yₜ} xₗ.

    On log πθ − log π_old (nats) this is log sₜ(θ), eq. 10.
    """
    mask, turn = turn_ids >= 0, turn_ids.clamp(min=0)
    empty = values.new_zeros(len(values), int(turn.max()) + 1)
    total = empty.scatter_add(1, turn, torch.where(mask, values, 0.0))
    count = empty.scatter_add(1, turn, mask.to(values.dtype))
    return to_tokens(total / count.clamp(min=1), turn_ids)


def sequence_mean(values: Float[Tensor, "B L"], turn_ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """Each action token gets the mean over all action tokens of its row: (1/|y|) Σ_{l∈y} xₗ."""
    mask = turn_ids >= 0
    total = torch.where(mask, values, 0.0).sum(1, keepdim=True)
    return torch.where(mask, total / mask.sum(1, keepdim=True).clamp(min=1), 0.0)


def clipped_surrogate(
    log_ratio: Float[Tensor, "B L"],
    advantage: Float[Tensor, "B L"],
    low: Float[Tensor, "B L"],
    high: Float[Tensor, "B L"],
) -> Float[Tensor, "B L"]:
    """Loss of a token: −min(s·Â, clip(s, 1 − low, 1 + high)·Â), s = exp(log_ratio); inf opens a side (eq. 12)."""
    ratio = log_ratio.clamp(max=MAX_EXPONENT).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def clipped(
    log_ratio: Float[Tensor, "B L"],
    advantage: Float[Tensor, "B L"],
    low: Float[Tensor, "B L"],
    high: Float[Tensor, "B L"],
) -> Bool[Tensor, "B L"]:
    """Tokens whose gradient the bound zeroes: s > 1 + high where Â > 0, s < 1 − low where Â < 0 (eq. 12)."""
    ratio = log_ratio.exp()
    return ((advantage > 0) & (ratio > 1 + high)) | ((advantage < 0) & (ratio < 1 - low))


def outside(
    log_ratio: Float[Tensor, "B L"], low: Float[Tensor, "B L"], high: Float[Tensor, "B L"]
) -> Bool[Tensor, "B L"]:
    """Tokens whose ratio has left [1 − low, 1 + high], whatever their advantage."""
    ratio = log_ratio.exp()
    return (ratio > 1 + high) | (ratio < 1 - low)


def k3_kl(logprobs: Float[Tensor, "B L"], ref_logprobs: Float[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """Estimate of KL(πθ ‖ π_ref) at a sampled token, never negative: eᵈ − 1 − d, d = log π_ref − log πθ (nats)."""
    difference = (ref_logprobs - logprobs).clamp(max=MAX_EXPONENT)
    return difference.expm1() - difference


def count_tokens(turn_ids: Int[Tensor, "B L"]) -> tuple[Int[Tensor, "B 1"], Int[Tensor, ""]]:
    """Action tokens of each row, and rows that have any; both at least 1, so that they can divide."""
    tokens = (turn_ids >= 0).sum(1, keepdim=True)
    return tokens.clamp(min=1), (tokens > 0).sum().clamp(min=1)
