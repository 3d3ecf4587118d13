"""Train: compose the configuration, build the parts, fit, test the best checkpoint, say what came out."""

from datetime import datetime
from pathlib import Path

import hydra
import lightning
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from a2tgpo.process import settle
from a2tgpo.report import print_report

ROOT = Path(__file__).resolve().parents[1]


def run_dir(ckpt_path: str | None, task_name: str, log_dir: str) -> str:
    """A resumed run goes on in its own directory, every other gets a new one."""
    if ckpt_path is not None:
        return str(Path(ckpt_path).resolve().parents[1])
    return f"{log_dir}/{task_name}/runs/{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"


OmegaConf.register_new_resolver("project_root", lambda: str(ROOT), replace=True)
OmegaConf.register_new_resolver("run_dir", run_dir, use_cache=True, replace=True)


@hydra.main(version_base="1.3", config_path=str(ROOT / "configs"), config_name="train")
def main(config: DictConfig) -> None:
    """One training run."""
    settle(config.threads)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    OmegaConf.save(config, Path(config.paths.output_dir) / "config.yaml", resolve=True)
    data = instantiate(config.data.module, _convert_="all")
    learner = instantiate(config.model.module, _convert_="all")
    trainer = instantiate(
        config.trainer,
        callbacks=list(instantiate(config.callbacks).values()),
        logger=instantiate(config.logger),
        _convert_="all",
    )
    if config.ckpt_path is None:
        trainer.validate(learner, data, verbose=False)
    trainer.fit(learner, data, ckpt_path=config.ckpt_path, weights_only=True)
    trainer.test(learner, data, ckpt_path="best", verbose=False, weights_only=True)
    print_report(Path(config.paths.output_dir))


if __name__ == "__main__":
    main()
