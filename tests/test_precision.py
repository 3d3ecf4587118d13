"""Sampling, scoring and training run at the trainer's precision, so that the first ratio after a rollout set is 1."""

import pytest
from tiny_runs import SMALL, fit

LORA = ("model/policy=tiny_lora", "model/reference=disabled_adapter")
POLICIES = {"full": (), "lora": LORA, "lora_on_bf16": (*LORA, "model.policy.dtype=bfloat16")}


@pytest.mark.parametrize(
    ("precision", "policy"), [("32-true", "full"), *[("bf16-mixed", policy) for policy in POLICIES]]
)
def test_first_ratio_is_one_at_any_precision(composed, precision, policy):
    settings = ("model.optimizer.lr=0.003", "model.scheduler.num_warmup_steps=0", "data.module.group_size=4")
    metrics = fit(
        composed("experiment=a2tgpo", *SMALL, *POLICIES[policy], *settings, f"trainer.precision={precision}"), []
    ).lightning_module.metrics
    assert metrics["update/first_step_max_log_ratio"] <= (1e-5 if precision == "32-true" else 1e-3)
    assert metrics["update/max_log_ratio"] > 1e-3  # the policy does move
    assert (metrics["policy/rollout_gap_max"] > 1e-3) == (precision == "bf16-mixed")  # sampled in bf16 too


def test_a_precision_that_cannot_be_trained_in_is_refused(composed):
    with pytest.raises(ValueError, match=r"trainer\.precision=bf16-true: expected 32-true or bf16-mixed"):
        fit(composed("experiment=a2tgpo", *SMALL, "trainer.precision=bf16-true"), [])
