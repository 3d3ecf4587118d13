"""The method as a library without any trainer, and inside verl's registry."""

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from a2tgpo.integrations.turns import split_turns, turn_ids
from a2tgpo.integrations.verl import compute_a2tgpo_advantage, register

SOURCE = Path(__file__).parents[2] / "src"


# ---- as a library ----------------------------------------------------------------------------------------------------


def imported(*modules):
    """Top-level packages in memory after a fresh interpreter imported these parts."""
    names = ", ".join(f"a2tgpo.{module}" for module in modules)
    code = f"import json, sys, {names}; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    environment = {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_scoring_credit_clipping_loss_and_viewer_need_neither_lightning_nor_hydra():
    rooms = ("scoring.score", "method.method", "rollouts.loop", "engines.huggingface", "environments.tool_use")
    found = imported(*rooms, "viewer.page", "viewer.text")
    assert "torch" in found and not found & {"lightning", "pytorch_lightning", "hydra", "omegaconf"}


def test_the_credit_for_verl_does_not_need_transformers():
    assert not imported("integrations.verl") & {"transformers", "lightning", "hydra", "trl"}


def test_turns_are_the_runs_of_sampled_tokens():
    sampled = torch.tensor([[0, 1, 1, 0, 0, 1, 0], [1, 0, 1, 1, 1, 0, 0]]).bool()
    assert turn_ids(sampled).tolist() == [[-1, 0, 0, -1, -1, 1, -1], [0, -1, 1, 1, 1, -1, -1]]
    before, turns = split_turns([10, 11, 12, 13, 14, 15, 16], sampled[0].tolist())
    assert before == (10,)
    assert [(turn.action_ids, turn.observation_ids) for turn in turns] == [((11, 12), (13, 14)), ((15,), (16,))]
    assert split_turns([7, 8], [True, True])[1][0].observation_ids == ()


# ---- verl ------------------------------------------------------------------------------------------------------------

VERL_0_9_1 = """
ADV_ESTIMATOR_REGISTRY = {}

def register_adv_est(name_or_enum):
    def decorator(fn):
        if name_or_enum in ADV_ESTIMATOR_REGISTRY and ADV_ESTIMATOR_REGISTRY[name_or_enum] != fn:
            raise ValueError(f"Adv estimator {name_or_enum} has already been registered")
        ADV_ESTIMATOR_REGISTRY[name_or_enum] = fn
        return fn
    return decorator

def get_adv_estimator_fn(name_or_enum):
    return ADV_ESTIMATOR_REGISTRY[name_or_enum]
"""
"""The contract of verl's registry as read in version 0.9.1, for machines without verl."""


@pytest.fixture
def core_algos(tmp_path, monkeypatch):
    """verl's registry: its own where verl is installed, else one of the same contract."""
    if importlib.util.find_spec("verl") is None:
        package = tmp_path / "verl" / "trainer" / "ppo"
        package.mkdir(parents=True)
        (package / "core_algos.py").write_text(VERL_0_9_1)
        monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("verl.trainer.ppo.core_algos")
    for name in [name for name in sys.modules if name.partition(".")[0] == "verl"]:
        del sys.modules[name]


def example():
    """Two prompts of two rows. Gains stand on the first token of a tool result, outcomes on the last of the row."""
    mask = torch.tensor(
        [
            [1, 1, 0, 0, 1, 0, 0, 1, 1, 0],
            [1, 1, 1, 0, 0, 1, 0, 0, 0, 0],
            [1, 0, 0, 0, 1, 1, 1, 1, 0, 0],
            [1, 0, 0, 0, 1, 1, 0, 0, 0, 0],
        ]
    )
    rewards = torch.zeros(mask.shape)
    rewards[0, 2], rewards[0, 5], rewards[0, 8] = 0.2, 0.4, 1.0
    rewards[1, 3], rewards[1, 5] = 0.1, 0.0
    rewards[2, 1], rewards[2, 7] = 0.3, -1.0
    rewards[3, 1], rewards[3, 6], rewards[3, 7] = 0.5, 0.25, 1.0  # ends with a tool result
    return rewards, mask, np.array(["a", "a", "b", "b"], dtype=object)


def test_verl_finds_the_estimator_and_calls_it_as_its_trainer_does(core_algos):
    register()
    rewards, mask, index = example()
    estimator = core_algos.get_adv_estimator_fn("a2tgpo")
    advantages, returns = estimator(token_level_rewards=rewards, response_mask=mask, config={"gamma": 1.0}, index=index)
    assert advantages.shape == returns.shape == mask.shape
    assert (advantages[mask == 0] == 0).all()


def test_advantages_in_verl_are_those_of_the_equations():
    rewards, mask, index = example()
    advantages, _ = compute_a2tgpo_advantage(rewards, mask, index)
    root = 2**0.5
    by_turn = [[(1 + 0) / root + 1, 0 + 1, 1], [-1 / 1 - 1, -1], [-1 - 1, -1], [(1 + 0) / root + 1, 1]]
    for row, own, turns in zip(advantages, mask, by_turn, strict=True):
        found = [float(part[0]) for part in row.tensor_split((own.diff().abs().nonzero()[:, 0] + 1).tolist())]
        assert found[::2][: len(turns)] == pytest.approx(turns, abs=1e-6)


def test_a_reward_manager_that_places_no_gain_is_told_so():
    rewards, mask, index = example()
    last = torch.zeros_like(rewards)
    last[range(4), [8, 5, 7, 7]] = rewards.sum(1)  # one number a sequence, on its last token
    with pytest.raises(ValueError, match="no reward on the first token of any tool result; expected a reward manager"):
        compute_a2tgpo_advantage(last, mask, index)
    alone = mask[:2] * torch.tensor([1, 1, 0, 0, 0, 0, 0, 0, 0, 0])  # one turn each: nothing to place
    advantages, _ = compute_a2tgpo_advantage(torch.eye(2, 10).flip(1), alone, index[:2])
    assert (advantages[alone == 1] == 0).all()


def test_a_response_without_a_sampled_token_is_compared_with_nobody():
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    rewards = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 10.0]])
    same = np.array(["a"] * 3, dtype=object)
    assert not compute_a2tgpo_advantage(rewards, mask, same)[0].any()
    assert not compute_a2tgpo_advantage(rewards, 0 * mask, same)[0].any()


@pytest.mark.parametrize("result", [1, 2])
def test_an_outcome_on_the_last_token_of_a_cut_result_is_an_outcome(result):
    mask = torch.tensor([[1, 1, 0, 1, *[0] * result]] * 2)
    rewards = torch.zeros(mask.shape)
    rewards[:, 2] = torch.tensor([0.5, 0.5])  # the gain of the first turn
    rewards[0, -1] = 1.0
    advantages, _ = compute_a2tgpo_advantage(rewards, mask, np.array(["a", "a"], dtype=object))
    assert advantages[:, 3].tolist() == pytest.approx([1.0, -1.0])
