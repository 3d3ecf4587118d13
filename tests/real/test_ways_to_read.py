"""Real models are read in one block, and by segments to the same beliefs."""

from dataclasses import replace

import pytest
import torch

from a2tgpo.scoring.score import score
from tests.helpers.build import build_trajectory
from tests.helpers.shipped import pretrained_policy

pytestmark = pytest.mark.real
WRAPPER = ("<answer>", "</answer>")


@pytest.mark.parametrize(("model", "rounding"), [("smollm2", 2e-6), ("gemma3", 5e-6)])  # of log-probs of −10 to −25
def test_beliefs_by_segments_are_those_of_the_block(request, model, rounding):
    policy = pretrained_policy(request.getfixturevalue(model))
    assert policy.reads == "block"
    result = "\n<result> The Peak District is an upland area at the southern end of the Pennines.</result>\n"
    actions = ["<search> Peak District</search>", "<answer> England</answer>"]
    answers = {"answers": ("England", "Derbyshire")}
    trajectories = [build_trajectory(policy, actions, [result * (i + 1)], sample=i, **answers) for i in range(2)]
    block, segments = (
        score(replace(policy, reads=reads), trajectories, lambda task: task.answers, WRAPPER, 4096).observed
        for reads in ("block", "segments")
    )
    torch.testing.assert_close(segments.answer_logprob, block.answer_logprob, rtol=rounding, atol=1e-5)
