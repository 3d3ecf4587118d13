"""A policy from a Hugging Face folder or hub id. The embedded policy is such a folder too."""

from dataclasses import replace

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel

from a2tgpo.policies.cached_forward import with_way_to_read
from a2tgpo.policies.checks import require_finite, require_fitting_tokenizer, require_whole
from a2tgpo.policies.policy import Policy
from a2tgpo.system.model_source import require_model_source, why_unread
from a2tgpo.system.settings import require_all, shown

CHECKPOINTED_FROM = 1_000_000_000
"""Parameters from which on `auto` checkpoints activations. Those of 8,192 tokens are, by count, 15 GiB in a model of
0.6 B and 48 GiB in one of 4 B."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_policy(
    path: str,
    dtype: str,
    attn_implementation: str,
    gradient_checkpointing: bool | str,
    compile: bool,
    temperature: float,
    top_p: float,
    lora: LoraConfig | None = None,
) -> Policy:
    """Load model and tokenizer from `path`, without dropout; with `lora`, freeze the model and train an adapter on it.
    Actions are drawn at `temperature`, from the most likely tokens that together have `top_p`.

    Weights that are trained must be float32, with a trainer that may compute in bf16-mixed; those under an adapter may
    be bfloat16. Raises ValueError where `path` is no model folder or a broken one, an option is unknown, the adapter
    has dropout, the tokenizer does not fit, or the model predicts otherwise from a cache than without one.
    """
    own = {"attn_implementation": attn_implementation, "dtype": dtype, "temperature": temperature, "top_p": top_p}
    own |= {"gradient_checkpointing": gradient_checkpointing, "compile": compile}
    require_all(own, "model.policy")
    if lora is not None and lora.lora_dropout:
        raise ValueError(
            f"model.policy.lora.lora_dropout={lora.lora_dropout}: expected 0, or no ratio would start at 1"
        )
    require_model_source("model.policy.path", path)
    try:
        policy = _read(path, DTYPES[dtype], attn_implementation)
    except ValueError as error:
        raise ValueError(f"model.policy.path={path}: {error}") from error
    model = prepare(policy.model, gradient_checkpointing, compile, lora)
    return replace(policy, model=model, temperature=temperature, top_p=top_p)


def _read(path: str, dtype: torch.dtype, attn_implementation: str) -> Policy:
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            path,
            config=_without_dropout(path),
            dtype=dtype,
            attn_implementation=attn_implementation,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `require_whole` names them
        )
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # every kind of broken folder has its own
        if "attn_implementation=" in str(error):
            raise ValueError(
                f"the model has no {attn_implementation} attention; expected model.policy.attn_implementation=eager"
            ) from error
        raise ValueError(f"{why_unread(path, error)}; expected a Hugging Face model folder or a hub id") from error
    require_whole(loading)
    require_finite(model.state_dict())
    require_fitting_tokenizer(model, tokenizer)
    return with_way_to_read(Policy(model, tokenizer))


def _without_dropout(path: str) -> PretrainedConfig:
    config = AutoConfig.from_pretrained(path)
    text = config.get_text_config()
    for name, value in text.to_dict().items():
        if name.endswith(("dropout", "pdrop")) and value:
            setattr(text, name, 0.0)
    return config


def checkpoints_activations(setting: bool | str, parameters: int) -> bool:
    """Are activations of a model of this size computed again in the backward pass, instead of being kept? That takes a
    third more time, and memory that hardly grows with depth; `auto` goes by the size."""
    return parameters >= CHECKPOINTED_FROM if setting == "auto" else bool(setting)


def prepare(
    model: PreTrainedModel, gradient_checkpointing: bool | str, compile: bool, lora: LoraConfig | None
) -> PreTrainedModel:
    """Checkpointed activations, an adapter, compilation, as asked for; in evaluation mode.

    Raises ValueError where the model cannot be given them.
    """
    if checkpoints_activations(gradient_checkpointing, model.num_parameters()):
        if not model.supports_gradient_checkpointing:
            kind = model.config.model_type
            raise ValueError(
                f"model.policy.gradient_checkpointing={shown(gradient_checkpointing)}: a {kind} model has none; "
                "expected false"
            )
        model.activation_checkpointing_enable({"use_reentrant": False})
    if lora is not None:
        try:
            model = get_peft_model(model, lora)
        except ValueError as error:
            raise ValueError(
                f"model.policy.lora: {error}; expected modules that take an adapter (target_modules, exclude_modules)"
            ) from error
    if compile:
        model.get_decoder().compile(dynamic=True)  # what projects to the vocabulary is changed for each pass
    return model.eval()
