"""The contracts are wide enough: each of these parts is one file and one yaml, and trains."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from lightning import Callback

from a2tgpo.rollouts.trajectory import Split, StopReason
from tests.helpers.tiny_runs import fit

SEARCH_PATH = f"hydra.searchpath=[file://{Path(__file__).parent / 'parts' / 'configs'}]"
SMALL = ("data.module.prompts_per_iteration=4", "data.module.mini_batch_prompts=2", "data.module.group_size=4")
SMALL += ("trainer.max_epochs=1",)


class Keep(Callback):
    """The learner at the end of the iteration."""

    def on_train_epoch_end(self, trainer, pl_module):
        self.learner = pl_module


def train(composed, *overrides):
    """One iteration with the shipped policy; the learner after it."""
    kept = Keep()
    fit(composed("experiment=a2tgpo", SEARCH_PATH, *SMALL, *overrides), [kept])
    return kept.learner


def turns_of(learner):
    """(credit of the turn, turn) for every turn of the rollout set."""
    for row, trajectory in enumerate(learner.trajectories):
        for t, turn in enumerate(trajectory.turns):
            yield (row, t), turn


def test_a_callable_is_a_process_reward(composed):
    own = "model.signal.scorer._target_=tests.parts.process_reward.shorter_is_better"
    learner = train(composed, "model/signal=process_reward", own)
    credit = learner.rollout_batch.credit
    for place, turn in turns_of(learner):
        assert credit.gain[place] == (-len(turn.action_ids) if turn.is_process else 0)
    assert learner.metrics["credit/gain_coverage"] == 1 and not credit.belief.any()
    assert learner.metrics["tokens/forwarded"] > 0


def test_the_truth_about_calls_is_a_process_reward(composed):
    learner = train(composed, "experiment=prm")
    credit = learner.rollout_batch.credit
    for place, turn in turns_of(learner):
        assert bool(credit.gain_mask[place]) == turn.is_process
        assert credit.gain[place] == bool(turn.useful)
    assert learner.metrics["credit/gain/useful_searches"] == 1 and learner.metrics["credit/gain/useless_searches"] == 0


def test_credit_on_anchor_states_is_a_credit(composed):
    learner = train(composed, "experiment=gigpo")
    batch = learner.rollout_batch
    shared = 0
    for state in batch.state_ids[batch.turn_mask].unique():
        members = batch.turn_mask & (batch.state_ids == state)
        assert batch.credit.turn_credit[members].sum() == pytest.approx(0, abs=1e-5)
        shared += len(batch.context_ids[:, :-1][members].unique()) > 1
    assert shared, "some state was reached in more than one way"


def test_anchor_states_are_the_passages_seen(composed):
    learner = train(composed)
    batch, trajectories = learner.rollout_batch, learner.trajectories
    seen: dict[tuple, int] = {}
    for row, trajectory in enumerate(trajectories):
        found: frozenset[str] = frozenset()
        for t, turn in enumerate(trajectory.turns):
            key = (trajectory.group, found)
            assert seen.setdefault(key, int(batch.state_ids[row, t])) == batch.state_ids[row, t]
            found |= set(turn.observation_text.removeprefix("<result> ").removesuffix("</result>").split(". "))
    ids = list(seen.values())
    assert len(ids) == len(set(ids))


def test_a_length_penalty_over_a_group_is_a_reward(composed):
    learner = train(composed, "data/reward=length_penalty")
    for group in {t.group for t in learner.trajectories}:
        members = [t for t in learner.trajectories if t.group == group]
        mean = sum(len(t.turns) for t in members) / len(members)
        for t in members:
            assert t.outcome == pytest.approx(t.metrics["success"] - 0.1 * (len(t.turns) - mean))


def test_an_environment_has_two_tools(composed):
    config = composed("experiment=a2tgpo", SEARCH_PATH, "data/environment=two_tools")
    data = instantiate(config.data.module, _convert_="all")
    environment = data.rollout.environment(data.tasks.split(Split.TRAIN)[0])
    assert environment.stop_strings == ("</search>", "</count>", "</answer>")
    assert environment.step("<count> Bemi</count>").observation == "<result> 4 letters</result>"
    assert "<result>" in environment.step("<search> director of Bemi</search>").observation
    assert environment.finish(StopReason.ANSWERED)["calls"] == 2
    learner = train(composed, "data/environment=two_tools")
    assert torch.isfinite(learner.rollout_batch.credit.advantage).all()


def test_an_environment_knows_success_instead_of_exact_match(composed):
    learner = train(composed, "data/environment=guess", "model/signal=none", "data.reward.outcome=success")
    assert "train/em" not in learner.metrics
    assert learner.metrics["train/guesses"] >= 1 and 0 <= learner.metrics["train/success"] <= 1
