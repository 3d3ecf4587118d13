"""Train: compose the configuration, build the parts, fit, test the best checkpoint, say what came out."""

from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from a2tgpo.callbacks.report import print_report
from launch import (
    ROOT,
    launch,
    one_line_errors,
    prepare_process,
    quiet_libraries,
    require_settings,
    save_or_check_config,
)

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

NEEDED = ("seed", "threads", "data.module", "model.module", "trainer", "callbacks.checkpoint", "callbacks.summary")
"""What no run can do without, whatever `~` took away."""

prepare_process()


@hydra.main(version_base="1.3", config_path=str(ROOT / "configs"), config_name="train")
def main(config: DictConfig) -> None:
    """One training run."""
    train(config)


def train(config: DictConfig) -> None:
    """Build the parts, fit, test the best checkpoint; without a validation there is no best, and the last is tested."""
    with one_line_errors():
        require_settings(config, NEEDED, splits=("train", "val", "test"))
        import lightning  # here, because it takes seconds: what is wrong with the configuration is said before

        from a2tgpo.system.process import configure_process

        quiet_libraries()
        configure_process(config.threads, keep_memory=config.trainer.accelerator == "cpu")
        lightning.seed_everything(config.seed, workers=True, verbose=False)
        run_dir = Path(config.paths.output_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        save_or_check_config(config, Path(config.paths.output_dir) / "config.yaml")
        data = instantiate(config.data.module, _convert_="all")
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


def build_loggers(config: DictConfig) -> "list[Logger]":
    """One logger, a mapping of several by name, or none."""
    built = instantiate(config)
    return list(built.values()) if isinstance(built, DictConfig) else [built]


if __name__ == "__main__":
    launch(main)
