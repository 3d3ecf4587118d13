"""TensorBoard histograms of what turns were given."""

from lightning import Callback, LightningModule, Trainer


class Histograms(Callback):
    """Gain, îg, Â and clip scale (relative to a turn without gain), every `every` iterations."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the histograms of this iteration's rollout set."""
        iteration = trainer.current_epoch + 1
        if iteration % self.every or trainer.logger is None or not trainer.is_global_zero:
            return
        batch = pl_module.rollout_batch
        neutral, _ = pl_module.clipper(batch.normalized.new_zeros(1, 1))
        for name, values, mask in (
            ("gain", batch.gain, batch.gain_mask),
            ("normalized", batch.normalized, batch.gain_mask),
            ("advantage", batch.advantage, batch.turn_mask),
            ("clip_scale", batch.clip_low / neutral, batch.turn_mask & batch.clip_low.isfinite()),
        ):
            if mask.any():
                trainer.logger.experiment.add_histogram(f"credit/{name}", values[mask], iteration)
