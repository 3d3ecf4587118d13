"""Two processes that share the weights do what one does, and their checkpoints are those of one."""

import json
import shutil

import pytest
import torch

import train
from tests.helpers.tiny_runs import checkpoint, table
from tests.training.test_ddp import CASES, SETTINGS, apart, by_place, moved, rollouts, torchrun, train_in_two

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

FINISHED = {}


@pytest.fixture(params=["full", "lora", "reference"])
def runs(request, composed, tmp_path):
    """The directories of the same iteration in one process and in two that shard, made once a case."""
    if request.param not in FINISHED:
        settings = (*SETTINGS, *CASES[request.param], "trainer.max_epochs=1")
        train.train(composed(*settings, f"paths.output_dir={tmp_path}/one"))
        train_in_two(torchrun, *settings, f"paths.log_dir={tmp_path}/two", trainer="fsdp_cpu")
        (directory,) = (tmp_path / "two" / "train" / "runs").iterdir()
        FINISHED[request.param] = (tmp_path / "one", directory)
    return FINISHED[request.param]


def test_ranks_roll_out_what_one_process_would(runs):
    one, two = (by_place(rollouts(directory)) for directory in runs)
    assert one.keys() == two.keys()
    for place, line in one.items():
        assert [turn["action_ids"] for turn in line["turns"]] == [turn["action_ids"] for turn in two[place]["turns"]]


def test_weights_after_a_rollout_set_are_those_of_one_process(runs):
    one, two = map(checkpoint, runs)
    assert one["global_step"] == two["global_step"] == 2
    assert moved(one) > 3e-4 and apart(one, two) <= 1e-5
