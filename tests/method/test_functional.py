"""The equations: hand numbers, loops against vectors, properties, reductions to simpler cases."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from a2tgpo.method import functional
from a2tgpo.method.accumulators.discounted import Discounted
from a2tgpo.method.accumulators.none import NoAccumulation
from a2tgpo.method.accumulators.variance_rescaled import VarianceRescaled
from a2tgpo.method.aggregations.seq_mean_token_mean import SeqMeanTokenMean
from a2tgpo.method.aggregations.seq_mean_token_sum import SeqMeanTokenSum
from a2tgpo.method.aggregations.token_mean import TokenMean
from a2tgpo.method.aggregations.token_sum_norm import TokenSumNorm
from a2tgpo.method.clippers.adaptive_turn import AdaptiveTurn
from a2tgpo.method.clippers.fixed import Fixed
from a2tgpo.method.combiners.additive import Additive
from a2tgpo.method.combiners.joint import Joint
from a2tgpo.method.corrections.truncated_importance import TruncatedImportance
from a2tgpo.method.credits.staged import StagedCredit
from a2tgpo.method.method import PAPER
from a2tgpo.method.normalizers.batch import Batch
from a2tgpo.method.normalizers.prompt_group import PromptGroup
from a2tgpo.method.normalizers.turn_group import TurnGroup
from a2tgpo.method.ratios.sequence import SequenceRatio
from a2tgpo.method.ratios.token import TokenRatio
from a2tgpo.method.ratios.turn import TurnRatio
from a2tgpo.method.surrogates.ppo import PPO
from a2tgpo.method.turns import TurnCredit
from tests.helpers.observed import credit_inputs, from_beliefs, observed

GAIN = PAPER.signal
POOL = PromptGroup(resolution=1e-6)
few = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)


def doubles(values):
    return torch.tensor(values, dtype=torch.float64)


def bools(values):
    return torch.tensor(values, dtype=torch.bool)


def assert_close(actual, expected, atol=1e-12):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def random_turns(seed, rows=6, turns=5, prompts=3):
    """Rewards, a mask with gaps, prompt ids."""
    rng = torch.Generator().manual_seed(seed)
    reward = torch.randn(rows, turns, dtype=torch.float64, generator=rng)
    mask = torch.rand(rows, turns, generator=rng) < 0.7
    return reward, mask, torch.randint(0, prompts, (rows,), generator=rng)


def random_tokens(seed, rows=4, length=12):
    """New and old log-probs, and turns of random lengths with tool tokens between them."""
    rng = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(rows, length, dtype=torch.float64, generator=rng)
    new = old + 0.01 * torch.randn(rows, length, dtype=torch.float64, generator=rng)
    breaks = torch.rand(rows, length, generator=rng) < 0.4
    turn_ids = torch.where(breaks, -1, breaks.cumsum(1))
    return new, old, turn_ids


# ---- Belief and gain -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("aliases", "expected"), [("first", 0.2), ("max", 0.4), ("mean", 0.3)])
def test_belief_joins_the_valid_aliases(aliases, expected):
    # Probabilities 0.2 and 0.4 count, 0.9 is masked: first = 0.2, max = 0.4, mean = (0.2 + 0.4) / 2.
    logprob = doubles([[[0.2, 0.4, 0.9]]]).log()
    belief = functional.log_belief(logprob, bools([[True, True, False]]), aliases).exp()
    assert_close(belief, doubles([[expected]]))


def test_unknown_aliases_raise():
    with pytest.raises(ValueError, match="aliases=median: expected first, max or mean"):
        functional.log_belief(torch.zeros(1, 1, 1), bools([[True]]), "median")


def test_gain_is_the_step_of_the_belief():
    # 0.1 → 0.4 → 0.3: +0.3 and −0.1; the third turn has no result, so no gain.
    belief = doubles([[0.1, 0.4, 0.3, math.nan]])
    assert_close(functional.information_gain(belief, bools([[True, True, False]])), doubles([[0.3, -0.1, 0.0]]))


def signal_inputs():
    """One trajectory of two process turns and a terminal one; beliefs 0.1, 0.4, 0.2."""
    return from_beliefs(doubles([[0.1, 0.4, 0.2, math.nan]]), bools([[True, True, True, False]]))


@pytest.mark.parametrize(
    ("signal", "expected", "counts"),
    [
        (GAIN, [0.3, -0.2, 0], [True, True, False]),
        (replace(GAIN, gain="log_prob"), [math.log(4), -math.log(2), 0], [True, True, False]),
        (replace(GAIN, baseline="first_turn"), [0, -0.2, 0], [False, True, False]),
    ],
)
def test_information_gain_signal(signal, expected, counts):
    gains = signal(signal_inputs())
    assert_close(gains.gain, doubles([expected]))
    assert_close(gains.belief, doubles([[0.1, 0.4, 0.2, 0.0]]))
    assert gains.gain_mask.tolist() == [counts]


def test_gains_telescope():
    gains = GAIN(signal_inputs())
    assert_close(gains.gain.sum(), gains.belief[0, 2] - gains.belief[0, 0])


def test_log_gain_of_a_vanishing_belief_is_finite():
    # exp(−200) is 0 in float32; its logarithm must not be taken from there: −150 − (−200) = 50 nats.
    logprob = torch.tensor([[[-200.0], [-150.0]]])
    gains = replace(GAIN, gain="log_prob")(observed(logprob, bools([[True]]), bools([[True, True]])))
    assert gains.gain.tolist() == [[50.0]] and gains.belief.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("aliases", ["first", "max", "mean"])
@pytest.mark.parametrize(
    ("logprob", "valid", "why"),
    [
        (math.nan, True, "the policy's log-probs are NaN"),
        (math.inf, True, "the task has none, or an empty one"),
        (-math.inf, True, "the task has none, or an empty one"),
        (-1.0, False, "the task has none, or an empty one"),
    ],
)
def test_a_belief_that_cannot_be_computed_raises(aliases, logprob, valid, why):
    answer_logprob = doubles([[[-1.0], [logprob]]])
    with pytest.raises(ValueError, match=f"no finite belief in an accepted answer: {why}"):
        replace(GAIN, aliases=aliases)(observed(answer_logprob, bools([[valid]]), bools([[True, True]])))


# ---- Normalisation ---------------------------------------------------------------------------------------------------


def test_standardise_by_hand():
    # Group 0: {1, 3}, mean 2, population std 1. Group 1: {2} alone. Group 2: {5, 5 + 1e-9}, no spread at 1e-6.
    reward = doubles([[1.0, 2.0], [3.0, 5.0], [9.0, 5.0 + 1e-9]])
    mask = bools([[True, True], [True, True], [False, True]])
    labels = torch.tensor([[0, 1], [0, 2], [0, 2]])
    expected = doubles([[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert_close(functional.standardise(reward, mask, labels, 1e-6), expected)
    assert_close(functional.standardise(reward, mask, labels, 0.0)[1:, 1], doubles([-1.0, 1.0]))


def test_centre_by_hand():
    # {1, 2, 6} of one group, mean 3; 9 is not counted; 4 is alone.
    reward, mask = doubles([[1.0, 2.0], [6.0, 9.0], [4.0, 0.0]]), bools([[True, True], [True, False], [True, False]])
    labels = torch.tensor([[7, 7], [7, 7], [-1, -1]])
    assert_close(functional.centre(reward, mask, labels), doubles([[-2.0, -1.0], [3.0, 0.0], [0.0, 0.0]]))


@pytest.mark.parametrize("value", [0.1, 1e-30, 1e30])
def test_equal_rewards_give_exact_zeros(value):
    reward, mask, labels = torch.full((3, 1), value), bools([[True]] * 3), torch.zeros(3, 1, dtype=torch.long)
    assert not functional.standardise(reward, mask, labels, 0.0).any()
    assert not functional.centre(reward, mask, labels).any()


def test_tiny_spreads_do_not_underflow():
    # Squares of 1e-30 vanish in float32, yet two different values are one deviation below and above their mean.
    reward, mask, labels = torch.tensor([[1e-30], [3e-30]]), bools([[True]] * 2), torch.zeros(2, 1, dtype=torch.long)
    assert_close(functional.standardise(reward, mask, labels, 0.0), torch.tensor([[-1.0], [1.0]]), atol=1e-6)


def test_nothing_to_normalise_is_all_zero():
    reward, mask = doubles([[math.nan, 1.0]]), bools([[False, False]])
    labels = torch.zeros(1, 2, dtype=torch.long)
    assert functional.standardise(reward, mask, labels, 1e-6).tolist() == [[0.0, 0.0]]
    assert functional.centre(reward, mask, labels).tolist() == [[0.0, 0.0]]


def test_turn_groups_never_mix_prompts_or_turns():
    labels = functional.turn_groups(torch.tensor([40, -3, 40]), 3)
    assert torch.equal(labels[0], labels[2])
    assert labels[:2].unique().numel() == 6


@few
@given(seeds)
def test_standardise_equals_a_loop(seed):
    reward, mask, group_ids = random_turns(seed)
    expected = torch.zeros_like(reward)
    for prompt in group_ids.unique():
        for turn in range(reward.shape[1]):
            members = (group_ids == prompt) & mask[:, turn]
            gains = reward[members, turn]
            if len(gains) > 1:
                expected[members, turn] = (gains - gains.mean()) / gains.std(correction=0)
    assert_close(TurnGroup(resolution=0.0)(reward, mask, group_ids), expected, atol=1e-9)


def test_gains_within_their_rounding_errors_are_equal():
    gain = doubles([[0.10, 0.5], [0.17, 0.9], [0.13, 0.9], [0.10, 0.0]])
    mask, prompts = torch.tensor([[True, True], [True, True], [True, True], [True, False]]), torch.tensor([0, 0, 0, 1])
    noise = doubles([[0.01, 0.01], [0.02, 0.01], [0.01, 0.06], [9.0, 9.0]])  # the last row's is another group's
    hat = TurnGroup(resolution="auto")(gain, mask, prompts, noise)
    assert not hat[:, 0].any()  # 0.07 apart, which 4 · 0.02 can do
    assert_close(hat[:3, 1], doubles([-math.sqrt(2), math.sqrt(0.5), math.sqrt(0.5)]), atol=1e-9)  # 0.4 > 4 · 0.06
    assert not TurnGroup(resolution="auto")(gain, mask, prompts, 1.7 * noise)[:, 1].any()
    near = doubles([[0.0], [0.5], [0.6], [1.0]])  # the mean is 0.525, the deviation of the second −0.025
    every, one = torch.ones_like(near, dtype=torch.bool), torch.zeros(4, dtype=torch.long)
    plain = TurnGroup(resolution=0.0)(near, every, one)
    assert_close(TurnGroup(resolution="auto")(near, every, one, torch.full_like(near, 0.012)), plain, atol=1e-9)
    silent = TurnGroup(resolution="auto")(near, every, one, torch.full_like(near, 0.013))
    assert_close(silent, plain * doubles([[1], [0], [1], [1]]), atol=1e-9)
    assert torch.equal(TurnGroup(resolution=1e-6)(gain, mask, prompts, noise), TurnGroup(1e-6)(gain, mask, prompts))


@few
@given(seeds)
def test_auto_is_the_rounding_of_float32_where_there_is_no_noise(seed):
    reward, mask, group_ids = random_turns(seed)
    reward[::2] = reward[:1]  # some groups are flat
    reward[0] += 0.9e-6
    for normalizer in (TurnGroup, PromptGroup, Batch):
        exact, auto = normalizer(1e-6)(reward, mask, group_ids), normalizer("auto")
        assert torch.equal(auto(reward, mask, group_ids), exact)
        assert torch.equal(auto(reward, mask, group_ids, torch.zeros_like(reward)), exact)


@few
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12), st.floats(0.01, 100), st.floats(-10, 10))
def test_a_group_with_spread_is_standard_and_blind_to_units(gains, scale, shift):
    reward = doubles(gains)[:, None]
    size, spread = len(gains), max(gains) - min(gains)
    mask, group_ids = torch.ones_like(reward, dtype=torch.bool), torch.zeros(size, dtype=torch.long)
    hat = TurnGroup(resolution=1e-6)(reward, mask, group_ids)
    if spread <= 1e-6:
        assert not hat.any()
        return
    assert abs(float(hat.sum())) < 1e-9 * size
    assert float(hat.square().sum()) == pytest.approx(size, abs=1e-9 * size)
    assert float(hat.abs().max()) <= math.sqrt(size - 1) + 1e-9
    moved = TurnGroup(resolution=0.0)(scale * reward + shift, mask, group_ids)
    # The shift rounds the gains by up to 1e-14, which the division by the spread magnifies.
    assert_close(moved, hat, atol=1e-12 * (1 + 1 / (scale * spread)) * size)


# ---- Accumulation ----------------------------------------------------------------------------------------------------


def test_accumulation_by_hand():
    # γ = 0.5: D₃ = 4; D₂ is a hole; D₁ = 2 + 0.5²·4 = 3, two terms; the last turn does not count.
    reward, mask = doubles([[2.0, 9.0, 4.0, 9.0]]), bools([[True, False, True, False]])
    total = functional.discounted_sum(reward, mask, 0.5)
    assert_close(total, doubles([[3.0, 0.0, 4.0, 0.0]]))
    assert_close(functional.sqrt_rescale(total, mask), doubles([[3 / math.sqrt(2), 0.0, 4.0, 0.0]]))


@few
@given(seeds, st.floats(0.01, 1.0))
def test_accumulation_equals_a_loop(seed, gamma):
    reward, mask, _ = random_turns(seed)
    expected = torch.zeros_like(reward)
    for b, t in mask.nonzero().tolist():
        to_come = [k for k in range(t, reward.shape[1]) if mask[b, k]]
        total = sum(gamma ** (k - t) * float(reward[b, k]) for k in to_come)
        expected[b, t] = total / math.sqrt(len(to_come))
    assert_close(VarianceRescaled(gamma)(reward, mask), expected)


def test_a_vanishing_discount_leaves_the_turn_itself():
    reward, mask, _ = random_turns(0)
    assert_close(Discounted(1e-15)(reward, mask), NoAccumulation()(reward, mask))


def test_without_discount_the_first_turn_gets_the_whole_sum():
    reward, mask, _ = random_turns(1)
    first = Discounted(1.0)(reward, mask.index_fill(1, torch.tensor(0), True))[:, 0]
    assert_close(first, reward[:, 0] + (reward * mask)[:, 1:].sum(1))


@few
@given(seeds, st.floats(0.1, 1.0))
def test_a_single_term_is_not_rescaled(seed, gamma):
    reward, mask, _ = random_turns(seed)
    single = mask & (mask.cumsum(1) == mask.sum(1, keepdim=True))
    assert_close(VarianceRescaled(gamma)(reward, mask)[single], reward[single])


# ---- Credit ----------------------------------------------------------------------------------------------------------


def credit(alpha=1.0):
    return replace(PAPER.credit, combiner=Additive(alpha))


def listed(gain, gain_mask, turn_mask, outcome):
    """Credit inputs of one prompt, from lists."""
    return credit_inputs(doubles(gain), bools(gain_mask), bools(turn_mask), doubles(outcome))


def test_turns_without_a_gain_have_the_outcome_alone():
    # Turn 1 has no gain, turn 2 has the gains {0.1, 0.3} → îg = ∓1, turn 3 is terminal; outcomes {0, 1} → R̂ = ∓1.
    inputs = listed([[0.0, 0.1, 0.0], [0.0, 0.3, 0.0]], [[False, True, False]] * 2, [[True] * 3] * 2, [0, 1])
    outputs = credit()(inputs)
    assert_close(outputs.normalized_gain, doubles([[0.0, -1.0, 0.0], [0.0, 1.0, 0.0]]))
    assert_close(outputs.turn_credit, doubles([[0.0, -1.0, 0.0], [0.0, 1.0, 0.0]]))
    assert_close(outputs.advantage, doubles([[-1.0, -2.0, -1.0], [1.0, 2.0, 1.0]]))


def test_no_weight_on_the_gains_is_outcome_only():
    reward, mask, _ = random_turns(2)
    inputs = listed(reward.tolist(), mask.tolist(), [[True] * 5] * 6, [0, 1, 1, 0, 0, 1])
    advantage = credit(alpha=0.0)(inputs).advantage
    assert_close(advantage, doubles([-1, 1, 1, -1, -1, 1])[:, None].expand(6, 5))


def test_equal_outcomes_still_leave_an_advantage():
    inputs = listed([[0.1], [0.3]], [[True]] * 2, [[True]] * 2, [1, 1])
    assert_close(credit()(inputs).advantage, doubles([[-1.0], [1.0]]))


def test_a_combiner_may_pool_the_outcome_with_the_gains():
    # Pool {0, 1, 1, 2}: mean 1, variance 1/2, so 0 → −√2, 1 → 0, 2 → √2. Sums of what follows: −√2 + 0 and 0 + √2.
    inputs = listed([[0.0], [1.0]], [[True]] * 2, [[True]] * 2, [1, 2])
    pooled = StagedCredit(POOL, POOL, Discounted(1.0), Joint())
    outputs = pooled(inputs)
    assert_close(outputs.normalized_gain, doubles([[-math.sqrt(2)], [0.0]]))
    assert_close(outputs.advantage, doubles([[-math.sqrt(2)], [math.sqrt(2)]]))


class OutcomeOfTerminalTurn(Additive):
    """Places the outcome at the terminal turn."""

    def place(self, gain, gain_mask, outcome, turn_mask):
        return torch.where(gain_mask, gain, outcome[:, None]), turn_mask


def test_normalized_is_zero_at_turns_without_a_gain_wherever_the_outcome_was_placed():
    # Pool {0, 1, 1, 2} again, the outcomes now in column 2: clipping must not see their normalised values.
    inputs = listed([[0.0, 0.0], [1.0, 0.0]], [[True, False]] * 2, [[True, True]] * 2, [1, 2])
    pooled = StagedCredit(POOL, POOL, Discounted(1.0), OutcomeOfTerminalTurn(1.0))
    assert_close(pooled(inputs).normalized_gain, doubles([[-math.sqrt(2), 0.0], [0.0, 0.0]]))


# ---- Clipping --------------------------------------------------------------------------------------------------------


def test_clip_scale_by_hand():
    # σ(ln 3) = 3/4, so c = 1 + 0.4 · (2 · 3/4 − 1) = 1.2, and 0.8 at −ln 3.
    normalized = doubles([[math.log(3), 0.0, -math.log(3)]])
    assert_close(functional.clip_scale(normalized, 0.4), doubles([[1.2, 1.0, 0.8]]))


@few
@given(seeds)
def test_beta_zero_is_fixed_clipping_in_value_and_gradient(seed):
    new, old, turn_ids = random_tokens(seed)
    turns = int(turn_ids.max().clamp(min=0)) + 1
    normalized, advantage = torch.randn(2, 4, turns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    def run(clipper):
        logprobs = new.clone().requires_grad_()
        low, high = (functional.to_tokens(bound, turn_ids) for bound in clipper(normalized))
        log_ratio = TurnRatio()(logprobs, old, turn_ids)
        loss = PPO()(log_ratio, logprobs, functional.to_tokens(advantage, turn_ids), low, high)
        return loss.detach(), torch.autograd.grad(loss.sum(), logprobs)[0]

    for adaptive, fixed in zip(run(AdaptiveTurn(0.0, 0.003, 0.004)), run(Fixed(0.003, 0.004)), strict=True):
        assert_close(adaptive, fixed)


def test_open_sides_never_clip():
    log_ratio, advantage = doubles([[-5.0, 5.0]]), doubles([[-1.0, 1.0]])
    low, high = AdaptiveTurn(0.3, eps_low=math.inf, eps_high=math.inf)(doubles([[-2.0, 2.0]]))
    assert not functional.clipped(log_ratio, advantage, low, high).any()
    assert_close(functional.clipped_surrogate(log_ratio, advantage, low, high), -log_ratio.exp() * advantage)


# ---- Ratio -----------------------------------------------------------------------------------------------------------


def test_means_by_hand():
    # Turn 0 holds 1 and 3, turn 1 holds 8; the tool token (100) enters nothing. Sequence: (1 + 3 + 8) / 3 = 4.
    values, turn_ids = doubles([[1.0, 3.0, 100.0, 8.0]]), torch.tensor([[0, 0, -1, 1]])
    assert_close(functional.turn_mean(values, turn_ids), doubles([[2.0, 2.0, 0.0, 8.0]]))
    assert_close(functional.sequence_mean(values, turn_ids), doubles([[4.0, 4.0, 0.0, 4.0]]))


@few
@given(seeds)
def test_turn_mean_equals_a_loop(seed):
    new, old, turn_ids = random_tokens(seed)
    expected = torch.zeros_like(new)
    for row, ids in enumerate(turn_ids.tolist()):
        for turn in set(ids) - {-1}:
            members = turn_ids[row] == turn
            expected[row, members] = (new - old)[row, members].mean()
    assert_close(TurnRatio()(new, old, turn_ids), expected)


def test_one_token_a_turn_makes_the_turn_ratio_the_token_ratio():
    new, old, _ = random_tokens(3)
    turn_ids = torch.arange(12).expand(4, 12).clone()
    turn_ids[:, ::3] = -1
    assert_close(TurnRatio()(new, old, turn_ids), TokenRatio()(new, old, turn_ids))


def test_one_turn_a_row_makes_the_turn_ratio_the_sequence_ratio():
    new, old, turn_ids = random_tokens(4)
    turn_ids = turn_ids.clamp(max=0)
    assert_close(TurnRatio()(new, old, turn_ids), SequenceRatio()(new, old, turn_ids))


def test_rows_without_action_tokens_are_zero():
    new, old, _ = random_tokens(5)
    for ratio in (TurnRatio(), TokenRatio(), SequenceRatio()):
        assert not ratio(new, old, torch.full((4, 12), -1)).any()


@few
@given(seeds)
def test_token_form_equals_turn_form_weighted_by_counts(seed):
    new, old, turn_ids = random_tokens(seed)
    turns = int(turn_ids.max().clamp(min=0)) + 1
    members = torch.nn.functional.one_hot(turn_ids + 1, turns + 1)[..., 1:].to(new.dtype)  # [B, L, T]
    advantage = torch.randn(4, turns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    low, high = PAPER.clipper(advantage.sin())
    row_tokens = members.sum((1, 2)).clamp(min=1)
    rows = (turn_ids >= 0).any(1).sum().clamp(min=1)

    def token_form(logprobs):
        on_tokens = [functional.to_tokens(value, turn_ids) for value in (advantage, low, high)]
        tokens = functional.clipped_surrogate(TurnRatio()(logprobs, old, turn_ids), *on_tokens)
        return (tokens * members.sum(-1) / (rows * row_tokens[:, None])).sum()

    def turn_form(logprobs):
        count = members.sum(1)
        log_ratio = torch.einsum("bl,blt->bt", logprobs - old, members) / count.clamp(min=1)
        loss = functional.clipped_surrogate(log_ratio, advantage, low, high)
        return (loss * count / (rows * row_tokens[:, None])).sum()

    logprobs = new.clone().requires_grad_()
    by_token, by_turn = token_form(logprobs), turn_form(logprobs)
    assert_close(by_token, by_turn)
    assert_close(torch.autograd.grad(by_token, logprobs)[0], torch.autograd.grad(by_turn, logprobs)[0])


# ---- Surrogate and KL ------------------------------------------------------------------------------------------------


def test_surrogate_by_hand():
    # Bounds [0.8, 1.3]. Ratio 1.5: Â = 2 is held at 1.3·2, Â = −2 is not. Ratio 0.5: Â = −2 is held at 0.8·2.
    log_ratio, advantage = doubles([[1.5, 1.5, 0.5, 0.5]]).log(), doubles([[2.0, -2.0, 2.0, -2.0]])
    low, high = torch.full_like(advantage, 0.2), torch.full_like(advantage, 0.3)
    assert_close(functional.clipped_surrogate(log_ratio, advantage, low, high), doubles([[-2.6, 3.0, -1.0, 1.6]]))
    assert functional.clipped(log_ratio, advantage, low, high).tolist() == [[True, False, False, True]]


@few
@given(seeds)
def test_clipped_marks_the_tokens_without_gradient(seed):
    rng = torch.Generator().manual_seed(seed)
    log_ratio, advantage = torch.randn(2, 3, 8, dtype=torch.float64, generator=rng) * 0.3
    low, high = torch.rand(2, 3, 8, dtype=torch.float64, generator=rng) * 0.3
    log_ratio.requires_grad_()
    functional.clipped_surrogate(log_ratio, advantage, low, high).sum().backward()
    assert torch.equal(functional.clipped(log_ratio, advantage, low, high), log_ratio.grad == 0)


def test_at_ratio_one_the_gradient_is_the_advantage():
    log_ratio, advantage = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True), doubles([[1.0, -2.0, 0.5]])
    functional.clipped_surrogate(log_ratio, advantage, *Fixed(0.003, 0.004)(advantage)).sum().backward()
    assert_close(log_ratio.grad, -advantage)


def test_k3_by_hand():
    # d = ln 2: e^d − 1 − d = 1 − ln 2. d = −ln 2: −1/2 + ln 2.
    kl = functional.k3_kl(doubles([[-1.0, -1.0, -1.0]]), doubles([[-1.0, -1.0 + math.log(2), -1.0 - math.log(2)]]))
    assert_close(kl, doubles([[0.0, 1 - math.log(2), math.log(2) - 0.5]]))


@few
@given(seeds)
def test_k3_is_never_negative_and_its_mean_is_the_divergence(seed):
    p, q = torch.randn(2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    kl = functional.k3_kl(p[None], q[None])[0]
    assert (kl >= 0).all()
    assert_close((p.exp() * kl).sum(), (p.exp() * (p - q)).sum())


# ---- Extremes --------------------------------------------------------------------------------------------------------

LOG_PROBS = st.lists(st.floats(-1e4, 0.0, width=32), min_size=6, max_size=6)
ADVANTAGES = st.lists(st.sampled_from([-3.0, -1e-3, 0.0, 1e-3, 3.0]), min_size=2, max_size=2)
CLIPPERS = [Fixed(0.003, 0.004), Fixed(math.inf, math.inf), AdaptiveTurn(0.3, 0.2, 0.3)]
LENGTHS = torch.tensor([[0, 0, -1, 1, 1, 1]])


@pytest.mark.parametrize("clipper", CLIPPERS, ids=str)
@pytest.mark.parametrize("ratio", [TokenRatio(), TurnRatio(), SequenceRatio()], ids=lambda r: type(r).__name__)
@few
@given(new=LOG_PROBS, old=LOG_PROBS, per_turn=ADVANTAGES)
def test_loss_and_gradient_are_finite_whatever_the_log_probs(clipper, ratio, new, old, per_turn):
    logprobs, credit = torch.tensor([new], requires_grad=True), TurnCredit.zeros(1, 2)
    low, high = clipper(torch.tensor([[1.0, -1.0]]))
    credit = replace(credit, advantage=torch.tensor([per_turn]), clip_low=low, clip_high=high)
    method = replace(PAPER, ratio=ratio, clipper=clipper)
    loss, clipped = method.loss(logprobs, torch.tensor([old]), LENGTHS, credit, SeqMeanTokenMean()(LENGTHS))
    loss.backward()
    assert loss.isfinite() and logprobs.grad.isfinite().all()
    if ratio == TokenRatio():
        assert (logprobs.grad[clipped] == 0).all()


@few
@given(new=LOG_PROBS, old=LOG_PROBS)
def test_kl_and_correction_are_finite_whatever_the_log_probs(new, old):
    logprobs, other = torch.tensor([new], requires_grad=True), torch.tensor([old])
    kl = functional.k3_kl(logprobs, other)
    kl.sum().backward()
    assert kl.isfinite().all() and (kl >= 0).all() and logprobs.grad.isfinite().all()
    for cap in (2.0, 1e9):
        weight = TruncatedImportance(cap)(logprobs.detach(), other, LENGTHS)
        assert weight.isfinite().all() and ((weight >= 0) & (weight <= 1.00001 * cap)).all()


@few
@given(seeds)
def test_the_bound_of_the_exponent_changes_no_bit_of_what_a_run_meets(seed):
    rng = torch.Generator().manual_seed(seed)
    log_ratio = (torch.rand(3, 8, generator=rng) * 2 - 1) * (functional.MAX_EXPONENT - 1)
    advantage, low, high = torch.randn(3, 3, 8, generator=rng)
    grads, losses = [], []
    for surrogate in (functional.clipped_surrogate, unbounded_surrogate):
        leaf = log_ratio.clone().requires_grad_()
        losses.append(surrogate(leaf, advantage, low.abs(), high.abs()))
        losses[-1].sum().backward()
        grads.append(leaf.grad)
    assert torch.equal(*losses) and torch.equal(*grads)


def unbounded_surrogate(log_ratio, advantage, low, high):
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


# ---- Weights ---------------------------------------------------------------------------------------------------------

TURN_IDS = torch.tensor([[0, 0, -1, 1, -1], [0, -1, -1, -1, -1], [-1, -1, -1, -1, -1]])  # 3 tokens, 1 token, none


@pytest.mark.parametrize(
    ("aggregation", "long_row", "short_row"),
    [
        (SeqMeanTokenMean(), 1 / (2 * 3), 1 / 2),
        (TokenMean(), 1 / 4, 1 / 4),
        (SeqMeanTokenSum(), 1 / 2, 1 / 2),
        (TokenSumNorm(max_length=10), 1 / (2 * 10), 1 / (2 * 10)),
    ],
)
def test_weights_by_hand(aggregation, long_row, short_row):
    # Two rows have action tokens, the third does not count.
    row = torch.tensor([long_row, short_row, 0.0])[:, None]
    assert_close(aggregation(TURN_IDS), row * (TURN_IDS >= 0), atol=1e-7)


@few
@given(seeds)
def test_weights_of_the_means_sum_to_one(seed):
    _, _, turn_ids = random_tokens(seed)
    turn_ids[0, 0] = 0
    for aggregation in (SeqMeanTokenMean(), TokenMean()):
        assert float(aggregation(turn_ids).sum()) == pytest.approx(1, abs=1e-6)


def test_nothing_to_train_on_weighs_nothing():
    for aggregation in (SeqMeanTokenMean(), TokenMean(), SeqMeanTokenSum(), TokenSumNorm(max_length=4)):
        assert not aggregation(torch.full((2, 4), -1)).any()
