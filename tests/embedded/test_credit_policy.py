"""The policy of preset=credit: it reads well, knows nothing of what is kept where, and believes what it should."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig

import train
from a2tgpo.embedded.probes import closed_book_em, forced_search_em, home_probability
from a2tgpo.embedded.questions import NARROWING
from a2tgpo.embedded.tokenizer import COLLECTION_PIECES, build_tokenizer
from a2tgpo.evaluation.calibration import BeliefState, belief_states, calibration_gap
from a2tgpo.evaluation.runs import read_rows
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.trajectory import Split
from a2tgpo.training.datamodule import RolloutDataModule
from a2tgpo.training.metrics import episode_metrics
from tests.helpers.shipped import pretrained_policy

SHIPPED = Path(__file__).resolve().parents[2] / "src/a2tgpo/policies/credit"
RECORD = json.loads((SHIPPED / "pretraining.json").read_text())


@pytest.fixture
def data(composed: Callable[..., DictConfig]) -> RolloutDataModule:
    return instantiate(composed("experiment=a2tgpo", "preset=credit").data.module, _convert_="all")


@pytest.fixture
def policy() -> Policy:
    return pretrained_policy(str(SHIPPED))


def test_weights_and_tokenizer_are_those_of_the_record() -> None:
    weights = (SHIPPED / "model.safetensors").read_bytes()
    assert len(weights) <= 4 * 2**20 and hashlib.sha256(weights).hexdigest() == RECORD["sha256"]
    built = build_tokenizer(COLLECTION_PIECES).backend_tokenizer.to_str()
    assert json.loads((SHIPPED / "tokenizer.json").read_text()) == json.loads(built)


@pytest.mark.slow
def test_it_has_skill_but_no_knowledge(policy: Policy, data: RolloutDataModule) -> None:
    tasks = [data.tasks.split(Split.VALIDATION)[i] for i in range(200)]
    lists = [task for task in tasks if task.kind == NARROWING]
    assert forced_search_em(policy, tasks, data.rollout.environment) >= 0.95
    assert forced_search_em(policy, lists, data.rollout.environment) >= 0.85
    assert closed_book_em(policy, tasks, data.rollout.environment) <= 0.05


@pytest.mark.slow
def test_it_knows_nothing_of_the_placement(policy: Policy, data: RolloutDataModule) -> None:
    validation = data.tasks.split(Split.VALIDATION)
    prompts = [(i, validation[i]) for i in range(200)]
    home = home_probability(policy, [task for _, task in prompts], data.rollout.environment, validation.placement)
    assert abs(home - 1 / validation.placement.collections) <= 0.03
    greedy, sampled = (data.rollout.run(policy, prompts, 1, (0,), greedy=greedy) for greedy in (True, False))
    assert all(0.08 <= episode_metrics(played)["em"] <= 0.25 for played in (greedy, sampled))


@pytest.mark.slow
def test_its_beliefs_follow_bayes_where_questions_narrow(policy: Policy, data: RolloutDataModule) -> None:
    validation = data.tasks.split(Split.VALIDATION)
    played = data.rollout.run(policy, [(i, validation[i]) for i in range(200)], 1, (0,), greedy=False)
    wrapper = tuple(data.rollout.environment(validation[0]).dialect.answer_wrapper)
    states = belief_states(policy, played, validation.size, wrapper, 4096)
    narrowing = [state for state in states if state.kind == NARROWING]
    nothing, few, one = (
        [state for state in narrowing if low < state.posterior <= high]
        for low, high in ((0, 0.1), (0.1, 0.6), (0.6, 1))
    )
    assert mean_belief(nothing) < 0.05  # it does not guess before it knows anything
    assert abs(mean_belief(few) - sum(state.posterior for state in few) / len(few)) < 0.12
    assert mean_belief(one) > 0.6
    assert calibration_gap(few + one) < calibration_gap([replace(state, belief=0.0) for state in few + one])


def mean_belief(states: list[BeliefState]) -> float:
    return sum(state.belief for state in states) / len(states)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a2tgpo", "grpo"])
def test_any_experiment_trains_it_with_one_step_an_iteration(
    composed: Callable[..., DictConfig], tmp_path: Path, name: str
) -> None:
    sizes = ("trainer.max_epochs=2", "trainer.check_val_every_n_epoch=1", "data.module.val_tasks=50")
    train.train(composed(f"experiment={name}", "preset=credit", *sizes, "data.module.test_tasks=4"))
    assert json.loads((tmp_path / "summary.json").read_text())["optimizer_steps"] == 2
    row = read_rows(tmp_path / "metrics.csv")[2]
    figures = {"first_choice", "first_choice_least", "first_choice_mastered", "repeats", "early_answer", "em"}
    assert {f"val/{figure}" for figure in figures} <= set(row)
    assert {"train/first_choice", "train/repeats", "train/early_answer", "train/em"} <= set(row)
    assert float(row["update/max_log_ratio"]) <= 1e-5  # the first step is the only one
