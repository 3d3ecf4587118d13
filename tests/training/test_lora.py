"""LoRA policies: only the adapter learns, and the base model is the reference."""

import pytest
import torch
from hydra.utils import instantiate

from a2tgpo.policies.checkpoint import load_weights
from a2tgpo.policies.reference import disabled_adapter
from a2tgpo.scoring.score import token_stats
from tests.helpers.tiny_runs import SMALL, fit

LORA = ("model/policy=tiny_lora", "model/reference=disabled_adapter")


@pytest.fixture
def trained(composed):
    """The learner after a few iterations of LoRA on the shipped policy."""
    settings = ("trainer.max_epochs=2", "model.optimizer.lr=1e-2")
    return fit(composed("experiment=a2tgpo", *LORA, *SMALL, *settings), []).lightning_module


def test_only_the_adapter_learns_and_the_base_is_the_reference(trained, composed):
    start = instantiate(composed("experiment=a2tgpo").model.policy, _convert_="all")
    weights = {name.replace(".base_layer", ""): p for name, p in trained.model.base_model.model.named_parameters()}
    for name, before in start.model.named_parameters():
        assert torch.equal(weights[name], before), name
    adapters = [p for name, p in trained.model.named_parameters() if "lora_B" in name]
    assert adapters and all(p.requires_grad for p in adapters) and any(p.any() for p in adapters)
    batch = trained.rollout_batch
    with torch.no_grad():
        base, reference, policy = (
            token_stats(p, batch.input_ids, batch.turn_ids).logprobs for p in (start, trained.reference, trained.policy)
        )
    torch.testing.assert_close(reference, base, rtol=0, atol=1e-6)
    assert (policy - base).abs().max() > 1e-3
    assert trained.metrics["policy/kl_to_reference"] > 0


def test_a_checkpoint_holds_the_adapter_alone_and_brings_the_policy_back(composed, tmp_path):
    config = composed("experiment=a2tgpo", *LORA, *SMALL, "trainer.max_epochs=2", "model.optimizer.lr=1e-2")
    trainer = fit(config, [])
    trained = trainer.lightning_module
    trainer.save_checkpoint(tmp_path / "lora.ckpt")
    held = torch.load(tmp_path / "lora.ckpt", weights_only=True)["state_dict"]
    assert held and all("lora_" in name for name in held)
    again = instantiate(config.model.policy, _convert_="all")
    load_weights(again, tmp_path / "lora.ckpt")
    batch = trained.rollout_batch
    with torch.no_grad():
        expected, stats = (token_stats(p, batch.input_ids, batch.turn_ids) for p in (trained.policy, again))
    assert torch.equal(stats.logprobs, expected.logprobs)


def test_a_policy_without_an_adapter_has_none_to_switch_off(random_policy):
    with pytest.raises(ValueError, match="model/reference=disabled_adapter: expected a policy with an adapter"):
        disabled_adapter(random_policy)
