"""On a GPU a run comes to what it comes to on the CPU, and the ways to train there come to the same."""

import json

import pytest
import torch

from tests.helpers.tiny_runs import SHIPPED, checkpoint, finish, start
from tests.training.test_ddp import apart, moved
from tests.training.test_other_device import BATCHES_DIFFER, CASES, SETTINGS, output_of
from tests.training.test_own_memory import folder_of

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

A_STEP_LATER = 1e-4
"""Rounding of sums in another order, after four optimizer steps with SGD."""
RUN = ("experiment=a2tgpo", *SETTINGS, "trainer.precision=32-true", f"paths.policy_dir={SHIPPED}")
ADAPTER = ("model/policy=tiny_lora", "model/reference=disabled_adapter")
WAYS = {
    "ddp": ("trainer=ddp",),
    "shards": ("trainer=fsdp",),
    "shards of an adapter": ("trainer=fsdp", *ADAPTER),
    "compiled": ("trainer=gpu", "model.policy.compile=true"),
    "activations again": ("trainer=gpu", "model.policy.gradient_checkpointing=true"),
}


@pytest.fixture(autouse=True)
def visible():
    """A lane that is asked for does not skip."""
    assert torch.cuda.is_available(), "no GPU is visible; expected one"


def run(directory, script, *overrides):
    """A finished run of an entry point in `directory`."""
    process = start(f"{script}.py", *overrides, f"hydra.run.dir={directory}", f"paths.log_dir={directory.parent}")
    output, errors = finish(process, 400)
    assert process.returncode == 0, output[-2000:] + errors[-6000:]
    return directory


@pytest.mark.parametrize("case", CASES)
def test_a_run_on_a_gpu_is_the_run_on_the_cpu(tmp_path, case):
    own_memory = folder_of("lfm2", tmp_path) if case == "own memory" else None
    overrides = [*(override.format(lfm2=own_memory) for override in CASES[case]), *SETTINGS]
    seen = json.loads(output_of("-m", "tests.helpers.trained_elsewhere", "cuda", *overrides).splitlines()[-1])
    assert seen["devices"] == ["cuda:0"] and seen["gap"] < A_STEP_LATER
    for here, there in zip(seen["here"], seen["there"], strict=True):
        assert here.keys() == there.keys()
        assert {k: there[k] for k in here if k not in BATCHES_DIFFER} == pytest.approx(
            {k: here[k] for k in here if k not in BATCHES_DIFFER}, rel=1e-2, abs=1e-3
        )


@pytest.mark.parametrize("case", ["reference", "adapter"])
def test_in_bf16_the_first_ratio_is_one(case):
    overrides = (*CASES[case], *SETTINGS, "trainer.precision=bf16-mixed")
    seen = json.loads(output_of("-m", "tests.helpers.trained_elsewhere", "cuda", *overrides).splitlines()[-1])
    assert seen["devices"] == ["cuda:0"] and seen["there"][0]["update/grad_norm"] > 0
    for there in seen["there"]:
        assert there["update/first_step_max_log_ratio"] == 0
        assert there["policy/rollout_gap_mean"] < 0.02


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_train_on_a_gpu_come_to_the_same(tmp_path, way):
    plain = ("trainer=gpu", *(ADAPTER if "adapter" in way else ()))
    one, other = (
        checkpoint(run(tmp_path / name, "train", *RUN, *choice, "trainer.devices=1"))
        for name, choice in {"plain": plain, "other": WAYS[way]}.items()
    )
    assert moved(one) > 5e-5 and apart(one, other) < 1e-5


def test_a_run_that_goes_on_comes_to_what_it_would_have(tmp_path):
    settings = (*RUN, "trainer=gpu", "model/scheduler=constant", "model.scheduler.num_warmup_steps=0")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole, "train", *settings)
    half = checkpoint(run(parts, "train", *settings, "trainer.max_epochs=1"))
    run(parts, "train", *settings, f"ckpt_path={parts}/checkpoints/last.ckpt")
    assert apart(half, checkpoint(whole)) > A_STEP_LATER
    assert apart(checkpoint(parts), checkpoint(whole)) < A_STEP_LATER


def test_the_entry_points_run_on_a_gpu(tmp_path):
    few = ("questions=4", "samples=4", "trainer=gpu")
    best = f"ckpt_path={run(tmp_path / 'train', 'train', *RUN, 'trainer=gpu')}/checkpoints/best.ckpt"
    run(tmp_path / "warm_up", "warm_up", "trainer=gpu", "trainer.max_epochs=1", *SETTINGS[5:6])
    assert (tmp_path / "warm_up" / "policy" / "model.safetensors").is_file()
    run(tmp_path / "eval", "eval", best, "questions=4", "device=cuda")
    assert json.loads((tmp_path / "eval" / "summary.json").read_text())["failed_episodes"] == 0
    run(tmp_path / "check", "check", best, *few)
    run(tmp_path / "credit", "credit", best, "frozen=null", "continuations=4", "budget=30", *few)
    assert (tmp_path / "check" / "check.json").is_file() and (tmp_path / "credit" / "credit.json").is_file()
