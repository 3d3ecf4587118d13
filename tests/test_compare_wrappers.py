"""The table of scripts/compare_wrappers.py."""

import sys

import pytest

from tests.helpers.tiny_runs import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import compare_wrappers

EMBEDDED = ("<think> done</think><answer> ", "</answer>")


def test_the_embedded_policy_believes_inside_the_wrapper_it_was_trained_with(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["compare_wrappers.py", "experiment=a2tgpo", "questions=3"])
    compare_wrappers.main()
    head, _, titles, _, *rows = capsys.readouterr().out.strip().splitlines()
    assert head == "3 questions, rounding of a gain 0 nats"
    cells = [row.strip("| ").split(" | ") for row in rows]
    assert {len(row) for row in cells} == {len(titles.strip("| ").split(" | "))} == {12}
    own, *others = cells
    assert own[0] == "`<think> done</think><answer> …</answer>`"
    assert len({row[0] for row in cells}) == len(cells) and "`<answer>\\n…\\n</answer>`" in [row[0] for row in others]
    assert float(own[3]) > 0.5 > 0.1 > float(own[2]) and all(float(row[3]) < float(own[3]) for row in others)
    assert own[7] == "1.00"


def test_of_wrappers_that_begin_alike_the_first_is_scored():
    found = compare_wrappers.of_all_dialects(EMBEDDED)
    assert found[0] == EMBEDDED and ("<answer>", "</answer>") in found
    assert len({before for before, _ in found}) == len(found)


def test_a_question_that_has_no_other_beside_it_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^data\.tasks\.train: fewer than two questions with reference calls"):
        compare_wrappers.measure(["experiment=a2tgpo", "questions=1"], own=True)


BAD = {
    "unknown experiment": (["experiment=nope"], "Could not find 'experiment/nope' Available options in"),
    "missing value": (["experiment=a2tgpo_small"], "data.tasks.train: no value; expected data.tasks.train=… and "),
    "wrong value": (["experiment=a2tgpo", "questions=0"], "questions=0: expected an integer >= 1"),
    "no such folder": (["experiment=a2tgpo", "model.policy.path=./nope"], "model.policy.path=./nope: no such folder"),
}


@pytest.mark.parametrize("how", BAD)
def test_a_mistaken_override_is_one_line(capsys, monkeypatch, how):
    overrides, message = BAD[how]
    monkeypatch.setattr(sys, "argv", ["compare_wrappers.py", *overrides])
    with pytest.raises(SystemExit) as stop:
        compare_wrappers.main()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 1 and line.startswith("error: ") and message in line
