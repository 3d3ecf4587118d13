"""rollouts/*.jsonl: every trajectory with what it was given credit for, and what the update made of it."""

from pathlib import Path

from lightning import Callback, Trainer

from a2tgpo.callbacks.protocols import ObservedLearner
from a2tgpo.callbacks.rich_logging import log_text
from a2tgpo.rollouts.transcripts import render
from a2tgpo.system.jsonl import write_jsonl
from a2tgpo.system.settings import require_all
from a2tgpo.training.record import credit_record, update_record


class RolloutFiles(Callback):
    """Writes each rank's rollout set to `directory` every `every` iterations and keeps the newest `max_files`.

    Such a set is scored once more, behind the last optimizer step. A few transcripts of each go to every logger that
    takes texts (see `rich_logging`); others are passed over.
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
        trajectories, batch, after = pl_module.trajectories, pl_module.rollout_batch, pl_module.after_update()
        lines = [credit_record(t, batch, row) for row, t in enumerate(trajectories)]
        if after is not None:
            for row, t in enumerate(trajectories):
                lines[row] |= update_record(t, batch, row, after, pl_module.policy)
        path = self.directory / f"{iteration:06d}-rank{trainer.global_rank}.jsonl"
        write_jsonl(path, lines)
        files = sorted(self.directory.glob(f"*-rank{trainer.global_rank}.jsonl"))
        for old in files[: -self.max_files]:
            old.unlink()
        if trainer.is_global_zero:
            text = "\n\n".join(render(t) for t in trajectories[: self.transcripts])
            log_text(trainer.loggers, "transcripts", text, trainer.global_step)
