"""Seconds, tokens and memory of a run from a timed part, by hand numbers."""

from dataclasses import replace

import pytest
import torch

from a2tgpo.check.cost import Timed, checkpointing, cost, one_thread
from a2tgpo.check.findings import Verdict

TIMED = Timed(6.0, trajectories=12, scoring=2.0, scored_tokens=2400, update=3.0, updated_tokens=600, rounding=0.0)


def test_a_run_is_scaled_from_what_was_timed():
    time, memory = cost(TIMED, 100, 50, parameters=10**9, trained=10**6, device=torch.device("cpu"))
    assert time.figures["tokens"] == pytest.approx(20_000)
    assert time.figures["seconds"] == pytest.approx({"rollout": 50.0, "scoring": 20_000 / 1200, "update": 100.0})
    assert "100 episodes, 20,000 tokens, about 3 min (rollout 50 s, scoring 17 s, update 2 min)" in time.says
    assert "50 iterations about 2.3 h" in time.says
    assert memory.figures["optimizer"] == 8 * 10**6 and memory.figures["peak"] > 10**7
    assert memory.verdict is Verdict.GOOD


def test_what_is_measured_once_a_run_is_counted_once():
    """One iteration is 500/3 seconds."""
    slow = replace(TIMED, rounding=1000.0)
    time, _ = cost(slow, 100, 50, parameters=10**9, trained=10**6, device=torch.device("cpu"))
    assert sum(time.figures["seconds"].values()) == pytest.approx(500 / 3)
    assert time.figures["run"] == pytest.approx(50 * 500 / 3 + 1000)


def test_activations_of_a_small_model_need_not_be_computed_twice():
    (finding,) = checkpointing(True, 135 * 10**6)
    assert finding.verdict is Verdict.DOUBTFUL and finding.mend == "model.policy.gradient_checkpointing=auto"
    assert not [*checkpointing(False, 135 * 10**6)] and not [*checkpointing(True, 8 * 10**9)]


def test_a_real_model_on_one_of_several_cores_is_found():
    (finding,) = one_thread(1, 8, 135 * 10**6)
    assert finding.verdict is Verdict.DOUBTFUL and finding.mend == "threads=auto" and "one of 8 cores" in finding.says
    assert not any([*one_thread(*others)] for others in ((2, 8, 10**9), (1, 1, 10**9), (1, 8, 10**6)))
