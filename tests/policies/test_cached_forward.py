"""A model that cannot be served from a cache of keys and values is refused when it is loaded, whatever it is called."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from a2tgpo.policies.cached_forward import require_cached_forward
from a2tgpo.policies.policy import Policy
from tests.helpers.model_zoo import LATENT, SHAPE, WINDOW, build_tokenizer
from tests.helpers.shipped import pretrained_policy

SMALL = SHAPE | {"vocab_size": 300, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LINEAR = {"layer_types": ["linear_attention", "full_attention"], "head_dim": 8}
LINEAR |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
STATE = {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1}
PERIODS = {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
PLACES = {"block_types": ["recurrent", "attention"], "attention_window_size": 16}
SLIDING = {"head_dim": 8, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}

REFUSED = {
    "qwen3_5_text": LINEAR,
    "qwen3_next": LINEAR | EXPERTS | {"shared_expert_intermediate_size": 16},
    "jamba": PERIODS | {"num_experts": 2, "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    "falcon_h1": STATE | {"head_dim": 8, "mamba_d_ssm": 32},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_ff_dim": 64},
    "mamba": {"state_size": 4},
    "mamba2": {"state_size": 4, "num_heads": 4, "head_dim": 16, "n_groups": 1},
    "recurrent_gemma": PLACES | {"head_dim": 8, "lru_width": 32, "num_key_value_heads": 1},
    "llama4_text": {"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 64},
    "deepseek_v32": LATENT,
    "bloom": {},
    "falcon": {"alibi": True},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
}
SERVED = {
    "qwen2": {},
    "mistral": {"sliding_window": 8},
    "gemma3_text": SLIDING,
    "gpt_oss": SLIDING | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v2": LATENT,
    "minicpm3": LATENT,
    "qwen3_moe": EXPERTS | {"head_dim": 8},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2},
}


def model_of(kind, sizes, dtype=torch.float32):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(SMALL | sizes))
    attention = {"attn_implementation": "eager", "dtype": dtype}  # some of these have no other
    return AutoModelForCausalLM.from_config(config, **attention).eval()


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_that_a_cache_of_keys_and_values_does_not_serve_is_refused(kind):
    with pytest.raises(ValueError, match=rf"a {kind} model .*; expected full, sliding-window or latent attention"):
        require_cached_forward(Policy(model_of(kind, REFUSED[kind]), None))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", SERVED)
def test_attention_with_position_ids_is_served(kind, dtype):
    require_cached_forward(Policy(model_of(kind, SERVED[kind], dtype), None))


def test_the_error_names_the_folder(tmp_path):
    tokenizer = build_tokenizer("qwen2")
    model_of("mpt", REFUSED["mpt"] | {"vocab_size": len(tokenizer)}).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"model\.policy\.path={tmp_path}: a mpt model predicts otherwise"):
        pretrained_policy(tmp_path, attn_implementation="eager")


def test_windows_of_a_model_of_text_and_images_are_those_of_its_text():
    text = SMALL | {"head_dim": 8, "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
    images = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=images)
    policy = Policy(AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval(), None)
    assert policy.max_length == SHAPE["max_position_embeddings"]
    positions = torch.arange(2 * WINDOW)[None]
    masks = policy.attention_mask(torch.ones(1, 1, 2 * WINDOW, 2 * WINDOW, dtype=torch.bool), positions, positions)
    assert {kind: int(mask[0, 0, -1].sum()) for kind, mask in masks.items()} == {
        "sliding_attention": WINDOW,
        "full_attention": 2 * WINDOW,
    }
