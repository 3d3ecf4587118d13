"""The models of the benchmarks: the embedded policy, a random one of 30 M, SmolLM2-135M, and Qwen3 of real sizes."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen3Config
from transformers.modeling_outputs import CausalLMOutputWithPast

import a2tgpo.policies
from a2tgpo.policies.policy import Policy
from a2tgpo.policies.pretrained import load_policy, prepare
from benchmarks.harness import Benchmark

EMBEDDED = Path(a2tgpo.policies.__path__[0]) / "tiny"
SMOLLM2 = Path(__file__).resolve().parents[1] / ".cache" / "models" / "smollm2"
POSITIONS = 32768
SHAPES: dict[str, PretrainedConfig] = {
    "30 M": Qwen3Config(
        vocab_size=522,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=10,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
    ),
    "135 M": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
    ),
}
"""Models whose weights are random, unless `make test-real` has left those of SmolLM2-135M ("135 M")."""


def _qwen3(hidden: int, inner: int, layers: int, heads: int, tied: bool = True) -> PretrainedConfig:
    return Qwen3Config(
        vocab_size=151936,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40960,
        tie_word_embeddings=tied,
        pad_token_id=0,
        eos_token_id=1,
    )


SHAPES |= {
    "0.6 B": _qwen3(1024, 3072, 28, 16),
    "1.7 B": _qwen3(2048, 6144, 28, 16),
    "4 B": _qwen3(2560, 9728, 36, 32),
    "8 B": _qwen3(4096, 12288, 36, 32, tied=False),
}
NAMES = ("0.66 M", *SHAPES)


def load(name: str, bench: Benchmark, lora: LoraConfig | None = None, checkpointing: bool = False) -> Policy:
    """A policy in fp32 weights, or an adapter on random ones in bf16, with room for POSITIONS tokens, on the device of
    `bench`, which notes random weights. Raises KeyError for an unknown name."""
    trained = SMOLLM2 if name == "135 M" and SMOLLM2.is_dir() else EMBEDDED
    policy = _from_folder(trained)
    if name != NAMES[0] and trained == EMBEDDED:
        bench.note(f"{name}: random weights.")
        torch.manual_seed(0)
        dtype = torch.float32 if lora is None else torch.bfloat16
        with bench.device:
            model = AutoModelForCausalLM.from_config(SHAPES[name], dtype=dtype, attn_implementation="sdpa")
        policy = Policy(prepare(model, checkpointing, False, lora), policy.tokenizer)
    policy.model.config.max_position_embeddings = POSITIONS  # positions are rotations: a number of the configuration
    policy.model.to(bench.device)
    return policy


def _from_folder(path: Path) -> Policy:
    return load_policy(str(path), "float32", "sdpa", False, False, 1.0, 1.0)


def unlikely_ids(policy: Policy) -> list[int]:
    """Ids that end an action, and those that the tokenizer does not know: a benchmark sets its own lengths."""
    vocabulary = policy.model.config.vocab_size
    return sorted({*policy.end_ids, *range(len(policy.tokenizer), vocabulary)} & set(range(vocabulary)))


@contextmanager
def never_ending(policy: Policy) -> Iterator[None]:
    """Inside, the policy never samples an end token."""
    ids = torch.tensor(unlikely_ids(policy), device=policy.device)

    def forbid(module: object, args: object, out: CausalLMOutputWithPast) -> None:
        out.logits[..., ids] = -math.inf

    with policy.model.register_forward_hook(forbid):
        yield
