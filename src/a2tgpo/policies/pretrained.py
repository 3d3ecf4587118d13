"""A policy from a Hugging Face folder or hub id. The embedded policy is such a folder too."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel

from a2tgpo.policies.policy import Policy
from a2tgpo.system.settings import require_all

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_policy(
    path: str,
    dtype: str,
    attn_implementation: str,
    gradient_checkpointing: bool,
    compile: bool,
    lora: LoraConfig | None = None,
) -> Policy:
    """Load model and tokenizer from `path`, without dropout; with `lora`, freeze the model and train an adapter on it.

    Weights that are trained are best float32, with a trainer that computes in bf16-mixed; those under an adapter may
    be bfloat16. Raises ValueError where `path` is no model folder, an option is unknown, the adapter has dropout, or
    the tokenizer has no end token.
    """
    require_all({"attn_implementation": attn_implementation, "dtype": dtype}, "model.policy")
    if lora is not None and lora.lora_dropout:
        raise ValueError(
            f"model.policy.lora.lora_dropout={lora.lora_dropout}: expected 0, or no ratio would start at 1"
        )
    if Path(path).is_absolute() and not (Path(path) / "config.json").is_file():
        raise ValueError(f"model.policy.path={path}: expected a Hugging Face model folder with a config.json")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, config=_without_dropout(path), dtype=DTYPES[dtype], attn_implementation=attn_implementation
        )
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        why = f"{error}; expected a Hugging Face model folder or a hub id"
        raise ValueError(f"model.policy.path={path}: {why}") from error
    if not tokenizer.is_fast:
        raise ValueError(f"model.policy.path={path}: a slow tokenizer; expected a fast one, which knows offsets")
    if tokenizer.eos_token_id is None:
        raise ValueError(f"model.policy.path={path}: its tokenizer has no end token (eos_token); expected one")
    return Policy(prepare(model, gradient_checkpointing, compile, lora), tokenizer)


def _without_dropout(path: str) -> PretrainedConfig:
    config = AutoConfig.from_pretrained(path)
    for name, value in config.to_dict().items():
        if name.endswith(("dropout", "pdrop")) and value:
            setattr(config, name, 0.0)
    return config


def prepare(
    model: PreTrainedModel, gradient_checkpointing: bool, compile: bool, lora: LoraConfig | None
) -> PreTrainedModel:
    """Checkpointed activations, an adapter, compilation, as asked for; in evaluation mode."""
    if gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if lora is not None:
        model = get_peft_model(model, lora)
    if compile:
        model.compile(dynamic=True)
    return model.eval()
