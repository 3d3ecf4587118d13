"""Values of states from forks: against a game whose values are known, and in the data module."""

from dataclasses import dataclass, replace

import pytest
import torch

from a2tgpo.engines.scripted import ScriptedEngine
from a2tgpo.method.credits.fork_value import ForkValue
from a2tgpo.rollouts.forks import with_values
from a2tgpo.rollouts.protocols import Completion, StepResult
from a2tgpo.rollouts.trajectory import StopReason, Task
from a2tgpo.scoring.batch import collate
from a2tgpo.scoring.score import observe
from tests.helpers.loops import loop
from tests.helpers.observed import credit_inputs

TASK = Task("t", "x", ("y",))
HEADS, TAILS = "<search> heads</search>", "<search> tails</search>"


class CoinEngine(ScriptedEngine):
    """Heads or tails with the noise of the action's key, p(heads) = 0.7."""

    def __init__(self):
        super().__init__(lambda key: [])

    async def extend(self, session, new_ids, sampling):
        rng = torch.Generator().manual_seed(hash(sampling.key) % 2**31)
        text = HEADS if torch.rand(1, generator=rng).item() < 0.7 else TAILS
        ids = tuple(self._policy.tokenizer(text, add_special_tokens=False).input_ids)
        return Completion(ids, (-1.0,) * len(ids), "stop")


@dataclass
class Coins:
    """Three coins; two heads or more win."""

    task: Task
    deterministic: bool = True
    stop_strings: tuple = ("</search>",)
    said: str = ""

    def prompt(self):
        return "Question: x"

    def step(self, action_text):
        self.said += "h" if "heads" in action_text else "t"
        return StepResult("<result> on</result>", StopReason.ANSWERED if len(self.said) == 3 else None)

    def state(self):
        return self.said

    def finish(self, stop):
        return {"success": float(self.said.count("h") >= 2)}

    def fork(self):
        return replace(self)


def known_value(said):
    """P(two heads or more | what was thrown)."""
    if len(said) == 3:
        return float(said.count("h") >= 2)
    return 0.7 * known_value(said + "h") + 0.3 * known_value(said + "t")


def thrown(trajectory):
    return "".join("h" if "heads" in turn.action_text else "t" for turn in trajectory.turns)


def valued(policy, k, key):
    """Six episodes, and the same with values."""
    rollout = loop(CoinEngine(), Coins)
    played = rollout.run(policy, [(0, TASK)], 6, (5,), greedy=False)
    return played, with_values(rollout, policy, played, k, key)


def test_values_and_credit_are_those_of_the_game_within_four_standard_errors(random_policy):
    k = 300
    played, trajectories = valued(random_policy, k, (1, 2))
    assert len({thrown(trajectory) for trajectory in played}) > 2
    batch = collate(trajectories, 0)
    unscored = torch.zeros(len(trajectories), batch.turn_mask.shape[1] + 1, 1)
    observed = observe(trajectories, batch, unscored, unscored[:, 0].bool(), unscored[..., 0].bool())
    inputs = credit_inputs(torch.zeros(batch.turn_mask.shape), batch.process_mask, batch.turn_mask, batch.outcome)
    credit = ForkValue()(replace(inputs, value=observed.value)).advantage
    for before, trajectory, row in zip(played, trajectories, credit, strict=True):
        assert replace(trajectory, values=()) == before and trajectory.values[-1] == trajectory.outcome
        exact = torch.tensor([known_value(thrown(trajectory)[:n]) for n in range(4)])
        error = (exact * (1 - exact) / k).sqrt()
        assert ((torch.tensor(trajectory.values) - exact).abs() <= 4 * error + 1e-6).all()
        both = (error[1:].square() + error[:-1].square()).sqrt()  # more than that of paired forks
        assert ((row - exact.diff()).abs() <= 4 * both + 1e-6).all()
        assert float(row.sum()) == pytest.approx(trajectory.outcome - trajectory.values[0], abs=1e-6)  # conservation


def test_the_same_key_gives_the_same_values_and_another_key_others(random_policy):
    once, again, other = (valued(random_policy, 8, key)[1] for key in ((1, 2), (1, 2), (1, 3)))
    assert once == again != other


def test_without_forks_there_are_no_values_and_no_credit_from_them(random_policy):
    played = loop(CoinEngine(), Coins).run(random_policy, [(0, TASK)], 2, (5,), greedy=False)
    batch = collate(played, 0)
    unscored = torch.zeros(2, 4, 1)
    assert observe(played, batch, unscored, unscored[:, 0].bool(), unscored[..., 0].bool()).value is None
    inputs = credit_inputs(torch.zeros(2, 3), batch.process_mask, batch.turn_mask, batch.outcome)
    with pytest.raises(ValueError, match=r"model/credit=fork_value: expected trajectories with values"):
        ForkValue()(inputs)
