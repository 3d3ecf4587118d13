"""Evaluate a checkpoint, or the shipped start, on a held-out split or on several question sets: greedy, or k samples a
question."""

import json
from pathlib import Path

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from a2tgpo.evaluation.evaluate import evaluate, evaluate_benchmarks, load_weights, move
from a2tgpo.evaluation.table import print_table
from a2tgpo.rollouts.trajectory import Split
from a2tgpo.system.process import configure_process, precision_context
from a2tgpo.tasks.benchmarks import Benchmarks
from launch import ROOT, launch, one_line_errors, prepare_process, require_values

prepare_process()


@hydra.main(version_base="1.3", config_path=str(ROOT / "configs"), config_name="eval")
def main(config: DictConfig) -> None:
    """One evaluation."""
    run(config)


def run(config: DictConfig) -> None:
    """Build data and policy, play, say what came out."""
    with one_line_errors():
        require_values(config)
        configure_process(config.threads, keep_memory=config.device == "cpu")
        data = instantiate(config.data.module, _convert_="all")
        policy = instantiate(config.model.policy, _convert_="all")
        if config.ckpt_path is not None:
            load_weights(policy, Path(config.ckpt_path))
        move(policy, config.device)
        directory = Path(config.paths.output_dir)
        limits = (config.questions, config.samples, config.seed, directory)
        with precision_context(config.device, config.precision):
            if isinstance(data.tasks, Benchmarks):
                print_table(evaluate_benchmarks(policy, data.rollout, data.tasks, *limits), Console())
                print(f"run directory: {directory}")
            else:
                tasks = data.tasks.split(Split(config.split))
                print(json.dumps(evaluate(policy, data.rollout, tasks, *limits), indent=2))


if __name__ == "__main__":
    launch(main)
