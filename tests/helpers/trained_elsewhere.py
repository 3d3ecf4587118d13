"""Trains twice, on the CPU and elsewhere, and prints what came of it, as JSON: `… other|cuda [override …]`."""

import json
import sys
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy

from benchmarks.embedded import configuration
from tests.helpers import other_device
from tests.helpers.tiny_runs import fit


class Places(Callback):
    """Where a run's weights and gradients were while it trained, and its metrics."""

    def __init__(self) -> None:
        self.devices: set[str] = set()
        self.metrics: list[dict[str, float]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Count a step."""
        weights = list(pl_module.parameters())
        self.devices |= {str(w.device) for w in weights} | {str(w.grad.device) for w in weights if w.grad is not None}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count an iteration."""
        told = {name: float(value) for name, value in pl_module.metrics.items() if not name.startswith("seconds/")}
        self.metrics.append(told)


def train(overrides: list[str], **where: object) -> tuple[Places, dict[str, torch.Tensor]]:
    """What was seen of a run, and its weights."""
    torch.manual_seed(0)  # of an adapter
    places = Places()
    trainer = fit(configuration(*overrides), [places], limit_val_batches=1.0, default_root_dir=None, **where)
    weights = trainer.lightning_module.state_dict()
    return places, {name: weight.cpu() for name, weight in weights.items()}


def elsewhere(overrides: list[str]) -> dict[str, object]:
    """What Lightning must be told to train on the stand-in, which torch knows from now on."""
    other_device.register()
    where = {"accelerator": other_device.OtherAccelerator(), "strategy": SingleDeviceStrategy(other_device.device())}
    if configuration(*overrides).trainer.precision == "bf16-mixed":  # Lightning itself would take CUDA's autocast
        where |= {"precision": None, "plugins": MixedPrecision("bf16-mixed", other_device.NAME)}
    return where


def main() -> None:
    """Train here, then there."""
    name, *overrides = sys.argv[1:]
    torch.set_num_threads(1)
    where = elsewhere(overrides) if name == other_device.NAME else {"accelerator": name}
    here, weights = train(overrides, accelerator="cpu")
    there, others = train(overrides, **where)
    gap = max(float((weight - others[name]).abs().max()) for name, weight in weights.items())
    print(json.dumps({"devices": sorted(there.devices), "gap": gap, "here": here.metrics, "there": there.metrics}))


if __name__ == "__main__":
    main()
