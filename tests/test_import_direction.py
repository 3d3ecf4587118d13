"""One test for each sentence of "Import direction" in docs/architecture.md."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "a2tgpo"
FLOORS = (
    {"system"},
    {"policies", "retrievers"},
    {"rollouts"},
    {"method", "engines", "environments"},
    {"scoring", "tasks", "embedded"},
    {"training", "integrations"},
    {"evaluation", "dry_run", "check"},
    {"viewer"},
    {"callbacks", "oracle"},
    {"traces"},
)
"""Rooms from the ground up."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path for path in PACKAGE.rglob("*.py"))


def imports(path):
    """Dotted names of all modules that a file imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path):
    return path.relative_to(PACKAGE).parts[0]


def arrows():
    """(file, room it stands in, room it imports)"""
    for path in FILES:
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "a2tgpo" and len(parts) > 1 and parts[1] in FLOOR and parts[1] != room(path):
                yield path, room(path), parts[1]


def users_of(library):
    """Rooms and files that import `library`."""
    return {path for path in FILES if any(name.split(".")[0] == library for name in imports(path))}


def imported(*modules):
    """Top-level packages in memory after a fresh interpreter imported `modules`."""
    code = f"import json, sys, {', '.join(modules)}; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    environment = {"PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def modules_in(*rooms):
    return [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in FILES
        if room(path) in rooms and path.name != "__init__.py"
    ]


def test_the_package_has_no_module_at_its_root_and_every_room_has_a_floor():
    assert [path.name for path in PACKAGE.glob("*.py")] == ["__init__.py"]
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(FLOOR)


def test_every_import_runs_downward():
    assert {(str(path), b) for path, a, b in arrows() if FLOOR[a] <= FLOOR[b]} == set()


def test_the_method_imports_torch_the_recorded_trajectory_the_gather_over_ranks_and_settings_nothing_else():
    own, foreign = set(), set()
    for path in FILES:
        if room(path) == "method":
            for name in imports(path):
                if name.startswith("a2tgpo.") and not name.startswith("a2tgpo.method"):
                    own.add(".".join(name.split(".")[:3]))
                elif name.split(".")[0] not in (*sys.stdlib_module_names, "a2tgpo"):
                    foreign.add(name.split(".")[0])
    assert own == {"a2tgpo.rollouts.trajectory", "a2tgpo.system.distributed", "a2tgpo.system.settings"}
    assert foreign == {"torch", "jaxtyping"}


def test_a_strategy_imports_equations_turns_and_protocols_of_the_method_and_settings_nothing_else():
    allowed = {
        *(f"a2tgpo.method.{equations}" for equations in ("beliefs", "functional", "ridge", "values")),
        "a2tgpo.method.turns",
        "a2tgpo.method.protocols",
        "a2tgpo.rollouts.trajectory",
        "a2tgpo.system.limits",
        "a2tgpo.system.settings",
    }
    for path in FILES:
        if room(path) == "method" and len(path.relative_to(PACKAGE).parts) == 3 and path.name != "__init__.py":
            used = {name for name in imports(path) if name.startswith("a2tgpo.")} - {"a2tgpo.method"}
            assert all(any(name == a or name.startswith(f"{a}.") for a in allowed) for name in used), path


def test_environments_retrievers_tasks_and_what_is_recorded_need_no_torch():
    modules = modules_in("environments", "retrievers", "tasks")
    assert len(modules) > 20
    modules += ["a2tgpo.rollouts.trajectory", "a2tgpo.rollouts.protocols", "a2tgpo.rollouts.rewards.outcome"]
    assert not imported(*modules) & {"torch", "transformers", "lightning", "hydra"}


def test_the_method_needs_no_framework():
    found = imported(*modules_in("method"))
    assert "torch" in found
    assert not found & {"lightning", "hydra", "omegaconf", "transformers"}


def test_rollouts_know_engines_and_environments_by_their_protocols_alone():
    assert {b for _, a, b in arrows() if a == "rollouts"} <= {"policies", "system"}


def test_engines_know_rollouts_by_their_protocols_alone():
    used = {name for path in FILES if room(path) == "engines" for name in imports(path)}
    known = {".".join(name.split(".")[:3]) for name in used if name.startswith("a2tgpo.rollouts")}
    assert known == {"a2tgpo.rollouts.protocols"}


def test_scoring_knows_the_method_by_its_turns_alone():
    used = {name for path in FILES if room(path) == "scoring" for name in imports(path)}
    known = {".".join(name.split(".")[:3]) for name in used if name.startswith("a2tgpo.method")}
    assert known == {"a2tgpo.method.turns"}


def test_only_entry_points_import_hydra():
    assert not users_of("hydra") | users_of("omegaconf")


def test_only_training_callbacks_and_checkpoint_files_know_lightning():
    assert {room(path) for path in users_of("lightning")} <= {"training", "callbacks", "system"}
    assert {path.name for path in users_of("lightning") if room(path) == "system"} == {"checkpoint_io.py"}
    assert {path.name for path in users_of("lightning") if room(path) == "training"} == {
        "datamodule.py",
        "policy_module.py",
        "sharded_strategy.py",
    }


def test_the_two_halves_of_training_know_each_other_by_their_protocols_alone():
    halves = {"a2tgpo.training.datamodule", "a2tgpo.training.module"}
    for name in ("datamodule", "module"):
        assert not halves & set(imports(PACKAGE / "training" / f"{name}.py"))


@pytest.mark.parametrize("framework", ["hydra", "omegaconf"])
def test_the_check_sees_a_framework(framework):
    assert framework in imported(framework)


def test_the_package_itself_imports_nothing_heavy():
    assert not imported("a2tgpo") & {"torch", "numpy", "lightning", "hydra", "omegaconf", "transformers"}


def test_no_room_holds_more_than_an_eighth_of_the_source():
    sizes = {}
    for path in FILES:
        sizes[path.parent] = sizes.get(path.parent, 0) + len(path.read_text().splitlines())
    assert max(sizes.values()) <= 0.13 * sum(sizes.values())
