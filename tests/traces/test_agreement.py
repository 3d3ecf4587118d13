"""Credits of the same trajectories, held against each other without forks."""

import json

import pytest
import torch

import credit
from a2tgpo.method.method import PAPER
from a2tgpo.oracle.controls import CONTROLS
from a2tgpo.traces.agreement import Turns, agreement
from a2tgpo.traces.from_run import read_traces
from tests.helpers.tiny_runs import finish, start
from tests.helpers.traced_run import foreign, imported, leave_lines
from tests.helpers.viewed_run import GROUP, group, leave_viewed_run


@pytest.fixture
def traces(tmp_path):
    """Two prompts of two trajectories with recorded beliefs and credit, the second prompt with other outcomes."""
    swapped = group(group=1)
    swapped[0]["outcome"], swapped[1]["outcome"] = 1.0, 0.0
    return read_traces(leave_viewed_run(tmp_path / "run", {"000001-rank0": [*GROUP, *swapped]}), None)


def test_a_credit_agrees_with_itself(traces):
    report = agreement(traces, {"paper": PAPER})
    own = report.figures("recorded")
    for place in ("prompts", "trajectories"):
        assert own[f"correlation with recorded within {place}"].value == pytest.approx(1.0, abs=1e-6)
    assert own["sign of recorded"].value == 1.0
    assert report.facts == {"prompts": 2, "trajectories": 4, "turns": 10, "mean outcome": 0.5}


def test_figures_are_those_of_the_hand(traces):
    turns = Turns(traces)
    assert turns.earned.tolist() == [-1.0, 1.0, 1.0, -1.0]  # R less the other's
    given = torch.tensor([-1.0, -2.0, 3.0, 0.0, 0.0, 1.0, 1.0, 0.0, -1.0, 0.0])
    totals = [-3.0, 3.0, 2.0, -1.0]
    found = turns.figures(given)
    assert found["conservation"].value == pytest.approx(sum(map(abs, totals)) / (23.0 * 4) ** 0.5, abs=1e-6)
    inside = (2 * 0.5**2) + (4 + 1 + 1) + 0 + (1 / 9 + 4 / 9 + 1 / 9)
    assert found["share within trajectories"].value == pytest.approx(inside / 17, abs=1e-6)
    flat = turns.by(CONTROLS["RLOO"])
    assert turns.figures(flat)["share within trajectories"].value == pytest.approx(0.0, abs=1e-12)
    signs = turns.against("RLOO", flat, given)["sign of RLOO"].value
    assert flat.sign().tolist() == [-1, -1, 1, 1, 1, 1, 1, -1, -1, -1]
    assert signs == pytest.approx((6 + 4 * 0.5) / 10, abs=1e-6)  # of ten six agree, four are 0


def test_credit_that_remembers_sees_one_iteration_after_another(tmp_path):
    run = leave_viewed_run(tmp_path / "run", {"000001-rank0": GROUP, "000002-rank0": GROUP})
    both = Turns(read_traces(run, None)).by(PAPER)
    alone = Turns(read_traces(leave_viewed_run(tmp_path / "one", {"000001-rank0": GROUP}), None)).by(PAPER)
    assert both.tolist() == [*alone.tolist(), *alone.tolist()]


def test_groups_of_two_ranks_are_not_mixed(tmp_path):
    other = [one | {"outcome": 1.0} for one in group()]
    run = leave_viewed_run(tmp_path / "run", {"000001-rank0": GROUP, "000001-rank1": other})
    assert Turns(read_traces(run, None)).by(CONTROLS["RLOO"]).tolist() == [-0.5] * 2 + [0.5] * 3 + [0.0] * 5


def test_without_beliefs_a_signal_that_asks_for_them_is_refused(tmp_path):
    run = imported(leave_lines(tmp_path / "in.jsonl", foreign(), foreign(0.0)), tmp_path / "run")
    traces = read_traces(run, None)
    with pytest.raises(ValueError, match=r"traces: they hold no beliefs, which model/signal asks for"):
        agreement(traces, {"paper": PAPER})
    assert agreement(traces, {"GRPO": CONTROLS["GRPO"]}).figures("GRPO")["sign of RLOO"].value == 1.0


@pytest.mark.slow
def test_the_entry_point_judges_rollouts_and_says_what_it_cannot(tmp_path):
    run = leave_viewed_run(tmp_path / "run", {"000001-rank0": GROUP})
    process = start("credit.py", f"traces={run}", f"hydra.run.dir={tmp_path / 'out'}", "model/normalizer=turn_group")
    out, err = finish(process, timeout=200)
    assert process.returncode == 0 and out.startswith("run: prompts 1, trajectories 2, turns 5"), err
    report = json.loads((tmp_path / "out" / "credit.json").read_text())["run"]
    assert report["credits"]["a2tgpo model/normalizer=turn_group"]["sign of recorded"]["value"] == 1.0
    process = start("credit.py", f"run={run}", f"hydra.run.dir={tmp_path / 'no'}")
    _, err = finish(process, timeout=200)
    assert process.returncode == 1 and err.count("\n") == 1
    assert err.endswith(f"or python src/credit.py traces={run}\n"), err
    assert credit.of_run([f"traces={run}"]) == [f"traces={run}"]
