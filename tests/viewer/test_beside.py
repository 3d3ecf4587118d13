"""Another credit on recorded trajectories is what it would have been in the run; what was not recorded is refused."""

import argparse
import json
from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate

import view
from a2tgpo.method.method import PAPER
from a2tgpo.method.protocols import ForkedCredit
from a2tgpo.scoring.score import score
from a2tgpo.training.record import credit_record
from a2tgpo.viewer.beside import Beside
from a2tgpo.viewer.run_data import read_run
from tests.helpers.experiments import CONFIGS
from tests.helpers.shipped import pretrained_policy
from tests.helpers.tiny_runs import SHIPPED
from tests.helpers.viewed_run import GROUP, group, leave_viewed_run

CREDITS = sorted(path.stem for path in (CONFIGS / "model" / "credit").glob("*.yaml"))


PLAYED = {}


@pytest.fixture
def played(composed):
    """What signals see of episodes of the shipped policy, and their lines as a file gives them back; made once."""
    if not PLAYED:
        PLAYED["episodes"] = play(composed("experiment=a2tgpo"))
    return PLAYED["episodes"]


def play(config):
    """Scored episodes with values of their states."""
    policy, data = pretrained_policy(SHIPPED), instantiate(config.data.module, _convert_="all")
    trajectories = data.rollout.run(policy, list(enumerate(data.draw_tasks(0)[:4])), 4, (0,), greedy=False)
    trajectories = [
        replace(t, values=tuple(0.1 * k * (t.sample + 1) for k in range(len(t.turns) + 1))) for t in trajectories
    ]
    scored = score(policy, trajectories, PAPER.signal.answers, tuple(config.data.dialect.answer_wrapper), 4096)
    batch = replace(scored.batch, credit=PAPER.assign(scored.observed))
    made = [credit_record(t, batch, row) for row, t in enumerate(trajectories)]
    return scored.observed, [json.loads(json.dumps(line)) | {"rank": 0} for line in made]


def given(lines, other, own=PAPER, noise=0.0):
    lines = [dict(line) for line in lines]
    Beside("", own, other)(lines, noise)
    return lines


@pytest.mark.parametrize("name", CREDITS)
def test_it_gives_what_it_would_have_given_in_the_run(played, composed, name):
    observed, lines = played
    other = replace(PAPER, credit=instantiate(composed(f"model/credit={name}").model.credit, _convert_="all"))
    expected = other.assign(observed, {}).advantage
    for row, line in enumerate(given(lines, other)):
        assert line["beside"] == pytest.approx(expected[row, : len(line["turns"])].tolist(), abs=1e-4)
    assert expected.any() and (name != "fork_value" or isinstance(other.credit, ForkedCredit))


def test_beside_itself_nothing_differs(played):
    _, lines = played
    for line in given(lines, PAPER):
        assert line["beside"] == pytest.approx(line["advantage"], abs=1e-5)
        assert line["disagreement"] == pytest.approx([0.0] * len(line["turns"]), abs=1e-5)


def test_difference_is_in_root_mean_squares_of_each(played):
    _, lines = played
    other = replace(PAPER, credit=replace(PAPER.credit, combiner=replace(PAPER.credit.combiner, alpha=0.0)))
    told = given(lines, other)
    ours, theirs = (torch.tensor([a for line in told for a in line[key]]) for key in ("advantage", "beside"))
    expected = ours / ours.square().mean().sqrt() - theirs / theirs.square().mean().sqrt()
    differs = torch.tensor([d for line in told for d in line["disagreement"]])
    assert differs.tolist() == pytest.approx(expected.tolist(), abs=1e-5) and differs.abs().max() > 0.1


def test_other_units_and_baselines_of_the_same_beliefs_are_known(played):
    observed, lines = played
    other = replace(PAPER, signal=replace(PAPER.signal, gain="log_prob", baseline="first_turn"))
    expected = other.assign(observed).advantage
    for row, line in enumerate(given(lines, other)):
        assert line["beside"] == pytest.approx(expected[row, : len(line["turns"])].tolist(), abs=1e-4)


def test_what_was_not_recorded_is_refused(played, composed):
    _, lines = played
    blind, curious = (
        replace(PAPER, signal=instantiate(composed(f"model/signal={name}").model.signal))
        for name in ("none", "leave_one_turn")
    )
    with pytest.raises(ValueError, match=r"its signal, InformationGain, asks for beliefs that a run with NoSi"):
        given(lines, PAPER, own=blind)
    with pytest.raises(ValueError, match=r"^--beside: its signal, LeaveOneTurn, asks for beliefs"):
        given(lines, curious, own=curious)
    with pytest.raises(ValueError, match=r"asks for beliefs that a run with InformationGain did not"):
        given(lines, replace(PAPER, signal=replace(PAPER.signal, aliases="max")))
    with pytest.raises(ValueError, match=r"^--beside: rollout files before version 3 lack"):
        given([line | {"version": 2} for line in lines], PAPER)
    assert len(given(lines, blind, own=blind)) == len(lines)


def test_two_ranks_are_compared_together(played):
    _, lines = played
    half = len(lines) // 2
    first = {line["group"] for line in lines[:half]}
    apart = [line | {"rank": int(line["group"] not in first), "group": line["group"] % 2} for line in lines]
    for ours, theirs in zip(given(apart, PAPER), given(lines, PAPER), strict=True):
        assert ours["beside"] == theirs["beside"]


def asked(run, *words):
    return argparse.Namespace(run=run, output=None, text=False, iteration=None, group=None, beside=list(words) or None)


def test_overrides_and_runs_name_the_other_credit(tmp_path):
    run = leave_viewed_run(tmp_path / "run", {"000001-rank0": GROUP})
    (run / ".hydra").mkdir()
    (run / ".hydra" / "hydra.yaml").write_text(
        "hydra: {runtime: {choices: {experiment: a2tgpo}}, overrides: {task: [experiment=a2tgpo]}}"
    )
    by_overrides = view.beside(run, ["model.combiner.alpha=0"])
    assert by_overrides.name == "model.combiner.alpha=0" and by_overrides.other.credit.combiner.alpha == 0
    other = view.beside(run, [str(leave_viewed_run(tmp_path / "second", {"000001-rank0": group()}))])
    assert other.name == "second" and other.own == other.other
    told = read_run(run, other=by_overrides)
    first = told.groups[0].trajectories[0]["turns"][0]
    assert told.beside == by_overrides.name and first["beside"] == pytest.approx(-1.0, abs=1e-5)
    assert read_run(run).beside == "" and "beside" not in read_run(run).groups[0].trajectories[0]["turns"][0]


def test_the_terminal_says_it(tmp_path, capsys):
    run = leave_viewed_run(tmp_path / "run", {"000001-rank0": GROUP})
    options = asked(run, str(run))
    options.text = True
    view.view(options)
    assert "    beside   Â = -1.5 by run\n" in capsys.readouterr().out
