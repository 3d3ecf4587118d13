"""Whole judgements on written forks: the oracle is right, its negative wrong, noise neither; tables and picture."""

import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from io import StringIO

import pytest
import torch
from rich.console import Console

from a2tgpo.method.method import PAPER
from a2tgpo.method.signals.none import NoSignal
from a2tgpo.method.signals.reference_progress import ReferenceProgress
from a2tgpo.oracle import metrics
from a2tgpo.oracle.controls import CONTROLS, RLOO
from a2tgpo.oracle.forked import JUDGING, Forked, distinct_states, distinct_turns
from a2tgpo.oracle.judge import Judge
from a2tgpo.oracle.picture import draw
from a2tgpo.oracle.report import LESS, as_json, judge_all, markdown, print_reports
from a2tgpo.rollouts.trajectory import Trajectory
from a2tgpo.scoring.batch import collate
from a2tgpo.system.errors import SettingError
from tests.helpers.build import build_trajectory

SEARCHES = [f"<search> {name}</search>" for name in ("Varo", "Bemi", "director", "What")]
RESULT = "<result> Varo is a town.</result>"


def written(policy, prompts=6, samples=4, forks=40, seed=0):
    """Episodes of up to three turns whose values are drawn: behind each state forks win with a chance of its own."""
    rng = torch.Generator().manual_seed(seed)
    trajectories: list[Trajectory] = []
    for group in range(prompts):
        for sample in range(samples):
            n = int(torch.randint(1, 4, (), generator=rng))
            actions = [SEARCHES[i] for i in torch.randint(4, (n,), generator=rng).tolist()]
            outcome = float(torch.randint(0, 2, (), generator=rng))
            results = [RESULT] * (n - 1)
            trajectories.append(build_trajectory(policy, actions, results, group, sample, outcome))
    batch = collate(trajectories, 0)
    n_states, n_turns = (len(numbered(batch)[1]) for numbered in (distinct_states, distinct_turns))
    unscored = torch.zeros(len(trajectories), 4, 1)
    return Forked(
        trajectories,
        answer_logprob=unscored,
        alias_mask=unscored[:, 0].bool(),
        state_mask=unscored[..., 0].bool(),
        log_gain_noise=0.0,
        fork_outcome=(torch.rand(n_states, forks, generator=rng) < torch.rand(n_states, 1, generator=rng)).float(),
        gradient=torch.randn(n_turns, 12, generator=rng),
        gradient_kept=1.0,
    )


COSINES = ("whitened cosine", "whitened cosine of the mean", "cosine", "cosine of the mean")


def test_a_credit_equal_to_the_oracle_is_right_in_every_figure_and_its_negative_wrong(random_policy):
    forked = written(random_policy)
    judge = Judge(forked, 2)
    oracle = forked.advantage(JUDGING)
    for sign, credit in ((1, oracle), (-1, -oracle)):
        found = judge.fidelity(credit).figures
        for name in COSINES:
            assert found[name].value == pytest.approx(sign, abs=1e-5) and found[name].error < 1e-5
        for name in ("correlation within trajectories", "correlation within prompt and depth", "search or answer"):
            assert found[name].value == pytest.approx(sign, abs=1e-5)
        assert found["conservation"].value == pytest.approx(sign, abs=1e-5)
        assert found["sign"].value == (1 + sign) / 2 and found["reciprocal rank"].value > 0.98  # equal |A*| share ranks
    scaled = judge.fidelity(3 * oracle).figures
    assert scaled["whitened signal to noise"].value == pytest.approx(
        judge.fidelity(oracle).figures["whitened signal to noise"].value, rel=1e-4
    )


def test_cosines_are_those_of_the_batches_gradients(random_policy):
    forked = written(random_policy)
    judge, mask = Judge(forked, 3), forked.batch.turn_mask
    advantage = torch.where(mask, torch.randn(mask.shape, generator=torch.Generator().manual_seed(1)), 0.0)
    oracle = forked.advantage(JUDGING)
    cosines = []
    for prompts in ((0, 1, 2), (3, 4, 5)):
        ours, oracles = torch.zeros(12), torch.zeros(12)
        for n, (row, turn) in enumerate(mask.nonzero().tolist()):
            if int(forked.batch.group_ids[row]) in prompts:
                ours += advantage[row, turn] * forked.turn_gradient[n]
                oracles += oracle[row, turn] * forked.turn_gradient[n]
        cosines.append(metrics.cosine(ours, oracles))
    found = judge.fidelity(advantage).figures["cosine"]
    assert found.value == pytest.approx(float(torch.stack(cosines).mean()), abs=1e-5)
    assert found.error == pytest.approx(float(torch.stack(cosines).std()) / math.sqrt(2), abs=1e-5)


def test_credit_is_assigned_batch_by_batch(random_policy):
    forked = written(random_policy)
    whole, halves = Judge(forked, 6).credit(CONTROLS[RLOO]), Judge(forked, 3).credit(CONTROLS[RLOO])
    torch.testing.assert_close(whole, halves, rtol=0, atol=1e-6)  # it compares within prompts alone
    assert Judge(forked, 3).batch_of_prompt.tolist() == [0, 0, 0, 1, 1, 1]
    assert Judge(forked, 4).batch_of_prompt.tolist() == [0] * 6
    outcome = forked.batch.outcome.view(6, 4)
    expected = (outcome - outcome.mean(1, keepdim=True)).view(-1, 1) * forked.batch.turn_mask
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-6)


def test_beliefs_of_a_reference_are_refused(random_policy):
    method = replace(PAPER, signal=ReferenceProgress(aliases="first", offset=0.1))
    with pytest.raises(SettingError, match="model/signal: its beliefs are a reference's"):
        Judge(written(random_policy), 3).credit(method)


def test_controls_stand_where_they_must(random_policy):
    report = judge_all(written(random_policy), {"mine": replace(PAPER, signal=NoSignal())}, 2)
    figures = {name: report.figures(name) for name in report.fidelities}
    assert list(figures) == ["mine", RLOO, "GRPO", "random", "half of the forks"]
    ceiling, noise = figures["half of the forks"], figures["random"]
    assert ceiling["whitened cosine"].value > 0.8 > figures[RLOO]["whitened cosine"].value
    assert abs(noise["whitened cosine"].value) < 0.4 and 0.2 < noise["sign"].value < 0.8
    assert figures[RLOO][LESS].value == 0 and ceiling[LESS].value > 0
    assert math.isnan(figures["GRPO"]["correlation within trajectories"].value)  # one credit for all turns
    assert report.facts["prompts"] == 6 and report.facts["forks of a state"] == 40


def test_tables_json_and_picture_say_the_same(random_policy):
    reports = {"a<b": judge_all(written(random_policy), {"mine": replace(PAPER, signal=NoSignal())}, 2)}
    plain = json.loads(json.dumps(as_json(reports), allow_nan=False))["a<b"]["credits"]
    cosine = plain["mine"]["whitened cosine"]
    cell = f"{cosine['value']:.3f} ± {cosine['error']:.3f}"
    console = Console(file=StringIO(), width=40)
    print_reports(reports, console)
    assert cell in console.file.getvalue() and f"| whitened cosine | {cell} |" in markdown(reports)
    assert plain["GRPO"]["correlation within trajectories"]["value"] is None
    picture = ET.fromstring(draw(reports))
    texts = [element.text for element in picture.iter() if element.tag.endswith("text")]
    assert "a<b: whitened cosine" in texts and "mine" in texts
    middles = [float(element.get("cx")) for element in picture.iter() if element.tag.endswith("circle")]
    assert len(middles) == 5 and middles[4] > middles[3]  # half of the forks, random
