"""Histograms and texts, for the loggers that can take them.

TensorBoard, Weights & Biases and Trackio take both. A logger that takes numbers alone, such as the csv one, is passed
over without a word: the same texts and values are in `rollouts/*.jsonl`. Only the first rank may call these.
"""

from collections.abc import Iterable

from jaxtyping import Float
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
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
