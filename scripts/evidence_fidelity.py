"""How near the credits of the study come to the forks of their task, without training: docs/evidence/fidelity.json.

    python scripts/evidence_fidelity.py

Every method of docs/evidence/plan.yaml is held against the forks of preset=credit, as many prompts at a time as a run
has; `scripts/evidence_report.py` sets that beside what training gained.
"""

import json
from pathlib import Path

from evidence import PLAN, Plan
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from a2tgpo.method.method import Method
from a2tgpo.oracle.controls import CONTROLS, RLOO
from a2tgpo.oracle.forked import Forked
from a2tgpo.oracle.judge import Judge
from a2tgpo.oracle.store import read_forks
from a2tgpo.system.files import write_json

ROOT = Path(__file__).resolve().parents[1]
FIDELITY = ROOT / "docs" / "evidence" / "fidelity.json"
FORKS = "credit-*.npz"
SETTING = "mixed"
"""Of the plan: the task that was forked."""


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


def fidelities(forked: Forked, made: dict[str, Method], batch_prompts: int) -> dict[str, dict[str, float]]:
    """Whitened cosine of each method less that of RLOO, and its standard error."""
    judge = Judge(forked, batch_prompts)
    rloo = judge.fidelity(judge.credit(CONTROLS[RLOO]))
    found = {name: judge.fidelity(judge.credit(method)).less(rloo) for name, method in made.items()}
    return {name: {"value": round(f.value, 4), "error": round(f.error, 4)} for name, f in found.items()}


def main() -> None:
    """Command line."""
    made, batch_prompts = methods(Plan.read(PLAN))
    frozen = ROOT / "src" / "a2tgpo" / "oracle" / "frozen"
    found = {path.stem: fidelities(read_forks(path), made, batch_prompts) for path in sorted(frozen.glob(FORKS))}
    write_json(FIDELITY, found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
