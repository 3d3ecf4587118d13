"""Whatever stands at a key of the composed configuration: one line that begins with it, or parts that can be built."""

import math
import subprocess
import sys

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import launch
from a2tgpo.rollouts.trajectory import Task
from a2tgpo.system.limit_table import LIMITS
from error_lines import tell
from tests.helpers.tiny_runs import ROOT
from tests.helpers.yaml_keys import CONFIGS, FILES, NUMBERS
from tests.test_configs import LARGE, NOT_BUILT, choose

ODD = [0, 0.0, -1, 1, 1.0, 2, 3, 1.5, 0.5, 1e-9, 1e9, 10**9, 10**6, -1e9, 1e30, 10**30, math.nan, math.inf, -math.inf]
ODD += [None, True, "", "abc", "1", [], [1], [0.5, 0.5], {"a": 1}]
VALUES = st.one_of(st.sampled_from(ODD), st.integers(-3, 50), st.floats())


def chosen(key):
    """The name in `configs/` of a file with the key: one that can be built, if there is any."""
    names = [file.relative_to(CONFIGS).with_suffix("").as_posix() for file in FILES[key]]
    return min(names, key=lambda name: (name in NOT_BUILT or name in LARGE, name.startswith("experiment/"), name))


def compose_with(composed, policy_dir, name):
    """The configuration of an entry point with the file `name`."""
    if name == "serve":
        return composed("data.retriever.corpus_path=corpus.jsonl", config_name=name)
    paths = [f"paths.policy_dir={policy_dir}"]
    if name == "eval":
        return composed(*paths, config_name=name)
    paths.append("callbacks.summary.experiment=a2tgpo")  # which is otherwise asked of the configuration composed last
    if name in ("check", "credit"):
        return composed(*paths, config_name=name)
    return composed(*([] if name == "train" else choose(name)), *paths)


def build(config, key):
    """The parts in which the value is used."""
    if key.startswith("data."):
        data = instantiate(config.data.module, _convert_="all")
        data.rollout.environment(Task("1", "What?", ("Varo",)))
    elif key.startswith("model."):
        instantiate(config.model.module, _convert_="all")
    elif key.startswith("callbacks."):
        instantiate(config.callbacks)
    elif key.startswith("trainer."):
        instantiate(config.trainer, logger=False, _convert_="all")


@pytest.fixture
def hold(composed, policy_dir):
    """`hold(key, value)`: fails where the value is neither refused by its key nor part of something that builds."""
    configurations = {}

    def try_out(key, value):
        name = chosen(key)
        if name not in configurations:
            configurations[name] = compose_with(composed, policy_dir, name)
        config = configurations[name].copy()
        OmegaConf.update(config, key, value, merge=False, force_add=True)
        try:
            launch.require_settings(config)
        except ValueError as error:
            assert str(error).startswith(f"{key}=") and ": expected " in str(error)
            return
        if name in NOT_BUILT or name in LARGE:
            return
        try:
            build(config, key)
        except (InstantiationException, ValueError) as error:  # it does not go with another value of its node
            said = tell(error)
            assert said.startswith(key.rpartition(".")[0]) and ("expected" in said or "should be" in said), said

    return try_out


FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FEW
@given(key=st.sampled_from(sorted(NUMBERS)), value=VALUES)
def test_a_value_is_refused_by_its_key_or_can_be_built(hold, key, value):
    hold(key, value)


@pytest.mark.slow
@pytest.mark.parametrize("key", sorted(NUMBERS))
def test_every_number_is_refused_by_its_key_or_can_be_built(hold, key):
    for value in ODD:
        if LIMITS[key](value) is None:  # what is refused, is refused in system/test_settings.py
            hold(key, value)


HEAVY = {"torch", "lightning", "transformers", "peft", "datasets"}
CHECKED_FIRST = {
    "train, a wrong value": (
        "train.py",
        ["model.module.max_grad_norm=-1"],
        "error: model.module.max_grad_norm=-1: expected",
    ),
    "train, a missing value": (
        "train.py",
        ["data=search_qa"],
        "error: data.tasks.test: no value; expected data.tasks.test=… ",
    ),
    "train, a misspelt key": ("train.py", ["model.clipper.betta=1"], "error: Could not override 'model.clipper.betta'"),
    "train, a misspelt group": (
        "train.py",
        ["model/normaliser=batch"],
        "error: Could not override 'model/normaliser'",
    ),
    "train, help": ("train.py", ["--help"], ""),
    "train, the configuration": ("train.py", ["--cfg", "job"], ""),
    "warm_up": ("warm_up.py", ["trainer.max_epochs=0"], "error: trainer.max_epochs=0: expected an integer >= 1"),
    "eval": ("eval.py", ["samples=1.5"], "error: samples=1.5: expected an integer >= 1"),
    "eval, help": ("eval.py", ["--help"], ""),
    "serve": ("serve.py", ["port=abc", "data.retriever.corpus_path=x"], "error: port='abc': expected an integer >= 0"),
    "serve, help": ("serve.py", ["--help"], ""),
    "export": ("export.py", ["/nowhere", "/tmp"], "error: /"),
    "export, help": ("export.py", ["--help"], ""),
}


@pytest.mark.parametrize(
    "name", ["train, a wrong value", *(pytest.param(name, marks=pytest.mark.slow) for name in [*CHECKED_FIRST][1:])]
)
def test_the_configuration_is_checked_before_anything_heavy_is_imported(tmp_path, name):
    script, arguments, message = CHECKED_FIRST[name]
    command = [sys.executable, "-X", "importtime", str(ROOT / "src" / script), *arguments]
    paths = [f"paths.log_dir={tmp_path}"] if script in ("train.py", "eval.py") else []
    done = subprocess.run([*command, *paths], cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in lines if line.startswith("import time:")}
    said = [line for line in lines if not line.startswith("import time:")]
    assert not imported & HEAVY and "argparse" in imported
    assert (done.returncode, len(said)) == ((1, 1) if message else (0, 0))
    assert all(line.startswith(message) for line in said)
