"""A merged adapter predicts what it predicted on its model, or is refused."""

import pytest
import torch
from peft import LoraConfig

from a2tgpo.policies.merging import merged
from tests.helpers.shipped import pretrained_policy
from tests.helpers.tiny_runs import SHIPPED


def adapted(**lora):
    """The shipped model, whose embedding and head are one, under an adapter that adds something."""
    policy = pretrained_policy(SHIPPED, lora=LoraConfig(task_type="CAUSAL_LM", r=4, **lora))
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in policy.model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
    return policy.model


ADAPTERS = [
    {"target_modules": "all-linear"},
    {"target_modules": ["q_proj", "lm_head"]},
    {"target_modules": ["q_proj", "embed_tokens"]},
    {"target_modules": ["q_proj", "lm_head"], "ensure_weight_tying": True},
    {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("lora", ADAPTERS, ids=str)
@torch.no_grad()
def test_a_merged_model_predicts_as_the_adapter_did(lora):
    model, ids = adapted(**lora), torch.arange(40)[None]
    expected = model(ids).logits
    torch.testing.assert_close(merged(model)(ids).logits, expected, rtol=0, atol=1e-4)


def test_a_merge_that_changes_the_model_is_refused():
    model = adapted(target_modules=["q_proj"])
    first, second = (layer.self_attn.q_proj.get_base_layer() for layer in model.get_base_model().model.layers[:2])
    first.weight = second.weight  # both deltas will land on one weight
    with pytest.raises(ValueError, match=r"model\.policy\.lora: the merged model predicts otherwise .* expected equal"):
        merged(model)
