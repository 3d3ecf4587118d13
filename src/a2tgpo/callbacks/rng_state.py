"""Random state in the checkpoint, so that a resumed run goes on as if it had never stopped."""

import random
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer


class RngState(Callback):
    """Saves and restores the global generators of torch, python and numpy, as plain lists and tensors."""

    def __init__(self) -> None:
        self.before_start: dict[str, Any] | None = None
        """The state before the first rollout set: it is played before the start can be saved, and again at a resume
        from there."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What the checkpoint of the start is to hold."""
        self.before_start = _generators()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The start is over."""
        self.before_start = None

    def state_dict(self) -> dict[str, Any]:
        """State of all generators."""
        return self.before_start or _generators()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put all generators back."""
        torch.set_rng_state(state_dict["torch"])
        version, internal, gauss = state_dict["python"]
        random.setstate((version, tuple(internal), gauss))
        name, keys, *rest = state_dict["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        if "cuda" in state_dict and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state_dict["cuda"][: torch.cuda.device_count()])  # there may be fewer now


def _generators() -> dict[str, Any]:
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "torch": torch.get_rng_state(),
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state
