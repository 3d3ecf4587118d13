"""On a device that is not the CPU a run comes to the weights and numbers that it comes to on the CPU."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.tiny_runs import ROOT
from tests.training.test_own_memory import folder_of

SETTINGS = (
    "debug=default",
    "trainer.max_epochs=2",
    "data.module.prompts_per_iteration=4",
    "data.module.mini_batch_prompts=2",
    "data.module.group_size=4",
    "data.module.val_tasks=4",
    "model.optimizer._target_=torch.optim.SGD",  # AdamW makes full steps of rounding
    "~model.optimizer.betas",
    "model.optimizer.lr=0.1",
)
OWN_MEMORY = ("model/policy=pretrained", "model.policy.path={lfm2}", "model.policy.dtype=float32")
CASES = {
    "reference": ("experiment=a2tgpo", "model/reference=frozen_copy", "model.module.kl_coef=0.1"),
    "adapter": ("experiment=a2tgpo", "model/policy=tiny_lora", "model/reference=disabled_adapter"),
    "activations again": ("experiment=a2tgpo", "model.policy.gradient_checkpointing=true"),
    "texts without a turn": ("experiment=a2tgpo", "model/signal=leave_one_turn"),
    "critic": ("experiment=belief_baseline",),
    "forks": ("experiment=fork_credit", "data.module.continuations=2"),
    "trees": ("experiment=tree_grpo",),
    "refill": ("experiment=dapo",),
    "own memory": ("experiment=grpo", *OWN_MEMORY, "data.reward._target_=tests.training.test_own_memory.longest"),
}
BATCHES_DIFFER = {"engine/places_taken"}
"""What `data.engine.deterministic=auto` makes different: on the CPU batches depend on the seed alone."""


def output_of(*command):
    """What a process prints that may register the device."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "case", [case if case == "reference" else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_a_run_elsewhere_is_the_run_on_the_cpu(tmp_path, case):
    own_memory = folder_of("lfm2", tmp_path) if case == "own memory" else None
    overrides = [*(override.format(lfm2=own_memory) for override in CASES[case]), *SETTINGS]
    seen = json.loads(output_of("-m", "tests.helpers.trained_elsewhere", "other", *overrides).splitlines()[-1])
    assert seen["devices"] == ["other:0"] and seen["gap"] < 1e-6
    assert len(seen["here"]) == len(seen["there"]) == 2 and seen["here"][0]["update/grad_norm"] > 0
    for here, there in zip(seen["here"], seen["there"], strict=True):
        assert here.keys() == there.keys()
        assert {k: there[k] for k in here if k not in BATCHES_DIFFER} == pytest.approx(
            {k: here[k] for k in here if k not in BATCHES_DIFFER}, rel=1e-4, abs=1e-4
        )


@pytest.mark.slow
@pytest.mark.parametrize("case", ["reference", "adapter"])
def test_under_the_autocast_of_a_gpu_the_first_ratio_is_one(case):
    overrides = (*CASES[case], *SETTINGS, "trainer.precision=bf16-mixed")
    seen = json.loads(output_of("-m", "tests.helpers.trained_elsewhere", "other", *overrides).splitlines()[-1])
    assert seen["devices"] == ["other:0"] and seen["gap"] < 1e-4
    for here, there in zip(seen["here"], seen["there"], strict=True):
        assert there["update/first_step_max_log_ratio"] == here["update/first_step_max_log_ratio"] == 0
        assert there["update/grad_norm"] == pytest.approx(here["update/grad_norm"], rel=0.05)
        assert there["policy/rollout_gap_mean"] < 0.01


@pytest.mark.slow
def test_the_entry_points_run_elsewhere(tmp_path):
    def call(script, *overrides, trainer=True):
        where = ("trainer.accelerator=other",) if trainer else ("device=other",)
        paths = (f"paths.log_dir={tmp_path}", f"hydra.run.dir={tmp_path}/{script}")
        return output_of("-m", "tests.helpers.entry_point_elsewhere", f"src/{script}.py", *overrides, *where, *paths)

    few = ("questions=4", "samples=4")
    call("train", "experiment=a2tgpo", "data.module.test_tasks=4", *SETTINGS)
    best = f"ckpt_path={tmp_path}/train/checkpoints/best.ckpt"
    assert json.loads((tmp_path / "train" / "summary.json").read_text())["iterations"] == 2
    call("warm_up", "trainer.max_epochs=1", "data.module.val_tasks=4", "data.module.test_tasks=4")
    assert (tmp_path / "warm_up" / "policy" / "model.safetensors").is_file()
    assert json.loads(call("eval", best, "questions=4", trainer=False))["failed_episodes"] == 0
    assert "check.json" in call("check", best, *few)
    assert "credit.json" in call("credit", best, "frozen=null", "continuations=4", "budget=30", *few)


MIXED = """
import torch
from tests.helpers import other_device
other_device.register()
here, there = torch.ones(3), torch.ones(3, device="other")
tied = torch.nn.ModuleList(torch.nn.Linear(3, 3, bias=False) for _ in range(2))
tied[1].weight = tied[0].weight
tied.to("other")
with torch.autocast("other", torch.bfloat16):
    product = tied[0](there[None])
    assert product.dtype == torch.bfloat16 and product.softmax(0).dtype == product.sum().dtype == torch.float32
assert tied[0].weight is tied[1].weight and str(tied[0].weight.device) == "other:0"
assert (there * 2).sum().item() == 6 and torch.equal(there.cpu(), here) and there[torch.tensor([0])].tolist() == [1]
refused = 0
for wrong in (lambda: there + here, lambda: torch.cat([there, here]), lambda: tied[0](here)):
    try:
        wrong()
    except RuntimeError as error:
        refused += "some on other and some on cpu" in str(error)
print(refused)
"""


@pytest.mark.slow
def test_the_other_device_refuses_what_a_gpu_refuses():
    assert output_of("-c", MIXED) == "3\n"
