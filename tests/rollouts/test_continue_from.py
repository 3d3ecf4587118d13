"""Continuations of recorded prefixes: the same loop from another start, with the embedded task, policy and engine."""

import asyncio
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from a2tgpo.engines.huggingface import HuggingFaceEngine
from a2tgpo.engines.scripted import ScriptedEngine
from a2tgpo.rollouts.protocols import Forkable, StepResult
from a2tgpo.rollouts.start import ForkNoise, SampleNoise, Start
from a2tgpo.rollouts.trajectory import Split, StopReason, Task
from a2tgpo.system.errors import SettingError
from tests.helpers.loops import loop as roomy
from tests.helpers.tiny_runs import ROOT, SHIPPED

KEY = (5, 0, 3)
FORKS = (5, 9)


@pytest.fixture(scope="module")
def played():
    """Rollout, policy and two recorded groups of six."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", ["experiment=a2tgpo", f"paths.policy_dir={SHIPPED}"])
    data = instantiate(config.data.module, _convert_="all")
    policy = instantiate(config.model.policy, _convert_="all")
    tasks = data.tasks.split(Split.TRAIN)
    prompts = [(0, tasks[2]), (1, tasks[5])]
    return data.rollout, policy, data.rollout.run(policy, prompts, 6, KEY, greedy=False)


def resumed(trajectory, n_turns):
    """The start behind `n_turns` turns, with the noise that the trajectory was recorded with."""
    noise = SampleNoise((*KEY, trajectory.group, trajectory.sample))
    prompt = trajectory.prompt_ids
    return Start(trajectory.task, trajectory.group, trajectory.sample, noise, prompt, trajectory.turns[:n_turns])


def without_logprobs(trajectory):
    turns = tuple(replace(turn, action_logprobs=()) for turn in trajectory.turns)
    return replace(trajectory, turns=turns)


def play(rollout, policy, starts):
    return asyncio.run(rollout.play(policy, starts, greedy=False))


def test_the_recorded_noise_gives_the_recorded_trajectory_from_every_prefix(played):
    rollout, policy, recorded = played
    pairs = [(trajectory, n) for trajectory in recorded for n in range(len(trajectory.turns))]
    assert len({n for _, n in pairs}) > 2  # prefixes of different depth in one batch
    again = play(rollout, policy, [resumed(*pair) for pair in pairs])
    for (trajectory, _), other in zip(pairs, again, strict=True):
        assert without_logprobs(other) == without_logprobs(trajectory)
        for turn, twin in zip(trajectory.turns, other.turns, strict=True):
            assert torch.allclose(torch.tensor(turn.action_logprobs), torch.tensor(twin.action_logprobs), atol=1e-5)


def test_a_continuation_keeps_its_prefix_and_spends_what_is_left(played):
    rollout, policy, recorded = played
    longest = max(recorded, key=lambda t: len(t.turns))
    n = len(longest.turns) - 1
    used = len(longest.token_ids) - len(longest.prompt_ids) - len(longest.turns[-1].action_ids)
    tight = replace(rollout, max_response_tokens=used + 3)
    (forks,) = tight.continue_from(policy, [(longest, n)], 4, FORKS)
    assert [fork.sample for fork in forks] == [0, 1, 2, 3]
    for fork in forks:
        assert fork.turns[:n] == longest.turns[:n] and fork.prompt_ids == longest.prompt_ids
        assert len(fork.token_ids) - len(fork.prompt_ids) <= used + 3
        assert fork.stop is StopReason.MAX_TOKENS and fork.outcome == -1.0


def test_every_prefix_has_k_continuations_and_a_whole_trajectory_is_its_own(played):
    rollout, policy, recorded = played
    first, second = recorded[0], recorded[7]
    prefixes = [(first, 0), (first, len(first.turns)), (second, 1)]
    forks = rollout.continue_from(policy, prefixes, 3, FORKS)
    assert [len(of_prefix) for of_prefix in forks] == [3, 3, 3]
    assert [f.turns for f in forks[1]] == [first.turns] * 3 and [f.outcome for f in forks[1]] == [first.outcome] * 3
    assert all(fork.task == second.task and fork.turns[0] == second.turns[0] for fork in forks[2])


def test_the_same_key_gives_the_same_continuations_and_another_key_others(played):
    rollout, policy, recorded = played
    prefixes = [(recorded[0], 0), (recorded[8], 0)]
    once, again, other = (rollout.continue_from(policy, prefixes, 8, key) for key in (FORKS, FORKS, (5, 10)))
    assert once == again != other
    assert len({fork.turns for fork in once[0]}) > 1


@pytest.mark.parametrize("reads", ["block", "segments"])
def test_companions_change_no_continuation(played, reads):
    rollout, policy, recorded = played
    policy = replace(policy, reads=reads)
    prefixes = [(t, n) for t in recorded[:4] for n in range(len(t.turns))]
    together = rollout.continue_from(policy, prefixes, 2, FORKS)
    for i in (0, len(prefixes) // 2, len(prefixes) - 1):
        (alone,) = rollout.continue_from(policy, prefixes[i : i + 1], 2, FORKS)
        assert [f.token_ids for f in alone] == [f.token_ids for f in together[i]]


class CountingEngine(HuggingFaceEngine):
    """Counts what it is given to read and what it samples."""

    def __init__(self):
        super().__init__(max_sessions=64, deterministic=True)
        self.prefixes, self.read, self.sampled = [], 0, 0

    async def open(self, prompt_ids, n):
        self.prefixes.append((tuple(prompt_ids), n))
        return await super().open(prompt_ids, n)

    async def extend(self, session, new_ids, sampling):
        completion = await super().extend(session, new_ids, sampling)
        self.read, self.sampled = self.read + len(new_ids), self.sampled + len(completion.ids)
        return completion


def test_the_prefix_is_read_once_and_then_only_what_is_new(played):
    rollout, policy, recorded = played
    engine = CountingEngine()
    trajectory = max(recorded, key=lambda t: len(t.turns))
    twin = replace(trajectory, sample=99)
    prefixes = [(trajectory, 1), (twin, 1), (trajectory, 2)]
    forks = replace(rollout, engine=engine).continue_from(policy, prefixes, 5, FORKS)
    assert forks[0] == forks[1]
    contexts = [trajectory.token_ids[: trajectory.context_lengths[n]] for n in (1, 2)]
    assert engine.prefixes == [(context, 5) for context in contexts]
    played_tokens = [
        fork.token_ids[len(contexts[i]) :] for i, group in enumerate((forks[0], forks[2])) for fork in group
    ]
    unread = [fork.turns[-1].observation_ids for fork in (*forks[0], *forks[2])]  # a result that ends the episode
    assert engine.read + engine.sampled == sum(map(len, played_tokens)) - sum(map(len, unread))


def test_positions_of_a_continuation_are_the_prefix_once_plus_what_is_new(played):
    rollout, policy, recorded = played
    trajectory = max(recorded, key=lambda t: len(t.turns))
    forwarded = []
    handle = policy.model.register_forward_pre_hook(lambda module, args: forwarded.append(args[0].shape))
    try:
        rollout.continue_from(policy, [(trajectory, 2)], 4, FORKS)
    finally:
        handle.remove()
    assert forwarded[0] == (1, trajectory.context_lengths[2] - 1)  # all but the last token, once for all four
    assert forwarded[1] == (4, 1)


# ---- environments ----------------------------------------------------------------------------------------------------


@dataclass
class Diary:
    """Answers every action with how often it was asked; remembers who was built, asked and forked."""

    task: Task
    log: list
    says: str = "<result> {n}</result>"
    deterministic: bool = True
    stop_strings: tuple = ("</search>",)
    asked: int = 0

    def __post_init__(self):
        self.log.append("built")

    def prompt(self):
        return "Question: x"

    def step(self, action_text):
        self.log.append(action_text)
        self.asked += 1
        stop = StopReason.ANSWERED if self.asked == 3 else None
        return StepResult("" if stop else self.says.format(n=self.asked), stop)

    def state(self):
        return f"asked {self.asked}"

    def finish(self, stop):
        return {"success": 1.0}


class ForkableDiary(Diary):
    def fork(self):
        self.log.append("forked")
        return replace(self)


def loop(environment, engine=None):
    return roomy(engine or ScriptedEngine(lambda key: ["<search> a</search>"] * 3), environment)


TASK = Task("t", "x", ("y",))


def test_a_prefix_is_replayed_once_where_environments_fork_and_once_a_fork_elsewhere(random_policy):
    for kind, replays in ((ForkableDiary, 1), (Diary, 4)):
        log = []
        rollout = loop(partial(kind, log=log))
        (trajectory,) = rollout.run(random_policy, [(0, TASK)], 1, KEY, greedy=False)
        assert isinstance(kind(TASK, []), Forkable) == (replays == 1)
        log.clear()
        rollout.continue_from(random_policy, [(trajectory, 2)], 4, FORKS)
        assert len([entry for entry in log if "search" in entry]) == 2 * replays + 4  # then one action each
        assert log.count("forked") == (3 if replays == 1 else 0)


def test_noise_is_keyed_by_state_fork_and_turn(random_policy):
    keys = []

    class Listening(ScriptedEngine):
        async def extend(self, session, new_ids, sampling):
            keys.append(sampling.key)
            return await super().extend(session, new_ids, sampling)

    rollout = loop(partial(Diary, log=[]), Listening(lambda key: ["<search> a</search>"] * 3))
    (trajectory,) = rollout.run(random_policy, [(0, TASK)], 1, KEY, greedy=False)
    keys.clear()
    rollout.continue_from(random_policy, [(trajectory, 1), (trajectory, 0)], 2, FORKS)
    expected = [
        ForkNoise(FORKS, "t", fork)(turn, f"asked {turn}", ())
        for n in (1, 0)
        for fork in (0, 1)
        for turn in range(n, 3)
    ]
    assert sorted(keys) == sorted(expected) and len(set(keys)) == 2 * 3  # both prefixes meet in the later states


def test_an_environment_without_the_promise_is_not_replayed(random_policy):
    rollout = loop(partial(Diary, log=[], deterministic=False))
    (trajectory,) = rollout.run(random_policy, [(0, TASK)], 1, KEY, greedy=False)
    with pytest.raises(SettingError, match=r"data\.environment\.deterministic"):
        rollout.continue_from(random_policy, [(trajectory, 1)], 2, FORKS)


def test_an_environment_that_breaks_its_promise_is_refused(random_policy):
    (trajectory,) = loop(partial(Diary, log=[])).run(random_policy, [(0, TASK)], 1, KEY, greedy=False)
    moody = loop(partial(Diary, log=[], says="<result> other</result>"))
    with pytest.raises(SettingError, match=r"task t: turn 1 replayed gave another result"):
        moody.continue_from(random_policy, [(trajectory, 2)], 2, FORKS)


@pytest.mark.parametrize("n_turns", [-1, 4])
def test_a_prefix_that_the_trajectory_does_not_have_is_refused(random_policy, n_turns):
    rollout = loop(partial(Diary, log=[]))
    (trajectory,) = rollout.run(random_policy, [(0, TASK)], 1, KEY, greedy=False)
    with pytest.raises(ValueError, match=f"a prefix of {n_turns} turns; the trajectory has 3"):
        rollout.continue_from(random_policy, [(trajectory, n_turns)], 1, FORKS)


def test_a_thought_that_the_prefix_opened_is_replayed_with_its_tag(random_policy):
    log, closing = [], "need</think><search> a</search>"
    rollout = loop(
        partial(Diary, log=log, says="<result> {n}</result><think>"),
        ScriptedEngine(lambda key: ["<search> a</search>", closing, closing] if key == (*KEY, 0, 0) else [closing]),
    )
    (trajectory,) = rollout.run(random_policy, [(0, TASK)], 1, KEY, greedy=False)
    recorded = ["<search> a</search>", f"<think>{closing}", f"<think>{closing}"]
    assert [entry for entry in log if "search" in entry] == recorded
    log.clear()
    ((fork,),) = rollout.continue_from(random_policy, [(trajectory, 2)], 1, FORKS)
    assert [entry for entry in log if "search" in entry] == recorded
    assert fork.turns[2].action_text == closing


@pytest.mark.parametrize("n_turns", [0, 2])
def test_a_prompt_that_is_not_the_recorded_one_is_refused(random_policy, n_turns):
    rollout = loop(partial(Diary, log=[]))
    (trajectory,) = rollout.run(random_policy, [(0, TASK)], 1, KEY, greedy=False)
    other = replace(trajectory, prompt_ids=trajectory.prompt_ids[:-1])
    with pytest.raises(SettingError, match="task t: its prompt is not the recorded one"):
        rollout.continue_from(random_policy, [(other, n_turns)], 1, FORKS)


def test_a_prefix_that_leaves_nothing_to_sample_is_refused(random_policy):
    rollout = loop(partial(Diary, log=[]))
    (trajectory,) = rollout.run(random_policy, [(0, TASK)], 1, KEY, greedy=False)
    used = len(trajectory.token_ids) - len(trajectory.prompt_ids) - len(trajectory.turns[-1].action_ids)
    with pytest.raises(
        ValueError, match=rf"data\.module\.max_response_tokens={used}: a prefix of task t has {used} tokens"
    ):
        replace(rollout, max_response_tokens=used).continue_from(random_policy, [(trajectory, 2)], 1, FORKS)
