"""Tiny random models of most architectures, and the way in which each is read on from what it has read.

`python -m tests.helpers.architectures` prints the table of docs/models_and_data.md.
"""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from a2tgpo.policies.cached_forward import with_way_to_read
from a2tgpo.policies.policy import Policy
from tests.helpers.model_zoo import LATENT, SHAPE

WINDOW = 8
"""Positions that sliding layers see, chunks hold and indexers choose: fewer than are read."""
SMALL = SHAPE | {"vocab_size": 300, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
HEADS = {"head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
SHARED_EXPERT = EXPERTS | {"shared_expert_intermediate_size": 16}
SLIDING = HEADS | {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
BY_LAYER = SLIDING | {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 8}
LINEAR_FIRST = {"layer_types": ["linear_attention", "full_attention"]}
DELTA = LINEAR_FIRST | HEADS | {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
DELTA |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
CONVOLUTION = {"layer_types": ["conv", "full_attention"]}
STATE = {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1}
ONE_LAYER_IN_TWO = {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
SLOW_STATE = {"mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False}
MAMBA_AND_BOTH = {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2, "num_key_value_heads": 4}
INDEXED = LATENT | {"index_topk": WINDOW, "index_head_dim": 16, "index_n_heads": 16}
LATENT_LINEAR = LATENT | LOCAL | {"linear_num_heads": 4, "linear_head_dim": 8} | LINEAR_FIRST
UNBOUNDED = 1e-9
"""These bound their time steps from below when they read several tokens, and not when they read one: log-probs then
differ by 1e-3."""
GPT = {"n_embd": 32, "n_head": 4, "n_layer": 2}

BLOCK = {
    "afmoe": SLIDING | EXPERTS | {"num_dense_layers": 1},
    "apertus": {},
    "arcee": {},
    "biogpt": {},
    "bitnet": {},
    "codegen": {"rotary_dim": 4},
    "cohere": {},
    "cohere2": SLIDING,
    "ctrl": GPT | {"dff": 64},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "diffllama": {},
    "doge": {},
    "dots1": ROUTED | HEADS | {"first_k_dense_replace": 1, "n_shared_experts": 1},
    "ernie4_5": HEADS,
    "ernie4_5_moe": HEADS | {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16},
    "exaone4": SLIDING,
    "flex_olmo": EXPERTS,
    "gemma": HEADS,
    "gemma2": SLIDING,
    "gemma3_text": SLIDING,
    "gemma3n_text": BY_LAYER | {"altup_num_inputs": 2, "laurel_rank": 4, "activation_sparsity_pattern": [0.0, 0.0]},
    "gemma4_text": BY_LAYER | {"global_head_dim": 8},
    "glm": HEADS,
    "glm4": HEADS,
    "glm4_moe": HEADS | ROUTED,
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "gpt_neox": {},
    "gpt_oss": SLIDING | LOCAL,
    "gptj": GPT | {"rotary_dim": 4},
    "granite": {},
    "granitemoe": LOCAL,
    "granitemoeshared": LOCAL,
    "helium": HEADS,
    "hunyuan_v1_dense": HEADS,
    "hyperclovax": {},
    "internlm3": HEADS,
    "jais2": {},
    "llama": {},
    "minicpm3": LATENT,
    "minimax_m2": LOCAL | HEADS | {"rotary_dim": 4},
    "ministral3": HEADS,
    "mistral": {"sliding_window": WINDOW},
    "mixtral": LOCAL | {"sliding_window": WINDOW},
    "nanochat": {},
    "nemotron": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": SLIDING,
    "olmoe": EXPERTS,
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "persimmon": {},
    "phi": {},
    "phi3": {"sliding_window": WINDOW},
    "phimoe": LOCAL | {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen2_moe": SHARED_EXPERT,
    "qwen3": HEADS,
    "qwen3_moe": EXPERTS | HEADS,
    "seed_oss": HEADS,
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {"sliding_window": WINDOW},
    "vaultgemma": SLIDING,
    "xglm": {"d_model": 32, "ffn_dim": 64, "attention_heads": 4, "num_layers": 2},
    "youtu": LATENT,
}
SEGMENTS = {
    "bailing_hybrid": LATENT_LINEAR | ROUTED,
    "bamba": STATE | {"mamba_expand": 1, "attn_layer_indices": [1]},
    "bloom": {},
    "deepseek_v32": INDEXED,
    "falcon": {"alibi": True},
    "falcon_h1": STATE | HEADS | {"mamba_d_ssm": 32},
    "glm_moe_dsa": INDEXED,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "window_size": WINDOW, "num_heads": 4},
    "granitemoehybrid": STATE | {"mamba_expand": 1, "layer_types": ["mamba", "attention"], "num_local_experts": 0},
    "kimi_linear": LATENT_LINEAR,
    "lfm2": CONVOLUTION | {"block_ff_dim": 64},
    "lfm2_moe": CONVOLUTION | EXPERTS | {"num_dense_layers": 1},
    "lfm3": SLIDING | {"layer_types": ["conv", "sliding_attention"]},
    "llama4_text": HEADS | {"num_local_experts": 2, "intermediate_size_mlp": 64, "attention_chunk_size": WINDOW},
    "mamba2": {"state_size": 4, "num_heads": 4, "head_dim": 16, "n_groups": 1},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
    "nemotron_h": HEADS
    | {"layers_block_type": ["mamba", "attention", "mlp"], "num_hidden_layers": 3, "n_groups": 1, "ssm_state_size": 8}
    | {"mamba_num_heads": 4, "mamba_head_dim": 8, "time_step_min": UNBOUNDED},
    "olmo_hybrid": DELTA,
    "qwen3_5_moe_text": DELTA | SHARED_EXPERT,
    "qwen3_5_text": DELTA,
    "qwen3_next": DELTA | SHARED_EXPERT,
    "xlstm": {"num_heads": 2, "hidden_size": 128},
    "zamba2": MAMBA_AND_BOTH
    | {"mamba_d_state": 8, "n_mamba_heads": 4, "mamba_headdim": 16, "mamba_ngroups": 1, "num_mem_blocks": 1}
    | {"time_step_min": UNBOUNDED},
}
TOKENS = {
    "falcon_mamba": {"state_size": 4},
    "jamba": ONE_LAYER_IN_TWO | SLOW_STATE | {"num_experts": 2},
    "mamba": {"state_size": 4},
    "zamba": MAMBA_AND_BOTH | SLOW_STATE | {"n_mamba_heads": 2, "attention_head_dim": 16},
}
REFUSED = {
    "bert": {},
    "minimax": LOCAL | LINEAR_FIRST | HEADS | {"block_size": 16},
    "openai-gpt": GPT,
    "recurrent_gemma": HEADS
    | {"block_types": ["recurrent", "attention"], "attention_window_size": 16, "lru_width": 32}
    | {"num_key_value_heads": 1},
    "rwkv": {"attention_hidden_size": 32},
}
WAYS = {"block": BLOCK, "segments": SEGMENTS, "tokens": TOKENS}
SERVED = BLOCK | SEGMENTS | TOKENS


def tiny_model(
    kind: str, dtype: torch.dtype = torch.float32, vocab_size: int = 300, attention: str = "sdpa"
) -> PreTrainedModel:
    """A random model in which everything that was read weighs: a wrong mask or a lost state moves every log-prob."""
    sizes = SMALL | (SERVED | REFUSED)[kind] | {"vocab_size": vocab_size, "vocab_size_per_layer_input": vocab_size}
    config = AutoConfig.for_model(kind, **sizes)
    torch.manual_seed(0)  # for vectors, which stay as they are made
    try:
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype).eval()
    except ValueError:  # some have no other
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=dtype).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape, generator=random) / weight.shape[-1] ** 0.5)
        model.get_output_embeddings().weight.mul_(0.25)  # less rounding
    return model


def found_way(kind: str) -> str:
    """How the tiny model of `kind` is read, or why it is not."""
    try:
        return with_way_to_read(Policy(tiny_model(kind), None)).reads
    except ValueError as error:
        return str(error)


def table(ways: dict[str, str]) -> list[str]:
    """The lines of the table in docs/models_and_data.md, for the ways found for each architecture."""
    lines = ["| read | architectures (`model_type`) |", "|---|---|"]
    for title, way in (("in one block", "block"), ("by segments", "segments"), ("token by token", "tokens")):
        lines.append(f"| {title} | {', '.join(kind for kind in sorted(ways) if ways[kind] == way)} |")
    for title, why in (
        ("refused: from a cache it predicts otherwise", "predicts otherwise"),
        ("refused: runs from none", "does not run"),
    ):
        lines.append(f"| {title} | {', '.join(kind for kind in sorted(ways) if why in ways[kind])} |")
    return lines


if __name__ == "__main__":
    print("\n".join(table({kind: found_way(kind) for kind in SERVED | REFUSED})))
