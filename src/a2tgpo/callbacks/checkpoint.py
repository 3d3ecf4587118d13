"""Checkpoints between iterations, where a run can be taken up again."""

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from a2tgpo.system.errors import SettingError
from a2tgpo.system.settings import require_all


class BoundaryCheckpoint(ModelCheckpoint):
    """`last.ckpt` before the first and after every iteration, `best.ckpt` by validation (ties: the earlier). The best
    holds the weights alone: a run is taken up from its last.

    In the middle of an iteration nothing is saved: the policy has moved on, its rollouts could not be made again.
    """

    def __init__(self, dirpath: str, monitor: str, mode: str) -> None:
        require_all({"monitor": monitor, "mode": mode}, "callbacks.checkpoint")
        super().__init__(
            dirpath=dirpath,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_top_k=1,
            save_weights_only=True,  # of the best; `_save_last` saves all
            save_on_train_epoch_end=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises SettingError where a validation does not measure what says which checkpoint is best."""
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(name for name in trainer.callback_metrics if name.startswith("val/")))
            raise SettingError(f"callbacks.checkpoint.monitor={self.monitor}: expected one of {known}")
        super().on_validation_end(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the start, unless the run was resumed from it."""
        super().on_train_start(trainer, pl_module)
        if trainer.global_step == 0:
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the best if this is it, and the last in any case."""
        if self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)
        self._save_last(trainer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up score and place of the best: here, though the run directory may have been moved or copied.

        Raises ValueError where that file is gone: the next one to be saved might be worse.
        """

        def here(path: str) -> str:
            return str(Path(self.dirpath) / Path(path).name) if path else ""

        best = here(state_dict["best_model_path"])
        if best and not Path(best).is_file():
            raise ValueError(f"{best}: no such file; expected the best checkpoint so far beside the resumed one")
        paths = {key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        scores = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state_dict | paths | {"dirpath": self.dirpath, "best_k_models": scores})

    def _save_last(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt")
