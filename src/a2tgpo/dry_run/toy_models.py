"""A dry run: everything composes and runs once, with a random model of the real architecture at small width and few
episodes, and with nothing downloaded."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from a2tgpo.policies.cached_forward import with_way_to_read
from a2tgpo.policies.policy import Policy
from a2tgpo.policies.pretrained import DTYPES, prepare
from a2tgpo.training.datamodule import RolloutDataModule

SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"num_key_value_heads": 2, "head_dim": 16}

FEW = {"prompts_per_iteration": 4, "mini_batch_prompts": 2, "group_size": 4, "max_action_tokens": 48}
FEW |= {"max_response_tokens": 256, "max_sessions": 16, "val_tasks": 2, "test_tasks": 2}

CHAT_TEMPLATE = """
{%- for message in messages %}{{ message.role }}: {{ message.content }}{{ eos_token }}{% endfor -%}
{%- if add_generation_prompt %}assistant: {% endif -%}
"""


def real_config(architecture: Mapping[str, Any]) -> PretrainedConfig:
    """The configuration that `architecture` (its `model_type` and sizes) describes."""
    sizes = dict(architecture)
    return AutoConfig.for_model(sizes.pop("model_type"), **sizes)


def load_shrunk(
    path: str | None,
    dtype: str,
    attn_implementation: str,
    architecture: Mapping[str, Any] | None,
    tokenizer: str,
    gradient_checkpointing: bool = False,
    compile: bool = False,
    lora: LoraConfig | None = None,
) -> Policy:
    """Takes the place of `load_policy` with all of its options; `path` is not read. The tokenizer is the one of the
    folder `tokenizer`, with a plain chat template.

    Raises ValueError where no architecture was chosen, or one that predicts otherwise from a cache than without one.
    """
    if architecture is None:
        raise ValueError("model/architecture: none is chosen; expected one for debug=shapes, or an experiment with one")
    speaker = AutoTokenizer.from_pretrained(tokenizer)
    speaker.chat_template = CHAT_TEMPLATE.strip("\n")
    sizes = {name: size for name, size in SMALL.items() if name != "head_dim" or name in architecture}
    special = {"eos_token_id": speaker.eos_token_id, "pad_token_id": speaker.pad_token_id, "bos_token_id": None}
    config = real_config({**architecture, **sizes, "vocab_size": len(speaker)})
    for name, value in special.items():
        setattr(config, name, value)
    model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype], attn_implementation=attn_implementation)
    model.generation_config.eos_token_id = speaker.eos_token_id
    try:
        policy = with_way_to_read(Policy(model, speaker))
    except ValueError as error:
        raise ValueError(f"model.architecture.model_type={config.model_type}: {error}") from error
    return replace(policy, model=prepare(model, gradient_checkpointing, compile, lora))


class ShrunkDataModule(RolloutDataModule):
    """Takes the place of `RolloutDataModule` with few and short episodes; `real` keeps what was asked for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**(settings | FEW))
        self.real = settings


def parameter_counts(architecture: Mapping[str, Any], lora: LoraConfig | None) -> tuple[int, int]:
    """All and trained parameters of the real model, counted on one without storage."""
    with torch.device("meta"):
        model = prepare(AutoModelForCausalLM.from_config(real_config(architecture)), False, False, lora)
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, _ in counts), sum(n for n, trained in counts if trained)
