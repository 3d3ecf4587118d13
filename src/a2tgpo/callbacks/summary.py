"""summary.json: what came out of a run, as flat keys and numbers."""

import json
import time
from pathlib import Path

from lightning import Callback, Trainer

from a2tgpo.callbacks.protocols import ObservedLearner

NOT_TAKEN_OVER = ("seconds/", "tokens/per_second", "test/", "interrupted")
"""What a resumed run finds out anew."""


class Summary(Callback):
    """Writes the summary after training, after testing, and when a run is interrupted.

    Figures of earlier parts of a resumed run are taken over from the file.
    """

    def __init__(self, path: str, experiment: str, seed: int) -> None:
        self.path = Path(path)
        self.values: dict[str, float | str | int | bool] = {"experiment": experiment, "seed": seed}
        self.began = time.perf_counter()
        self.earlier_seconds: dict[str, float] = {}
        self.begun = False

    def on_validation_start(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """From here on there is something to report."""
        self.begun = True

    def on_fit_start(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Take up an earlier part of the run."""
        self.begun = True
        if trainer.ckpt_path is not None and self.path.is_file():
            earlier = json.loads(self.path.read_text())
            self.earlier_seconds = {k: v for k, v in earlier.items() if k.startswith("seconds/")}
            self.values = {k: v for k, v in earlier.items() if not k.startswith(NOT_TAKEN_OVER)} | self.values

    def on_validation_end(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Success in validation: of the initial policy, the best and the final one."""
        success = float(trainer.callback_metrics["val/success"])
        if trainer.state.fn == "validate":
            self.values["val/success/start"] = success
        else:
            self.values["val/success/best"] = max(success, self.values.get("val/success/best", 0.0))
            self.values["val/success/final"] = success

    def on_train_epoch_end(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Remember how far training came."""
        iterations, key = trainer.current_epoch + 1, "update/clip_fraction"
        mean, new = self.values.get(key, 0.0), pl_module.metrics[key]
        self.values |= {
            "iterations": iterations,
            "optimizer_steps": trainer.global_step,
            key: mean + (new - mean) / iterations,  # the mean over iterations so far
        }
        for name in ("tokens/forwarded", "tokens/useful"):
            self.values[name] = self.values.get(name, 0) + int(pl_module.metrics[name])

    def on_test_end(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Figures of the test split."""
        self.values |= {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("test/")}
        self.write(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Write what is known after training."""
        self.write(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: ObservedLearner, exception: BaseException) -> None:
        """Write what is known, and why it ends here; a run that never began leaves an earlier summary alone."""
        self.values["interrupted"] = type(exception).__name__
        if self.begun:
            self.write(trainer, pl_module)

    def write(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Write the file."""
        seconds = {"total": time.perf_counter() - self.began, **pl_module.phases.seconds}
        timings = {f"seconds/{k}": v + self.earlier_seconds.get(f"seconds/{k}", 0.0) for k, v in seconds.items()}
        learning = timings.get("seconds/scoring", 0.0) + timings.get("seconds/update", 0.0)
        if learning and "tokens/useful" in self.values:
            self.values["tokens/per_second"] = self.values["tokens/useful"] / learning
        if trainer.is_global_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.values | timings, indent=2) + "\n")
