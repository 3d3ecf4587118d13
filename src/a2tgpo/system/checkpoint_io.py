"""Checkpoint files of any size: written beside their place, then moved to it, and mapped when they are read."""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from a2tgpo.system.files import whole_file
from a2tgpo.system.signals import Interrupted


def read_checkpoint(path: str | Path, weights_only: bool | None = True) -> dict[str, Any]:
    """The checkpoint on the CPU; tensors are read from the file as they are used.

    Raises ValueError where `path` is no checkpoint of a training run.
    """
    if not Path(path).is_file():
        raise ValueError(f"ckpt_path={path}: no such file; expected a checkpoint written by src/train.py")
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=weights_only)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(f"ckpt_path={path}: not a checkpoint; expected one written by src/train.py") from error


def require_resumable(path: str | Path) -> None:
    """Raises ValueError where a run cannot be taken up from the checkpoint, because it holds the weights alone."""
    checkpoint = read_checkpoint(path)
    if not isinstance(checkpoint, Mapping) or "optimizer_states" not in checkpoint:
        raise ValueError(
            f"ckpt_path={path}: no optimizer state in it; expected the last.ckpt of a run: its best.ckpt holds the "
            "weights alone, for evaluation and export"
        )


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's own would collect the file in memory first, then in the machine's temporary folder, and read all of
    it on every rank."""

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write beside `path` and rename: a run that dies meanwhile keeps the file before.

        Raises OSError naming `path` where it cannot be written.
        """
        with whole_file(Path(path), binary=True) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError | Interrupted):  # torch's writer does not say why it failed
                    raise error.__context__ from None
                raise

    def load_checkpoint(
        self, path: str | Path, map_location: Callable | None = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """The checkpoint on the CPU; tensors are read from the file as they are used."""
        return read_checkpoint(path, weights_only)
