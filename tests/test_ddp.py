"""Two processes on the CPU do what one does: they share the prompts, agree on credit and weights, and step alike."""

import json

import pytest
import torch
from hydra.utils import instantiate
from tiny_runs import SHIPPED, SMALL, checkpoint, finish, start, table

import train
from a2tgpo.policies.pretrained import load_policy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PLAIN_SGD = ("model.optimizer._target_=torch.optim.SGD", "~model.optimizer.betas", "model.optimizer.lr=0.1")
"""Steps proportional to the gradient, so that equal weights mean equal gradients."""

CASES = {
    "per_prompt": ("model.module.kl_coef=0.1",),
    "whole_batch": ("model/normalizer=batch", "model/aggregation=token_mean"),
}
FINISHED = {}


@pytest.fixture(params=CASES)
def runs(request, composed, tmp_path):
    """The directories of the same iteration in one process and in two, made once a case."""
    if request.param not in FINISHED:
        settings = ["experiment=a2tgpo", *SMALL, *PLAIN_SGD, *CASES[request.param], f"paths.policy_dir={SHIPPED}"]
        settings += ["model.scheduler.num_warmup_steps=0", "model.module.micro_batch_tokens=300"]
        settings += ["data.module.group_size=4", "data.module.val_tasks=3", "data.module.test_tasks=1"]
        settings += ["trainer.max_epochs=1", "callbacks.rollout_files.every=1"]
        train.train(composed(*settings, f"paths.output_dir={tmp_path}/one"))
        two = start("train.py", *settings, "trainer=ddp_cpu", f"paths.log_dir={tmp_path}/two")
        output, errors = finish(two, 300)
        assert two.returncode == 0, output + errors
        (directory,) = (tmp_path / "two" / "train" / "runs").iterdir()
        FINISHED[request.param] = (tmp_path / "one", directory)
    return FINISHED[request.param]


def rollouts(directory):
    """One list of trajectories a rank."""
    files = sorted((directory / "rollouts").glob("000001-rank*.jsonl"))
    return [[json.loads(line) for line in file.open()] for file in files]


def by_place(ranks):
    return {(line["group"], line["sample"]): line for rank in ranks for line in rank}


def test_ranks_share_the_prompts_and_never_split_a_group(runs):
    one, two = map(rollouts, runs)
    assert len(one) == 1 and len(two) == 2
    groups = [{line["group"] for line in rank} for rank in two]
    assert groups[0] & groups[1] == set() and groups[0] | groups[1] == {0, 1, 2, 3}
    assert all(len(rank) == 2 * 4 for rank in two)
    assert all({group // 2 for group in own} == {0, 1} for own in groups)  # a share of each of the two mini-batches


def test_ranks_roll_out_what_one_process_would(runs):
    one, two = (by_place(rollouts(directory)) for directory in runs)
    assert one.keys() == two.keys()
    for place, line in one.items():
        assert line["task_id"] == two[place]["task_id"]
        assert [turn["action_ids"] for turn in line["turns"]] == [turn["action_ids"] for turn in two[place]["turns"]]


def test_credit_is_that_of_the_whole_rollout_set(runs):
    one, two = (by_place(rollouts(directory)) for directory in runs)
    assert any(line["normalized"] != [0.0] * len(line["turns"]) for line in one.values())
    for place, line in one.items():
        for key in ("normalized", "advantage", "clip_low", "clip_high"):
            assert two[place][key] == pytest.approx(line[key], rel=0, abs=1e-3), (place, key)


def test_weights_after_a_rollout_set_are_those_of_one_process(runs):
    one, two = (checkpoint(directory)["state_dict"] for directory in runs)
    first = {f"model.{name}": weight for name, weight in load_policy(SHIPPED).model.state_dict().items()}
    moved = max(float((one[name] - first[name]).abs().max()) for name in one)
    apart = max(float((one[name] - two[name]).abs().max()) for name in one)
    assert one.keys() == two.keys() and moved > 1e-3 and apart <= 1e-5


def test_figures_are_those_of_one_process(runs):
    one, two = (table(directory)[-1] for directory in runs)
    for name in ("val/em", "val/turns", "val/tokens", "train/em", "train/reward", "train/turns", "train/tokens"):
        assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-6, abs=1e-6), name
    assert float(two["update/loss"]) == pytest.approx(float(one["update/loss"]), rel=1e-3, abs=1e-5)
    assert two["tokens/useful"] == one["tokens/useful"]
    assert float(two["update/first_step_max_log_ratio"]) <= 1e-5
    summaries = [json.loads((directory / "summary.json").read_text()) for directory in runs]
    assert summaries[0]["test/em"] == summaries[1]["test/em"] and summaries[1]["optimizer_steps"] == 2


def test_checkpoint_of_two_processes_serves_one(runs, composed, tmp_path):
    _, two = runs
    config = composed("experiment=a2tgpo", *SMALL, f"paths.policy_dir={SHIPPED}")
    learner = instantiate(config.model.module, _convert_="all")
    state = checkpoint(two)["state_dict"]
    learner.load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in learner.state_dict().items())
