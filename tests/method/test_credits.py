"""Turn credits: hand numbers, reductions to their neighbours, and loops against vectors."""

from dataclasses import replace
from statistics import fmean, pstdev, pvariance

import pytest
import torch

from a2tgpo.method import functional
from a2tgpo.method.accumulators.none import NoAccumulation
from a2tgpo.method.accumulators.window import Window
from a2tgpo.method.credits.anchor_groups import AnchorGroups
from a2tgpo.method.credits.belief_baseline import MOMENTS, BeliefBaseline, _shown
from a2tgpo.method.credits.bellman_closure import BellmanClosure
from a2tgpo.method.credits.shrunken_groups import ShrunkenGroups
from a2tgpo.method.credits.turn_leave_one_out import TurnLeaveOneOut
from a2tgpo.method.method import PAPER
from a2tgpo.method.normalizers.centre import Centre
from a2tgpo.method.ridge import leave_one_group_out_ridge, moments
from a2tgpo.method.signals.reference_progress import ReferenceProgress
from a2tgpo.method.values import lambda_advantage
from tests.helpers.observed import credit_inputs, from_beliefs, random_observed
from tests.helpers.shipped import settings

SEEDS = range(5)


def doubles(values):
    return torch.tensor(values, dtype=torch.float64)


def same(actual, expected, atol=1e-12):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def played(gains, outcome, group_ids=None):
    """Trajectories from the gain of each turn: None where the turn has none, nothing where there is no turn."""
    width = max(map(len, gains))
    table = [[*row, *[None] * (width - len(row))] for row in gains]
    gain_mask = torch.tensor([[gain is not None for gain in row] for row in table])
    turn_mask = torch.arange(width) < torch.tensor([len(row) for row in gains])[:, None]
    groups = None if group_ids is None else torch.tensor(group_ids)
    return credit_inputs(
        doubles([[gain or 0.0 for gain in row] for row in table]), gain_mask, turn_mask, doubles(outcome), groups
    )


def random_inputs(seed):
    """What the paper's signal says of random trajectories; each trajectory of a prompt is one of several."""
    seen = random_observed(seed, rows=12)
    gains = PAPER.signal(seen)
    inputs = credit_inputs(gains.gain, gains.gain_mask, seen.turn_mask, seen.outcome, seen.group_ids)
    states = seen.state_ids % 4 + 100 * seen.group_ids[:, None]
    return replace(
        inputs, belief=gains.belief, state_ids=states, action_ids=seen.action_ids % 3, n_new_pieces=seen.n_new_pieces
    )


def rloo(inputs):
    """R less the mean outcome of the prompt's other trajectories."""
    outcome = inputs.outcome[:, None]
    return functional.leave_one_out(outcome, torch.ones_like(outcome, dtype=torch.bool), inputs.group_ids[:, None])[0]


# ---- leave-one-out per depth -----------------------------------------------------------------------------------------


def turn_leave_one_out(**changes):
    return TurnLeaveOneOut(**settings("model/credit/turn_leave_one_out") | changes)


SEARCHES = ([0.2, 0.3, None], [-0.1, None], [None], [0.4, None], [0.1, 0.1, 0.1])


@pytest.mark.parametrize(("lone", "deepest"), [("raw", (1.0, -0.95)), ("outcome", (1.0, -1.95))])
def test_turn_leave_one_out_by_hand(lone, deepest):
    # Returns 1.235 1.15 1 · −.05 0 · 0 | 1.2 1 · −.8645 −.905 −.95; nobody else of its prompt has a third turn.
    inputs = played(SEARCHES, [1.0, 0.0, 0.0, 1.0, -1.0], [0, 0, 0, 1, 1])
    outputs = turn_leave_one_out(alpha=0.5, gamma=0.9, lone=lone)(inputs)
    expected = [[1.26, 1.15, deepest[0]], [-0.6675, -1.15, 0], [-0.5925, 0, 0], [2.0645, 1.905, 0]]
    same(outputs.advantage, doubles([*expected, [-2.0645, -1.905, deepest[1]]]))


def test_searches_that_all_hurt_are_not_rewarded():
    # Six of sixteen search a fifth time and lose by it. Standardised among themselves five of them are praised.
    gains = [-0.0977, -0.0722, -0.4014, -0.0430355072, -0.0468, -0.0168]
    inputs = played([*([gain, None] for gain in gains), *[[None]] * 10], [0.0] * 16)
    advantage = turn_leave_one_out(alpha=1.0)(inputs).advantage[:, 0]
    searched = doubles([-0.0590, -0.0318, -0.3830, -0.0007, -0.0047, 0.0273])
    same(advantage, torch.cat([searched, doubles([0.0452] * 10)]), atol=5e-5)
    standardised = PAPER.credit.normalizer(inputs.gain, inputs.gain_mask, inputs.group_ids)[:6, 0]
    same(
        standardised, doubles([0.1161, 0.3104, -2.1948, 0.5324, 0.5039, 0.7319]), atol=3e-4
    )  # of gains with more digits


@pytest.mark.parametrize("seed", SEEDS)
def test_turn_leave_one_out_is_its_equation(seed):
    inputs, credit = random_inputs(seed), turn_leave_one_out(alpha=0.5, gamma=0.9)
    n_rows, n_turns = inputs.turn_mask.shape
    outcome, prompts = inputs.outcome.tolist(), inputs.group_ids.tolist()

    def total(row, t):
        gains = [(k, float(inputs.gain[row, k])) for k in range(t, n_turns) if inputs.gain_mask[row, k]]
        return outcome[row] + sum(0.9 ** (k - t) * 0.5 * gain for k, gain in gains)

    expected = torch.zeros(n_rows, n_turns, dtype=torch.float64)
    for row in range(n_rows):
        others = [other for other in range(n_rows) if other != row and prompts[other] == prompts[row]]
        for t in range(n_turns):
            there = [total(other, t) for other in others if inputs.turn_mask[other, t]]
            baseline = there or [outcome[other] for other in others] or [total(row, t)]
            expected[row, t] = total(row, t) - fmean(baseline) if inputs.turn_mask[row, t] else 0.0
    same(credit(inputs).advantage, expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_without_gains_and_with_equal_lengths_it_is_rloo(seed):
    inputs = random_inputs(seed)
    inputs = replace(inputs, turn_mask=torch.ones_like(inputs.turn_mask), gain_mask=inputs.gain_mask & False)
    outputs = turn_leave_one_out()(inputs)
    same(outputs.advantage, rloo(inputs).expand(-1, inputs.turn_mask.shape[1]))
    assert not outputs.turn_credit.any()


# ---- the belief as a baseline ----------------------------------------------------------------------------------------


def belief_baseline(**changes):
    return BeliefBaseline(**settings("model/credit/belief_baseline") | changes)


def test_lambda_advantage_by_hand():
    value, mask = doubles([[0.5, 0.75, 0.25]]), torch.ones(1, 3, dtype=torch.bool)
    for lam, expected in ((0, [0.25, -0.5, 0.75]), (0.5, [0.1875, -0.125, 0.75]), (1, [0.5, 0.25, 0.75])):
        same(lambda_advantage(value, doubles([1.0]), mask, lam), doubles([expected]))


def ridge_by_hand(features, target, penalty, at):
    mean, scale = features.mean(0), features.std(0, correction=0)
    varies = scale > 1e-9
    z = ((features - mean) / scale)[:, varies]
    slope = torch.linalg.solve(z.T @ z + penalty * torch.eye(z.shape[1]).double(), z.T @ (target - target.mean()))
    return target.mean() + ((at - mean) / scale)[:, varies] @ slope


@pytest.mark.parametrize("seed", SEEDS)
def test_the_ridge_is_fitted_without_the_group_it_predicts(seed):
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(40, 4, dtype=torch.float64, generator=rng) * doubles([1, 100, 0.01, 0]) + doubles(
        [0, 50, 1, 0.1]
    )
    target, groups = torch.randn(40, dtype=torch.float64, generator=rng), torch.randint(0, 5, (40,), generator=rng)
    found = leave_one_group_out_ridge(features, target, groups, penalty=3.0)
    for group in groups.unique():
        own = groups == group
        same(found[own], ridge_by_hand(features[~own], target[~own], 3.0, features[own]), atol=1e-9)


def test_what_was_seen_earlier_is_regressed_on_as_if_it_were_another_group():
    rng = torch.Generator().manual_seed(0)
    features, target = torch.randn(30, 3, dtype=torch.float64, generator=rng), torch.rand(30, generator=rng).double()
    groups = torch.arange(30) // 10
    together = leave_one_group_out_ridge(features, target, groups, penalty=3.0)
    for group in range(3):
        now = groups == group
        earlier = moments(features[~now], target[~now], groups[~now], 3).sum(0)
        alone = leave_one_group_out_ridge(features[now], target[now], groups[now], 3.0, earlier)
        same(alone, together[now], atol=1e-9)


def test_the_baseline_remembers_earlier_sets_with_a_weight_that_fades():
    inputs, memory, credit = random_inputs(0), {}, belief_baseline(memory=0.5)
    first = credit(replace(inputs, memory=memory))
    same(first.advantage, belief_baseline(memory=0.0)(inputs).advantage)
    several = inputs.group_ids.bincount()[inputs.group_ids] > 1
    n_turns = int(inputs.turn_mask[several].sum())
    assert memory[MOMENTS][-1, -1] == 0.5 * n_turns
    second = credit(replace(inputs, memory=memory))
    assert not torch.equal(second.advantage, first.advantage)
    assert memory[MOMENTS][-1, -1] == 0.5 * (n_turns + 0.5 * n_turns)


def test_a_baseline_without_memory_writes_nothing():
    memory = {}
    belief_baseline(memory=0.0)(replace(random_inputs(0), memory=memory))
    assert memory == {}


def test_one_prompt_has_a_baseline_where_there_is_something_to_remember():
    inputs, memory, credit = random_inputs(0), {}, belief_baseline()
    credit(replace(inputs, memory=memory))
    alone = replace(inputs, group_ids=torch.zeros_like(inputs.group_ids))
    same(credit(alone).turn_credit, belief_baseline(memory=0.0)(alone).turn_credit)
    assert not torch.equal(credit(replace(alone, memory=memory)).advantage, credit(alone).advantage)
    nothing = replace(inputs, turn_mask=torch.zeros_like(inputs.turn_mask), memory=memory)
    assert not credit(nothing).advantage.any()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("parts", [{}, {"belief": False}, {"dialogue": False}, {"belief": False, "dialogue": False}])
def test_no_trajectory_is_in_its_own_baseline(seed, parts):
    # With λ = 1 the advantage is R − V̂: it moves by what R moves, in this trajectory.
    inputs, credit = random_inputs(seed), belief_baseline(lam=1.0, **parts)
    before = credit(inputs).advantage
    for row in range(len(before)):
        outcome = inputs.outcome.clone()
        outcome[row] += 0.5
        moved = credit(replace(inputs, outcome=outcome)).advantage[row] - before[row]
        has_others = int((inputs.group_ids == inputs.group_ids[row]).sum()) > 1
        same(moved, inputs.turn_mask[row] * doubles(0.5 * has_others), atol=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_prompt_alone_has_a_constant_baseline_and_is_rloo(seed):
    inputs = random_inputs(seed)
    inputs = replace(inputs, group_ids=torch.zeros_like(inputs.group_ids))
    outputs = belief_baseline(lam=1.0)(inputs)
    same(outputs.advantage, torch.where(inputs.turn_mask, rloo(inputs), 0.0))
    assert outputs.turn_credit.abs().max() < 1e-12


def test_a_belief_that_foretells_the_outcome_takes_its_place():
    # In every prompt the first search settles it. The critic learns so from the others, and credits the search alone.
    rng = torch.Generator().manual_seed(0)
    outcome = torch.randint(0, 2, (64 * 8,), generator=rng).double()
    inputs = played([[0.0, 0.0, None]] * len(outcome), outcome.tolist(), [i // 8 for i in range(len(outcome))])
    belief = torch.stack([torch.full_like(outcome, 0.4), *[0.1 + 0.8 * outcome] * 3], 1)
    advantage = belief_baseline(lam=0.0)(replace(inputs, belief=belief)).advantage
    assert (advantage[:, 0] * (2 * outcome - 1) > 0.3).all() and (advantage[:, 1:].abs() < 0.1).all()


def test_what_the_dialogue_shows_is_counted_before_each_turn():
    inputs = replace(
        played([[0.1, 0.1, 0.1, None], [0.1, None]], [1.0, 0.0]),
        action_ids=torch.tensor([[5, 5, 7, 9], [5, 9, 5, 5]]),
        n_new_pieces=torch.tensor([[2, 0, 3, 0], [1, 0, 8, 8]]),
    )
    seen, last, distinct, repeated = (column[0].tolist() for column in _shown(inputs))
    assert (seen, last) == ([0, 2, 2, 5], [0, 2, 0, 3])
    assert (distinct, repeated) == ([0, 1, 1, 2], [0, 0, 1, 1])
    assert [column[1, :2].tolist() for column in _shown(inputs)] == [[0, 1], [0, 1], [0, 1], [0, 0]]


# ---- actions of an anchor state --------------------------------------------------------------------------------------


def shrunken_groups(**changes):
    return ShrunkenGroups(**settings("model/credit/shrunken_groups") | {"outcome": PAPER.credit.outcome} | changes)


def acted(plays):
    """Trajectories of one prompt, from texts such as `s0 a s1 c +`: states and actions in turn, then the outcome."""
    rows = [(words[:-1:2], words[1:-1:2], float(words[-1] == "+")) for words in map(str.split, plays)]
    names: dict[str, int] = {}
    inputs = played([[None] * len(actions) for _, actions, _ in rows], [outcome for *_, outcome in rows])
    width = inputs.turn_mask.shape[1]

    def ids(column):
        table = [[names.setdefault(name, len(names)) for name in row[column]] for row in rows]
        return torch.tensor([row + [-1] * (width - len(row)) for row in table])

    return replace(inputs, state_ids=ids(0), action_ids=ids(1))


def test_shrunken_groups_by_hand():
    # Two visits did a and succeeded, one did b and failed: μ̃ = .8889 .3333; ρ = tanh(3/2), as nothing varies within.
    outputs = shrunken_groups(kappa=1.0, tau=2.0, omega=1.0)(acted(["s a +", "s a +", "s b -"]))
    same(outputs.turn_credit[:, 0], 0.9051483 * doubles([0.70710678, 0.70710678, -1.41421356]), atol=1e-7)
    same(outputs.advantage[:, 0] - outputs.turn_credit[:, 0], doubles([0.5**0.5, 0.5**0.5, -(2**0.5)]))


def test_the_gate_closes_where_outcomes_vary_within_actions():
    # Means .5 and 0 around 1/3: B = 1/18, W = 1/6.
    outputs = shrunken_groups(kappa=0.0, tau=2.0)(acted(["s a +", "s a -", "s b -"]))
    same(outputs.turn_credit[:, 0], 0.9051483 * 0.25 * doubles([0.70710678, 0.70710678, -1.41421356]), atol=1e-7)


def shrunken_by_hand(inputs, omega, kappa, tau, min_visits):
    visits = [(row, t) for row, t in inputs.turn_mask.nonzero().tolist()]
    outcome, prompts, actions = inputs.outcome.tolist(), inputs.group_ids.tolist(), inputs.action_ids
    keys = (
        lambda row, t: int(inputs.state_ids[row, t]),
        lambda row, t: (prompts[row], t),
        lambda row, t: prompts[row],
    )
    credit = torch.zeros(inputs.turn_mask.shape, dtype=torch.float64)
    for row, t in visits:
        sets = [[v for v in visits if key(*v) == key(row, t)] for key in keys]
        members = next((m for m in sets if len(m) >= min_visits), sets[-1])
        by_action = {}
        for v in members:
            by_action.setdefault(int(actions[v]), []).append(outcome[v[0]])
        mean = fmean(outcome[v[0]] for v in members)
        worth = {a: (sum(r) + kappa * mean) / (len(r) + kappa) for a, r in by_action.items()}
        shrunken = [worth[int(actions[v])] for v in members]
        within = sum(len(r) / len(members) * pvariance(r) for r in by_action.values())
        between = pvariance([outcome[v[0]] for v in members]) - within
        if max(shrunken) - min(shrunken) > 1e-6:
            z = (worth[int(actions[row, t])] - fmean(shrunken)) / pstdev(shrunken)
            credit[row, t] = omega * torch.tensor(len(members) / tau).tanh().double() * between / (between + within) * z
    return credit


@pytest.mark.parametrize("min_visits", [1, 3, 5])
@pytest.mark.parametrize("seed", SEEDS)
def test_shrunken_groups_are_their_equations(seed, min_visits):
    values = {"omega": 0.7, "kappa": 0.5, "tau": 2.0, "min_visits": min_visits}
    inputs = random_inputs(seed)
    same(shrunken_groups(**values)(inputs).turn_credit, shrunken_by_hand(inputs, **values), atol=1e-7)


@pytest.mark.parametrize("seed", SEEDS)
def test_without_shrinking_and_with_actions_of_their_own_shrunken_groups_are_gigpo(seed):
    inputs = random_inputs(seed)
    inputs = replace(inputs, action_ids=torch.arange(inputs.turn_mask.numel()).view(inputs.turn_mask.shape))
    outputs = shrunken_groups(kappa=0.0, tau=1e-9, min_visits=1)(inputs)
    outcome = inputs.outcome[:, None].expand(inputs.turn_mask.shape)
    gigpo = functional.standardise(outcome, inputs.turn_mask, inputs.state_ids, 1e-6)
    same(outputs.turn_credit, gigpo)
    assert gigpo.any()


# ---- the empirical decision process ----------------------------------------------------------------------------------


def bellman_closure(**changes):
    return BellmanClosure(**settings("model/credit/bellman_closure") | {"outcome": PAPER.credit.outcome} | changes)


CROSSING = ("s0 a s1 c +", "s0 a s1 d -", "s0 b s2 e s1 c +", "s0 b s2 f -")
"""The third goes another way and comes through the state of the first two."""


def test_bellman_closure_by_hand():
    # V(s1) = .98 · 2/3 = .653333, V(s2) = .98 · ½ V(s1) = .320133, V(s0) = .98 (½ V(s1) + ½ V(s2)) = .477.
    inputs = acted(CROSSING)
    outputs = bellman_closure(state_weight=1.0, beta=0.98)(inputs)
    expected = [[1, 0.70710678, 0], [1, -1.41421356, 0], [-1, 1, 0.70710678], [-1, -1, 0]]
    same(outputs.turn_credit, doubles(expected), atol=1e-7)
    outcome_hat = doubles([1, -1, 1, -1])[:, None] * inputs.turn_mask
    same(outputs.advantage, outcome_hat + outputs.turn_credit)


def test_what_is_not_followed_does_not_see_where_an_action_leads():
    by_depth = [bellman_closure(depth=depth)(acted(CROSSING)).turn_credit for depth in (0, 1, 2, 3, "all")]
    assert not by_depth[0][:, 0].any()  # a and b both succeed once in two
    assert by_depth[1][:, 0].any()
    same(by_depth[3], by_depth[4])  # no trajectory has more than three turns


@pytest.mark.parametrize("beta", [0.9, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_bellman_closure_solves_the_linear_equations(seed, beta):
    # States are visited again and again here, also by the same trajectory: V = (I − βM)⁻¹ βb, Q = β Σ P V.
    inputs = random_inputs(seed)
    states = sorted(set(inputs.state_ids[inputs.turn_mask].tolist()))
    place = {state: i for i, state in enumerate(states)}
    moves, wins, visits = torch.zeros(len(states), len(states)).double(), torch.zeros(len(states)).double(), []
    for row, n in enumerate(inputs.turn_mask.sum(1).tolist()):
        trail = [place[s] for s in inputs.state_ids[row, :n].tolist()]
        visits += [(row, t, s, (*trail, None)[t + 1]) for t, s in enumerate(trail)]
    for row, _, state, following in visits:
        share = 1 / sum(v[2] == state for v in visits)
        if following is None:
            wins[state] += share * inputs.outcome[row]
        else:
            moves[state, following] += share
    value = torch.linalg.solve(torch.eye(len(states)).double() - beta * moves, beta * wins)
    after = {(v[0], v[1]): beta * float(inputs.outcome[v[0]] if v[3] is None else value[v[3]]) for v in visits}
    expected = torch.zeros(inputs.turn_mask.shape, dtype=torch.float64)
    for row, t, state, _ in visits:
        action = inputs.action_ids[row, t]
        alike = [after[v[:2]] for v in visits if v[2] == state and inputs.action_ids[v[0], v[1]] == action]
        expected[row, t] = fmean(alike) - value[state]
    found = bellman_closure(beta=beta, state_weight=1e6, min_std=1e6)(inputs).turn_credit  # A_S without its spread
    same(found, expected, atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_depth_zero_with_actions_of_their_own_is_gigpo(seed):
    inputs = random_inputs(seed)
    inputs = replace(inputs, action_ids=torch.arange(inputs.turn_mask.numel()).view(inputs.turn_mask.shape))
    found = bellman_closure(depth=0, state_weight=1.0, min_std=1e-9)(inputs)
    gigpo = AnchorGroups(Centre(), omega=1.0, gamma=1.0, resolution=1e-9)(inputs).turn_credit
    same(found.turn_credit, gigpo, atol=1e-6)
    assert gigpo.any()


@pytest.mark.parametrize("credit", [shrunken_groups, bellman_closure])
def test_where_all_do_the_same_the_outcome_is_the_credit(credit):
    inputs = random_inputs(0)
    outputs = credit()(replace(inputs, action_ids=torch.zeros_like(inputs.action_ids)))
    assert not outputs.turn_credit.any() and outputs.advantage.any()


# ---- progress in the eyes of a reference -----------------------------------------------------------------------------


def test_progress_and_its_window_by_hand():
    # Log-beliefs −2 −1 −.5: distances 2.1 1.1 .6; the first turn hears of the second, (δ₁ + .8 δ₂)/1.8.
    signal = ReferenceProgress(**settings("model/signal/reference_progress"))
    gains = signal(from_beliefs(doubles([[-2, -1, -0.5]]).exp(), torch.ones(1, 3, dtype=torch.bool)))
    same(gains.gain, doubles([[0.646627, 0.606136]]), atol=1e-6)
    window = Window(**settings("model/accumulator/window"))
    same(window(gains.gain, gains.gain_mask), doubles([[0.628631, 0.606136]]), atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_window_is_a_mean_of_what_is_near(seed):
    inputs = random_inputs(seed)
    reward, mask = inputs.gain, inputs.gain_mask
    expected = torch.zeros_like(reward)
    for row, t in mask.nonzero().tolist():
        near = [k for k in range(t, min(t + 2, mask.shape[1])) if mask[row, k]]
        weights = [0.5 ** (k - t) for k in near]
        expected[row, t] = sum(w * reward[row, k] for w, k in zip(weights, near, strict=True)) / sum(weights)
    same(Window(gamma=0.5, length=2)(reward, mask), expected)
    same(Window(gamma=0.5, length=1)(reward, mask), NoAccumulation()(reward, mask))
