"""Settings of the process: CPU threads, the device of a trainer."""

import pytest
import torch

from a2tgpo.system.process import configure_process, device_of
from a2tgpo.system.settings import require


@pytest.fixture
def threads():
    """Leaves the number of threads as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("setting", "expected"), [(1, 1), ("auto", 2)])
def test_threads_are_as_told_or_torchs_own(threads, setting, expected):
    configure_process(setting)
    assert torch.get_num_threads() == expected


@pytest.mark.parametrize(
    ("experiment", "expected"), [("a2tgpo", 1), ("a2tgpo_pretrained", "auto"), ("grpo_small", "auto")]
)
def test_a_model_of_ones_own_gets_all_cores(composed, experiment, expected):
    for entry_point in ("train", "eval"):
        assert composed(f"experiment={experiment}", config_name=entry_point).threads == expected
    require("threads", expected)


@pytest.mark.parametrize("setting", [0, 1.5, None, "all"])
def test_no_number_of_threads_is_refused(setting):
    with pytest.raises(
        ValueError, match=r"^threads=.*: expected a number of processors of this machine >= 1 .* or auto$"
    ):
        require("threads", setting)


@pytest.mark.parametrize(
    ("cuda", "mps", "devices"),
    [
        (False, False, {"cpu": "cpu", "auto": "cpu"}),
        (True, False, {"cpu": "cpu", "auto": "cuda", "gpu": "cuda", "cuda": "cuda"}),
        (False, True, {"cpu": "cpu", "auto": "mps", "gpu": "mps", "mps": "mps"}),
    ],
)
def test_the_device_is_that_of_the_trainer_or_an_error(monkeypatch, cuda, mps, devices):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.mps, "is_available", lambda: mps)
    for accelerator in ("cpu", "gpu", "cuda", "mps", "auto"):
        if accelerator in devices:
            assert device_of(accelerator) == devices[accelerator]
        else:
            with pytest.raises(ValueError, match=f"^trainer.accelerator={accelerator}: no GPU is visible; expected"):
                device_of(accelerator)
