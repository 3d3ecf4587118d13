"""A run is read as its files say; what they leave out is worked out as the method does; long runs are sampled."""

import json
from dataclasses import replace

import pytest
import torch

from a2tgpo.method.method import PAPER
from a2tgpo.viewer.arithmetic import Composition, composition, explain
from a2tgpo.viewer.groups import CREDIT
from a2tgpo.viewer.run_data import read_run, sample
from tests.helpers.observed import credit_inputs
from tests.helpers.viewed_run import GROUP, MODEL, group, leave_viewed_run, older


def test_numbers_are_those_of_the_file(tmp_path):
    (read,) = read_run(leave_viewed_run(tmp_path / "run", {"000002-rank0": GROUP})).groups
    assert (read.iteration, read.rank, read.number) == (2, 0, 0)
    for shown, written in zip(read.trajectories, GROUP, strict=True):
        assert shown["belief"] == written["belief"] and shown["outcome"] == written["outcome"]
        for name in CREDIT:
            assert [turn[name] for turn in shown["turns"]] == written[name]
        assert [turn["action"] for turn in shown["turns"]] == [turn["action"] for turn in written["turns"]]


def test_turn_groups_and_terms_are_those_of_the_hand(tmp_path):
    (read,) = read_run(leave_viewed_run(tmp_path / "run", {"000001-rank0": GROUP})).groups
    assert read.columns[0] == {"mean": pytest.approx(0.2), "std": pytest.approx(0.1), "n": 2}
    assert read.columns[1] == {"mean": 0.5, "std": 0.0, "n": 1}
    assert read.columns[2] == {"mean": None, "std": None, "n": 0}
    first = read.trajectories[1]["turns"][0]
    assert (first["d"], first["n"]) == (1.0, 2)
    assert first["outcome_advantage"] == pytest.approx(1.0, abs=1e-6)
    assert first["clip_scale"] == pytest.approx(1.1386352, abs=1e-6)
    assert [t["solved"] for t in read.trajectories] == [False, True]


@pytest.mark.parametrize(
    ("forks", "useful", "advantage", "expected"),
    [
        (None, False, 0.5, "usefulness"),
        (None, False, -0.5, ""),
        (None, True, -0.5, "usefulness"),
        (None, None, -0.5, ""),
        (None, False, 0.0, ""),
        ((-0.3, 0.1), True, 0.5, "A*"),
        ((-0.2, 0.1), True, 0.5, ""),
        ((-0.2, 0.1), True, -0.5, ""),
        ((0.3, 0.1), False, 0.5, ""),
        ((0.3, 0.1), False, -0.5, "A*"),
    ],
)
def test_the_sign_of_a_credit_is_held_against_forks_or_else_the_usefulness(
    tmp_path, forks, useful, advantage, expected
):
    one = group()[0]
    one["turns"][0]["useful"], one["advantage"][0] = useful, advantage
    if forks:
        one |= {"oracle_advantage": [forks[0], None], "oracle_error": [forks[1], None], "value": [0.5, None]}
    (read,) = read_run(leave_viewed_run(tmp_path / "run", {"000001-rank0": [one]})).groups
    assert [turn["contradicts"] for turn in read.trajectories[0]["turns"]] == [expected, ""]


def test_terms_are_those_of_the_method():
    torch.manual_seed(0)
    mask = torch.rand(8, 4) < 0.7
    gain = torch.where(mask, torch.randn(8, 4), 0.0)
    turns = torch.ones(8, 4, dtype=torch.bool)
    inputs = credit_inputs(gain, mask, turns, torch.rand(8))
    outputs = PAPER.credit(inputs)
    low, high = PAPER.clipper(outputs.normalized_gain)
    made_of = replace(composition({"model": MODEL}), alpha=1.0, eps_low=3e-3)
    values = {"gain": gain, "has_gain": mask, "normalized_gain": outputs.normalized_gain, "clip_low": low}
    values |= {"advantage": outputs.advantage, "clip_high": high}
    members = [
        {
            "outcome": float(inputs.outcome[b]),
            "n_shared": 0,
            "turns": [{name: value[b, t].item() for name, value in values.items()} for t in range(4)],
        }
        for b in range(8)
    ]
    told, columns = explain(members, made_of)
    assert [column["n"] for column in columns] == mask.sum(0).tolist()
    outcome_hat = PAPER.credit.outcome(inputs.outcome[:, None], turns[:, :1], inputs.group_ids)[:, 0]
    for b, member in enumerate(told):
        for t, turn in enumerate(member["turns"]):
            assert turn["turn_credit"] == pytest.approx(outputs.turn_credit[b, t].item(), abs=1e-5)
            assert turn["outcome_advantage"] == pytest.approx(outcome_hat[b].item(), abs=1e-5)
            column = columns[t]
            if turn["has_gain"] and column["n"] > 1:
                by_hand = (turn["gain"] - column["mean"]) / column["std"]
                assert turn["normalized_gain"] == pytest.approx(by_hand, abs=1e-4)
            scale = 1 + 0.3 * (2 * torch.tensor(turn["normalized_gain"]).sigmoid().item() - 1)
            assert turn["clip_scale"] == pytest.approx(scale, abs=1e-5)


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_file_opens_with_the_same_terms(tmp_path, version):
    new, old = (
        read_run(leave_viewed_run(tmp_path / name, {"000001-rank0": lines})).groups[0]
        for name, lines in {"new": GROUP, "old": older(version)}.items()
    )
    for ours, theirs in zip(new.trajectories, old.trajectories, strict=True):
        for turn, older_turn in zip(ours["turns"], theirs["turns"], strict=True):
            assert older_turn["turn_credit"] == pytest.approx(turn["turn_credit"], abs=1e-6)
            assert "ratio" in turn and "ratio" not in older_turn


def test_a_credit_without_stages_has_the_terms_that_are_recorded_and_no_others():
    known, _ = explain([{**GROUP[0], "turns": per_turn(GROUP[0])}], Composition(credit="GAE"))
    assert known[0]["turns"][0]["d"] is None and known[0]["turns"][0]["outcome_advantage"] == -1.0
    turns = [{k: v for k, v in turn.items() if k != "turn_credit"} for turn in per_turn(GROUP[0])]
    unknown, _ = explain([{**GROUP[0], "turns": turns}], Composition(credit="GAE"))
    assert unknown[0]["turns"][0]["turn_credit"] is None and unknown[0]["turns"][0]["outcome_advantage"] is None


def per_turn(written):
    return [{name: written[name][t] for name in CREDIT} for t in range(len(written["turns"]))]


def test_forks_of_the_run_are_a_rollout_set_of_their_own(tmp_path):
    forked = [
        one | {"oracle_advantage": [0.1, None, 0.0][: len(one["turns"])], "oracle_error": [0.02] * len(one["turns"])}
        for one in group(value=[0.5, 0.6, 0.7])
    ]
    directory = leave_viewed_run(tmp_path / "run", {"000010-rank0": GROUP}, {"000010-rank0": forked})
    trained, forks = read_run(directory).groups
    assert (trained.when, forks.when) == ("10", "10 forks") and trained.iteration == forks.iteration == 10
    turns = forks.trajectories[1]["turns"]
    assert [turn["oracle_advantage"] for turn in turns] == [0.1, None, 0.0]
    assert [turn["value"] for turn in turns] == [0.5, 0.6, 0.7]
    assert "oracle_advantage" not in trained.trajectories[0]["turns"][0]


def test_groups_of_two_ranks_stay_apart(tmp_path):
    run = read_run(leave_viewed_run(tmp_path / "run", {"000001-rank0": GROUP, "000001-rank1": GROUP}))
    assert [(g.rank, len(g.trajectories)) for g in run.groups] == [(0, 2), (1, 2)]


def test_a_long_run_keeps_every_kth_group_of_each_iteration_whole(tmp_path):
    lines = [one for number in range(6) for one in group(group=number)]
    run = read_run(leave_viewed_run(tmp_path / "run", {f"{i:06d}-rank0": lines for i in (10, 20, 30)}))
    assert (len(run.groups), run.n_groups, run.every) == (18, 18, 1)
    size = len(json.dumps(run.groups[0].as_json()))
    every, kept = sample(run.groups, 10 * size)
    assert every == 2  # one of two is 9 groups; all are 18
    assert [(g.iteration, g.number) for g in kept] == [(i, n) for i in (10, 20, 30) for n in (0, 2, 4)]
    assert all(len(g.trajectories) == 2 for g in kept)
    every, kept = sample(run.groups, 0)
    assert [(g.iteration, g.number) for g in kept] == [(10, 0), (20, 0), (30, 0)]


def test_a_run_without_summary_and_table_opens(tmp_path):
    directory = leave_viewed_run(tmp_path / "run", {"000001-rank0": GROUP})
    (directory / "summary.json").unlink()
    (directory / "metrics.csv").unlink()
    run = read_run(directory)
    assert run.summary == {} and run.rows == {}
    assert run.settings == {"experiment": "a2tgpo", "seed": 3, "overrides": ["seed=3"]}


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"config\.yaml: no such file; expected the directory of a run"):
        read_run(tmp_path)
    with pytest.raises(ValueError, match=r"rollouts: no trajectory in it; expected the rollout files of src/train\.py"):
        read_run(leave_viewed_run(tmp_path / "run", {}))
    directory = leave_viewed_run(tmp_path / "broken", {"000001-rank0": [GROUP[0], {"question": "?"}]})
    with pytest.raises(ValueError, match=r"000001-rank0\.jsonl, line 2: KeyError 'task_id'; expected a trajectory"):
        read_run(directory)
