"""Small random models of five architectures with tokenizers and chat templates of their kinds, saved as folders."""

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    Gemma3TextConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

TEXTS = [
    "Who directed the film? The director of the film is a person. Search for the birthplace of the director.",
    '<tool_call>\n{"name": "search", "arguments": {"query": "the director of the film"}}\n</tool_call>',
    "<think> I need </think><search> the city </search><result> nothing </result><answer> the answer </answer>",
    "system user assistant tool # Tools You may call a function. Answer the question below.",
]

CHATML = """
{%- if tools -%}
<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}

{% endif %}# Tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% elif messages[0].role == 'system' -%}
<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{%- if loop.previtem.role != 'tool' %}<|im_start|>user{% endif %}
<tool_response>
{{ message.content }}
</tool_response>
{%- if loop.last or loop.nextitem.role != 'tool' %}<|im_end|>
{% endif -%}
{%- elif message.role != 'system' -%}
<|im_start|>{{ message.role }}
{{ message.content.split('</think>')[-1].lstrip('\n') if DROPS and message.role == 'assistant' else message.content -}}
<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% if DROPS and enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}
{%- endif -%}
"""
LLAMA = """
{{- bos_token }}
{%- for message in messages -%}
<|start_header_id|>{{ 'ipython' if message.role == 'tool' else message.role }}<|end_header_id|>

{{ message.content | tojson if message.role == 'tool' else message.content }}<|eot_id|>
{%- endfor -%}
{%- if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif -%}
"""
GEMMA = """
{{- bos_token }}
{%- for message in messages -%}
{%- if message.role not in ('user', 'assistant') %}{{ raise_exception('no role ' + message.role) }}{% endif -%}
<start_of_turn>{{ 'model' if message.role == 'assistant' else 'user' }}
{{ message.content }}<end_of_turn>
{% endfor -%}
{%- if add_generation_prompt %}<start_of_turn>model
{% endif -%}
"""
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
LATENT = {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8}
LATENT |= {"v_head_dim": 12, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
LATENT |= {"moe_intermediate_size": 16, "first_k_dense_replace": 1}
"""Keys and values of different size, and a layer of experts."""
WINDOW = 24
"""Positions that a sliding layer of the small Gemma sees."""

KINDS = {
    "qwen3": (Qwen3Config, {"head_dim": 16}, ["<|im_end|>", "<|endoftext|>", "<|im_start|>"], CHATML, "true"),
    "qwen2": (Qwen2Config, {}, ["<|im_end|>", "<|endoftext|>", "<|im_start|>"], CHATML, "false"),
    "llama": (
        LlamaConfig,
        {},
        ["<|eot_id|>", "<|end_of_text|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"],
        LLAMA,
        "",
    ),
    "gemma": (
        Gemma3TextConfig,
        {"head_dim": 16, "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
        ["<eos>", "<end_of_turn>", "<bos>", "<start_of_turn>"],
        GEMMA,
        "",
    ),
    "deepseek": (DeepseekV3Config, LATENT, ["<|im_end|>", "<|endoftext|>", "<|im_start|>"], CHATML, "false"),
}
ARCHITECTURES = tuple(KINDS)
ENDS = {"qwen3": 2, "qwen2": 2, "llama": 2, "gemma": 2, "deepseek": 2}
"""How many of the special tokens, from the first on, end a message."""


def byte_level(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=450, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def byte_fallback(special: list[str]) -> Tokenizer:
    pieces = ["<unk>", *special, *(f"<0x{byte:02X}>" for byte in range(256))]
    characters = sorted({c for text in TEXTS for c in text.replace(" ", "▁")} - {"\n"})
    vocabulary = {piece: i for i, piece in enumerate([*pieces, *characters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def build_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """The tokenizer of `kind`, with its chat template."""
    _, _, special, template, drops = KINDS[kind]
    raw = (byte_fallback if kind == "gemma" else byte_level)(special)
    bos = {"llama": "<|begin_of_text|>", "gemma": "<bos>"}.get(kind)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=special[0], bos_token=bos)
    tokenizer.chat_template = template.replace("DROPS", drops).strip("\n")
    if kind in ("qwen3", "qwen2"):
        tokenizer.add_tokens(
            [AddedToken(t, special=False) for t in ("<tool_call>", "</tool_call>", "<think>", "</think>")]
        )
    return tokenizer


def build(kind: str, folder: Path) -> Path:
    """Save a random model of `kind` with its tokenizer; returns its folder."""
    config_class, extra, special, *_ = KINDS[kind]
    tokenizer = build_tokenizer(kind)
    ends = tokenizer.convert_tokens_to_ids(special[: ENDS[kind]])
    config: PretrainedConfig = config_class(
        vocab_size=len(tokenizer), eos_token_id=ends, bos_token_id=None, pad_token_id=None, **(SHAPE | extra)
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # what was read long ago moves every log-prob: a wrong mask shows
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(5)
    model.generation_config.eos_token_id = ends
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
