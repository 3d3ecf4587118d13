"""Histograms of what turns were given."""

from lightning import Callback, Trainer

from a2tgpo.callbacks.protocols import ObservedLearner
from a2tgpo.callbacks.rich_logging import log_histogram
from a2tgpo.system.settings import require


class Histograms(Callback):
    """Gain, îg, Â and clip scale (relative to a turn without gain), every `every` iterations.

    They go to every logger that takes histograms (see `rich_logging`); others are passed over.
    """

    def __init__(self, every: int) -> None:
        require("callbacks.histograms.every", every)
        self.every = every

    def on_train_epoch_end(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Write the histograms of this iteration's rollout set."""
        if (trainer.current_epoch + 1) % self.every or not trainer.is_global_zero:
            return
        batch, credit = pl_module.rollout_batch, pl_module.rollout_batch.credit
        neutral, _ = pl_module.method.clipper(credit.normalized_gain.new_zeros(1, 1))
        for name, values, mask in (
            ("gain", credit.gain, credit.gain_mask),
            ("normalized_gain", credit.normalized_gain, credit.gain_mask),
            ("advantage", credit.advantage, batch.turn_mask),
            ("clip_scale", credit.clip_low / neutral, batch.turn_mask & credit.clip_low.isfinite()),
        ):
            if mask.any():
                log_histogram(trainer.loggers, f"credit/{name}", values[mask], trainer.global_step)
