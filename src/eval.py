"""Evaluate a checkpoint, or the initial policy, on a held-out split or on several question sets: greedy, or k samples a
question."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from a2tgpo.evaluation.table import print_table
from a2tgpo.rollouts.trajectory import Split, Task
from a2tgpo.system.signals import ending_on_signals
from a2tgpo.tasks.protocols import Tasks
from error_lines import one_line_errors
from launch import CONFIGS, launch, prepare_process, quiet_libraries, require_settings

NEEDED = ("seed", "threads", "device", "precision", "split", "samples", "data.module", "model.policy")
"""What no evaluation can do without, whatever `~` took away."""

prepare_process()


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="eval")
def main(config: DictConfig) -> None:
    """One evaluation."""
    run(config)


def run(config: DictConfig) -> None:
    """Build data and policy, play, say what came out."""
    with one_line_errors():
        require_settings(config, NEEDED, splits=(config.split,))
        # here, because they take seconds: what is wrong with the configuration is said before
        from a2tgpo.evaluation.evaluate import evaluate, move
        from a2tgpo.policies.checkpoint import load_weights
        from a2tgpo.system.process import configure_process, precision_context

        quiet_libraries()
        configure_process(config.threads, keep_memory=config.device == "cpu")
        data = instantiate(config.data.module, _convert_="all")
        policy = instantiate(config.model.policy, _convert_="all")
        if config.ckpt_path is not None:
            load_weights(policy, Path(config.ckpt_path))
        move(policy, config.device)
        directory = Path(config.paths.output_dir)
        if (directory / "summary.json").exists():
            raise ValueError(f"{directory}: holds a run already; expected a new directory")
        limits = (config.questions, config.samples, config.seed, directory)
        with precision_context(config.device, config.precision):
            result = evaluate(policy, data.rollout, *question_sets(data.tasks, config.split), *limits)
    if result.table:
        print_table(result.table, Console())
        print(f"run directory: {directory}")
    else:
        print(json.dumps(result.summary, indent=2))


def question_sets(tasks: Tasks, split: str) -> tuple[Mapping[str, Sequence[Task]], Mapping[str, Sequence[str]]]:
    """Named sets and their groups: those of a benchmark, or else one split, which needs no group."""
    from a2tgpo.tasks.benchmarks import Benchmarks

    if isinstance(tasks, Benchmarks):
        return tasks.sets(), tasks.groups
    return {split: tasks.split(Split(split))}, {}


if __name__ == "__main__":
    with ending_on_signals():
        launch(main)
