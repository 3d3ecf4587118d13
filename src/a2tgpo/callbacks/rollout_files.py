"""rollouts/*.jsonl: every trajectory with what it was given credit for."""

import json
from collections.abc import Sequence
from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from a2tgpo.rollouts.trajectory import Trajectory
from a2tgpo.scoring.batch import RolloutBatch


def render(trajectory: Trajectory) -> str:
    """A trajectory as a person reads it."""
    lines = [f"{trajectory.task.question}  (accepted: {', '.join(trajectory.task.answers)})"]
    for turn in trajectory.turns:
        lines += [f"  policy: {turn.action_text}", f"  tool:   {turn.observation_text}"]
    lines.append(f"  {trajectory.stop}, reward {trajectory.outcome:g}")
    return "\n".join(line for line in lines if line != "  tool:   ")


def record(trajectory: Trajectory) -> dict:
    """A trajectory as plain data: tokens, text, turns and how it ended."""
    return {
        "task_id": trajectory.task.task_id,
        "question": trajectory.task.question,
        "answers": trajectory.task.answers,
        "kind": trajectory.task.kind,
        "group": trajectory.group,
        "sample": trajectory.sample,
        "prompt_ids": trajectory.prompt_ids,
        "turns": [
            {
                "action": turn.action_text,
                "observation": turn.observation_text,
                "action_ids": turn.action_ids,
                "action_logprobs": turn.action_logprobs,
                "observation_ids": turn.observation_ids,
                "useful": turn.useful,
            }
            for turn in trajectory.turns
        ],
        "outcome": trajectory.outcome,
        "stop": trajectory.stop,
        "metrics": dict(trajectory.metrics),
    }


def credit_record(batch: RolloutBatch, row: int) -> dict:
    """What the turns of one trajectory were given: gains, advantages, clip bounds."""
    turns = int(batch.turn_mask[row].sum())
    names = ("gain", "normalized", "advantage", "clip_low", "clip_high")
    return {
        **{name: getattr(batch, name)[row, :turns].tolist() for name in names},
        "has_gain": batch.gain_mask[row, :turns].tolist(),
        "belief": batch.belief[row, : int(batch.process_mask[row].sum()) + 1].tolist(),
    }


def write_jsonl(path: Path, records: Sequence[dict]) -> None:
    """One line a record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


class RolloutFiles(Callback):
    """Writes each rank's rollout set to `directory` every `every` iterations and keeps the newest `max_files`.

    A few transcripts of each go to TensorBoard as text.
    """

    def __init__(self, directory: str, every: int, max_files: int, transcripts: int) -> None:
        self.directory, self.every, self.max_files, self.transcripts = Path(directory), every, max_files, transcripts

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the rollout set of this iteration."""
        iteration = trainer.current_epoch + 1
        if iteration % self.every:
            return
        trajectories, batch = pl_module.trajectories, pl_module.rollout_batch
        path = self.directory / f"{iteration:06d}-rank{trainer.global_rank}.jsonl"
        write_jsonl(path, [record(t) | credit_record(batch, row) for row, t in enumerate(trajectories)])
        files = sorted(self.directory.glob(f"*-rank{trainer.global_rank}.jsonl"))
        for old in files[: -self.max_files]:
            old.unlink()
        if trainer.logger is not None and trainer.is_global_zero:
            text = "\n\n".join(render(t) for t in trajectories[: self.transcripts])
            trainer.logger.experiment.add_text("transcripts", f"```\n{text}\n```", iteration)
