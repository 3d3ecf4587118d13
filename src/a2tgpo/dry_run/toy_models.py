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
from a2tgpo.system.model_source import require_model_source, why_unread
from a2tgpo.training.datamodule import RolloutDataModule

SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
SMALL |= {"moe_intermediate_size": 32}
LAYERS = 2

FEW = {"prompts_per_iteration": 4, "mini_batch_prompts": 2, "group_size": 4, "max_action_tokens": 48}
FEW |= {"max_response_tokens": 256, "max_sessions": 16, "val_tasks": 2, "test_tasks": 2}

CHAT_TEMPLATE = """
{%- for message in messages %}{{ message.role }}: {{ message.content }}{{ eos_token }}{% endfor -%}
{%- if add_generation_prompt %}assistant: {% endif -%}
"""


def real_config(path: str | None, architecture: Mapping[str, Any] | None) -> PretrainedConfig:
    """The configuration of the model in the folder or hub id `path`, of which nothing else is read; without one, what
    `architecture` (its `model_type` and sizes) describes.

    Raises ValueError where neither is given, or `path` has no configuration.
    """
    if path is not None:
        require_model_source("model.policy.path", path)
        try:
            return AutoConfig.from_pretrained(path).get_text_config()
        except (OSError, ValueError) as error:
            raise ValueError(
                f"model.policy.path={path}: {why_unread(path, error)}; expected a folder or a hub id with a config.json"
            ) from error
    if architecture is None:
        raise ValueError("model.policy.path, model/architecture: none is given; expected one of them for debug=shapes")
    sizes = dict(architecture)
    return AutoConfig.for_model(sizes.pop("model_type"), **sizes)


def small_config(real: PretrainedConfig) -> PretrainedConfig:
    """`real` at small width, with one layer of each kind, two at least."""
    values = real.to_dict()
    kinds = values.get("layer_types") or [""] * LAYERS
    layers = sorted({*map(kinds.index, kinds), *range(LAYERS)})
    cut = {
        name: [value[layer] for layer in layers]
        for name, value in values.items()
        if isinstance(value, list) and len(value) == real.num_hidden_layers
    }
    sizes = {name: size for name, size in SMALL.items() if name in values}
    if values.get("num_key_value_heads") == real.num_attention_heads:
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    return real.from_dict(values | cut | sizes | {"num_hidden_layers": len(layers)})


def load_shrunk(
    path: str | None,
    dtype: str,
    attn_implementation: str,
    architecture: Mapping[str, Any] | None,
    tokenizer: str,
    temperature: float,
    top_p: float,
    gradient_checkpointing: bool | str = False,
    compile: bool = False,
    lora: LoraConfig | None = None,
) -> Policy:
    """Takes the place of `load_policy` with all of its options; of the model in `path` the configuration is read alone.
    The tokenizer is the one of the folder `tokenizer`, with a plain chat template.

    Raises ValueError where there is neither a model nor an architecture, or one that predicts otherwise from a cache
    than without one.
    """
    speaker = AutoTokenizer.from_pretrained(tokenizer)
    speaker.chat_template = CHAT_TEMPLATE.strip("\n")
    config = small_config(real_config(path, architecture))
    config.vocab_size, config.bos_token_id = len(speaker), None
    config.eos_token_id, config.pad_token_id = speaker.eos_token_id, speaker.pad_token_id
    model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype], attn_implementation=attn_implementation)
    model.generation_config.eos_token_id = speaker.eos_token_id
    try:
        policy = with_way_to_read(Policy(model, speaker))
    except ValueError as error:
        raise ValueError(f"model.architecture.model_type={config.model_type}: {error}") from error
    prepared = prepare(model, gradient_checkpointing, compile, lora)
    return replace(policy, model=prepared, temperature=temperature, top_p=top_p)


def stand_in(instead: Any, **replaced: Any) -> Any:
    """`instead`, whatever the part was told that it takes the place of."""
    return instead


class ShrunkDataModule(RolloutDataModule):
    """Takes the place of `RolloutDataModule` with few and short episodes; `real` keeps what was asked for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**(settings | FEW))
        self.real = settings


def parameter_counts(real: PretrainedConfig, lora: LoraConfig | None) -> tuple[int, int]:
    """All and trained parameters of the real model, counted on one without storage."""
    with torch.device("meta"):
        model = prepare(AutoModelForCausalLM.from_config(real), False, False, lora)
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, _ in counts), sum(n for n, trained in counts if trained)
