"""summary.json: what came out of a run, as flat keys and values."""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer

from a2tgpo.callbacks.protocols import ObservedLearner
from a2tgpo.system.files import write_json
from a2tgpo.system.overrides import method_overrides
from a2tgpo.system.signals import Interrupted

STATE = "summary"
"""Where a checkpoint keeps what is known so far."""


class Summary(Callback):
    """Writes the summary after every iteration, after testing, and when a run is interrupted.

    What is known so far stands in every checkpoint, so a resumed run has the figures of one that was never interrupted.
    """

    def __init__(
        self, path: str, experiment: str | None, seed: int, overrides: Sequence[str], config_hash: str
    ) -> None:
        self.path = Path(path)
        self.settings = {
            "experiment": experiment,
            "seed": seed,
            "overrides": method_overrides(overrides),
            "config_hash": config_hash,
        }
        self.figures: dict[str, Any] = {}
        self.began = time.perf_counter()
        self.earlier_seconds: dict[str, float] = {}
        self.begun = False

    def on_validation_start(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """From here on there is something to report."""
        self.begun = True

    def on_fit_start(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """From here on there is something to report."""
        self.begun = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: ObservedLearner, checkpoint: dict[str, Any]) -> None:
        """Keep what is known at this point of the run."""
        checkpoint[STATE] = {"figures": dict(self.figures), "seconds": self.seconds(pl_module)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: ObservedLearner, checkpoint: dict[str, Any]) -> None:
        """Take up an earlier part of the run, unless the checkpoint is only tested."""
        if trainer.state.fn == "fit" and STATE in checkpoint:
            self.figures, self.earlier_seconds = checkpoint[STATE]["figures"], checkpoint[STATE]["seconds"]

    def on_validation_end(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Success in validation: of the initial policy, the best and the final one."""
        success = float(trainer.callback_metrics["val/success"])
        if trainer.state.fn == "validate":
            self.figures["val/success/start"] = success
        else:
            self.figures["val/success/best"] = max(success, self.figures.get("val/success/best", 0.0))
            self.figures["val/success/final"] = success

    def on_train_epoch_end(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Count the iteration in, and write how far training came."""
        iterations, key = trainer.current_epoch + 1, "update/clip_fraction"
        mean, new = self.figures.get(key, 0.0), pl_module.metrics[key]
        self.figures |= {
            "iterations": iterations,
            "optimizer_steps": trainer.global_step,
            key: mean + (new - mean) / iterations,  # the mean over iterations so far
        }
        for name in ("tokens/forwarded", "tokens/useful"):
            self.figures[name] = self.figures.get(name, 0) + int(pl_module.metrics[name])
        self.write(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Figures of the test split."""
        self.figures |= {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("test/")}
        self.write(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Write what is known after training."""
        self.write(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: ObservedLearner, exception: BaseException) -> None:
        """Write what is known, and why it ends here; a run that never began leaves an earlier summary alone."""
        is_signal = isinstance(exception, Interrupted)
        self.figures["interrupted"] = exception.signal if is_signal else type(exception).__name__
        if self.begun:
            with suppress(OSError):  # of a full disk, it would hide why the run ends
                self.write(trainer, pl_module)

    def seconds(self, pl_module: ObservedLearner) -> dict[str, float]:
        """Seconds of the whole run so far, in all and by phase."""
        own = {"total": time.perf_counter() - self.began, **pl_module.phases.seconds}
        return {k: own.get(k, 0.0) + self.earlier_seconds.get(k, 0.0) for k in own.keys() | self.earlier_seconds.keys()}

    def write(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Write the file."""
        timings = {f"seconds/{phase}": seconds for phase, seconds in sorted(self.seconds(pl_module).items())}
        learning = timings.get("seconds/scoring", 0.0) + timings.get("seconds/update", 0.0)
        if learning and "tokens/useful" in self.figures:
            timings["tokens/per_second"] = self.figures["tokens/useful"] / learning
        if trainer.is_global_zero:
            write_json(self.path, self.settings | self.figures | timings)
