"""A rank that fails, once, while the others go on."""

import time
from pathlib import Path

from lightning import Callback


class FailingRank(Callback):
    """Raises on one rank alone before the first step, and leaves the moment in a file; no more once that is there."""

    def __init__(self, rank, moment):
        self.rank, self.moment = rank, Path(moment)

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.global_rank == self.rank and not self.moment.exists():
            self.moment.write_text(str(time.time()))
            raise ValueError(f"rank {self.rank} fails; expected nothing else")


def failing(rank, moment):
    """The overrides that have a rank fail."""
    part = "+callbacks.failing"
    return (
        f"{part}._target_=tests.helpers.failing_rank.FailingRank",
        f"{part}.rank={rank}",
        f"{part}.moment={moment}",
    )
