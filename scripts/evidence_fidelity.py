"""How near the credits of the study come to the forks of their task, without training: docs/evidence/fidelity.json.

    python scripts/evidence_fidelity.py

Every method of docs/evidence/plan.yaml is held against the forks of preset=credit, as many prompts at a time as a run
has; `scripts/evidence_report.py` sets that beside what training gained.
"""

import math
from dataclasses import replace
from pathlib import Path

from evidence import PLAN, Plan
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from a2tgpo.method.accumulators.discounted import Discounted
from a2tgpo.method.combiners.gains_alone import GainsAlone
from a2tgpo.method.method import Method
from a2tgpo.oracle.controls import CONTROLS, RLOO
from a2tgpo.oracle.judge import Judge
from a2tgpo.oracle.report import LESS
from a2tgpo.oracle.store import read_forks
from a2tgpo.system.files import write_json

ROOT = Path(__file__).resolve().parents[1]
FIDELITY = ROOT / "docs" / "evidence" / "fidelity.json"
FORKS = ("credit-start", "credit-middle", "credit-late")
SETTING = "mixed"
"""Of the plan: the task that was forked."""
FIGURES = ("search or answer", "correlation within trajectories", "reciprocal rank", "conservation")


def methods(plan: Plan) -> tuple[dict[str, Method], int]:
    """The plan's methods, but one of those that differ in the learning rate alone; and the prompts of an iteration."""
    made: dict[str, Method] = {}
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        for name, overrides in plan.methods.items():
            config = compose("train", [*overrides, *plan.settings[SETTING]])
            method = instantiate(config.model.method, _convert_="all")
            if method not in made.values():
                made[name] = method
    return made, config.data.module.prompts_per_iteration


def fidelities(judge: Judge, made: dict[str, Method]) -> dict[str, dict[str, list[float] | None]]:
    """[figure, standard error] of each method, the whitened cosine less that of RLOO and those of `FIGURES`; None where
    a figure is not known."""
    rloo = judge.fidelity(judge.credit(CONTROLS[RLOO]))
    found: dict[str, dict[str, list[float] | None]] = {}
    for name, method in made.items():
        own = judge.fidelity(judge.credit(method))
        figures = {LESS: own.less(rloo)} | {figure: own.figures[figure] for figure in FIGURES}
        found[name] = {
            figure: [round(f.value, 4), round(f.error, 4)] if math.isfinite(f.value) else None
            for figure, f in figures.items()
        }
    return found


def depths(judge: Judge, paper: Method) -> list[dict[str, float]]:
    """What gains are at each turn of an episode: their mean, what D and D/√n have in mean and variance, and A*."""
    alone = replace(paper, credit=replace(paper.credit, combiner=GainsAlone()))
    plain = replace(alone, credit=replace(alone.credit, accumulator=Discounted(gamma=1.0)))
    observed = judge.forked.observed(range(len(judge.forked.trajectories)), paper.signal.answers)
    gains = paper.signal(observed)
    columns = {"D": judge.credit(plain), "D/√n": judge.credit(alone), "A*": judge.forked.advantage(slice(None))}
    rows = []
    for turn in range(gains.gain.shape[1]):
        counted = gains.gain_mask[:, turn]
        if int(counted.sum()) < 2:
            break
        row = {"turn": turn + 1, "turns": int(counted.sum()), "gain": float(gains.gain[counted, turn].mean())}
        for name, values in columns.items():
            here = values[counted, turn]
            row |= {f"mean {name}": float(here.mean()), f"variance {name}": float(here.var())}
        rows.append({name: round(value, 4) for name, value in row.items()})
    return rows


def main() -> None:
    """Command line."""
    made, batch_prompts = methods(Plan.read(PLAN))
    frozen = ROOT / "src" / "a2tgpo" / "oracle" / "frozen"
    judges = {name: Judge(read_forks(frozen / f"{name}.npz"), batch_prompts) for name in FORKS}
    found = {
        name: {"methods": fidelities(judge, made), "depths": depths(judge, made["a2tgpo"])}
        for name, judge in judges.items()
    }
    write_json(FIDELITY, found)


if __name__ == "__main__":
    main()
