"""Seconds, tokens and memory of a run from a timed part, by hand numbers."""

import pytest
import torch

from a2tgpo.check.cost import Timed, checkpointing, cost
from a2tgpo.check.findings import Verdict

TIMED = Timed(rollout=6.0, trajectories=12, scoring=2.0, scored_tokens=2400, update=3.0, updated_tokens=600)


def test_a_run_is_scaled_from_what_was_timed():
    time, memory = cost(TIMED, 100, 50, parameters=10**9, trained=10**6, device=torch.device("cpu"))
    assert time.figures["tokens"] == pytest.approx(20_000)
    assert time.figures["seconds"] == pytest.approx({"rollout": 50.0, "scoring": 20_000 / 1200, "update": 100.0})
    assert "100 episodes, 20,000 tokens, about 3 min (rollout 50 s, scoring 17 s, update 2 min)" in time.says
    assert "50 iterations about 2.3 h" in time.says
    assert memory.figures["optimizer"] == 8 * 10**6 and memory.figures["peak"] > 10**7
    assert memory.verdict is Verdict.GOOD


def test_activations_of_a_small_model_need_not_be_computed_twice():
    (finding,) = checkpointing(True, 135 * 10**6)
    assert finding.verdict is Verdict.DOUBTFUL and finding.mend == "model.policy.gradient_checkpointing=auto"
    assert not [*checkpointing(False, 135 * 10**6)] and not [*checkpointing(True, 8 * 10**9)]
