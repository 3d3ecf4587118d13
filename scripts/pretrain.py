"""Make an embedded policy: a small Qwen3 that reads well and decides badly.

It imitates demonstrations over freshly made training worlds, with some copy drills mixed in; hidden matrices are
trained with Muon, the rest with AdamW. The policy of `--preset credit` goes on from that of `quick`, with pieces for
collections, and every world it sees keeps its facts in other places. Writes a Hugging Face folder and, beside it,
`pretraining.json`: settings, loss curve, what the policy can do, and the hash of the weights.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from a2tgpo.embedded.collection_demonstrations import SearchHabits, demonstrate_search
from a2tgpo.embedded.demonstrations import Habits, demonstrate
from a2tgpo.embedded.names import SHARED_WORDS, WORDS
from a2tgpo.embedded.placement import Placement
from a2tgpo.embedded.probes import closed_book_em, forced_search_em, home_probability
from a2tgpo.embedded.questions import NARROWING, QuestionMix, make_question
from a2tgpo.embedded.tasks import WorldQuestions, world_of
from a2tgpo.embedded.tokenizer import COLLECTION_PIECES, build_tokenizer
from a2tgpo.embedded.world import World
from a2tgpo.environments.tool_use import ToolUse
from a2tgpo.evaluation.calibration import belief_states, calibration_gap
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.trajectory import Split, Task
from a2tgpo.training.datamodule import RolloutDataModule
from a2tgpo.training.metrics import episode_metrics

BATCH_SIZE, BATCHES_PER_SORT = 64, 8
QUESTIONS_PER_WORLD, COPY_WORDS, UNTRAINED = 8, 12, -100
MUON_LR, ADAMW_LR, WARMUP_STEPS, DECAY_SHARE = 0.02, 2e-3, 100, 0.4
ROOT = Path(__file__).resolve().parents[1]
Play = Callable[[Task, World, np.random.Generator], list[tuple[str, str]]]
"""Plays an episode; returns its (action, observation) texts."""


@dataclass(frozen=True)
class Preset:
    """What the making of one policy differs in from that of another."""

    overrides: tuple[str, ...]
    """Of the experiment it is made for."""
    player: Callable[[Callable[[Task], ToolUse], np.random.Generator], Play]
    """Makes the demonstrator of one world."""
    mix: QuestionMix
    copy_share: float
    words: Sequence[str]
    """That are copied."""
    pieces: Sequence[str]
    """Of the tokenizer, beside those of `quick`."""
    steps: int
    start: Path | None
    """A policy to go on from, which can read: at half the learning rate, and on actions alone."""


def quick_player(make_episode: Callable[[Task], ToolUse], rng: np.random.Generator) -> Play:
    """The demonstrator of worlds that are searched as a whole."""
    return lambda task, world, rng: demonstrate(task, world, make_episode, Habits(), rng)


def credit_player(make_episode: Callable[[Task], ToolUse], rng: np.random.Generator) -> Play:
    """The demonstrator of a world with a placement of its own, with searches enough to find everything."""
    search = make_episode(Task("any", "?", ("any",))).tools["search"]
    placement = replace(search.placement, number=int(rng.integers(10**9)))
    environment = partial(
        make_episode, tools={"search": replace(search, placement=placement)}, max_calls=2 * placement.collections
    )
    return lambda task, world, rng: demonstrate_search(task, world, environment, placement, SearchHabits(), rng)


PRESETS = {
    "quick": Preset(
        overrides=(),
        player=quick_player,
        # Comparing takes the most practice.
        mix=QuestionMix(hop1=0.12, hop2=0.25, hop3=0.23, hop4=0.1, comparison=0.3, narrowing=0.0),
        copy_share=0.15,
        words=WORDS[Split.TRAIN],
        pieces=(),
        steps=2600,
        start=None,
    ),
    "credit": Preset(
        overrides=("preset=credit",),
        player=credit_player,
        mix=QuestionMix(hop1=0.1, hop2=0.25, hop3=0.25, hop4=0.05, comparison=0.35, narrowing=0.85),
        copy_share=0.1,
        words=SHARED_WORDS,
        pieces=COLLECTION_PIECES,
        steps=3000,
        start=ROOT / "src/a2tgpo/policies/tiny",
    ),
}


def experiment_data(preset: Preset) -> RolloutDataModule:
    """Questions, environment and rollouts of the experiment that the policy is made for."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return instantiate(compose("train", list(preset.overrides)).data.module, _convert_="all")


class Demonstrations(IterableDataset[tuple[Tensor, Tensor]]):
    """Endless right-padded batches of demonstrations and copy drills: tokens [B, L], and labels [B, L], which are the
    tokens that are trained on and `UNTRAINED` elsewhere."""

    def __init__(self, preset: Preset, seed: int) -> None:
        self.preset, self.seed = preset, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        torch.set_num_threads(1)
        rng = np.random.default_rng(self.seed)
        texts = self._texts(rng)
        tokenizer = build_tokenizer(self.preset.pieces)
        while True:
            rows = [self._encode(tokenizer, parts) for parts in islice(texts, BATCH_SIZE * BATCHES_PER_SORT)]
            rows.sort(key=len)
            for k in rng.permutation(BATCHES_PER_SORT):
                batch = rows[k * BATCH_SIZE : (k + 1) * BATCH_SIZE]
                width = max(map(len, batch))
                padded = [row + [(tokenizer.pad_token_id, UNTRAINED)] * (width - len(row)) for row in batch]
                yield tuple(torch.tensor(padded).unbind(-1))

    def _encode(self, tokenizer: PreTrainedTokenizerFast, parts: Sequence[tuple[str, bool]]) -> list[tuple[int, int]]:
        """Tokens with their labels, and the end."""
        encoded = [(i, trained) for text, trained in parts for i in tokenizer(text).input_ids]
        return [(i, i if trained else UNTRAINED) for i, trained in (*encoded, (tokenizer.eos_token_id, True))]

    def _texts(self, rng: np.random.Generator) -> Iterator[list[tuple[str, bool]]]:
        """Each text in parts, and whether a part is trained on: actions are, the rest where the policy has to learn to
        read."""
        data = experiment_data(self.preset)
        make_episode = data.rollout.environment
        while True:
            world = world_of(f"{Split.TRAIN}-{rng.integers(2**31)}", data.tasks.size)
            play = self.preset.player(make_episode, rng)
            for index in range(QUESTIONS_PER_WORLD):
                if rng.random() < self.preset.copy_share:
                    words = " ".join(rng.choice(self.preset.words, COPY_WORDS))
                    yield [(f" {words}. {words}", True)]
                else:
                    task = make_question(world, index, self.preset.mix)
                    turns = play(task, world, rng)
                    reading = self.preset.start is None
                    yield [
                        (make_episode(task).prompt(), reading),
                        *((text, trained) for a, o in turns for text, trained in ((a, True), (o, reading))),
                    ]


def build_model(start: Path | None, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A Qwen3 of about 0.66 M parameters: a new one, or the policy to go on from, in which a new piece begins as the
    first of the pieces that it was before."""
    vocab_size = len(tokenizer)
    if start is not None:
        model = Qwen3ForCausalLM.from_pretrained(start, dtype=torch.float32)
        before, known = AutoTokenizer.from_pretrained(start), model.config.vocab_size
        rows = model.resize_token_embeddings(vocab_size, mean_resizing=False).weight
        for i in range(known, vocab_size):
            rows.data[i] = rows.data[before(tokenizer.convert_ids_to_tokens(i).replace("▁", " ")).input_ids[0]]
        return model.train()
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


def train(model: Qwen3ForCausalLM, preset: Preset, steps: int, seed: int) -> list[tuple[int, float]]:
    """Next-token training; returns the loss curve, one point per 50 steps."""
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    scale = 1.0 if preset.start is None else 0.5
    optimizers = [
        torch.optim.Muon(hidden, lr=scale * MUON_LR, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=scale * ADAMW_LR, betas=(0.9, 0.98)),
    ]

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / WARMUP_STEPS, max(0.02, (steps - step) / (DECAY_SHARE * steps)))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    batches = DataLoader(Demonstrations(preset, seed), batch_size=None, num_workers=1, prefetch_factor=16)
    curve, recent, start = [], [], time.perf_counter()
    for step, (ids, labels) in enumerate(islice(batches, steps), 1):
        logits = model(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=UNTRAINED)
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


def weights_hash(folder: Path) -> str:
    """SHA-256 of a policy's weights."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def figures(preset: Preset, policy: Policy) -> dict[str, float]:
    """What the policy can do, on questions of the validation worlds."""
    data = experiment_data(preset)
    tasks = replace(data.tasks, questions_per_world=QUESTIONS_PER_WORLD).split(Split.VALIDATION)
    skill = {
        "skill_em": forced_search_em(policy, tasks, data.rollout.environment),
        "closed_book_em": closed_book_em(policy, tasks, data.rollout.environment),
    }
    return skill if tasks.placement is None else skill | start_figures(policy, data, tasks)


def start_figures(policy: Policy, data: RolloutDataModule, tasks: WorldQuestions) -> dict[str, float]:
    """How the policy plays where facts are kept in collections, and its beliefs against Bayes."""
    prompts = list(enumerate(tasks))
    greedy, sampled = (data.rollout.run(policy, prompts, 1, (0,), greedy=greedy) for greedy in (True, False))
    wrapper = tuple(data.rollout.environment(tasks[0]).dialect.answer_wrapper)
    states = belief_states(policy, sampled, tasks.size, wrapper, 4096)
    narrowing = [state for state in states if state.kind == NARROWING and state.results]
    return {
        "home_probability": home_probability(policy, tasks, data.rollout.environment, tasks.placement),
        "greedy_em": episode_metrics(greedy)["em"],
        "sampled_em": episode_metrics(sampled)["em"],
        "calibration_gap": calibration_gap(states),
        "calibration_gap_narrowing": calibration_gap(narrowing),
    }


def require_ignorance(record: Mapping[str, float], placement: Placement) -> None:
    """Raises ValueError where the policy has learnt from its demonstrations what is kept where."""
    home, chance = record["home_probability"], 1 / placement.collections
    if abs(home - chance) > 0.03 or record["greedy_em"] > 0.2:
        raise ValueError(
            f"home_probability={home:.3f}, greedy_em={record['greedy_em']:.3f}: expected {chance:.3f} ± 0.03 and at "
            "most 0.2; the demonstrations leak the placement"
        )


def main() -> None:
    """Pretrain, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--preset", choices=PRESETS, required=True)
    parser.add_argument("--steps", type=int, help="instead of the preset's number")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    preset = PRESETS[arguments.preset]
    steps, start = arguments.steps or preset.steps, weights_hash(preset.start) if preset.start else None
    tokenizer = build_tokenizer(preset.pieces)
    model = build_model(preset.start, tokenizer)
    curve = train(model, preset, steps, arguments.seed)
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    record = {
        "preset": arguments.preset,
        "start": start,
        "steps": steps,
        "seed": arguments.seed,
        "parameters": model.num_parameters(),
        **figures(preset, Policy(model.eval(), tokenizer)),
        "sha256": weights_hash(arguments.output),
        "loss": curve,
    }
    (arguments.output / "pretraining.json").write_text(json.dumps(record, indent=1) + "\n")
    print({key: value for key, value in record.items() if key != "loss"})
    if "home_probability" in record:
        require_ignorance(record, experiment_data(preset).tasks.placement)


if __name__ == "__main__":
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:  # glibc would give every step's blocks back to the kernel
        limits = {
            "MALLOC_TRIM_THRESHOLD_": "4294967296",
            "MALLOC_MMAP_THRESHOLD_": "4294967296",
            "MALLOC_TOP_PAD_": "268435456",
        }
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | limits)
    main()
