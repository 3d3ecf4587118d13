"""The policy of preset=credit: it reads well, knows nothing of what is kept where, and believes what it should."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig

from a2tgpo.embedded.probes import closed_book_em, forced_search_em, home_probability
from a2tgpo.embedded.questions import NARROWING
from a2tgpo.embedded.tokenizer import COLLECTION_PIECES, build_tokenizer
from a2tgpo.evaluation.calibration import belief_states, calibration_gap
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
    assert forced_search_em(policy, tasks, data.rollout.environment) >= 0.95
    assert closed_book_em(policy, tasks, data.rollout.environment) <= 0.05


@pytest.mark.slow
def test_it_knows_nothing_of_the_placement(policy: Policy, data: RolloutDataModule) -> None:
    validation = data.tasks.split(Split.VALIDATION)
    prompts = [(i, validation[i]) for i in range(200)]
    home = home_probability(policy, [task for _, task in prompts], data.rollout.environment, validation.placement)
    assert abs(home - 1 / validation.placement.collections) <= 0.03
    greedy, sampled = (data.rollout.run(policy, prompts, 1, (0,), greedy=greedy) for greedy in (True, False))
    assert episode_metrics(greedy)["em"] <= 0.2
    assert 0.08 <= episode_metrics(sampled)["em"] <= 0.25


@pytest.mark.slow
def test_its_beliefs_follow_bayes_where_questions_narrow(policy: Policy, data: RolloutDataModule) -> None:
    validation = data.tasks.split(Split.VALIDATION)
    played = data.rollout.run(policy, [(i, validation[i]) for i in range(200)], 1, (0,), greedy=False)
    wrapper = data.rollout.environment(validation[0]).dialect.answer_wrapper
    states = belief_states(policy, played, validation.size, wrapper, 4096)
    narrowing = [state for state in states if state.kind == NARROWING and state.results]
    always_the_prior = [abs(1 / 12 - state.posterior) for state in narrowing]
    assert calibration_gap(narrowing) <= 0.5 * sum(always_the_prior) / len(narrowing)
