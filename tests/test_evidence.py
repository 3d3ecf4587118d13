"""scripts/evidence.py: which runs, in which order, what is kept of them, and that nothing is run twice."""

import json
import sys

import pytest

from tests.helpers.tiny_runs import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import evidence
import evidence_report

TINY = "data.module.prompts_per_iteration=2 data.module.mini_batch_prompts=1 data.module.group_size=2"
TINY += " data.module.val_tasks=2 data.module.test_tasks=2 trainer.max_epochs=2"
PLAN = f"""
settings: {{tiny: [{TINY.replace(" ", ", ")}], other: []}}
methods: {{a2tgpo: [experiment=a2tgpo], grpo: [experiment=grpo]}}
curves: [train/success, val/success]
studies:
  one:
    {{about: "", methods: [a2tgpo, grpo], settings: [tiny], seeds: [0, 1], figures: [f, c],
     contrasts: [[a2tgpo, grpo]]}}
  two: {{about: "", methods: [grpo], settings: [tiny, other], seeds: [1, 2, 3, 4], figures: [f], contrasts: []}}
"""


@pytest.fixture
def plan_file(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return path


def test_a_run_of_two_studies_is_one_and_low_seeds_come_first(plan_file):
    plan = evidence.Plan.read(plan_file)
    runs = plan.runs(["one", "two"])
    assert len(runs) == 4 + 8 - 1 and [run.seed for run in runs] == sorted(run.seed for run in runs)
    blocks = list(evidence.blocks(runs))
    assert sum(map(len, blocks)) == len(runs) and {run for block in blocks for run in block} == set(runs)
    assert all(len({(run.setting, run.method) for run in block}) == 1 and len(block) <= 3 for block in blocks)
    assert max(run.seed for block in blocks[:3] for run in block) == 2 and blocks[-1][0].seed == 3


def test_a_study_of_what_the_plan_has_not_is_refused(plan_file):
    plan_file.write_text(PLAN.replace("[a2tgpo, grpo]", "[a2tgpo, ppo]"))
    with pytest.raises(ValueError, match=r"plan.yaml: studies.one.methods: ppo; expected a2tgpo, grpo"):
        evidence.Plan.read(plan_file)
    plan_file.write_text(PLAN.replace("[[a2tgpo, grpo]]", "[[a2tgpo, rloo]]"))
    with pytest.raises(ValueError, match=r"studies.one.contrasts: rloo; expected a method of the study"):
        evidence.Plan.read(plan_file)


def test_a_curve_is_means_over_equal_parts():
    rows = {i: {"x": str(i)} for i in range(1, 27)} | {27: {}}
    assert evidence.curve(rows, "x") == [[i, i - 0.5] for i in range(2, 27, 2)]
    assert evidence.curve(rows, "y") == []


def test_the_report_by_hand(plan_file, tmp_path, monkeypatch):
    plan_file.write_text(PLAN.replace("seeds: [0, 1],", "seeds: [0, 1, 2],"))
    figures = {"a2tgpo": (0.5, 0.7, 0.6), "grpo": (0.4, 0.5, 0.6)}
    start = [[0, 0.5]]
    results = {
        f"tiny/{method}/{seed}": {"summary": {"f": f}, "curves": {"c": [[1, 0.0], [2, f]], "val/success": start}}
        for method, values in figures.items()
        for seed, f in enumerate(values)
    }
    results["tiny/grpo/7"] = {
        "summary": {"f": 9.0},
        "curves": {"c": start, "val/success": start},
    }  # no seed of the study
    evidence.write_results(tmp_path / "results.json", results)
    assert evidence.read_results(tmp_path / "results.json") == results
    words = ["--plan", plan_file, "--results", tmp_path / "results.json"]
    monkeypatch.setattr(sys, "argv", ["evidence_report.py", *map(str, words)])
    evidence_report.main()
    tables = (tmp_path / "tables.md").read_text()
    assert "| tiny | a2tgpo | 3 | 0.600 ± 0.100 | 0.300 ± 0.050 |" in tables
    assert "| tiny | grpo | 3 | 0.500 ± 0.100 |" in tables
    assert "| tiny | f | a2tgpo − grpo | 3 | +0.100 (" in tables
    assert "| tiny | c | a2tgpo − grpo | 3 | +0.050 (" in tables
    assert (tmp_path / "one-tiny.png").stat().st_size > 1000


def test_a_curve_where_another_first_comes_to_a_level():
    curves = {"y": [[5, 0.0], [10, 0.4], [15, 0.8]], "x": [[5, 0.0], [10, 0.2], [15, 0.1]]}
    run = {"summary": {}, "curves": curves}
    assert evidence_report.figure_of(run, "y@x=0.15") == pytest.approx(0.3, abs=1e-12)
    assert evidence_report.figure_of(run, "y@x=0.2") is None
    assert evidence_report.figure_of(run, "y") == pytest.approx(0.4, abs=1e-12)


def test_how_large_advantages_are_by_turn_index(plan_file):
    plan = evidence.Plan.read(plan_file)
    turns = {f"credit/advantage/turn_{t}/std": [[1, float(t)], [2, t + 1.0]] for t in range(1, 5)}
    results = {f"{evidence_report.SETTING}/grpo/{seed}": {"curves": turns} for seed in (0, 1)}
    results |= {f"{evidence_report.SETTING}/a2tgpo/0": {"curves": {}}}
    head, _, table = evidence_report.drift_section(plan, results)
    assert head == "## drift" and table.splitlines()[2:] == [
        "| grpo | 2 | 1.500 ± 0.000 | 2.500 ± 0.000 | 3.500 ± 0.000 | 4.500 ± 0.000 | – |"
    ]


@pytest.mark.slow
def test_every_run_of_the_study_composes(composed):
    plan = evidence.Plan.read(evidence.PLAN)
    made = {(run.method, run.setting) for run in plan.runs(list(plan.studies))}
    assert {method for method, _ in made} == set(plan.methods) and {setting for _, setting in made} == set(
        plan.settings
    )
    for method, setting in made:
        composed(*plan.methods[method], *plan.settings[setting])


@pytest.mark.slow
def test_every_run_of_a_plan_is_made_once(plan_file, tmp_path, monkeypatch, capsys):
    results = tmp_path / "results.json"
    words = ["--plan", plan_file, "--results", results, "--logs", tmp_path / "logs", "--study", "one"]
    monkeypatch.setattr(sys, "argv", ["evidence.py", *map(str, words)])
    evidence.main()
    kept = json.loads(results.read_text())
    assert set(kept) == {f"tiny/{method}/{seed}" for method in ("a2tgpo", "grpo") for seed in (0, 1)}
    for key, run in kept.items():
        assert run["summary"]["experiment"] == key.split("/")[1] and run["summary"]["seed"] == int(key[-1])
        assert [i for i, _ in run["curves"]["train/success"]] == [1, 2]
    removed = kept.pop("tiny/grpo/1")
    evidence.write_results(results, kept)
    capsys.readouterr()
    evidence.main()
    assert "1 runs to go, 3 done" in capsys.readouterr().out
    assert json.loads(results.read_text())["tiny/grpo/1"]["curves"] == removed["curves"]


def test_fidelity_beside_training_by_hand(plan_file, tmp_path):
    plan_file.write_text(PLAN.replace("tiny", evidence_report.SETTING).replace("{a2tgpo:", "{c: [], a2tgpo:"))
    gained = {"a2tgpo": (0.5, 0.7), "grpo": (0.3, 0.5), "c": (0.2, 0.2)}
    results = {
        f"{evidence_report.SETTING}/{method}/{seed}": {"curves": {"train/success": [[1, value], [2, value]]}}
        for method, values in gained.items()
        for seed, value in enumerate(values)
    }
    near = {"a2tgpo": 0.2, "grpo": 0.1, "c": 0.15, "untrained": 0.9}
    figures = {method: {evidence_report.LESS: [value, 0.05], "sign": [0.5, 0.1]} for method, value in near.items()}
    depths = [{"turn": 1, "gain": 0.25}, {"turn": 2, "gain": -0.5}]
    fidelity = {"start": {"methods": figures, "depths": depths}}
    plan = evidence.Plan.read(plan_file)
    head, told, table = evidence_report.fidelity_section(plan, results, fidelity, tmp_path / "fidelity.png")
    assert head == "## fidelity" and told.endswith(
        "Kendall's τ of the two: start +0.33."
    )  # two pairs agree, one does not
    assert "| a2tgpo | +0.200 ± 0.050 | 2 | 0.600 ± 0.141 |" in table and "untrained" not in table
    assert (tmp_path / "fidelity.png").stat().st_size > 0
    figures["c"]["sign"] = None
    others, _, turns = evidence_report.figures_section(fidelity)
    assert "| untrained | +0.500 ± 0.100 |" in others and "| c | – |" in others and "| 2 | -0.5 |" in turns
    few = {"start": {"methods": {method: figures[method] for method in ("a2tgpo", "grpo")}, "depths": depths}}
    assert evidence_report.fidelity_section(plan, results, few, tmp_path / "none.png") == []
