"""Checkpoint files: written beside their place and moved to it."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from a2tgpo.callbacks.rng_state import RngState
from a2tgpo.system.checkpoint_io import AtomicCheckpointIO
from a2tgpo.system.signals import Interrupted


def test_what_was_saved_is_read(tmp_path):
    path = tmp_path / "new" / "last.ckpt"
    saved = {"weights": torch.randn(3, 4), "step": 7, "names": ["a"]}
    AtomicCheckpointIO().save_checkpoint(saved, path)
    read = AtomicCheckpointIO().load_checkpoint(path)
    assert torch.equal(read.pop("weights"), saved.pop("weights")) and read == saved
    assert os.listdir(path.parent) == ["last.ckpt"]


@dataclass(frozen=True)
class Payload:
    """Creates a file when it is unpickled."""

    path: Path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("weights_only", [True, None])  # None is what Lightning says where it was told nothing
def test_a_checkpoint_runs_no_code(tmp_path, weights_only):
    torch.save({"state_dict": {}, "callbacks": Payload(tmp_path / "made")}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt: not a checkpoint; expected one written by src/train\.py"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt", weights_only=weights_only)
    assert not (tmp_path / "made").exists()


def test_a_run_that_dies_while_it_saves_keeps_the_file_before(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    with pytest.raises(AttributeError):  # what cannot be written
        AtomicCheckpointIO().save_checkpoint({"step": 2, "callback": lambda: None}, path)
    assert AtomicCheckpointIO().load_checkpoint(path) == {"step": 1}


def test_a_signal_during_a_save_ends_it_as_a_signal(tmp_path):
    path, weights, met = tmp_path / "last.ckpt", {str(i): torch.zeros(20_000) for i in range(300)}, 0
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    def interrupt(number, frame):
        raise Interrupted(signal.SIGTERM)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for i in range(20):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0005 * (i + 1))
                AtomicCheckpointIO().save_checkpoint(weights, tmp_path / "other.ckpt")
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupted:
                met += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert met > 0 and AtomicCheckpointIO().load_checkpoint(path) == {"step": 1}
    assert not list(tmp_path.glob("*.part"))


def test_a_file_may_be_replaced_while_it_is_read(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.ones(1000)}, path)
    read = AtomicCheckpointIO().load_checkpoint(path)["weights"]
    AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(1000)}, path)
    read += 1  # in memory alone
    assert (read == 2).all() and not AtomicCheckpointIO().load_checkpoint(path)["weights"].any()


def test_a_run_of_more_gpus_goes_on_with_fewer(monkeypatch):
    restored = []
    state = RngState().state_dict() | {"cuda": [torch.zeros(1), torch.ones(1)]}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.extend)
    RngState().load_state_dict(state)
    assert [int(tensor) for tensor in restored] == [0]
