"""Make the embedded policy: a small Qwen3 that reads well and decides badly.

It imitates demonstrations over freshly made training worlds, with some copy drills mixed in; hidden matrices are
trained with Muon, the rest with AdamW. Writes a Hugging Face folder and, beside it, `pretraining.json`: settings,
loss curve, what the policy can do, and the hash of the weights.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from transformers import Qwen3Config, Qwen3ForCausalLM

from a2tgpo.embedded.demonstrations import Habits, demonstrate
from a2tgpo.embedded.names import WORDS
from a2tgpo.embedded.probes import closed_book_em, forced_search_em
from a2tgpo.embedded.questions import QuestionMix, make_question
from a2tgpo.embedded.tasks import EmbeddedTasks, world_of
from a2tgpo.embedded.tokenizer import build_tokenizer
from a2tgpo.environments.tool_use import ToolUse
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.trajectory import Split, Task

BATCH_SIZE, BATCHES_PER_SORT = 64, 8
QUESTIONS_PER_WORLD, COPY_SHARE, COPY_WORDS = 8, 0.15, 12
MIX = QuestionMix(hop1=0.12, hop2=0.25, hop3=0.23, hop4=0.1, comparison=0.3, narrowing=0.0)  # comparing takes the most practice
MUON_LR, ADAMW_LR, WARMUP_STEPS, DECAY_SHARE = 0.02, 2e-3, 100, 0.4
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def experiment_data() -> tuple[EmbeddedTasks, Callable[[Task], ToolUse]]:
    """Questions and environment of the embedded experiment."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        data = compose("train").data
    return instantiate(data.tasks), instantiate(data.environment, _convert_="all")


class Demonstrations(IterableDataset[Tensor]):
    """Endless right-padded batches [B, L] of demonstrations and copy drills."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __iter__(self) -> Iterator[Tensor]:
        torch.set_num_threads(1)
        rng = np.random.default_rng(self.seed)
        texts = self._texts(rng)
        tokenizer = build_tokenizer()
        while True:
            rows = [
                [*tokenizer(text).input_ids, tokenizer.eos_token_id]
                for text in islice(texts, BATCH_SIZE * BATCHES_PER_SORT)
            ]
            rows.sort(key=len)
            for k in rng.permutation(BATCHES_PER_SORT):
                batch = rows[k * BATCH_SIZE : (k + 1) * BATCH_SIZE]
                width = max(map(len, batch))
                yield torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in batch])

    def _texts(self, rng: np.random.Generator) -> Iterator[str]:
        tasks, make_episode = experiment_data()
        while True:
            world = world_of(f"{Split.TRAIN}-{rng.integers(2**31)}", tasks.size)
            for index in range(QUESTIONS_PER_WORLD):
                if rng.random() < COPY_SHARE:
                    words = " ".join(rng.choice(WORDS[Split.TRAIN], COPY_WORDS))
                    yield f" {words}. {words}"
                else:
                    task = make_question(world, index, MIX)
                    turns = demonstrate(task, world, make_episode, Habits(), rng)
                    yield make_episode(task).prompt() + "".join(a + o for a, o in turns)


def build_model(vocab_size: int) -> Qwen3ForCausalLM:
    """A Qwen3 of about 0.66 M parameters."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )


def train(model: Qwen3ForCausalLM, steps: int, seed: int, pad_id: int) -> list[tuple[int, float]]:
    """Next-token training on all tokens; returns the loss curve, one point per 50 steps."""
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(hidden, lr=MUON_LR, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=ADAMW_LR, betas=(0.9, 0.98)),
    ]

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / WARMUP_STEPS, max(0.02, (steps - step) / (DECAY_SHARE * steps)))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    batches = DataLoader(Demonstrations(seed), batch_size=None, num_workers=1, prefetch_factor=16)
    curve, recent, start = [], [], time.perf_counter()
    for step, ids in enumerate(islice(batches, steps), 1):
        logits = model(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=pad_id)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        recent.append(loss.item())
        if step % 50 == 0:
            curve.append((step, round(sum(recent) / len(recent), 4)))
            print(f"step {step:5d}  loss {curve[-1][1]:.4f}  {time.perf_counter() - start:6.0f} s", flush=True)
            recent.clear()
    return curve


def main() -> None:
    """Pretrain, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer))
    curve = train(model, arguments.steps, arguments.seed, tokenizer.pad_token_id)
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    tasks, make_episode = experiment_data()
    tasks = replace(tasks, questions_per_world=QUESTIONS_PER_WORLD).split(Split.VALIDATION)
    policy = Policy(model.eval(), tokenizer)
    weights = (arguments.output / "model.safetensors").read_bytes()
    record = {
        "steps": arguments.steps,
        "seed": arguments.seed,
        "parameters": model.num_parameters(),
        "skill_em": forced_search_em(policy, tasks, make_episode),
        "closed_book_em": closed_book_em(policy, tasks, make_episode),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "loss": curve,
    }
    (arguments.output / "pretraining.json").write_text(json.dumps(record, indent=1) + "\n")
    print({key: value for key, value in record.items() if key != "loss"})


if __name__ == "__main__":
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:  # glibc would give every step's blocks back to the kernel
        limits = {
            "MALLOC_TRIM_THRESHOLD_": "4294967296",
            "MALLOC_MMAP_THRESHOLD_": "4294967296",
            "MALLOC_TOP_PAD_": "268435456",
        }
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | limits)
    main()
