"""Two processes on the CPU do what one does: they share the prompts, agree on credit and weights, and step alike."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import run_directories
import train
from a2tgpo.system import distributed
from tests.helpers.shipped import pretrained_policy
from tests.helpers.tiny_runs import ROOT, SHIPPED, SMALL, checkpoint, finish, start, table

pytestmark = pytest.mark.timeout(600)

SETTINGS = (
    "experiment=a2tgpo",
    *SMALL,
    "seed=1",  # each of its mini-batches has advantages: AdamW would make full steps of rounding alone
    "model/scheduler=constant",  # does not depend on how long the run was meant to be
    "model.scheduler.num_warmup_steps=0",
    "model.module.micro_batch_tokens=1000",
    "data.module.prompts_per_iteration=8",
    "data.module.mini_batch_prompts=4",
    "data.module.group_size=4",
    "data.module.val_tasks=3",
    "data.module.test_tasks=1",
    "callbacks.rollout_files.every=1",
    f"paths.policy_dir={SHIPPED}",
)
PLAIN_SGD = ("model.optimizer._target_=torch.optim.SGD", "~model.optimizer.betas", "model.optimizer.lr=0.1")
"""Steps proportional to the gradient, so that equal weights mean equal gradients."""
CASES = {
    "full": (),
    "lora": ("model/policy=tiny_lora", "model/reference=disabled_adapter"),
    "reference": (*PLAIN_SGD, "model.module.kl_coef=0.1"),
    "whole_batch": (*PLAIN_SGD, "model/normalizer=batch", "model/aggregation=token_mean"),
}
"""What is trained, and by which loss. The fast lane has `reference`: AdamW would hide a gradient of the wrong scale."""
FINISHED = {}


def torchrun(script, *overrides):
    """`torchrun --standalone --nproc-per-node 2 src/<script> …`"""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    command += ["--nproc-per-node", "2", str(ROOT / "src" / script), *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes)


def train_in_two(launcher, *overrides, trainer="ddp_cpu"):
    """A finished training in two processes, which Lightning starts (`start`) or torchrun."""
    process = launcher("train.py", *overrides, f"trainer={trainer}")
    output, errors = finish(process, 300)
    assert process.returncode == 0, output + errors


@pytest.fixture(params=[case if case == "reference" else pytest.param(case, marks=pytest.mark.slow) for case in CASES])
def runs(request, composed, tmp_path):
    """The directories of the same iteration in one process and in two, made once a case."""
    if request.param not in FINISHED:
        settings = (*SETTINGS, *CASES[request.param], "trainer.max_epochs=1")
        train.train(composed(*settings, f"paths.output_dir={tmp_path}/one"))
        launcher = start if request.param == "whole_batch" else torchrun
        train_in_two(launcher, *settings, f"paths.log_dir={tmp_path}/two")
        (directory,) = (tmp_path / "two" / "train" / "runs").iterdir()
        FINISHED[request.param] = (tmp_path / "one", directory)
    return FINISHED[request.param]


def rollouts(directory):
    """One list of trajectories a rank."""
    files = sorted((directory / "rollouts").glob("000001-rank*.jsonl"))
    return [[json.loads(line) for line in file.open()] for file in files]


def by_place(ranks):
    return {(line["group"], line["sample"]): line for rank in ranks for line in rank}


def moved(state):
    """The largest step of a weight that was the shipped policy's, or of an adapter's B, which started at zero."""
    first = {f"model.{name}": weight for name, weight in pretrained_policy(SHIPPED).model.state_dict().items()}
    first |= {name: torch.zeros_like(weight) for name, weight in state["state_dict"].items() if "lora_B" in name}
    return max(float((w - first[name]).abs().max()) for name, w in state["state_dict"].items() if name in first)


def apart(one, two):
    """The largest difference between the weights of two checkpoints."""
    one, two = one["state_dict"], two["state_dict"]
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


# ---- two processes do what one does ----------------------------------------------------------------------------------


def test_ranks_share_the_prompts_and_never_split_a_group(runs):
    one, two = map(rollouts, runs)
    assert len(one) == 1 and len(two) == 2
    groups = [{line["group"] for line in rank} for rank in two]
    assert groups[0] & groups[1] == set() and groups[0] | groups[1] == set(range(8))
    assert all(len(rank) == 4 * 4 for rank in two)
    assert all({group // 4 for group in own} == {0, 1} for own in groups)  # a share of each of the two mini-batches


def test_ranks_roll_out_what_one_process_would(runs):
    one, two = (by_place(rollouts(directory)) for directory in runs)
    assert one.keys() == two.keys()
    for place, line in one.items():
        assert line["task_id"] == two[place]["task_id"]
        assert [turn["action_ids"] for turn in line["turns"]] == [turn["action_ids"] for turn in two[place]["turns"]]


def test_credit_is_that_of_the_whole_rollout_set(runs):
    one, two = (by_place(rollouts(directory)) for directory in runs)
    assert any(line["normalized_gain"] != [0.0] * len(line["turns"]) for line in one.values())
    for place, line in one.items():
        for key in ("normalized_gain", "advantage", "clip_low", "clip_high"):
            assert two[place][key] == pytest.approx(line[key], rel=0, abs=1e-3), (place, key)


def test_weights_after_a_rollout_set_are_those_of_one_process(runs):
    one, two = map(checkpoint, runs)
    assert one["global_step"] == two["global_step"] == 2
    assert moved(one) > 3e-4 and apart(one, two) <= 1e-5


@pytest.mark.slow
def test_ranks_that_refill_keep_the_groups_and_take_the_steps_of_one_process(composed, tmp_path):
    refilled = ("data.module.refill_rounds=1", "data/shaping=overlong", "model/aggregation=token_mean")
    settings = (*SETTINGS, *PLAIN_SGD, *refilled, "trainer.max_epochs=1")
    train.train(composed(*settings, f"paths.output_dir={tmp_path}/one"))
    train_in_two(torchrun, *settings, f"paths.log_dir={tmp_path}/two")
    (directory,) = (tmp_path / "two" / "train" / "runs").iterdir()
    one, two = (by_place(rollouts(d)) for d in (tmp_path / "one", directory))
    assert one.keys() == two.keys() and all(line["task_id"] == two[place]["task_id"] for place, line in one.items())
    figures = [table(d)[-1] for d in (tmp_path / "one", directory)]
    played, left_out = ([float(f[f"train/groups_{name}"]) for f in figures] for name in ("played", "left_out"))
    assert played[0] == played[1] > 1 and left_out[0] == left_out[1] > 0
    alone, together = (checkpoint(d) for d in (tmp_path / "one", directory))
    assert alone["global_step"] == together["global_step"] == 2
    assert moved(alone) > 3e-4 and apart(alone, together) <= 1e-5


def test_figures_are_those_of_one_process(runs):
    one, two = (table(directory)[-1] for directory in runs)
    for name in (
        "val/success",
        "val/turns",
        "val/tokens",
        "train/success",
        "train/reward",
        "train/turns",
        "train/tokens",
    ):
        assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-6, abs=1e-6), name
    assert float(two["update/loss"]) == pytest.approx(float(one["update/loss"]), rel=1e-3, abs=1e-5)
    assert two["tokens/useful"] == one["tokens/useful"]
    assert float(two["update/first_step_max_log_ratio"]) <= 1e-5
    summaries = [json.loads((directory / "summary.json").read_text()) for directory in runs]
    assert summaries[0]["test/success"] == summaries[1]["test/success"] and summaries[1]["optimizer_steps"] == 2


# ---- from one to two, and back ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("case", "runs"), [("full", "full"), ("lora", "lora")], indirect=["runs"])
def test_run_of_either_is_taken_up_by_the_other(case, runs, composed, tmp_path):
    settings = (*SETTINGS, *CASES[case], "trainer.max_epochs=2")
    train.train(composed(*settings, f"paths.output_dir={tmp_path}/whole"))
    one, two = (shutil.copytree(run, tmp_path / name) for run, name in zip(runs, ("one", "two"), strict=True))
    train_in_two(torchrun, *settings, f"ckpt_path={one}/checkpoints/last.ckpt")
    train.train(composed(*settings, f"paths.output_dir={two}", f"ckpt_path={two}/checkpoints/last.ckpt"))
    for directory in (one, two):
        assert [row["iteration"] for row in table(directory)] == ["0", "1", "2"]
        assert checkpoint(directory)["global_step"] == 4
        assert apart(checkpoint(directory), checkpoint(tmp_path / "whole")) <= 1e-5


# ---- shares, names and commands --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_ranks", [1, 2, 4])
def test_every_prompt_goes_to_one_rank_and_every_mini_batch_to_all(monkeypatch, n_ranks):
    shares = []
    for rank in range(n_ranks):
        monkeypatch.setattr(distributed, "rank_and_world_size", lambda rank=rank: (rank, n_ranks))
        shares.append(distributed.shard(list(range(12)), block=4))
    assert sorted(prompt for own in shares for prompt in own) == list(range(12))
    for own in shares:
        assert [prompt // 4 for prompt in own] == [block for block in range(3) for _ in range(4 // n_ranks)]


def test_tasks_of_a_slurm_step_share_a_run_directory(monkeypatch, tmp_path):
    step = {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "16"}
    alone = [run_directories.run_dir(None, "train", str(tmp_path)) for _ in range(2)]
    assert alone[0] != alone[1]
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    names = [Path(run_directories.run_dir(None, "train", str(tmp_path))).name for _ in range(2)]
    assert names == ["slurm-4711-0"] * 2
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # the scheduler started the job once more
    assert Path(run_directories.run_dir(None, "train", str(tmp_path))).name == "slurm-4711-0-1"


def test_documented_commands_compose(composed):
    text = (ROOT / "docs" / "distributed.md").read_text().replace("\\\n", "")
    text = text.replace("$SLURM_NNODES", "2").replace("$SLURM_NTASKS_PER_NODE", "8")
    commands = re.findall(r"src/train\.py ([^\n&'#]*)", text)
    assert len(commands) >= 9
    for arguments in commands:
        config = composed(*arguments.split())
        ranks = config.trainer.get("num_nodes", 1) * (1 if config.trainer.devices == "auto" else config.trainer.devices)
        assert config.data.module.mini_batch_prompts % ranks == 0
