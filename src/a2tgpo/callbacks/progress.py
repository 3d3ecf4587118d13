"""What a person sees while it trains."""

from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from a2tgpo.callbacks.protocols import ObservedLearner
from a2tgpo.system.settings import require


class TrainingProgress(Callback):
    """A bar over iterations with the phase under way and the numbers that matter; without a terminal, a plain line
    every `every` iterations and after each validation."""

    def __init__(self, every: int) -> None:
        require("callbacks.progress.every", every)
        self.every = every
        self.console = Console()
        self.bar: Progress | None = None
        self.validated = ""

    def on_train_start(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Draw the bar."""
        if not trainer.is_global_zero or not self.console.is_terminal:
            return
        self.bar = Progress(
            TextColumn("{task.fields[phase]:<10}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            console=self.console,
            expand=True,
        )
        self.bar.add_task("", total=trainer.max_epochs, completed=trainer.current_epoch, phase="")
        self.bar.start()
        pl_module.phases.on_start = lambda phase: self._update(phase=phase)

    def on_validation_end(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Keep the newest validation figure in sight."""
        self.validated = f"val success {float(trainer.callback_metrics['val/success']):.3f}"
        if trainer.state.fn == "validate" and trainer.is_global_zero:
            self.console.print(f"run directory: {trainer.default_root_dir}", soft_wrap=True)
            self.console.print(f"start: {self.validated}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Move on by one iteration."""
        iteration, m = trainer.current_epoch + 1, pl_module.metrics
        line = (
            f"{self.validated}  train success {m['train/success']:.3f}  reward {m['train/reward']:+.2f}  "
            f"turns {m['train/turns']:.1f}  clip {m['update/clip_fraction']:.3f}"
        )
        if failures := m.get("train/tool_failures"):
            line += f"  failed calls {failures:.2f}"
        if lost := m["train/failed_episodes"]:
            line += f"  failed episodes {lost:.1%}"
        if self.bar is not None:
            self._update(description=line, completed=iteration)
        elif trainer.is_global_zero and (iteration % self.every == 0 or iteration == trainer.max_epochs):
            seconds = sum(pl_module.phases.seconds.values())
            self.console.print(f"iteration {iteration}/{trainer.max_epochs}  {line}  {seconds:.0f} s", soft_wrap=True)

    def _update(self, **fields: Any) -> None:
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], **fields)

    def on_train_end(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Leave the terminal tidy."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def on_exception(self, trainer: Trainer, pl_module: ObservedLearner, exception: BaseException) -> None:
        """Leave the terminal tidy and say how to go on."""
        self.on_train_end(trainer, pl_module)
        if trainer.is_global_zero and isinstance(exception, KeyboardInterrupt | SIGTERMException):
            last = f"{trainer.default_root_dir}/checkpoints/last.ckpt"
            line = f"interrupted after {trainer.current_epoch} iterations; to go on, add ckpt_path={last}"
            self.console.print(line, soft_wrap=True)
