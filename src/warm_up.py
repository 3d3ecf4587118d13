"""Warm up: a policy that does not speak a dialect yet imitates demonstrations of it, and becomes a Hugging Face folder
that train.py takes."""

import shlex
import shutil
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from a2tgpo.callbacks.report import quoted
from a2tgpo.system.entry_points import as_called
from a2tgpo.system.overrides import carried
from a2tgpo.system.signals import ending_on_signals
from error_lines import one_line_errors
from export import export
from launch import CONFIGS, launch, prepare_process
from train import fit, prepared_run

NEEDED = ("seed", "threads", "data.module", "model.imitation", "trainer", "callbacks.checkpoint")
"""What no warm-up can do without, whatever `~` took away."""
FOLDER = "policy"
"""Of the run directory, where the policy stands in the end."""

prepare_process()


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="warm_up")
def main(config: DictConfig) -> None:
    """One warm-up."""
    warm_up(config)


def warm_up(config: DictConfig) -> None:
    """Imitate, then write the policy of the last iteration."""
    with one_line_errors():
        recorded = OmegaConf.select(config, "data.module.demonstrations")
        with prepared_run(config, NEEDED, ("val",) if recorded else ("train", "val")) as run_dir:
            data = instantiate(config.data.module, _convert_="all")
            trainer = fit(config, data, instantiate(config.model.imitation, _convert_="all"))
            if trainer.is_global_zero:
                folder = Path(run_dir) / FOLDER
                shutil.rmtree(folder, ignore_errors=True)  # of the same run, which was resumed
                export(run_dir / "checkpoints" / "last.ckpt", folder, adapter=False)
                _say_what_is_next(folder)


def _say_what_is_next(folder: Path) -> None:
    kept = [override for override in carried(HydraConfig.get().overrides.task) if _holds_for_training(override)]
    words = ["src/train.py", *kept, f"model.policy.path={quoted(folder)}"]
    print(as_called(f"next: python {shlex.join(words)}"))


def _holds_for_training(override: str) -> bool:
    """Sizes, rates and lengths are the warm-up's own, and so is the model that it started from."""
    name = override.lstrip("+~")
    if name.startswith(("model/policy", "model.policy")):
        return not name.startswith("model.policy.path")
    return not name.startswith(("model", "data.module", "trainer."))


if __name__ == "__main__":
    with ending_on_signals():
        launch(main)
