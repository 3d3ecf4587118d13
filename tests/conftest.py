"""Shared fixtures: a small random policy, the composed configuration, a builder of trajectories."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from transformers import Qwen3Config, Qwen3ForCausalLM

import tests.helpers.checked_shapes  # noqa: F401  # before the first import of the project
from a2tgpo.embedded.tokenizer import build_tokenizer
from a2tgpo.policies.policy import Policy
from a2tgpo.system.process import configure_process
from run_directories import config_hash

ROOT = Path(__file__).resolve().parents[1]
configure_process(threads=1, keep_memory=True)
OmegaConf.register_new_resolver("project_root", lambda: str(ROOT), replace=True)
OmegaConf.register_new_resolver("package_dir", lambda: str(ROOT / "src" / "a2tgpo"), replace=True)
OmegaConf.register_new_resolver("run_dir", lambda *_: "unused", replace=True)
OmegaConf.register_new_resolver("config_hash", config_hash, replace=True)


@pytest.fixture
def composed(tmp_path: Path) -> Iterator[Callable[..., DictConfig]]:
    """`composed("experiment=a2tgpo", …)`: the training configuration with its run directory under `tmp_path`."""

    def compose_config(*overrides: str, config_name: str = "train") -> DictConfig:
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            config = compose(config_name, overrides=list(overrides), return_hydra_config=True)
        with open_dict(config):
            config.hydra.runtime.output_dir = str(tmp_path)
            HydraConfig.instance().set_config(config)
            del config.hydra
        return config

    yield compose_config
    HydraConfig.instance().cfg = None  # or a later test would ask about this run


@pytest.fixture
def random_policy() -> Policy:
    """A two-layer Qwen3 with random weights and the embedded tokenizer, in fp32."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(10)  # what was read long ago moves every log-prob: a wrong mask shows
        for weight in model.model.layers.parameters():
            weight.mul_(10 if weight.dim() == 2 else 1)
    return Policy(model, tokenizer)


@pytest.fixture
def policy_dir(random_policy: Policy, tmp_path: Path) -> Path:
    """`random_policy` as a folder, for `paths.policy_dir`."""
    random_policy.model.save_pretrained(tmp_path / "policy")
    random_policy.tokenizer.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"
