"""Train: compose the configuration, build the parts, fit, test the best checkpoint, say what came out."""

from pathlib import Path

import hydra
import lightning
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from a2tgpo.callbacks.report import print_report
from a2tgpo.rollouts.trajectory import Split
from a2tgpo.system.process import configure_process
from launch import ROOT, launch, one_line_errors, prepare_process, require_values, save_or_check_config

prepare_process()


@hydra.main(version_base="1.3", config_path=str(ROOT / "configs"), config_name="train")
def main(config: DictConfig) -> None:
    """One training run."""
    train(config)


def train(config: DictConfig) -> None:
    """Build the parts, fit, test the best checkpoint; without a validation there is no best, and the last is tested."""
    with one_line_errors():
        require_values(config)
        configure_process(config.threads, keep_memory=config.trainer.accelerator == "cpu")
        lightning.seed_everything(config.seed, workers=True, verbose=False)
        run_dir = Path(config.paths.output_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        save_or_check_config(config, Path(config.paths.output_dir) / "config.yaml")
        data = instantiate(config.data.module, _convert_="all")
        data.require_questions(Split.TEST)  # it is asked last: what is wrong with it must not show after the training
        learner = instantiate(config.model.module, _convert_="all")
        trainer = instantiate(
            config.trainer,
            callbacks=list(instantiate(config.callbacks).values()),
            logger=build_loggers(config.logger),
            _convert_="all",
        )
        if config.ckpt_path is None:
            trainer.validate(learner, data, verbose=False)
        trainer.fit(learner, data, ckpt_path=config.ckpt_path, weights_only=True)
        best = "best" if trainer.checkpoint_callback.best_model_path else None
        trainer.test(learner, data, ckpt_path=best, verbose=False, weights_only=True)
    if trainer.is_global_zero:
        print_report(run_dir, HydraConfig.get().overrides.task)


def build_loggers(config: DictConfig) -> list[Logger]:
    """One logger, a mapping of several by name, or none."""
    built = instantiate(config)
    return [built] if isinstance(built, Logger) else list(built.values())


if __name__ == "__main__":
    launch(main)
