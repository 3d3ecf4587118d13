"""What a person sees while it trains."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from a2tgpo.callbacks.nothing_learned import nothing_learned
from a2tgpo.callbacks.protocols import ObservedLearner
from a2tgpo.callbacks.report import quoted
from a2tgpo.system.progress import SlowLines
from a2tgpo.system.settings import require
from a2tgpo.system.signals import Interrupted

UNITS = {
    "rollout": "episodes",
    "validation": "episodes",
    "scoring": "micro-batches",
    "update": "optimizer steps",
    "after_update": "micro-batches",
}
"""What each phase counts."""


class TrainingProgress(Callback):
    """A line every `every` iterations, and for each iteration that taught nothing. In between how far the phase under
    way is: in a bar over iterations on a terminal, elsewhere in a line where half a minute passed without one. A line
    of a run without trouble has 80 columns at most."""

    def __init__(self, every: int) -> None:
        require("callbacks.progress.every", every)
        self.every = every
        self.console = Console()
        self.lines = SlowLines(self._print)
        self.bar: Progress | None = None
        self.validated = ""

    def on_load_checkpoint(self, trainer: Trainer, pl_module: ObservedLearner, checkpoint: Mapping[str, Any]) -> None:
        """Say where a resumed run goes on."""
        if trainer.state.fn == "fit":
            done = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
            self._say(trainer, f"resumed after {done} of {trainer.max_epochs} iterations, from {trainer.ckpt_path}")

    def setup(self, trainer: Trainer, pl_module: ObservedLearner, stage: str) -> None:
        """Be told how far a phase is."""
        if trainer.is_global_zero:
            pl_module.phases.on_step = lambda done, total: self._far(trainer, pl_module.phases.under_way, done, total)

    def on_fit_start(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Draw the bar: the first rollout follows."""
        if not trainer.is_global_zero or not self.console.is_terminal:
            return
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        phase = TextColumn("{task.fields[phase]:<12} {task.fields[far]:<9}")
        self.bar = Progress(phase, *columns, console=self.console, expand=True)
        self.bar.add_task("", total=trainer.max_epochs, phase="starting", far="")
        self.bar.start()
        pl_module.phases.on_start = lambda phase: self._update(phase=phase, far="")

    def on_train_start(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Begin where an earlier part of the run ended."""
        self._update(completed=trainer.current_epoch)

    def on_validation_start(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Say where everything will be, and what the first thing is that takes time."""
        if trainer.state.fn == "validate":
            self._say(trainer, f"run directory: {trainer.default_root_dir}")
            self._say(trainer, "start: validation of the initial policy …")

    def on_validation_end(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Keep the newest validation figure in sight, and how old it is."""
        at_start = trainer.state.fn == "validate"
        short, words = self.held_out({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.validated = f"val {short} at {0 if at_start else trainer.current_epoch + 1}  "
        if at_start:
            self._say(trainer, f"start: val {words}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: ObservedLearner, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """An optimizer step is done."""
        pl_module.phases.step(batch_idx + 1, trainer.num_training_batches)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Move on by one iteration."""
        iteration, m = trainer.current_epoch + 1, pl_module.metrics
        line = f"{iteration}/{trainer.max_epochs}  {self.figures(m)}"
        if failures := m.get("train/tool_failures"):
            line += f"  failed calls {failures:.2f}"
        if lost := m["train/failed_episodes"]:
            line += f"  failed episodes {lost:.1%}"
        if skipped := m["update/skipped_steps"]:
            line += f"  skipped steps {skipped:g}"
        line += f"  {sum(pl_module.phases.seconds.values()):.0f} s"
        if reason := self.reason(m):
            line += f"  nothing learned: {reason}"
        self._update(completed=iteration)
        if reason or iteration % self.every == 0 or iteration == trainer.max_epochs:
            self._say(trainer, line)

    def held_out(self, m: Mapping[str, float]) -> tuple[str, str]:
        """What a validation found: for the line of an iteration, and in words."""
        return f"{m['val/success']:.3f}", f"success {m['val/success']:.3f}"

    def figures(self, m: Mapping[str, float]) -> str:
        """What the line of an iteration says of its metrics."""
        return (
            f"train {m['train/success']:.3f}  {self.validated}reward {m['train/reward']:+.2f}  "
            f"turns {m['train/turns']:.1f}  clip {m['update/clip_fraction']:.1%}"
        )

    def reason(self, m: Mapping[str, float]) -> str:
        """Why the iteration taught nothing; empty where it did."""
        return nothing_learned(m)

    def _say(self, trainer: Trainer, line: str) -> None:
        if trainer.is_global_zero:
            self._print(line)
            self.lines.said()

    def _print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, highlight=False)

    def _far(self, trainer: Trainer, phase: str, done: int, total: int) -> None:
        """Say how far `phase` is."""
        self._update(far=f"{done}/{total}")
        if not self.console.is_terminal:
            under_way = {"validate": "start", "test": "end"}.get(
                trainer.state.fn, f"{trainer.current_epoch + 1}/{trainer.max_epochs}"
            )
            self.lines(f"{under_way}: {phase} {done} of {total} {UNITS[phase]}")

    def _update(self, **fields: Any) -> None:
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], **fields)

    def on_fit_end(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Leave the terminal tidy."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def on_exception(self, trainer: Trainer, pl_module: ObservedLearner, exception: BaseException) -> None:
        """Leave the terminal tidy and say how to go on."""
        self.on_fit_end(trainer, pl_module)
        if isinstance(exception, Interrupted):
            last = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
            add = shlex.quote(f"ckpt_path={quoted(last)}")
            way = f"to go on, add {add}" if last.is_file() else "there is no checkpoint yet"
            done = trainer.current_epoch
            self._say(trainer, f"interrupted by {exception.signal} after {done} iterations; {way}")
