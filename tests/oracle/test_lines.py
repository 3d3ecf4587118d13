"""Forked episodes are lines of a rollout file: the credit of the method, and what the forks say of each turn."""

import json
from dataclasses import replace

import pytest
import torch

from a2tgpo.method.method import PAPER
from a2tgpo.method.signals.none import NoSignal
from a2tgpo.oracle.judge import Judge
from a2tgpo.oracle.lines import ALL, write_lines
from a2tgpo.policies.checkpoint import iterations_in
from a2tgpo.viewer.run_data import read_run
from tests.helpers.viewed_run import GROUP, leave_viewed_run
from tests.oracle.test_judge import written

GRPO = replace(PAPER, signal=NoSignal())


def test_they_hold_the_credit_and_what_the_forks_say(random_policy, tmp_path):
    forked = written(random_policy)
    judge = Judge(forked, 2)
    path = write_lines(tmp_path, 7, judge, GRPO)
    assert path == tmp_path / "forks" / "000007-rank0.jsonl"
    lines = [json.loads(line) for line in path.open()]
    credit, value = judge.credit(GRPO), forked.value(ALL)
    assert len(lines) == len(forked.trajectories) and credit.any()
    for row, (line, trajectory) in enumerate(zip(lines, forked.trajectories, strict=True)):
        n = len(trajectory.turns)
        assert (line["group"], line["sample"]) == (trajectory.group, trajectory.sample)
        assert line["advantage"] == pytest.approx(credit[row, :n].tolist(), abs=1e-6)
        after = [*value[row, 1:n].tolist(), trajectory.outcome]
        assert line["value"] == pytest.approx(value[row, :n].tolist(), abs=1e-6)
        differences = [b - a for a, b in zip(line["value"], after, strict=True)]
        assert line["oracle_advantage"] == pytest.approx(differences, abs=1e-6)
        assert line["oracle_error"] == pytest.approx(forked.advantage_error(ALL)[row, :n].tolist(), abs=1e-6)


def test_what_no_fork_tells_is_null(random_policy, tmp_path):
    forked = written(random_policy)
    forked = replace(forked, fork_outcome=torch.full_like(forked.fork_outcome, torch.nan))
    first = json.loads(write_lines(tmp_path, 0, Judge(forked, 2), GRPO).open().readline())
    assert first["value"] == [None] * len(first["turns"]) and first["oracle_advantage"][0] is None


def test_the_viewer_reads_them(random_policy, tmp_path):
    run = leave_viewed_run(tmp_path / "run", {"000001-rank0": GROUP})
    write_lines(run, 1, Judge(written(random_policy), 2), GRPO)
    groups = read_run(run).groups
    assert [group.when for group in groups] == ["1"] + ["1 forks"] * 6
    assert all("oracle_error" in turn for group in groups[1:] for t in group.trajectories for turn in t["turns"])


@pytest.mark.parametrize(("saved", "done"), [((0, 0), 0), ((0, 2), 1), ((9, 20), 10)])
def test_a_checkpoint_knows_how_many_iterations_were_done(tmp_path, saved, done):
    torch.save(dict(zip(("epoch", "global_step"), saved, strict=True)), tmp_path / "last.ckpt")
    assert iterations_in(tmp_path / "last.ckpt") == done
