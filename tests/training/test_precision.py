"""Sampling, scoring and training run at the trainer's precision, so that the first ratio after a rollout set is 1."""

import re

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.tiny_runs import SMALL, fit

LORA = ("model/policy=tiny_lora", "model/reference=disabled_adapter")
POLICIES = {"full": (), "lora": LORA, "lora_on_bf16": (*LORA, "model.policy.dtype=bfloat16")}


@pytest.mark.parametrize(
    ("precision", "policy"),
    [
        pytest.param("32-true", "full", marks=pytest.mark.slow),
        pytest.param("bf16-mixed", "full", marks=pytest.mark.slow),
        pytest.param("bf16-mixed", "lora", marks=pytest.mark.slow),
        ("bf16-mixed", "lora_on_bf16"),
    ],
)
def test_first_ratio_is_one_at_any_precision(composed, precision, policy):
    settings = ("model.optimizer.lr=0.003", "model.scheduler.num_warmup_steps=0", "data.module.group_size=4")
    metrics = fit(
        composed("experiment=a2tgpo", *SMALL, *POLICIES[policy], *settings, f"trainer.precision={precision}"), []
    ).lightning_module.metrics
    assert metrics["update/first_step_max_log_ratio"] <= (1e-5 if precision == "32-true" else 1e-3)
    assert metrics["update/first_step_turns_outside"] == 0.0
    assert (metrics["credit/log_gain_noise"] > 1e-4) == (precision == "bf16-mixed" or "bf16" in policy)
    assert metrics["update/max_log_ratio"] > 1e-3  # the policy does move
    assert (metrics["policy/rollout_gap_max"] > 1e-3) == (precision == "bf16-mixed")  # sampled in bf16 too


class Casts(TorchDispatchMode):
    """Counts casts of the weights at these addresses to bfloat16."""

    def __init__(self, weights):
        super().__init__()
        self.weights, self.count = {weight.data_ptr() for weight in weights}, 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        casts = (torch.ops.aten._to_copy.default, torch.ops.aten.to.dtype)  # the second in inference mode
        if op in casts and args[0].data_ptr() in self.weights:
            self.count += torch.bfloat16 in (*args[1:], (kwargs or {}).get("dtype"))
        return op(*args, **(kwargs or {}))


class CountedRollouts(Callback):
    """Counts the casts of each training and each greedy rollout set."""

    def __init__(self):
        self.counts = []

    def setup(self, trainer, pl_module, stage):
        play = trainer.datamodule.rollout.run

        def run(*args, **kwargs):
            with Casts(pl_module.model.parameters()) as casts:
                trajectories = play(*args, **kwargs)
            self.counts.append(casts.count)
            return trajectories

        object.__setattr__(trainer.datamodule.rollout, "run", run)


def test_a_rollout_casts_each_weight_once(composed):
    config = composed("experiment=a2tgpo", *SMALL, "trainer.precision=bf16-mixed", "trainer.max_epochs=1")
    watch = CountedRollouts()
    data, learner = (instantiate(part.module, _convert_="all") for part in (config.data, config.model))
    settings = {"enable_checkpointing": False, "detect_anomaly": False, "logger": False}
    trainer = instantiate(config.trainer, callbacks=[watch], **settings, _convert_="all")
    trainer.fit(learner, data)
    assert len(watch.counts) == 2 and 0 < max(watch.counts) <= len(list(learner.model.parameters()))


def test_a_precision_that_cannot_be_trained_in_is_refused(composed):
    with pytest.raises(ValueError, match=r"trainer\.precision='bf16-true': expected 32-true or bf16-mixed"):
        fit(composed("experiment=a2tgpo", *SMALL, "trainer.precision=bf16-true"), [])


def test_training_all_weights_in_bfloat16_is_refused(composed):
    message = r"model\.policy\.dtype=bfloat16: expected float32 for weights that are trained, or an adapter"
    with pytest.raises(InstantiationException) as error:
        fit(composed("experiment=a2tgpo", *SMALL, "model.policy.dtype=bfloat16"), [])
    assert re.match(message, str(error.value.__cause__))
