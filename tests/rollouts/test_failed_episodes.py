"""An environment that raises or hangs costs its own trajectory: counted, shown, and bounded by a share."""

import math
import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from a2tgpo.engines.scripted import ScriptedEngine
from a2tgpo.environments.tool_use import ToolUse
from a2tgpo.rollouts.protocols import StepResult
from a2tgpo.rollouts.trajectory import StopReason, Task
from a2tgpo.scoring.batch import collate
from a2tgpo.system.daemon_threads import DaemonThreads
from a2tgpo.system.errors import SettingError
from tests.helpers.loops import loop
from tests.helpers.tiny_runs import fit

KEY = (1, 0)


@dataclass
class Fragile:
    """Fails where `breaks` says so, for tasks with `bad` in their name; else answers at the second action."""

    task: Task
    breaks: str
    error: BaseException | None
    deterministic: bool = True
    stop_strings: tuple = ("</search>",)
    acted: int = 0

    def fail_in(self, place):
        if place == self.breaks and "bad" in self.task.task_id:
            if self.error is None:
                threading.Event().wait()
            raise self.error

    def __post_init__(self):
        self.fail_in("build")

    def prompt(self):
        self.fail_in("prompt")
        return f"Question: {self.task.question}"

    def step(self, action_text):
        self.acted += 1
        self.fail_in("step")
        return StepResult(stop=StopReason.ANSWERED) if self.acted == 2 else StepResult("<result> x</result>")

    def state(self):
        self.fail_in("state")

    def finish(self, stop):
        self.fail_in("finish")
        return {"success": 1.0}


def rollout(breaks, error, share=0.5, timeout=60.0):
    engine = ScriptedEngine(lambda key: ["<search> a</search>"] * 2)
    limits = {"episode_timeout": timeout, "max_failed_share": share}
    return loop(engine, lambda task: Fragile(task, breaks, error), **limits)


PROMPTS = [(0, Task("good", "a", ("y",))), (1, Task("bad", "b", ("y",))), (2, Task("well", "c", ("y",)))]
PLACES = ["build", "prompt", "state", "step", "finish"]


@pytest.mark.parametrize("place", PLACES)
def test_an_exception_costs_the_episode_and_nobody_else(random_policy, caplog, place):
    played = rollout(place, RuntimeError("burst pipe")).run(random_policy, PROMPTS, 2, KEY, greedy=False)
    assert [(t.group, t.sample) for t in played] == [(0, 0), (0, 1), (2, 0), (2, 1)]
    assert "2 of 6 episodes failed; the last: task bad: RuntimeError: burst pipe" in caplog.text


@pytest.mark.parametrize("place", PLACES)
def test_an_environment_that_hangs_costs_its_episode(random_policy, caplog, place):
    played = rollout(place, None, timeout=1.0).run(random_policy, PROMPTS, 1, KEY, greedy=False)
    assert [t.group for t in played] == [0, 2]
    assert "more than 1 seconds in the environment" in caplog.text


def test_too_many_failures_end_the_run_with_the_last_of_them(random_policy):
    with pytest.raises(ValueError, match=r"data\.module\.max_failed_share=0\.3: 2 of 6 episodes failed.*burst pipe"):
        rollout("step", RuntimeError("burst pipe"), share=0.3).run(random_policy, PROMPTS, 2, KEY, greedy=False)


@pytest.mark.parametrize(("share", "lost"), [(0.1, 1), (0.0, 0)])
def test_one_of_few_may_be_lost_unless_none_may(random_policy, share, lost):
    def run():
        return rollout("step", RuntimeError("burst pipe"), share).run(random_policy, PROMPTS, 1, KEY, greedy=False)

    if lost:
        assert [t.group for t in run()] == [0, 2]
    else:
        with pytest.raises(ValueError, match=r"max_failed_share=0\.0: 1 of 3 episodes failed"):
            run()


def test_waiting_for_a_thread_is_no_time_of_the_environment(random_policy, monkeypatch):
    monkeypatch.setattr("a2tgpo.rollouts.episode._THREADS", DaemonThreads(1, "single"))

    @dataclass
    class Slow(Fragile):
        def step(self, action_text):
            threading.Event().wait(0.02)
            return super().step(action_text)

    engine = ScriptedEngine(lambda key: ["<search> a</search>"] * 2)
    rollout = loop(engine, lambda task: Slow(task, "", None), episode_timeout=1.0, max_sessions=256)
    assert len(rollout.run(random_policy, PROMPTS, 30, KEY, greedy=False)) == 90  # the last waits for 89 * 0.02 s


@pytest.mark.parametrize("name", ["max_prompt_tokens", "max_response_tokens", "max_action_tokens", "max_sessions"])
def test_a_loop_without_room_is_refused(name):
    with pytest.raises(ValueError, match=rf"data\.module\.{name}=0: expected an integer >= 1"):
        loop(ScriptedEngine(lambda key: []), Fragile, **{name: 0})


def test_a_wrong_setting_ends_the_run(random_policy):
    with pytest.raises(SettingError, match="no such tool"):
        rollout("step", SettingError("no such tool")).run(random_policy, PROMPTS, 1, KEY, greedy=False)


@pytest.mark.parametrize(("name", "value"), [("episode_timeout", 0.0), ("max_failed_share", 1.0)])
def test_limits_that_cannot_hold_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"data\.module\.{name}={value}"):
        rollout("", None, **{{"episode_timeout": "timeout", "max_failed_share": "share"}[name]: value})


def judged(outcomes):
    engine = ScriptedEngine(lambda key: ["<search> a</search>"] * 2)
    return loop(engine, lambda t: Fragile(t, "", None), reward=lambda trajectories: outcomes)


NO_NUMBERS = [math.nan, -math.inf, None, "good", [1.0], 10**400]


@pytest.mark.parametrize("outcome", NO_NUMBERS)
def test_an_outcome_that_is_no_finite_number_is_refused_with_its_task(random_policy, outcome):
    with pytest.raises(SettingError, match=r"^data\.reward: outcome of task bad=.*: expected a finite number$"):
        judged([1.0, outcome, 0.0]).run(random_policy, PROMPTS, 1, KEY, greedy=False)


def test_an_outcome_a_trajectory(random_policy):
    with pytest.raises(ValueError, match=r"^data\.reward: 1 outcomes for 3 trajectories; expected one each"):
        judged([1.0]).run(random_policy, PROMPTS, 1, KEY, greedy=False)


def test_whole_numbers_and_truths_become_floats(random_policy):
    played = judged([1, True, np.float32(0.5)]).run(random_policy, PROMPTS, 1, KEY, greedy=False)
    assert [(type(t.outcome), t.outcome) for t in played] == [(float, 1.0), (float, 1.0), (float, 0.5)]
    assert collate(played, random_policy.pad_id).outcome.dtype == torch.float32


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_a_metric_that_is_no_finite_number_is_refused_with_its_task(random_policy, value):
    @dataclass
    class Judged(Fragile):
        def finish(self, stop):
            return {"success": 1, "style": value if self.task.task_id == "bad" else 0.5}

    rollout = loop(ScriptedEngine(lambda key: ["<search> a</search>"] * 2), lambda task: Judged(task, "", None))
    with pytest.raises(SettingError, match=r"^data\.environment: metrics of task bad: style=.*: expected a finite num"):
        rollout.run(random_policy, PROMPTS, 1, KEY, greedy=False)


def test_training_goes_on_with_groups_of_unequal_size(composed, monkeypatch):
    steps = []
    original = ToolUse.finish

    def sometimes(self, stop):
        steps.append(stop)
        if len(steps) in (1, 5):
            raise RuntimeError("lost")
        return original(self, stop)

    monkeypatch.setattr(ToolUse, "finish", sometimes)
    small = ["data.module.prompts_per_iteration=4", "data.module.mini_batch_prompts=2", "data.module.group_size=4"]
    trainer = fit(composed("experiment=a2tgpo", "data.module.max_failed_share=0.2", "trainer.max_epochs=1", *small), [])
    learner = trainer.lightning_module
    assert len(learner.trajectories) == 14 and learner.metrics["train/failed_episodes"] == 2 / 16
    assert trainer.global_step == 2
    groups = [trajectory.group for trajectory in learner.trajectories]
    for i, rows in enumerate(trainer.datamodule.mini_batches(groups)):
        assert rows == [row for row, group in enumerate(groups) if group // 2 == i]


def test_a_mini_batch_whose_groups_all_failed_still_takes_its_step(composed, monkeypatch):
    original, lost = ToolUse.finish, []

    def lose_one_task(self, stop):
        lost[:] = lost or [self.task.task_id]
        if self.task.task_id in lost:
            raise RuntimeError("lost")
        return original(self, stop)

    monkeypatch.setattr(ToolUse, "finish", lose_one_task)
    small = ["data.module.prompts_per_iteration=4", "data.module.mini_batch_prompts=1", "data.module.group_size=2"]
    trainer = fit(composed("experiment=a2tgpo", "data.module.max_failed_share=0.3", "trainer.max_epochs=1", *small), [])
    assert trainer.global_step == 4
    assert all(torch.isfinite(p).all() for p in trainer.lightning_module.parameters())
