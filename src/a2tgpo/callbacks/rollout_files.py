"""rollouts/*.jsonl: every trajectory with what it was given credit for."""

from pathlib import Path
from typing import Any

from lightning import Callback, Trainer

from a2tgpo.callbacks.protocols import ObservedLearner
from a2tgpo.callbacks.rich_logging import log_text
from a2tgpo.rollouts.trajectory import Trajectory
from a2tgpo.rollouts.transcripts import record, render
from a2tgpo.scoring.batch import RolloutBatch
from a2tgpo.system.jsonl import write_jsonl
from a2tgpo.system.settings import require_all

VERSION = 2
"""Of the lines. Those of version 1 have none and no `turn_credit`."""
CREDIT = ("gain", "normalized_gain", "advantage", "turn_credit", "clip_low", "clip_high")
"""What each turn was given."""


def credit_record(trajectory: Trajectory, batch: RolloutBatch, row: int) -> dict[str, Any]:
    """What the turns of one trajectory were given: gains, advantages, clip bounds; and the beliefs between them."""
    credit, turns = batch.credit, len(trajectory.turns)
    return {
        "version": VERSION,
        **{name: getattr(credit, name)[row, :turns].tolist() for name in CREDIT},
        "has_gain": credit.gain_mask[row, :turns].tolist(),
        "belief": credit.belief[row, : len(trajectory.context_lengths)].tolist(),
    }


class RolloutFiles(Callback):
    """Writes each rank's rollout set to `directory` every `every` iterations and keeps the newest `max_files`.

    A few transcripts of each go to every logger that takes texts (see `rich_logging`); others are passed over.
    """

    def __init__(self, directory: str, every: int, max_files: int, transcripts: int) -> None:
        own = {"every": every, "max_files": max_files, "transcripts": transcripts}
        require_all(own, "callbacks.rollout_files")
        self.directory, self.every, self.max_files, self.transcripts = Path(directory), every, max_files, transcripts

    def on_train_epoch_end(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Write the rollout set of this iteration."""
        iteration = trainer.current_epoch + 1
        if iteration % self.every:
            return
        trajectories, batch = pl_module.trajectories, pl_module.rollout_batch
        path = self.directory / f"{iteration:06d}-rank{trainer.global_rank}.jsonl"
        write_jsonl(path, [record(t) | credit_record(t, batch, row) for row, t in enumerate(trajectories)])
        files = sorted(self.directory.glob(f"*-rank{trainer.global_rank}.jsonl"))
        for old in files[: -self.max_files]:
            old.unlink()
        if trainer.is_global_zero:
            text = "\n\n".join(render(t) for t in trajectories[: self.transcripts])
            log_text(trainer.loggers, "transcripts", text, trainer.global_step)
