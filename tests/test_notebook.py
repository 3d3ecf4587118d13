"""The notebooks run from start to end, show what the project's own commands say, and ship without outputs."""

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from hydra.utils import instantiate
from IPython.core.interactiveshell import InteractiveShell
from omegaconf import OmegaConf
from traitlets.config import Config

from a2tgpo.evaluation.contrasts import contrast, interval
from a2tgpo.oracle.controls import CONTROLS
from a2tgpo.oracle.judge import Judge
from a2tgpo.oracle.report import LESS
from a2tgpo.oracle.store import read_forks
from credit import credit
from tests.helpers.tiny_runs import ROOT, leave_run, table

NOTEBOOKS = ROOT / "notebooks"
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
FORKS = ROOT / "src" / "a2tgpo" / "oracle" / "frozen" / "quick-middle.npz"
ORACLE = (ROOT / "docs" / "oracle.md").read_text()
ITERATIONS = 2
SIZES = ("prompts_per_iteration=2", "mini_batch_prompts=2", "group_size=4", "val_tasks=2", "test_tasks=2")
OFTEN = ("trainer.check_val_every_n_epoch=1", "callbacks.rollout_files.every=1", "logger=none")
FURTHER = [*(f"data.module.{size}" for size in SIZES), *OFTEN]
TWO_DECIMALS = 0.005 + 1e-6
"""What writing a number with two decimals takes from it, and float32."""


def executed(name: str, **parameters: object) -> dict[str, Any]:
    """What a notebook leaves in its names, with `parameters` in the place of its own.

    It runs in this process, as in a kernel, because the imports of three kernels would take most of the time.
    """
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(NOTEBOOKS)
        patch.setattr(sys, "path", [*sys.path])
        patch.setenv("PYTHONPATH", str(ROOT / "src"))
        for cell in code_cells(NOTEBOOKS / f"{name}.ipynb"):
            shell.run_cell(cell.source).raise_error()
            if "parameters" in cell.metadata.get("tags", ()):
                assert parameters.keys() <= shell.user_ns.keys()
                shell.push(parameters)
    InteractiveShell.clear_instance()
    return shell.user_ns


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def rows(markdown: str) -> dict[str, list[str]]:
    """The cells of a Markdown table by the first of their row."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]
    return {first: rest for first, *rest in cells}


@pytest.fixture(scope="module", autouse=True)
def without_a_screen() -> Iterator[None]:
    before = matplotlib.get_backend()
    plt.switch_backend("Agg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plt, "show", lambda: None)
        yield
    plt.close("all")
    plt.switch_backend(before)


@pytest.fixture(scope="session")
def designed(tmp_path_factory) -> dict[str, Any]:
    """What `design_your_own_credit` leaves; the two tiny runs that it trained are those of the other tests."""
    own = {"HOME": tmp_path_factory.mktemp("own"), "FORKS": [FORKS.stem]}
    return executed("design_your_own_credit", **own, ITERATIONS=ITERATIONS, FURTHER=FURTHER)


# ---- how they ship ---------------------------------------------------------------------------------------------------


def test_there_are_three():
    assert [path.stem for path in PATHS] == ["anatomy_of_a_turn", "compare_runs", "design_your_own_credit"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebook_is_valid_and_stripped(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_cell_of_code_is_introduced(path):
    kinds = [cell.cell_type for cell in nbformat.read(path, as_version=4).cells]
    assert kinds[0] == kinds[-1] == "markdown"
    assert ("code", "code") not in set(itertools.pairwise(kinds))


# ---- anatomy of a turn -----------------------------------------------------------------------------------------------


def test_the_anatomy_shows_credit_beside_what_forks_say(composed, capsys):
    shown = executed("anatomy_of_a_turn", FORKS=FORKS.stem)
    forked = read_forks(FORKS)
    credited = Judge(forked, 16).credit(instantiate(composed("experiment=a2tgpo").model.method))
    belief, differences = forked.answer_logprob[..., 0].exp().numpy(), forked.outcomes[..., 1::2].diff(dim=1).numpy()
    _, _, *turns = shown["table"]
    chosen = {int(turn[0]) for turn in turns}
    assert len({forked.trajectories[row].group for row in chosen}) == 1
    assert len(turns) == sum(len(forked.trajectories[row].turns) for row in chosen) > 8
    for row, number, gain, _, given, worth, useful in turns:
        b, t = int(row), int(number) - 1
        turn = forked.trajectories[b].turns[t]
        assert useful == {True: "useful", False: "not", None: ""}[turn.useful] and bool(gain) == turn.is_process
        assert float(given) == pytest.approx(float(credited[b, t]), abs=TWO_DECIMALS)
        forks = differences[b, t][np.isfinite(differences[b, t])]
        expected = (forks.mean(), forks.std(ddof=1) / len(forks) ** 0.5)
        assert [float(x) for x in worth.split("±")] == pytest.approx(expected, abs=TWO_DECIMALS)
        if gain:
            assert float(gain) == pytest.approx(belief[b, t + 1] - belief[b, t], abs=TWO_DECIMALS)
    by_turn = [[float(turn[3]) for turn in turns if turn[1] == number and turn[3]] for number in "1234"]
    assert all(mean(scores) == pytest.approx(0, abs=TWO_DECIMALS) for scores in by_turn)  # z-scores of a turn group
    assert sum(pstdev(scores) == pytest.approx(1, abs=0.01) for scores in by_turn) >= 2
    printed = capsys.readouterr().out
    for figure in ("sign", "correlation within trajectories"):
        documented = re.search(rf"^\| {figure} \| (\S+ ± \S+) \|", ORACLE, re.MULTILINE)[1]
        assert f"\n{figure}: {documented}\n" in printed
    assert sum(len(dots.get_offsets()) for dots in shown["axis"].collections) == int(forked.batch.turn_mask.sum())


# ---- design your own credit ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_table_says_what_the_command_says(designed, composed, tmp_path):
    own = ("model/credit=gain_over_others", designed["OWN"])
    credit(composed(*own, f"frozen={FORKS}", config_name="credit"))
    said = json.loads((tmp_path / "credit.json").read_text())[FORKS.stem]["credits"]
    shown = rows(designed["table"])
    same = {"gain over others": "a2tgpo model/credit=gain_over_others"} | {name: name for name in CONTROLS}
    for ours, theirs in same.items():
        figure = said[theirs][LESS]
        assert shown[ours] == [f"{figure['value']:+.3f} ± {figure['error']:.3f}"]
    documented = re.search(r"^\| `experiment=a2tgpo` \| .* \| (.*) \| .* \|$", ORACLE, re.MULTILINE)[1]
    assert shown["a2tgpo"] == [documented]


@pytest.mark.slow
def test_it_trained_with_the_credit_that_it_wrote(designed):
    runs = sorted(designed["RUNS"].glob("[0-9]"))
    credits = [OmegaConf.load(run / "config.yaml").model.credit._target_ for run in runs]
    assert [target.rpartition(".")[2] for target in credits] == ["StagedCredit", "GainOverOthers"]
    files = list((runs[1] / "rollouts").glob("*.jsonl"))
    assert len(files) == ITERATIONS
    for file in files:
        trajectories = [json.loads(line) for line in file.read_text().splitlines()]
        for own in trajectories:
            group = [t for t in trajectories if t["group"] == own["group"]]
            outcomes = [t["outcome"] for t in group]
            spread = pstdev(outcomes)
            outcome = (own["outcome"] - mean(outcomes)) / spread if spread else 0.0
            for turn, advantage in enumerate(own["advantage"]):
                others = [t["gain"][turn] for t in group if t is not own and len(t["advantage"]) > turn]
                beyond = own["gain"][turn] - mean(others) if others else 0.0
                assert advantage == pytest.approx(outcome + beyond, abs=1e-5)


@pytest.mark.slow
def test_the_curve_is_that_of_the_table_of_the_run(designed):
    for run, line in zip(sorted(designed["RUNS"].glob("[0-9]")), designed["axes"].lines, strict=True):
        first, second = (float(row["train/success"]) for row in table(run)[1:])
        assert list(line.get_xdata()) == [1, 2]
        assert list(line.get_ydata()) == pytest.approx([first, (first + second) / 2], abs=1e-6)


@pytest.mark.slow
def test_the_file_that_it_writes_keeps_the_style(designed):
    ruff = [sys.executable, "-m", "ruff", "check", "--config", ROOT / "pyproject.toml", designed["HOME"]]
    done = subprocess.run(ruff, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# ---- compare runs ----------------------------------------------------------------------------------------------------

SEEDS = range(4)
TEST = {"a2tgpo": (0.5, 0.6, 0.4, 0.7), "grpo": (0.4, 0.45, 0.41, 0.5)}


def test_runs_are_compared_over_their_seeds(tmp_path):
    for experiment, figures in TEST.items():
        for seed, figure in zip(SEEDS, figures, strict=True):
            place = tmp_path / "evidence" / "mixed" / experiment / str(seed)
            leave_run(place, seed, experiment=experiment, **{"test/success": figure})
    leave_run(tmp_path / "train" / "runs" / "now", 0, experiment="rloo")
    shown = executed("compare_runs", FOLDERS=[tmp_path / "evidence", tmp_path / "train"], FIGURE="test/success")
    low, high = interval(TEST["a2tgpo"])
    assert rows(shown["final"])["a2tgpo"] == ["4", f"0.550 ({low:.3f} to {high:.3f})"]
    assert rows(shown["final"])["rloo"] == ["1", "0.300"]  # one seed has no interval
    c = contrast(*((name, dict(zip(SEEDS, figures, strict=True))) for name, figures in TEST.items()))
    expected = ["4", f"+0.110 ({c.low:+.3f} to {c.high:+.3f})", "0.2500", "0.2500"]
    assert rows(shown["differences"]) == rows(shown["differences"]) | {"a2tgpo − grpo": expected}
    assert len(rows(shown["differences"])) == 3
    training, validation = (axes.lines[0] for axes in shown["panels"][0])
    assert (list(training.get_ydata()), list(validation.get_ydata())) == ([0.2], [0.1, 0.5])


@pytest.mark.slow
def test_real_runs_are_compared(designed):
    shown = executed("compare_runs", FOLDERS=[designed["RUNS"]], FIGURE="val/success/final")
    for run in sorted(designed["RUNS"].glob("[0-9]")):
        summary = json.loads((run / "summary.json").read_text())
        method = f"{summary['experiment']} {summary['overrides']}"
        assert rows(shown["final"])[method] == ["1", f"{summary['val/success/final']:.3f}"]
    assert len(shown["runs"]) == 2 and not shown["contrasts"]
