"""Train: compose the configuration, build the parts, fit, test the best checkpoint, say what came out."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from a2tgpo.callbacks.report import print_report
from a2tgpo.rollouts.trajectory import Split
from a2tgpo.system.signals import ending_on_signals
from error_lines import one_line_errors
from launch import CONFIGS, launch, prepare_process, quiet_libraries, require_settings, require_whole_iterations
from run_directories import config_hash, make_paths_absolute, run_directory

if TYPE_CHECKING:
    from lightning import LightningDataModule, LightningModule, Trainer

NEEDED = ("seed", "threads", "data.module", "model.module", "trainer", "callbacks.checkpoint", "callbacks.summary")
"""What no run can do without, whatever `~` took away."""

prepare_process()


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="train")
def main(config: DictConfig) -> None:
    """One training run."""
    train(config)


def train(config: DictConfig) -> None:
    """Build the parts, fit, test the best checkpoint; without a validation there is no best, and the last is tested."""
    with one_line_errors(), prepared_run(config, NEEDED, ("train", "val", "test")) as run_dir:
        trainer = fit_and_test(config)
    if trainer.is_global_zero:
        hydra_config = HydraConfig.get()
        print_report(run_dir, hydra_config.overrides.task, hydra_config.runtime.choices)


@contextmanager
def prepared_run(config: DictConfig, needed: Sequence[str], splits: Sequence[str]) -> Iterator[Path]:
    """The directory of a run whose configuration can work, in a process that is ready for it.

    Raises ValueError where a value cannot work, one that is `needed` or the question file of one of `splits` is
    missing, the directory belongs to another run, or the checkpoint to resume from has weights alone.
    """
    require_settings(config, needed, splits)
    require_whole_iterations(config)
    make_paths_absolute(config)
    import lightning  # here, because it takes seconds: what is wrong with the configuration is said before

    from a2tgpo.system.checkpoint_io import require_resumable
    from a2tgpo.system.process import configure_process, device_of

    quiet_libraries()
    configure_process(config.threads, keep_memory=device_of(config.trainer.accelerator) == "cpu")
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    if config.ckpt_path is not None:
        require_resumable(config.ckpt_path)
    with run_directory(config) as run_dir:
        yield run_dir


def fit_and_test(config: DictConfig) -> "Trainer":
    """The trainer, when all is done."""
    data = instantiate(config.data.module, _convert_="all")
    data.require_questions(Split.TEST)  # it is asked last: what is wrong with it must not show after the training
    learner = instantiate(config.model.module, _convert_="all")
    return fit(config, data, learner, test=True)


def fit(config: DictConfig, data: "LightningDataModule", learner: "LightningModule", test: bool = False) -> "Trainer":
    """The trainer, once `learner` is fitted to `data` and, where `test` asks for it, its best checkpoint tested."""
    trainer = instantiate(
        config.trainer,
        callbacks=list(instantiate(config.callbacks).values()),
        logger=list(instantiate(config.get("logger", {}), _convert_="all").values()),
        _convert_="all",
    )
    # Lightning's own would only make a note of SIGTERM, and wait for the other ranks inside the handler.
    trainer._signal_connector.register_signal_handlers = lambda: None
    try:
        with logged(trainer, config):
            if config.ckpt_path is None:
                trainer.validate(learner, data, verbose=False)
            trainer.fit(learner, data, ckpt_path=config.ckpt_path, weights_only=True)
            if test:
                best = "best" if trainer.checkpoint_callback.best_model_path else None
                trainer.test(learner, data, ckpt_path=best, verbose=False, weights_only=True)
    except BaseException:
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)  # its ranks could only report that this one is gone
        raise
    return trainer


@contextmanager
def logged(trainer: "Trainer", config: DictConfig) -> Iterator[None]:
    """The loggers are told which run it is, and when it has ended or failed."""
    from a2tgpo.callbacks.rich_logging import end_runs, log_text

    experiment = HydraConfig.get().runtime.choices.experiment
    told = {"experiment": experiment, "seed": config.seed, "config_hash": config_hash(config)}
    for logger in trainer.loggers:
        logger.log_hyperparams(told)
    failed = True
    try:
        if trainer.is_global_zero:
            log_text(trainer.loggers, "config", OmegaConf.to_yaml(config, resolve=True), step=0)
        yield
        failed = False
    finally:
        if trainer.is_global_zero:
            end_runs(trainer.loggers, failed)


if __name__ == "__main__":
    with ending_on_signals():
        launch(main)
