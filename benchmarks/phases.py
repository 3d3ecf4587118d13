"""Rollout, scoring and update of the embedded policy against their floors and the usual ways, in one process.

Every way runs in turn, `--rounds` times. Its CPU seconds are printed, median, least and most, and the token positions
that it pushed through the model, beside the floor: the positions that cannot be avoided.

    python benchmarks/phases.py     # with the project installed: pip install --editable .
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from peers import GenerateEngine, beliefs_all_prefixes, beliefs_prefix_by_prefix

from a2tgpo.rollouts.loop import Rollout
from a2tgpo.rollouts.trajectory import Trajectory
from a2tgpo.scoring.batch import collate, micro_batches
from a2tgpo.scoring.beliefs import plan_beliefs
from a2tgpo.scoring.score import read, token_stats
from a2tgpo.system.process import configure_process
from a2tgpo.training.datamodule import RolloutDataModule
from a2tgpo.training.module import A2TGPOModule

ROOT = Path(__file__).resolve().parents[1]


class Meter:
    """Counts the token positions that go through a model."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.positions = 0
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        self.positions += (args[0] if args else kwargs["input_ids"]).numel()


def load() -> tuple[RolloutDataModule, A2TGPOModule]:
    """Data module and learner of `experiment=a2tgpo`."""
    OmegaConf.register_new_resolver("project_root", lambda: str(ROOT))
    OmegaConf.register_new_resolver("package_dir", lambda: str(ROOT / "src" / "a2tgpo"))
    OmegaConf.register_new_resolver("run_dir", lambda *_: ".")
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", overrides=["experiment=a2tgpo", "model/reference=none"])
    return (
        instantiate(config.data.module, _convert_="all"),
        instantiate(config.model.module, _convert_="all"),
    )


def measure(ways: dict[str, Callable[[], object]], floor: int, meter: Meter, rounds: int) -> dict[str, float]:
    """Run every way in turn and print a Markdown table; the first way is the one others are compared with.

    Returns the median CPU seconds of each way."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    positions = {}
    for _ in range(rounds):
        for name, way in ways.items():
            meter.positions, start = 0, time.process_time()
            way()
            seconds[name].append(time.process_time() - start)
            positions[name] = meter.positions
    medians = {name: median(values) for name, values in seconds.items()}
    first = next(iter(medians.values()))
    print("| way | CPU seconds: median (least to most) | ratio | token positions | of the floor |")
    print("|---|---|---|---|---|")
    for name, value in medians.items():
        spread = f"{value:.2f} ({min(seconds[name]):.2f} to {max(seconds[name]):.2f})"
        print(f"| {name} | {spread} | {value / first:.2f} | {positions[name]} | {positions[name] / floor:.2f} |")
    print()
    return medians


def rollout_floor(trajectories: list[Trajectory]) -> int:
    """Prompts once a group, then every token once; the last token of an episode need not be read."""
    prompts = {t.group: len(t.prompt_ids) for t in trajectories}
    return sum(prompts.values()) + sum(len(t.token_ids) - len(t.prompt_ids) - 1 for t in trajectories)


def main() -> None:
    """Measure the three phases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    configure_process(threads=1, keep_memory=True)
    data, learner = load()
    policy, budget = learner.policy, learner.micro_batch_tokens
    meter = Meter(policy.model)
    prompts = list(enumerate(data.draw_tasks(0)))
    peer = replace(data.rollout, engine=GenerateEngine())

    def play(rollout: Rollout) -> list[Trajectory]:
        return rollout.run(policy, prompts, data.group_size, (0, 0, 0), greedy=True)

    ours, theirs = play(data.rollout), play(peer)
    same = sum(a.token_ids == b.token_ids for a, b in zip(ours, theirs, strict=True))
    print(f"rollout: {len(ours)} greedy trajectories, {same} the same token for token")
    ways = {"cached": lambda: play(data.rollout), "generate": lambda: play(peer)}
    rollout_seconds = measure(ways, rollout_floor(ours), meter, rounds)["cached"]

    trajectories = data.rollout.run(policy, prompts, data.group_size, (0, 0, 0), greedy=False)
    batch = collate(trajectories, policy.pad_id)
    answers = learner.method.signal.answers
    plan = plan_beliefs(trajectories, batch.context_ids, policy.tokenizer, learner.answer_wrapper, answers)
    queries, steps = plan.queries, data.mini_batches([trajectory.group for trajectory in trajectories])
    cached = read(policy, batch, queries, budget, steps).answer_logprobs
    prefixes = beliefs_prefix_by_prefix(policy, trajectories, queries)
    print(f"scoring and update of {len(batch)} trajectories in {len(steps)} optimizer steps")
    print(f"scoring: {len(queries)} beliefs, largest difference {float((cached - prefixes).abs().max()):.1e}")
    tokens = int(batch.lengths.sum())
    ways = {
        "log-probs alone": lambda: read(policy, batch, [], budget, steps),
        "log-probs and beliefs, cached": lambda: read(policy, batch, queries, budget, steps),
        "one forward per prefix": lambda: (
            read(policy, batch, [], budget, steps),
            beliefs_prefix_by_prefix(policy, trajectories, queries),
        ),
        "all prefixes padded": lambda: (
            read(policy, batch, [], budget, steps),
            beliefs_all_prefixes(policy, trajectories, queries),
        ),
    }
    scoring = measure(ways, tokens + sum(query.answer.n_input_tokens for query in queries), meter, rounds)

    def update() -> None:
        for rows in micro_batches(batch.lengths.tolist(), budget, steps):
            part = batch.rows(rows)
            token_stats(policy, part.input_ids, part.turn_ids, with_entropy=False).logprobs.sum().backward()

    print("update: forward and backward over the rollout set")
    update_seconds = measure({"micro-batches": update}, tokens, meter, rounds)["micro-batches"]
    gains = scoring["log-probs and beliefs, cached"] - scoring["log-probs alone"]
    total = rollout_seconds + scoring["log-probs and beliefs, cached"] + update_seconds
    print(f"the gains take {gains / total:.1%} of rollout, scoring and update")


if __name__ == "__main__":
    main()
