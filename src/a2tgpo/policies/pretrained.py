"""A policy from a Hugging Face folder or hub id. The embedded policy is such a folder too."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from a2tgpo.policies.policy import Policy


def load_policy(
    path: str, dtype: str = "float32", attn_implementation: str = "sdpa", lora: LoraConfig | None = None
) -> Policy:
    """Load model and tokenizer from `path`; with `lora`, freeze the model and train an adapter on it.

    Raises ValueError where a local `path` is no model folder, or the attention takes no four-dimensional mask.
    """
    if attn_implementation not in ("sdpa", "eager"):
        raise ValueError(f"model.policy.attn_implementation={attn_implementation!r}: expected 'sdpa' or 'eager'")
    if Path(path).is_absolute() and not (Path(path) / "config.json").is_file():
        raise ValueError(f"model.policy.path={path}: expected a Hugging Face model folder with a config.json")
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=getattr(torch, dtype), attn_implementation=attn_implementation
    )
    if lora is not None:
        model = get_peft_model(model, lora)
    return Policy(model.eval(), AutoTokenizer.from_pretrained(path))
