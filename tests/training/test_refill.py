"""Dynamic sampling: what is asked again, what is left out, and that all ranks take the same steps."""

import pytest
import torch
from lightning import Callback

from a2tgpo.rollouts.trajectory import StopReason, Task, Trajectory
from a2tgpo.training.refill import fill
from tests.helpers.ranks import on_ranks
from tests.helpers.tiny_runs import SHIPPED, SMALL, fit

EQUAL, TELLING = (0.0, 0.0), (1.0, 0.0)


class Script:
    """Plays groups whose outcomes are those of its draws: `outcomes[draw][place]`."""

    def __init__(self, *outcomes):
        self.outcomes, self.asked = outcomes, []

    def draw(self, number):
        return [(place, Task(f"{number}-{place}", "q", ("a",))) for place in self.outcomes[number]]

    def play(self, prompts, number):
        self.asked.append([task.task_id for _, task in prompts])
        return [
            Trajectory(task, place, sample, (1,), (), outcome, StopReason.ANSWERED)
            for place, task in prompts
            for sample, outcome in enumerate(self.outcomes[number][place])
        ]

    def fill(self):
        return fill(range(len(self.outcomes)), self.draw, self.play)


def test_places_with_equal_outcomes_are_asked_something_else_until_they_differ_or_draws_run_out():
    script = Script(
        {0: TELLING, 1: EQUAL, 2: EQUAL, 3: ()},  # every episode of place 3 failed
        {0: EQUAL, 1: TELLING, 2: EQUAL, 3: EQUAL},
        {0: EQUAL, 1: EQUAL, 2: EQUAL, 3: TELLING},
    )
    filled = script.fill()
    assert script.asked == [["0-0", "0-1", "0-2", "0-3"], ["1-1", "1-2", "1-3"], ["2-2", "2-3"]]
    tasks = {place: {t.task.task_id for t in group} for place, group in filled.groups.items()}
    assert tasks == {0: {"0-0"}, 1: {"1-1"}, 2: {"2-2"}, 3: {"2-3"}}
    assert list(filled.groups) == [0, 1, 2, 3] and filled.telling == [0, 1, 3] and filled.n_played == 9


def test_what_differs_at_once_is_not_asked_again():
    script = Script({0: TELLING, 1: TELLING}, {0: TELLING, 1: TELLING})
    assert script.fill().n_played == 2 and len(script.asked) == 1


def test_ranks_play_equally_often_whatever_they_found(monkeypatch):
    scripts = [Script({0: TELLING}, {0: TELLING}, {0: TELLING}), Script({1: EQUAL}, {1: EQUAL}, {1: EQUAL})]
    filled = on_ranks(monkeypatch, 2, lambda rank: scripts[rank].fill())
    assert [script.asked for script in scripts] == [[["0-0"], [], []], [["0-1"], ["1-1"], ["2-1"]]]
    assert [one.telling for one in filled] == [[0], []]


# ---- in the training loop --------------------------------------------------------------------------------------------


class Keep(Callback):
    """The learner, and the mini-batches it was given."""

    def __init__(self):
        self.batches = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.learner = pl_module
        self.batches.append(batch)


def train(composed, *overrides):
    """One iteration of four prompts in two steps."""
    kept = Keep()
    fit(composed("experiment=dapo", *SMALL, "trainer.max_epochs=1", *overrides), [kept])
    return kept


def test_what_stays_equal_is_left_out_and_the_rest_weighs_what_it_counts(composed):
    kept = train(composed, f"paths.policy_dir={SHIPPED}", "data.module.refill_rounds=1", "data.module.group_size=6")
    played, metrics = kept.learner.trajectories, kept.learner.metrics
    places = {t.group for t in played}
    assert places and all(len({t.metrics["success"] for t in played if t.group == place}) == 2 for place in places)
    assert metrics["train/groups_left_out"] == 1 - len(places) / 4 and 1 < metrics["train/groups_played"] <= 2
    for step, batch in enumerate(kept.batches):
        own = batch.turn_ids >= 0
        assert {*batch.group_ids[own.any(1)].tolist()} == places & {2 * step, 2 * step + 1}
        weight = kept.learner.method.weigh(batch.turn_ids, batch.old_logprobs, batch.rollout_logprobs)
        even = torch.full_like(weight[own], 1 / max(int(own.sum()), 1))
        torch.testing.assert_close(weight[own], even, rtol=0, atol=1e-7)


def test_where_nothing_differs_every_step_is_taken_with_nothing_to_train_on(composed, policy_dir):
    kept = train(composed, f"paths.policy_dir={policy_dir}", "data.module.refill_rounds=1")
    assert len(kept.batches) == 2 and all(not (batch.turn_ids >= 0).any() for batch in kept.batches)
    metrics = kept.learner.metrics
    assert (metrics["train/groups_left_out"], metrics["train/groups_played"], metrics["update/loss"]) == (1.0, 2.0, 0.0)


def test_the_penalty_is_part_of_the_outcome_in_training_alone(composed):
    shaped = ("data.shaping.buffer=384", "data.module.refill_rounds=0", f"paths.policy_dir={SHIPPED}")
    learner = train(composed, *shaped).learner
    for t in learner.trajectories:
        earned = t.metrics["em"] if t.stop is StopReason.ANSWERED else -1.0
        assert t.outcome == pytest.approx(earned - (len(t.token_ids) - len(t.prompt_ids)) / 384)
    data = learner.trainer.datamodule
    played = data.rollout_greedy(list(enumerate(data.draw_tasks(0)[:2])))
    assert {t.outcome for t in played} <= {-1.0, 0.0, 1.0}
