"""What loggers take beside numbers, each in its own way: histograms, texts, the end of a run.

TensorBoard, Weights & Biases and Trackio take histograms and texts, MLflow texts. A logger that takes numbers alone,
such as the csv one, is passed over without a word: the same texts and values are in `rollouts/*.jsonl`. Only the first
rank may call these.
"""

from collections.abc import Iterable

from jaxtyping import Float
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

from a2tgpo.callbacks.trackio_logger import TrackioLogger


def log_histogram(loggers: Iterable[Logger], name: str, values: Float[Tensor, " N"], step: int) -> None:
    """The distribution of `values` after `step` optimizer steps."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_histogram(name, values, step)
        elif isinstance(logger, WandbLogger):
            from wandb import Histogram

            logger.log_metrics({name: Histogram(values.tolist())}, step)
        elif isinstance(logger, TrackioLogger):
            from trackio import Histogram

            logger.log_metrics({name: Histogram(values.tolist())}, step)


def log_text(loggers: Iterable[Logger], name: str, text: str, step: int) -> None:
    """A text of several lines, shown as it is, after `step` optimizer steps."""
    quoted = f"```\n{text}\n```"
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(name, quoted, step)
        elif isinstance(logger, WandbLogger):
            logger.log_text(name, columns=["text"], data=[[text]], step=step)
        elif isinstance(logger, TrackioLogger):
            from trackio import Markdown

            logger.log_metrics({name: Markdown(quoted)}, step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_text(logger.run_id, text, f"{name}/{step}.txt")


def end_runs(loggers: Iterable[Logger], failed: bool) -> None:
    """End what would take the next run of this process for its own: that of Weights & Biases."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=int(failed))
