"""Evaluate a checkpoint, or the shipped start, on a held-out split: greedy, or k samples a question."""

import json
from pathlib import Path

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from a2tgpo.evaluation import evaluate, load_weights, move
from a2tgpo.process import settle
from a2tgpo.trajectory import Split
from launch import ROOT, launch, one_line_errors, prepare_process

prepare_process()


@hydra.main(version_base="1.3", config_path=str(ROOT / "configs"), config_name="eval")
def main(config: DictConfig) -> None:
    """One evaluation."""
    run(config)


def run(config: DictConfig) -> None:
    """Build data and policy, play, say what came out."""
    with one_line_errors():
        settle(config.threads)
        data = instantiate(config.data.module, _convert_="all")
        policy = instantiate(config.model.policy, _convert_="all")
        if config.ckpt_path is not None:
            load_weights(policy, Path(config.ckpt_path))
        move(policy, config.device)
        tasks = data.tasks.split(Split(config.split))
        summary = evaluate(
            policy, data.rollout, tasks, config.questions, config.samples, config.seed, Path(config.paths.output_dir)
        )
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    launch(main)
