"""A policy that keeps more than keys and values is trained from end to end."""

import csv
import json

import pytest
import torch
from peft import LoraConfig

import train
from a2tgpo.embedded.tokenizer import build_tokenizer
from a2tgpo.policies.policy import Policy
from a2tgpo.policies.pretrained import prepare
from a2tgpo.scoring.score import token_stats
from tests.helpers.architectures import tiny_model
from tests.helpers.shipped import pretrained_policy
from tests.helpers.tiny_runs import SMALL

LORA = ("model/policy=pretrained_lora", "model/reference=disabled_adapter", "model.module.kl_coef=0.01")
EAGER, SAVING = "model.policy.attn_implementation=eager", "model.policy.gradient_checkpointing=true"
NO_OUT = "model.policy.lora.exclude_modules=[out_proj,dt_proj]"
RUNS = {
    "qwen3_5_text": ("model/policy=pretrained",),
    "lfm2": (*LORA, "model.policy.dtype=float32"),
    "jamba": ("model/policy=pretrained", SAVING),
    "falcon_h1": (*LORA, "model.policy.dtype=float32", NO_OUT),
    "mamba2": ("model/policy=pretrained", SAVING, EAGER),
    "bloom": ("model/policy=pretrained", EAGER),
}


def longest(malformed, unanswered, outcome):
    """A reward that differs between the episodes of any policy: their lengths."""
    return lambda trajectories: [len(trajectory.token_ids) / 100 for trajectory in trajectories]


def folder_of(kind, folder):
    tokenizer = build_tokenizer()
    tiny_model(kind, vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in ("qwen3_5_text", "lfm2") else pytest.mark.slow) for kind in RUNS]
)
def test_an_iteration_runs_end_to_end(composed, tmp_path, kind):
    settings = (f"model.policy.path={folder_of(kind, tmp_path / 'policy')}", "data.module.val_tasks=1")
    settings += ("data.module.test_tasks=1", f"data.reward._target_={longest.__module__}.longest")
    train.train(composed("experiment=a2tgpo", *SMALL, "trainer.max_epochs=1", *RUNS[kind], *settings))
    assert json.loads((tmp_path / "summary.json").read_text())["optimizer_steps"] == 2
    with (tmp_path / "metrics.csv").open() as file:
        row = list(csv.DictReader(file))[-1]
    assert float(row["policy/rollout_gap_max"]) < 1e-5
    assert float(row["update/first_step_max_log_ratio"]) == 0 < float(row["update/grad_norm"])


def gradients(policy):
    """By name; and the weights that are trained."""
    ids = torch.arange(40)[None]
    turn_ids = torch.zeros_like(ids)
    turn_ids[0, 0] = -1
    policy.model.train()
    token_stats(policy, ids, turn_ids, with_entropy=False).logprobs.sum().backward()
    return {name: weight.grad for name, weight in policy.model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("kind", ["qwen3_5_text", "lfm2", "falcon_h1", "mamba2", "jamba"])
def test_checkpointed_activations_change_no_gradient(kind):
    plain = gradients(Policy(tiny_model(kind), None))
    saving = prepare(tiny_model(kind), gradient_checkpointing=True, compile=False, lora=None)
    assert saving.is_activation_checkpointing
    for name, grad in gradients(Policy(saving, None)).items():
        torch.testing.assert_close(grad, plain[name], atol=1e-5 * float(plain[name].abs().max()), rtol=0)


def test_a_model_without_checkpointing_is_refused_by_key():
    with pytest.raises(ValueError, match=r"gradient_checkpointing=true: a ctrl model has none; expected false"):
        prepare(tiny_model("ctrl"), gradient_checkpointing=True, compile=False, lora=None)


def test_modules_that_take_no_adapter_are_refused_and_may_be_left_out():
    lora = {"task_type": "CAUSAL_LM", "target_modules": "all-linear", "r": 2}
    with pytest.raises(ValueError, match=r"model\.policy\.lora: .*'out_proj' is incompatible.*; expected modules that"):
        prepare(tiny_model("mamba2"), False, False, LoraConfig(**lora))
    for kind in ("mamba2", "jamba"):
        adapted = prepare(tiny_model(kind), False, False, LoraConfig(**lora, exclude_modules=["out_proj", "dt_proj"]))
        assert all(grad is not None for grad in gradients(Policy(adapted, None)).values())


def test_a_model_without_the_attention_asked_for_is_refused_by_key(tmp_path):
    with pytest.raises(ValueError, match=r"no sdpa attention; expected model\.policy\.attn_implementation=eager"):
        pretrained_policy(folder_of("mamba2", tmp_path))
