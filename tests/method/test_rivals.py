"""The rivals as compositions: each experiment's method on numbers worked out by hand, and where it meets another."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from a2tgpo.method.signals.none import NoSignal
from a2tgpo.method.signals.process_reward import ProcessReward
from a2tgpo.method.turns import TurnCredit
from a2tgpo.rollouts.trajectory import StopReason, Task, Trajectory, Turn
from tests.helpers.experiments import RIVALS
from tests.helpers.observed import from_beliefs, random_observed, random_tokens

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "credit_and_loss.json").read_text())
LOSS = GOLDEN["loss"]
COMPOSED = {}
"""Configurations by experiment: composing takes far longer than any case here."""


@pytest.fixture
def rival(composed):
    """`rival("rloo", slot__key=value)`: the method of an experiment."""

    def build(experiment, **values):
        if experiment not in COMPOSED:
            COMPOSED[experiment] = composed(f"experiment={experiment}")
        config = COMPOSED[experiment].copy()
        for key, value in values.items():
            OmegaConf.update(config, "model." + key.replace("__", "."), value)
        return instantiate(config.model.method, _convert_="all")

    return build


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=0, atol=tolerance)


def played(gains, answered, outcome, group_ids=None):
    """Trajectories whose process turns have these gains, with or without a terminal turn."""
    width = max(len(row) + last for row, last in zip(gains, answered, strict=True))
    steps = torch.tensor([row + [0.0] * (width - len(row)) for row in gains], dtype=torch.float64).cumsum(1)
    belief = torch.nn.functional.pad(steps, (1, 0)) + 1 + steps.abs().amax()
    counts = torch.tensor([len(row) for row in gains])[:, None]
    turn_mask = torch.arange(width) < counts + torch.tensor(answered)[:, None]
    others = {"outcome": torch.tensor(outcome, dtype=torch.float64), "turn_mask": turn_mask}
    return from_beliefs(belief, torch.arange(width + 1) <= counts, group_ids=group_ids, **others)


FOUR = played([[0.5, -0.1], [0.1], [], [0.2]], [True] * 4, [1, 0, 0, 1])
"""One prompt: three, two, one and two turns; half of the trajectories succeed."""


# ---- one advantage a trajectory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        ("grpo", [1.0, -1.0, -1.0, 1.0]),
        ("rloo", [2 / 3, -2 / 3, -2 / 3, 2 / 3]),
        ("dr_grpo", [0.5, -0.5, -0.5, 0.5]),
        ("gspo", [1.0, -1.0, -1.0, 1.0]),
        ("rft", [1.0, 0.0, 0.0, 1.0]),
    ],
)
def test_every_turn_has_its_trajectorys_advantage(rival, experiment, expected):
    credit = rival(experiment).assign(FOUR)
    close(credit.advantage, torch.tensor(expected, dtype=torch.float64)[:, None] * FOUR.turn_mask)
    assert not credit.turn_credit.any() and not credit.gain_mask.any()


@pytest.mark.parametrize("seed", range(3))
def test_leaving_one_out_is_centring_times_n_over_n_minus_one(rival, seed):
    seen = random_observed(seed)
    size = (seen.group_ids[:, None] == seen.group_ids).sum(1, keepdim=True).double()
    centred = rival("dr_grpo").assign(seen).advantage
    close(rival("rloo").assign(seen).advantage, centred * torch.where(size > 1, size / (size - 1), 0.0))
    assert centred.any()


def step(method, credit, tokens):
    """Loss and gradient by log-prob of one mini-batch."""
    logprobs = tokens.logprobs.clone().requires_grad_()
    weight = method.weigh(tokens.turn_ids, tokens.old_logprobs, tokens.rollout_logprobs)
    loss, clipped = method.loss(logprobs, tokens.old_logprobs, tokens.turn_ids, credit, weight)
    return loss.detach(), torch.autograd.grad(loss, logprobs)[0], clipped


@pytest.mark.parametrize(
    ("experiment", "case"),
    [
        ("grpo", "token|seq-mean-token-mean|adaptive=False"),
        ("gspo", "sequence|seq-mean-token-mean|adaptive=False"),
        ("dapo", "token|token-mean|adaptive=False"),
    ],
)
def test_loss_and_gradient_are_golden(rival, experiment, case):
    method = rival(experiment, clipper__eps_low=LOSS["eps_low"], clipper__eps_high=LOSS["eps_high"])
    turn_ids = torch.tensor(LOSS["turn_id"])
    advantage = torch.tensor([[1.5, -0.8], [-0.6, 0.9]], dtype=torch.float64)
    low, high = method.clipper(advantage)
    credit = replace(TurnCredit.zeros(2, 2), advantage=advantage, clip_low=low, clip_high=high)
    tokens = random_tokens(torch.ones(2, 2, dtype=torch.bool), 0, 0.0)
    old = torch.zeros(turn_ids.shape, dtype=torch.float64)
    delta = torch.tensor(LOSS["delta_logp"], dtype=torch.float64)
    tokens = replace(tokens, turn_ids=turn_ids, logprobs=delta, old_logprobs=old, rollout_logprobs=old)
    loss, gradient, _ = step(method, credit, tokens)
    close(loss, LOSS["results"][case]["loss"], 1e-6)
    close(gradient, LOSS["results"][case]["grad_wrt_logp"], 1e-6)


def test_dapo_has_the_credit_of_grpo_and_more_room_above(rival):
    dapo, grpo = (rival(name).assign(FOUR) for name in ("dapo", "grpo"))
    close(dapo.advantage, grpo.advantage)
    close(dapo.clip_low, grpo.clip_low)
    close(dapo.clip_high, torch.full_like(grpo.clip_high, 0.28))


def test_dr_grpo_divides_by_the_longest_response_there_can_be(rival, composed):
    tokens = random_tokens(FOUR.turn_mask, 0, drift=0.1)
    weight = rival("dr_grpo").weigh(tokens.turn_ids, tokens.old_logprobs, tokens.old_logprobs)
    own = tokens.turn_ids >= 0
    close(weight[own], torch.full_like(weight[own], 1 / (4 * 384)), 1e-7)
    assert composed("experiment=dr_grpo", "data.module.max_response_tokens=96").model.aggregation.max_length == 96


def test_rejection_sampling_raises_the_likelihood_of_successes_and_of_nothing_else(rival):
    tokens, method = random_tokens(FOUR.turn_mask, 0, drift=0.5), rival("rft")
    loss, gradient, clipped = step(method, method.assign(FOUR), tokens)
    own = tokens.turn_ids >= 0
    succeeded = own & torch.tensor([True, False, False, True])[:, None]
    mean = torch.where(succeeded, tokens.logprobs, 0.0).sum(1) / own.sum(1)
    close(loss, -mean.sum() / 4, 1e-7)  # shares are fp32
    assert torch.equal(gradient != 0, succeeded) and (gradient <= 0).all() and not clipped.any()


# ---- gains and outcomes pooled, or apart -----------------------------------------------------------------------------


def test_joint_pooling_by_hand(rival):
    # The pool of the prompt: gains 1, 1, outcomes 3, −1; mean 1, standard deviation √2.
    seen = played([[1.0], [1.0]], [True, False], [3.0, -1.0])
    close(rival("igpo_joint").assign(seen).advantage, [[math.sqrt(2), math.sqrt(2)], [-math.sqrt(2), 0.0]])
    discounted = rival("igpo_joint", accumulator__gamma=0.5).assign(seen).advantage
    close(discounted, [[math.sqrt(0.5), math.sqrt(2)], [-math.sqrt(0.5), 0.0]])


def test_apart_by_hand(rival):
    # Gains 1 and 3 become −1 and 1, outcomes 3 and −1 become 1 and −1; the outcome is the reward of the last turn.
    seen = played([[1.0], [3.0]], [True, False], [3.0, -1.0])
    close(rival("igpo_separate").assign(seen).advantage, [[0.0, 1.0], [0.0, 0.0]])


@pytest.mark.parametrize("seed", range(3))
def test_joint_pooling_without_gains_is_grpo(rival, seed):
    seen = random_observed(seed)
    joint = replace(rival("igpo_joint"), signal=NoSignal()).assign(seen)
    close(joint.advantage, rival("grpo").assign(seen).advantage.float(), 1e-6)
    assert joint.advantage.any() and torch.equal(joint.turn_credit, joint.advantage)


@pytest.mark.parametrize("seed", range(3))
def test_turns_without_a_gain_have_the_outcomes_part_alone(rival, seed):
    seen = random_observed(seed)
    credit = rival("igpo_joint", signal__baseline="first_turn").assign(seen)
    last = seen.turn_mask.sum(1) - 1
    ends = ~credit.gain_mask.gather(1, last[:, None])[:, 0]  # the last turn has no gain: it holds the outcome
    first = ends & (last > 0)
    assert torch.equal(credit.advantage[first, 0], credit.advantage[first, last[first]]) and first.any()


# ---- the ladder from pooled gains to a2tgpo --------------------------------------------------------------------------

LADDER = ["rung_1_pooled", "rung_2_turn_group", "rung_3_rescaled", "a2tgpo_fixed_clip", "a2tgpo"]
CHANGES = [{"model.normalizer"}, {"model.accumulator"}, {"model.ratio", "model.clipper"}, {"model.clipper"}]


def test_each_rung_of_the_ladder_changes_one_thing(rival):
    for name in LADDER:
        rival(name)
    parts = [OmegaConf.to_container(COMPOSED[name], resolve=False) for name in LADDER]
    for lower, upper, changed in zip(parts, parts[1:], CHANGES, strict=False):
        assert {f"model.{key}" for key in lower["model"] if lower["model"][key] != upper["model"][key]} == changed
        assert lower["data"] == upper["data"] and lower["trainer"] == upper["trainer"]


@pytest.mark.parametrize("seed", range(3))
def test_the_lowest_rung_has_the_credit_of_igpo_and_the_highest_clips_as_the_one_below_without_beta(rival, seed):
    seen = random_observed(seed)
    assert torch.equal(rival("rung_1_pooled").assign(seen).advantage, rival("igpo_separate").assign(seen).advantage)
    still, fixed = rival("a2tgpo", clipper__beta=0.0).assign(seen), rival("a2tgpo_fixed_clip", clipper__eps_low=0.01)
    close(still.clip_low, fixed.assign(seen).clip_low)


@pytest.mark.parametrize("seed", range(3))
def test_the_second_rung_falls_into_an_objective_and_a_baseline(rival, seed):
    seen = random_observed(seed)
    names = ("rung_2_turn_group", "part_objective", "part_baseline")
    whole, objective, baseline = (rival(name).assign(seen) for name in names)
    close(whole.turn_credit, objective.turn_credit + baseline.turn_credit, 1e-5)
    assert objective.turn_credit.any() and baseline.turn_credit.any()
    for credit in (objective, baseline):
        close(credit.advantage - credit.turn_credit, whole.advantage - whole.turn_credit, 1e-5)


# ---- trees -----------------------------------------------------------------------------------------------------------


def test_a_turn_of_a_tree_is_worth_the_mean_of_its_leaves(rival):
    # Trajectory 1 branches off trajectory 0 behind its first turn, trajectory 2 off trajectory 1 behind its second.
    seen = played([[0.1, 0.1], [0.1, 0.1], [0.1, 0.1], []], [True] * 4, [1, 0, 0, 1])
    nodes = torch.tensor([[0, 1, 2], [0, 3, 4], [0, 3, 5], [6, -1, -1]])
    own = torch.tensor([[True] * 3, [False, True, True], [False, False, True], [True, False, False]])
    credit = rival("tree_grpo").assign(replace(seen, node_ids=nodes, turn_mask=own))
    close(credit.advantage, [[-1 / 3, 1, 1], [0, -1, -1], [0, 0, -1], [1, 0, 0]])
    close(credit.turn_credit, [[-4 / 3, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize("seed", range(3))
def test_a_tree_without_branches_is_grpo(rival, seed):
    seen = random_observed(seed)
    close(rival("tree_grpo").assign(seen).advantage, rival("grpo").assign(seen).advantage)


# ---- process rewards, and controls -----------------------------------------------------------------------------------


def useful(seen, *told):
    """The same trajectories, of which the process turns were useful as told."""
    task = Task("t", "q", ("a",), evidence=("e",))
    turns = [[Turn((1,), (-1.0,), (2,), useful=value) for value in row] for row in told]
    plays = [
        Trajectory(task, int(group), sample, (1,), tuple(own), 0.0, StopReason.ANSWERED)
        for sample, (group, own) in enumerate(zip(seen.group_ids, turns, strict=True))
    ]
    return replace(seen, trajectories=plays)


TOLD = useful(FOUR, [True, False], [False], [], [True])


def test_a_process_reward_takes_the_place_of_the_gain(rival):
    # Turn group 0: scores 1, 0, 1; mean 2/3, standard deviation √2/3. Turn group 1: a lone 0. Outcomes ±1.
    credit = rival("prm").assign(TOLD)
    high, low = 1 / math.sqrt(2), -math.sqrt(2)
    close(credit.gain, [[1, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]])
    hat = [[high, 0, 0], [low, 0, 0], [0, 0, 0], [high, 0, 0]]
    close(credit.normalized_gain, hat, 1e-6)
    close(credit.advantage, [[1 + high / math.sqrt(2), 1, 1], [-1 + low, -1, 0], [-1, 0, 0], [1 + high, 1, 0]], 1e-6)


def test_an_oracle_of_the_gain_makes_prm_a2tgpo(rival):
    gains = [[float(gain) for gain in row] for row in ([0.5, -0.1], [0.1], [], [0.2])]
    scored = replace(rival("prm"), signal=ProcessReward(lambda trajectories: gains))
    expected = rival("a2tgpo").assign(FOUR)
    close(scored.assign(TOLD).advantage, expected.advantage.float(), 1e-5)
    close(scored.assign(TOLD).clip_low, expected.clip_low.float(), 1e-6)


def test_mt_grpo_adds_the_first_turns_reward_up_to_the_first_result(rival):
    credit = rival("mt_grpo").assign(useful(FOUR, [True, True], [False], [], [False]))
    high, low = math.sqrt(2), -1 / math.sqrt(2)  # scores 1, 0, 0
    close(credit.advantage, [[1 + high, 1, 1], [-1 + low, -1, 0], [-1, 0, 0], [1 + low, 1, 0]], 1e-6)
    assert credit.gain_mask.nonzero().tolist() == [[0, 0], [1, 0], [3, 0]]


def test_usefulness_is_a_return_less_that_of_the_others_at_the_same_depth(rival):
    credit = rival("usefulness").assign(useful(FOUR, [True, True], [True], [], [False]))
    # Returns with γ = α = ½: 1.75 1.5 1; 0.5 0; 0; 1 1. Nobody else has a third turn: the others' mean outcome, 1/3.
    close(credit.advantage, [[1.25, 1, 2 / 3], [-5 / 12, -1.25, 0], [-13 / 12, 0, 0], [0.25, 0.25, 0]], 1e-6)
    by_outcome = [[2 / 3, 0.5, 2 / 3], [-2 / 3, -1, 0], [-2 / 3, 0, 0], [2 / 3, 0.5, 0]]
    close(credit.advantage - credit.turn_credit, by_outcome, 1e-6)


@pytest.mark.parametrize("name", ["prm", "mt_grpo"])
def test_without_a_signal_controls_are_the_outcome_alone(rival, name):
    deaf = replace(rival(name), signal=NoSignal()).assign(FOUR)
    close(deaf.advantage, rival("grpo").assign(FOUR).advantage)


def test_noise_alone_is_standard_normal_and_knows_neither_outcome_nor_action(rival):
    many = useful(played([[0.1, 0.1]] * 2000, [True] * 2000, [1.0] * 2000), *[[True, False]] * 2000)
    credit = rival("random").assign(many)
    drawn = credit.advantage[credit.gain_mask]
    assert len(drawn) == 4000 and not credit.advantage[:, 2].any() and len(drawn.unique()) == 4000
    assert abs(drawn.mean()) < 4 / math.sqrt(4000) and abs(drawn.var() - 1) < 4 * math.sqrt(2 / 4000)
    assert abs((credit.advantage[:, 0] * credit.advantage[:, 1]).mean()) < 4 / math.sqrt(2000)
    otherwise = replace(many, outcome=-many.outcome, trajectories=useful(many, *[[False] * 2] * 2000).trajectories)
    assert torch.equal(rival("random").assign(otherwise).advantage, credit.advantage)
    assert not torch.equal(rival("random", signal__seed=1).assign(many).advantage, credit.advantage)


# ---- anchor states ---------------------------------------------------------------------------------------------------


def test_gigpo_by_hand(rival):
    # State 0 is met by the first turns, whose returns are .95², 0 and 1; state 5 by one second turn and one third.
    seen = played([[0.1, 0.1], [0.1], []], [True] * 3, [1, 0, 1])
    seen = replace(seen, state_ids=torch.tensor([[0, 4, 5], [0, 5, -1], [0, -1, -1]]))
    first = torch.tensor([0.95**2, 0.0, 1.0], dtype=torch.float64)
    first = (first - first.mean()) / first.std(correction=0)
    episode = torch.tensor([1 / 3, -2 / 3, 1 / 3], dtype=torch.float64)
    expected = torch.zeros(3, 3, dtype=torch.float64)
    expected[:, 0] = episode + first
    expected[0, 1], expected[0, 2], expected[1, 1] = 1 / 3, 1 / 3 + 1, -2 / 3 - 1
    credit = rival("gigpo").assign(seen)
    close(credit.advantage, expected)
    close(rival("gigpo", credit__omega=0.5).assign(seen).turn_credit, credit.turn_credit / 2)


@pytest.mark.parametrize("seed", range(3))
def test_gigpo_without_weight_or_repeated_states_is_the_centred_outcome(rival, seed):
    seen, centred = random_observed(seed), rival("dr_grpo")
    apart = replace(seen, state_ids=torch.arange(seen.state_ids.numel()).view_as(seen.state_ids))
    for given, omega in ((seen, 0.0), (apart, 1.0)):
        close(rival("gigpo", credit__omega=omega).assign(given).advantage, centred.assign(given).advantage)
    assert rival("gigpo").assign(seen).turn_credit.any()


# ---- what rivals have in common --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_differs_from_grpo_in_the_method_alone(rival, name):
    rival(name), rival("grpo")
    ours, grpo = (OmegaConf.to_container(COMPOSED[experiment], resolve=False) for experiment in (name, "grpo"))
    for one in (ours, grpo):
        for part in ("module", "policy", "reference", "optimizer", "scheduler"):
            one["model"].pop(part)
        one["data"].pop("shaping", None), one["data"]["module"].pop("refill_rounds")  # sampling, of dapo
        one["data"].pop("branching", None), one["data"]["module"].pop("continuations")  # of tree_grpo, fork_credit
    assert ours["data"] == grpo["data"] and ours["trainer"] == grpo["trainer"]
    assert ours["model"] != grpo["model"]
