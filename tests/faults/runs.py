"""Runs of the entry point that something happens to, and what must be the same afterwards."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.tiny_runs import SHIPPED, SMALL, checkpoint, finish, same, start, table

AT_ONCE = 2
"""Runs under way together."""
SETTINGS = (
    "experiment=a2tgpo",
    *SMALL,
    "data.module.group_size=4",
    "model.optimizer.lr=0.003",
    "model.scheduler.num_warmup_steps=0",
    "callbacks.rollout_files.every=1",
    f"paths.policy_dir={SHIPPED}",
)
"""Settings under which weights, validation and best checkpoint move."""
TIMINGS = ("seconds/", "tokens/per_second")


def train(*overrides):
    """(exit code, output, errors) of a run."""
    process = start("train.py", *SETTINGS, *overrides)
    output, errors = finish(process, 240)
    return process.returncode, output, errors


def run_dir(logs):
    """The directory of the only run there, or None where it did not come to have one."""
    found = list((logs / "train" / "runs").glob("*/config.yaml"))
    assert len(found) <= 1
    return found[0].parent if found else None


def resume(directory, *overrides):
    """Go on with a run to its end."""
    code, output, errors = train(f"ckpt_path={directory}/checkpoints/last.ckpt", *overrides)
    assert code == 0, output + errors


def figures(directory):
    """The summary without the timings."""
    summary = json.loads((directory / "summary.json").read_text())
    return {name: value for name, value in summary.items() if not name.startswith(TIMINGS)}


def assert_same_run(left, right):
    """Weights, optimizer, generators, metrics.csv and summary are equal bit for bit, but for the timings."""
    for name in ("last", "best"):
        one, two = checkpoint(left, name), checkpoint(right, name)
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
            assert same(one[key], two[key]), (name, key)
        assert same(one["callbacks"]["RngState"], two["callbacks"]["RngState"]), name
    assert table(left) == table(right)
    assert figures(left) == figures(right)


def all_of(cases, suffer):
    """`suffer(case)` of each, a few at once; the failures of all are reported together."""

    def guarded(case):
        try:
            suffer(case)
        except BaseException as error:
            return f"{case}: {type(error).__name__}: {error}"
        return None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        failures = [failure for failure in pool.map(guarded, cases) if failure]
    if failures:
        pytest.fail("\n".join(failures), pytrace=False)
