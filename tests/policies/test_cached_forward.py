"""In which way a model is read on is found when it is loaded, whatever it is called; or it is refused."""

import pytest
import torch
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM

from a2tgpo.policies.cached_forward import with_way_to_read
from a2tgpo.policies.policy import Policy
from tests.helpers.architectures import SMALL, WAYS, WINDOW, tiny_model
from tests.helpers.model_zoo import SHAPE, build_tokenizer
from tests.helpers.shipped import pretrained_policy

WAY = {kind: way for way, kinds in WAYS.items() for kind in kinds}


@pytest.mark.parametrize("kind", ["gemma3_text", "gpt_oss", "deepseek_v2", "gpt2", "qwen3_5_text", "bloom", "jamba"])
def test_the_way_to_read_is_found_in_bfloat16_too(kind):
    assert with_way_to_read(Policy(tiny_model(kind, torch.bfloat16), None)).reads == WAY[kind]


def test_the_way_to_read_is_found_once_and_kept_under_an_adapter(tmp_path):
    tokenizer = build_tokenizer("qwen2")
    tiny_model("lfm2", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=2)
    assert [pretrained_policy(tmp_path, lora=adapter).reads for adapter in (None, lora)] == ["segments"] * 2


def test_the_error_names_the_folder(tmp_path):
    tokenizer = build_tokenizer("qwen2")
    tiny_model("rwkv", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"model\.policy\.path={tmp_path}: a rwkv model predicts otherwise"):
        pretrained_policy(tmp_path, attn_implementation="eager")


def test_a_model_without_limit_of_positions_has_none():
    policy = Policy(tiny_model("mamba"), None)
    del policy.model.config.max_position_embeddings  # a published one has no such entry
    assert policy.max_length > 10**12
    assert Policy(tiny_model("jamba"), None).max_length == SHAPE["max_position_embeddings"]


def test_positions_end_where_a_longer_text_would_turn_those_already_read():
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "original_max_position_embeddings": 32}
    rope = {"rope_type": "longrope", "rope_theta": 1e4} | factors
    config = AutoConfig.for_model("phi3", **(SMALL | {"rope_parameters": rope, "original_max_position_embeddings": 32}))
    policy = Policy(AutoModelForCausalLM.from_config(config).eval(), None)
    assert policy.max_length == 32
    ids = torch.arange(33)[None]
    with torch.no_grad():
        whole, shorter = (policy.model(ids[:, :n]).logits[0, :30] for n in (33, 32))
    assert (whole - shorter).abs().max() > 1e-4


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
