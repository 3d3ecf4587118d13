"""What every strategy promises, whoever wrote it: each yaml of a group is a case.

Padding is inert, permuting trajectories permutes the result, names of groups mean nothing, groups that cannot be
compared give zeros, and only ratio and surrogate carry a gradient.
"""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from a2tgpo.rollouts.trajectory import StopReason, Task, Trajectory, Turn
from tests.helpers.observed import credit_inputs, observed, rows

CONFIGS = Path(__file__).parents[2] / "configs" / "model"
MANDATORY = {"aggregation/token_sum_norm": {"max_length": 16}, "signal/noise": {"seed": 0}}
NEEDS_A_SERVER = {"served_process_reward"}
"""Its scorer has tests of its own: rollouts/test_turn_scorers.py."""
NOT_PER_PROMPT = {"none", "batch", "successes", "fork_value"}
B, T, L = 6, 4, 10
ORDER = torch.tensor([3, 0, 5, 1, 4, 2])
GROUPS = torch.tensor([7, 7, 2, 2, 7, 2])


def each(*groups, without=()):
    """Parametrise over the yamls of `groups`."""
    names = [f"{g}/{path.stem}" for g in groups for path in sorted((CONFIGS / g).glob("*.yaml"))]
    names = [name for name in names if name.split("/")[1] not in without]
    assert {name.split("/")[0] for name in names} == set(groups)
    return pytest.mark.parametrize("name", names)


def load(name):
    return instantiate(OmegaConf.merge(OmegaConf.load(CONFIGS / f"{name}.yaml"), MANDATORY.get(name, {})))


def rand(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def hide(values, mask, filler=torch.nan):
    """The same values with something else under every False."""
    return torch.where(mask, values, filler)


def wider(values, filler, columns=3):
    return torch.nn.functional.pad(values, (0, columns), value=filler)


def same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.fixture
def turns():
    """Rewards of turns, and which count: contiguous; one row with none; one turn in between without."""
    mask = torch.arange(T) < torch.tensor([4, 2, 3, 0, 1, 4])[:, None]
    mask[5, 1] = False
    return rand(B, T), mask


@pytest.fixture
def tokens():
    """Log-probs, old log-probs and turn ids of rows with tool tokens, one row without action tokens."""
    turn_ids = torch.tensor([[-1, 0, 0, -1, 1, 1, 1, -1, 2, -1]] * B)
    turn_ids[1, 5:], turn_ids[3] = -1, -1
    old = rand(B, L) - 3
    return old + 0.01 * rand(B, L).flip(0), old, turn_ids


# ---- normalizers and outcomes ----------------------------------------------------------------------------------------


@each("normalizer", "outcome")
def test_normalizer_does_not_see_padding(name, turns):
    (reward, mask), normalizer = turns, load(name)
    result = normalizer(reward, mask, GROUPS)
    assert result.isfinite().all() and not result[~mask].any() and result[mask].any()
    same(normalizer(hide(reward, mask), mask, GROUPS), result)
    padded = normalizer(wider(reward, torch.nan), wider(mask, False), GROUPS)
    same(padded, wider(result, 0.0))


@each("normalizer", "outcome")
def test_normalizer_follows_permutation_and_ignores_group_names(name, turns):
    (reward, mask), normalizer = turns, load(name)
    result = normalizer(reward, mask, GROUPS)
    same(normalizer(reward[ORDER], mask[ORDER], GROUPS[ORDER]), result[ORDER])
    same(normalizer(reward, mask, torch.where(GROUPS == 7, -1, 100)), result)


@each("normalizer", "outcome")
def test_normalizer_accepts_one_column(name):
    outcome = torch.tensor([[1.0], [0.0], [0.0], [-1.0], [0.0], [1.0]], dtype=torch.float64)
    result = load(name)(outcome, torch.ones_like(outcome, dtype=torch.bool), GROUPS)
    assert result.shape == (B, 1) and result.isfinite().all() and result.any()


@each("normalizer", "outcome", without=NOT_PER_PROMPT)
def test_singletons_are_zero(name):
    mask = torch.ones(B, 1, dtype=torch.bool)
    assert torch.equal(load(name)(rand(B, 1), mask, torch.arange(B)), torch.zeros(B, 1, dtype=torch.float64))


@each("normalizer", "outcome", without={"none", "successes"})
def test_equal_rewards_and_a_lone_reward_are_zero(name, turns):
    (reward, mask), normalizer = turns, load(name)
    assert not normalizer(torch.full_like(reward, 0.1), mask, GROUPS).any()
    assert not normalizer(reward[:1, :1], mask[:1, :1], GROUPS[:1]).any()


# ---- accumulators ----------------------------------------------------------------------------------------------------


@each("accumulator")
def test_accumulator_does_not_see_padding_and_follows_permutation(name, turns):
    (reward, mask), accumulator = turns, load(name)
    result = accumulator(reward, mask)
    assert result.isfinite().all() and not result[~mask].any()
    assert result[mask].all() or name == "accumulator/past"  # before the first turn nothing is done
    same(accumulator(hide(reward, mask), mask), result)
    same(accumulator(wider(reward, torch.nan), wider(mask, False)), wider(result, 0.0))
    same(accumulator(reward[ORDER], mask[ORDER]), result[ORDER])


def test_what_is_still_to_come_is_the_whole_less_what_is_done(turns):
    reward, mask = turns
    whole, past, to_come = (load(f"accumulator/{name}")(reward, mask) for name in ("total", "past", "discounted"))
    same(whole + past, to_come)
    for row in range(B):
        done = 0.0
        for t in mask[row].nonzero()[:, 0].tolist():
            assert float(past[row, t]) == pytest.approx(-done, abs=1e-12)
            assert float(whole[row, t]) == pytest.approx(float(reward[row][mask[row]].sum()), abs=1e-12)
            done += float(reward[row, t])


# ---- combiners and credit --------------------------------------------------------------------------------------------


def composed(combiner):
    """Place and combine with nothing in between, as one function."""

    def advantage(gain, gain_mask, outcome, turn_mask):
        reward, mask = combiner.place(gain, gain_mask, outcome, turn_mask)
        return combiner.combine(torch.where(mask, reward, 0.0), mask, outcome, turn_mask)

    return advantage


@each("combiner")
def test_combiner_does_not_see_padding_and_follows_permutation(name, turns):
    (gain, turn_mask), outcome = turns, rand(B)
    gain_mask = turn_mask & wider(turn_mask[:, 1:], False, 1)
    advantage = composed(load(name))
    result = advantage(gain, gain_mask, outcome, turn_mask)
    assert result.isfinite().all() and not result[~turn_mask].any() and result[turn_mask].any()
    same(advantage(hide(gain, gain_mask, 99.0), gain_mask, outcome, turn_mask), result)
    padded = advantage(wider(gain, 99.0), wider(gain_mask, False), outcome, wider(turn_mask, False))
    same(padded, wider(result, 0.0))
    same(advantage(gain[ORDER], gain_mask[ORDER], outcome[ORDER], turn_mask[ORDER]), result[ORDER])


PARTS = {"outcome": "z", "normalizer": "turn_group", "accumulator": "variance_rescaled", "combiner": "additive"}


def load_credit(name):
    files = {group: OmegaConf.load(CONFIGS / group / f"{stem}.yaml") for group, stem in PARTS.items()}
    config = OmegaConf.create({"model": files | {"credit": OmegaConf.load(CONFIGS / f"{name}.yaml")}})
    return instantiate(config.model.credit)


@each("credit")
def test_credit_does_not_see_padding_and_follows_permutation(name, turns):
    credit = load_credit(name)
    gain, turn_mask = turns
    gain_mask = turn_mask & wider(turn_mask[:, 1:], False, 1)
    inputs = credit_inputs(gain, gain_mask, turn_mask, rand(B), GROUPS)
    inputs = replace(inputs, belief=rand(B, T + 1), value=rand(2, B, T + 1)[1])
    outputs = credit(inputs)
    assert not outputs.normalized_gain[~gain_mask].any() and not outputs.advantage[~turn_mask].any()
    assert outputs.advantage[turn_mask].all() and not outputs.turn_credit[~turn_mask].any()
    padded = replace(
        inputs,
        gain=wider(hide(gain, gain_mask), torch.nan),
        gain_noise=wider(inputs.gain_noise, torch.nan),
        belief=wider(inputs.belief, 0.0),
        value=wider(inputs.value, torch.nan),
        gain_mask=wider(gain_mask, False),
        turn_mask=wider(turn_mask, False),
        state_ids=wider(inputs.state_ids, 0),
        node_ids=wider(inputs.node_ids, -1),
        action_ids=wider(inputs.action_ids, 0),
        n_new_pieces=wider(inputs.n_new_pieces, 9),
    )
    for field in fields(outputs):
        result = getattr(outputs, field.name)
        same(getattr(credit(padded), field.name), wider(result, 0.0))
        same(getattr(credit(rows(inputs, ORDER)), field.name), result[ORDER])


CONSERVES = {
    "anchor_groups": False,
    "belief_baseline": False,
    "bellman_closure": False,
    "fork_value": False,
    "node_value": False,
    "shrunken_groups": False,
    "staged": False,
    "turn_leave_one_out": False,
}
"""Whether the turns of a trajectory share the outcome's own advantage, or each has all of it."""


@each("credit")
def test_a_credit_conserves_or_says_that_it_does_not(name, turns):
    (gain, turn_mask), credit = turns, load_credit(name)
    gain_mask = turn_mask & wider(turn_mask[:, 1:], False, 1)
    outputs = credit(
        replace(credit_inputs(gain, gain_mask, turn_mask, rand(B), GROUPS), belief=rand(B, T + 1), value=rand(B, T + 1))
    )
    own = (outputs.advantage - outputs.turn_credit)[:, 0]
    conserved = (outputs.advantage.sum(1) - own).abs().max() < 1e-9
    assert conserved == CONSERVES[name.split("/")[1]]


def test_a_baseline_that_is_trusted_conserves(turns):
    (gain, turn_mask), critic = turns, load_credit("credit/belief_baseline")
    inputs = replace(credit_inputs(gain, turn_mask, turn_mask, rand(B), GROUPS), belief=rand(B, T + 1))
    from_the_start = replace(critic, lam=1.0)(inputs).advantage[:, 0]  # R less its expectation before the first turn
    same(replace(critic, lam=0.0)(inputs).advantage.sum(1), from_the_start)


@each("credit", "normalizer", "outcome")
def test_a_stage_says_whether_it_compares_trajectories_of_a_prompt(name):
    stage = load_credit(name) if name.startswith("credit/") else load(name)
    assert stage.compares_trajectories == (name.split("/")[1] not in NOT_PER_PROMPT)


# ---- clippers --------------------------------------------------------------------------------------------------------


@each("clipper")
def test_clipper_bounds_are_positive_and_belong_to_their_turn(name):
    normalized, clipper = 3 * rand(B, T), load(name)
    narrow, wide, moved = clipper(normalized), clipper(wider(normalized, 9.0)), clipper(normalized[ORDER])
    for bound, padded, permuted in zip(narrow, wide, moved, strict=True):
        assert bound.shape == (B, T) and (bound > 0).all()
        same(padded[:, :T], bound)
        same(permuted, bound[ORDER])


# ---- ratios and surrogates -------------------------------------------------------------------------------------------


@each("ratio")
def test_ratio_does_not_see_padding_and_follows_permutation(name, tokens):
    (new, old, turn_ids), ratio = tokens, load(name)
    mask = turn_ids >= 0
    result = ratio(new, old, turn_ids)
    assert not result[~mask].any() and result[mask].all()
    same(ratio(hide(new, mask), hide(old, mask, torch.inf), turn_ids), result)
    same(ratio(wider(new, 5.0), wider(old, torch.nan), wider(turn_ids, -1)), wider(result, 0.0))
    same(ratio(new[ORDER], old[ORDER], turn_ids[ORDER]), result[ORDER])


@each("ratio")
def test_ratio_carries_the_gradient_of_action_tokens_only(name, tokens):
    new, old, turn_ids = tokens
    logprobs = hide(new, turn_ids >= 0).requires_grad_()
    load(name)(logprobs, old, turn_ids).square().sum().backward()
    assert torch.equal(logprobs.grad != 0, turn_ids >= 0)


@each("ratio")
def test_ratio_of_the_unmoved_policy_is_exactly_one(name, tokens):
    _, old, turn_ids = tokens
    assert not load(name)(old, old, turn_ids).any()


def surrogate_inputs():
    """Log-ratio, log-probs, advantage, low, high: some ratios inside the bounds, some outside."""
    values = rand(5, B, L)
    return [0.3 * values[0], values[1] - 4, values[2], 0.2 + 0.1 * values[3].sigmoid(), 0.2 + 0.1 * values[4].sigmoid()]


@each("surrogate")
def test_surrogate_looks_at_one_token_at_a_time(name):
    inputs, surrogate = surrogate_inputs(), load(name)
    result = surrogate(*inputs)
    assert result.isfinite().all() and result.all()
    same(surrogate(*(wider(value, torch.nan) for value in inputs))[:, :L], result)
    same(surrogate(*(value[ORDER] for value in inputs)), result[ORDER])


@each("surrogate")
def test_surrogate_descends_towards_the_advantage(name):
    # The unmoved policy, with log-probs and log-ratio tied as in training: d loss / d log π = −Â.
    _, logprobs, advantage, low, high = surrogate_inputs()
    logprobs.requires_grad_()
    load(name)(logprobs - logprobs.detach(), logprobs, advantage, low, high).sum().backward()
    same(logprobs.grad, -advantage)


# ---- aggregations ----------------------------------------------------------------------------------------------------


@each("aggregation")
def test_aggregation_weighs_action_tokens_only(name, tokens):
    (_, _, turn_ids), aggregation = tokens, load(name)
    weight = aggregation(turn_ids)
    assert weight.isfinite().all() and torch.equal(weight > 0, turn_ids >= 0)
    same(aggregation(wider(turn_ids, -1)), wider(weight, 0.0))
    same(aggregation(turn_ids[ORDER]), weight[ORDER])
    without_empty = (turn_ids >= 0).any(1)
    same(aggregation(turn_ids[without_empty]), weight[without_empty])
    assert not aggregation(torch.full_like(turn_ids, -1)).any()


# ---- signals ---------------------------------------------------------------------------------------------------------


TASK = Task("t", "q", ("a", "b", "c"))


def signal_inputs(signal):
    """Answer log-probs for as many aliases as the signal asks for; the last aliases of two rows are padding."""
    aliases = len(signal.answers(TASK))
    alias_mask = torch.ones(B, aliases, dtype=torch.bool)
    alias_mask[:2, 1:] = False
    state_mask = torch.arange(T + 1) < torch.tensor([5, 3, 4, 1, 2, 5])[:, None]
    return -rand(B, T + 1, aliases).abs(), alias_mask, state_mask


def episodes(state_mask):
    """Trajectories whose process turns are those behind a scored state; every other one was useful."""
    turns = [Turn((1,), (-1.0,), (2,), useful=t % 2 == 0) for t in range(T)]
    lengths = (state_mask.sum(1) - 1).tolist()
    return [Trajectory(TASK, 0, i, (1,), tuple(turns[:n]), 0.0, StopReason.ANSWERED) for i, n in enumerate(lengths)]


@each("signal", without=NEEDS_A_SERVER)
def test_signal_does_not_see_padding_and_follows_permutation(name):
    signal = load(name)
    logprob, alias_mask, state_mask = signal_inputs(signal)
    noisy = {"log_gain_noise": 0.1, "trajectories": episodes(state_mask)}
    gains = signal(replace(observed(logprob, alias_mask, state_mask), **noisy))
    assert gains.gain.shape == gains.gain_mask.shape == (B, T) and gains.belief.shape == (B, T + 1)
    assert ((gains.belief >= 0) & (gains.belief <= 1)).all() and not gains.belief[~state_mask].any()
    assert not gains.gain[~gains.gain_mask].any() and not (gains.gain_mask & ~state_mask[:, 1:]).any()

    counts = state_mask[:, :, None] & alias_mask[:, None, :]
    permuted = {**noisy, "trajectories": [noisy["trajectories"][row] for row in ORDER.tolist()]}
    moved = signal(replace(observed(logprob[ORDER], alias_mask[ORDER], state_mask[ORDER]), **permuted))
    hidden = signal(replace(observed(hide(logprob, counts), alias_mask, state_mask), **noisy))
    deeper = torch.nn.functional.pad(logprob, (0, 0, 0, 3))
    wide = signal(replace(observed(deeper, alias_mask, wider(state_mask, False)), **noisy))
    for field in fields(gains):
        value = getattr(gains, field.name)
        if value is None:  # its gains are exact
            continue
        same(getattr(moved, field.name), value[ORDER])
        same(getattr(hidden, field.name), value)
        same(getattr(wide, field.name), wider(value, 0))


# ---- gradients -------------------------------------------------------------------------------------------------------


@each("normalizer", "outcome", "accumulator", "combiner", "clipper", "signal", without=NEEDS_A_SERVER)
def test_credit_carries_no_gradient(name, turns):
    strategy, (reward, mask), kind = load(name), turns, name.split("/")[0]
    reward, outcome = reward.requires_grad_(), rand(B).requires_grad_()
    if kind in ("normalizer", "outcome"):
        results = [strategy(reward, mask, GROUPS)]
    elif kind == "accumulator":
        results = [strategy(reward, mask)]
    elif kind == "combiner":
        results = [strategy.combine(*strategy.place(reward, mask, outcome, mask), outcome, mask)]
    elif kind == "clipper":
        results = strategy(reward)
    else:
        logprob, alias_mask, state_mask = signal_inputs(strategy)
        seen = observed(logprob.requires_grad_(), alias_mask, state_mask, trajectories=episodes(state_mask))
        gains = strategy(seen)
        results = [gains.gain, gains.belief]
    assert not any(result.requires_grad for result in results)
