"""The forks that ship: they open, are as exact as is said, and compositions score on them as docs/oracle.md says."""

import re
from pathlib import Path

import pytest
from hydra.utils import instantiate

from a2tgpo.oracle.controls import CONTROLS, RLOO
from a2tgpo.oracle.judge import Judge
from a2tgpo.oracle.report import facts, judge_all
from a2tgpo.oracle.store import read_forks
from tests.helpers.tiny_runs import ROOT

FROZEN = sorted((ROOT / "src" / "a2tgpo" / "oracle" / "frozen").glob("*.npz"))
DOCS = (ROOT / "docs" / "oracle.md").read_text()
BATCH_PROMPTS = 16
ROUNDING = 0.002
"""By how much a third decimal moves with the arithmetic of another machine."""


def test_they_are_small_and_there_are_three_of_each_task():
    names = {path.stem for path in FROZEN}
    assert names == {f"{task}-{policy}" for task in ("credit", "quick") for policy in ("start", "middle", "late")}
    assert sum(path.stat().st_size for path in FROZEN) < 5e6


def tabled(heading):
    """Rows of the table below a heading: the first cell, and the number in each of the others."""
    section = re.search(rf"^### {heading}\n(.*?)(?=^##|\Z)", DOCS, re.DOTALL | re.MULTILINE)[1]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return lines[0], [
        (row[0].strip("`"), [float(re.match(r"[+-]?[\d.]+", cell)[0]) for cell in row[1:]]) for row in lines[1:]
    ]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_compositions_score_as_the_documents_say(composed):
    head, rows = tabled("Compositions that ship")
    assert len(rows) >= 8
    sets = [read_forks(Path(FROZEN[0]).with_name(f"{name}.npz")) for name in head[1:]]
    for name, said in rows:
        words = [] if name == RLOO else name.split()
        config = composed(*words, config_name="credit")
        judges = [Judge(forked, config.batch_prompts) for forked in sets]
        rloo = [judge.fidelity(judge.credit(CONTROLS[RLOO])) for judge in judges]
        if name == RLOO:
            found = [fidelity.figures["whitened cosine"].value for fidelity in rloo]
        else:
            method = instantiate(config.model.method, _convert_="all")
            found = [j.fidelity(j.credit(method)).less(own).value for j, own in zip(judges, rloo, strict=True)]
        assert found == pytest.approx(said, abs=ROUNDING), name


@pytest.mark.slow
@pytest.mark.parametrize("path", FROZEN, ids=lambda path: path.stem)
def test_each_is_what_it_is_said_to_be(path):
    known = facts(read_forks(path))
    assert known["prompts"] == 64 and known["trajectories"] == 512 and known["forks of a state"] == 64
    assert known["error of V"] <= 0.05 and known["gradients kept"] >= 0.98


@pytest.mark.slow
def test_controls_stand_where_they_must(tmp_path):
    report = judge_all(read_forks(FROZEN[-1]), {}, BATCH_PROMPTS)
    cosine = {name: report.figures(name)["whitened cosine"] for name in report.fidelities}
    assert cosine["half of the forks"].value > cosine["RLOO"].value > cosine["random"].value
    assert abs(cosine["random"].value) < 4 * cosine["random"].error
