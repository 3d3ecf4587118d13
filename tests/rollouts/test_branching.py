"""Trees: which turns two trajectories share, who is trained on them, and what a loss sees of it."""

from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate

from a2tgpo.method.method import PAPER
from a2tgpo.rollouts.branching import Branching
from a2tgpo.rollouts.trajectory import Split
from a2tgpo.scoring.batch import collate
from a2tgpo.scoring.score import score
from a2tgpo.system.errors import SettingError
from a2tgpo.training.record import credit_record
from tests.helpers.shipped import CONFIGS
from tests.helpers.tiny_runs import SHIPPED

SIZE, KEY = 6, (3, 0, 1)
SIGNALS = {path.stem for path in (CONFIGS / "model" / "signal").glob("*.yaml")} - {"served_process_reward"}
"""All but the one that needs a server."""
GROWN = {}


@pytest.fixture
def grown(composed):
    """Policy, wrapper, recipe for a forest, and two trees of six, grown once."""
    if not GROWN:
        config = composed("experiment=tree_grpo", f"paths.policy_dir={SHIPPED}")
        data = instantiate(config.data.module, _convert_="all")
        policy, tasks = instantiate(config.model.policy, _convert_="all"), data.tasks.split(Split.TRAIN)
        recipe = (data.branching, data.rollout, policy, [(0, tasks[2]), (4, tasks[5])])
        wrapper = tuple(config.data.dialect.answer_wrapper)
        GROWN["it"] = policy, wrapper, recipe, grow(recipe)
    return GROWN["it"]


def grow(recipe, key=KEY):
    branching, rollout, policy, prompts = recipe
    return branching(rollout, policy, prompts, SIZE, key)


def prefix(trajectory, n_turns):
    """What a tree cannot tell apart."""
    turns = trajectory.turns[:n_turns]
    return trajectory.group, tuple((turn.action_ids, turn.observation_ids) for turn in turns)


def test_half_of_a_group_branches_off_the_rest_behind_turns_that_another_trajectory_owns(grown):
    trees = grown[3]
    assert [(t.group, t.sample) for t in trees] == [(group, sample) for group in (0, 4) for sample in range(SIZE)]
    for t in trees:
        assert (t.n_shared == 0 or t.sample >= 3) and t.n_shared < len(t.turns)
        earlier = [o for o in trees if o.group == t.group and o.sample < t.sample]
        for n in range(1, t.n_shared + 1):
            owners = [o for o in earlier if len(o.turns) >= n > o.n_shared and prefix(o, n) == prefix(t, n)]
            assert owners, "somebody is trained on it"
    assert sum(t.n_shared > 0 for t in trees) >= 3


def test_the_same_key_grows_the_same_trees_and_another_key_others(grown):
    assert [t.token_ids for t in grow(grown[2])] == [t.token_ids for t in grown[3]]
    assert [t.token_ids for t in grow(grown[2], (4, 0, 1))] != [t.token_ids for t in grown[3]]


def test_shared_turns_are_context_and_trained_on_once(grown):
    policy, _, _, trees = grown
    batch = collate(trees, policy.pad_id)
    for row, t in enumerate(trees):
        assert batch.turn_mask[row].nonzero()[:, 0].tolist() == list(range(t.n_shared, len(t.turns)))
        assert {*batch.turn_ids[row].tolist()} - {-1} == {*range(t.n_shared, len(t.turns))}
        assert not (batch.process_mask & ~batch.turn_mask).any()
        own = [p for turn in t.turns[t.n_shared :] for p in turn.action_logprobs]
        assert batch.rollout_logprobs[row][batch.turn_ids[row] >= 0].tolist() == pytest.approx(own)
    weight = PAPER.aggregation(batch.turn_ids)
    rows = torch.full((len(trees),), 1 / len(trees))
    torch.testing.assert_close(weight.sum(1), rows, rtol=0, atol=1e-6)  # each by the tokens that are its own


def test_a_shared_turn_has_one_gain_in_its_group_and_beliefs_behind_it_are_those_of_its_owner(grown):
    policy, wrapper, _, trees = grown
    scored = score(policy, trees, PAPER.signal.answers, wrapper, 4096)
    credit = PAPER.assign(scored.observed)
    assert torch.equal(credit.gain_mask, scored.batch.process_mask)
    for row, t in enumerate(trees):
        if t.n_shared and credit.gain_mask[row, t.n_shared]:
            gain = credit.belief[row, t.n_shared + 1] - credit.belief[row, t.n_shared]
            assert credit.gain[row, t.n_shared] == gain
        line = credit_record(t, replace(scored.batch, credit=credit), row)
        assert line["n_shared"] == t.n_shared and line["advantage"][: t.n_shared] == [0.0] * t.n_shared
        assert len(line["advantage"]) == len(t.turns) and len(line["belief"]) == len(t.context_lengths)
        assert all(0 < belief <= 1 for belief in line["belief"])
    nodes = scored.observed.node_ids
    owned = nodes[scored.batch.turn_mask]
    shared = [int(nodes[row, t.n_shared - 1]) for row, t in enumerate(trees) if t.n_shared]
    assert all(node in owned for node in shared)


@pytest.mark.parametrize("name", sorted(SIGNALS))
def test_no_signal_gives_a_gain_to_a_turn_that_another_trajectory_owns(grown, composed, name):
    policy, wrapper, _, trees = grown
    signal = instantiate(composed(f"model/signal={name}").model.signal)
    scored = score(policy, trees, signal.answers, wrapper, 4096, without_turns=True)
    gains = signal(scored.observed)
    assert not (gains.gain_mask & ~scored.batch.turn_mask).any()
    assert not gains.gain[~gains.gain_mask].any()


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_that_cannot_work_is_refused(share):
    with pytest.raises(SettingError, match=rf"^data\.branching\.share={share}: expected a number > 0 and < 1"):
        Branching(share)
