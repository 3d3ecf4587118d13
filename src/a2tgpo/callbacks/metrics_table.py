"""metrics.csv: one row an iteration."""

import csv
from collections.abc import Mapping
from pathlib import Path

from lightning import Callback, Trainer

from a2tgpo.callbacks.protocols import ObservedLearner
from a2tgpo.evaluation.runs import read_rows
from a2tgpo.system.files import whole_file


class MetricsTable(Callback):
    """Writes the numbers of every iteration to `path`; a resumed run goes on in the same file.

    Row 0 is the initial policy, row i the state after i iterations. Validation figures stand in the rows that had one;
    timings are the columns `seconds/*`.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.rows: dict[int, dict[str, float | str]] = {}
        self.validation: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Keep the rows an earlier part of the run has written up to here.

        Raises ValueError where the file is not the table of a run.
        """
        if self.path.is_file():
            self.rows = read_rows(self.path) | self.rows
        self.rows = {i: row for i, row in self.rows.items() if i <= trainer.current_epoch}

    def on_validation_end(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Remember the validation of this iteration; the one before training is row 0."""
        self.validation = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        if trainer.state.fn == "validate":
            self._write(trainer, 0, {})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Write the iteration's row."""
        seconds = {f"seconds/{phase}": s for phase, s in pl_module.seconds.items()}
        self._write(trainer, trainer.current_epoch + 1, {**pl_module.metrics, **seconds})

    def _write(self, trainer: Trainer, iteration: int, metrics: Mapping[str, float]) -> None:
        self.rows[iteration] = {"iteration": iteration, **metrics, **self.validation}
        self.validation = {}
        if trainer.is_global_zero:
            columns = sorted({name for row in self.rows.values() for name in row} - {"iteration"})
            with whole_file(self.path) as file:
                writer = csv.DictWriter(file, ["iteration", *columns])
                writer.writeheader()
                writer.writerows(self.rows[i] for i in sorted(self.rows))
