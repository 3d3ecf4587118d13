"""A sharded model predicts what the whole one does; what cannot be sharded is refused. On two ranks: test_fsdp.py."""

import copy
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from a2tgpo.engines.weight_sync.weights import weights_mark, whole_weights
from a2tgpo.policies.policy import Policy
from a2tgpo.policies.reference import disabled_adapter
from a2tgpo.policies.sharding import gather, is_sharded, scatter, shard, shard_like
from a2tgpo.training.sharded_strategy import ShardedStrategy
from tests.helpers.architectures import SERVED, tiny_model

DOCUMENTED = Path(__file__).resolve().parents[2] / "docs" / "distributed.md"
IDS = torch.arange(5, 45).view(2, 20)


@pytest.fixture
def mesh():
    """One rank that shards among itself."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1, 1), mesh_dim_names=("replicas", "shards"))
    dist.destroy_process_group()


@pytest.fixture
def sharded(random_policy, mesh):
    """`random_policy`, sharded."""
    policy = Policy(copy.deepcopy(random_policy.model), random_policy.tokenizer)
    shard(policy.model, mesh, None)
    return policy


def logits(policy):
    with torch.no_grad():
        return policy.model(IDS).logits


def test_every_weight_is_sharded_and_layers_by_themselves(sharded, mesh):
    assert is_sharded(sharded.model) and all(isinstance(weight, DTensor) for weight in sharded.model.parameters())
    assert [is_sharded(layer) for layer in sharded.model.model.layers] == [True, True]
    shard(sharded.model, mesh, None)  # once more changes nothing


def test_it_predicts_what_the_whole_model_predicts_gathered_or_not(sharded, random_policy):
    expected = logits(random_policy)
    assert torch.equal(logits(sharded), expected)
    gather(sharded.model)
    assert torch.equal(logits(sharded), expected) and torch.equal(logits(sharded), expected)
    assert not any(isinstance(weight, DTensor) for weight in sharded.model.parameters())
    scatter(sharded.model)
    assert torch.equal(logits(sharded), expected)


def test_what_was_gathered_follows_the_weights(sharded):
    gather(sharded.model)
    before = logits(sharded)
    scatter(sharded.model)
    with torch.no_grad():
        for weight in sharded.model.parameters():
            weight.mul_(1.1)
    gather(sharded.model)
    assert not torch.equal(logits(sharded), before)


def test_layers_are_gathered_in_the_compute_dtype_and_the_head_as_it_is(random_policy, mesh):
    shard(random_policy.model, mesh, torch.bfloat16)
    gather(random_policy.model)
    layers = random_policy.model.model.layers
    assert {weight.dtype for weight in layers.parameters()} == {torch.bfloat16}
    assert random_policy.model.get_output_embeddings().weight.dtype == torch.float32
    scatter(random_policy.model)
    assert {weight.dtype for weight in layers.parameters()} == {torch.float32}


def test_an_adapter_learns_and_can_be_disabled(random_policy, mesh):
    base = logits(random_policy)
    lora = LoraConfig(target_modules="all-linear", init_lora_weights=False)
    policy = Policy(get_peft_model(random_policy.model, lora).eval(), random_policy.tokenizer)
    shard(policy.model, mesh, None)
    torch.testing.assert_close(logits(disabled_adapter(policy)), base, rtol=0, atol=1e-6)
    policy.model(IDS).logits.square().mean().backward()
    grads = {name for name, weight in policy.model.named_parameters() if weight.grad is not None}
    assert grads == {name for name, _ in policy.model.named_parameters() if "lora_" in name}
    assert grads == whole_weights(policy).keys()


def test_weights_are_taken_apart_and_put_together(sharded, random_policy):
    mark = weights_mark(sharded)
    whole = whole_weights(sharded)
    for name, weight in random_policy.model.state_dict().items():
        assert torch.equal(whole[name], weight) and not isinstance(whole[name], DTensor)
        part = shard_like(weight, sharded.model.state_dict()[name])
        assert torch.equal(part.to_local(), weight) and part.to_local().data_ptr() != weight.data_ptr()
    assert weights_mark(sharded) == mark


def test_a_model_whose_layers_are_not_known_is_refused(random_policy, mesh, monkeypatch):
    monkeypatch.setattr(random_policy.model, "_no_split_modules", None)
    with pytest.raises(ValueError, match=r"^trainer=fsdp: a qwen3 model does not name its .*; expected trainer=ddp$"):
        shard(random_policy.model, mesh, None)


def test_layers_that_share_weights_are_refused(random_policy, mesh):
    one, two = random_policy.model.model.layers
    two.mlp = one.mlp
    with pytest.raises(ValueError, match=r"^trainer=fsdp: .* of a qwen3 model share weights; expected trainer=ddp$"):
        shard(random_policy.model, mesh, None)


def test_replicas_divide_the_ranks():
    strategy = ShardedStrategy(replicas=2, timeout=timedelta(hours=1))
    strategy.parallel_devices = [torch.device("cpu")] * 3
    with pytest.raises(ValueError, match=r"^trainer.strategy.replicas=2: expected a divisor of the 3 ranks$"):
        strategy.setup_environment()


def refused(kind, mesh):
    """Is the tiny model refused? Otherwise it predicts what it did before, and all that learns has a gradient."""
    model = tiny_model(kind)
    with torch.no_grad():
        expected = model(IDS, use_cache=False).logits
    try:
        shard(model, mesh, None)
    except ValueError:
        return True
    logits = model(IDS, use_cache=False).logits
    torch.testing.assert_close(logits.detach(), expected, rtol=0, atol=1e-5, msg=kind)
    logits.float().square().mean().backward()
    return False


@pytest.mark.slow
def test_all_architectures_but_a_few_can_be_sharded(mesh):
    found = {kind for kind in SERVED if refused(kind, mesh)}
    assert found == {"biogpt", "ctrl", "zamba", "zamba2"}
    assert all(kind in DOCUMENTED.read_text() for kind in found)
