"""A run that trains on nothing names the reason at once and ends after a while, with nothing lost."""

import json
import math
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate

import train
from a2tgpo.callbacks.nothing_learned import NothingLearned, nothing_learned
from tests.helpers.tiny_runs import SHIPPED, SMALL, checkpoint, table

LEARNED = {
    "train/success": 0.4,
    "train/well_formed_actions": 1.5,
    "train/calls": 1.0,
    "train/tool_failures": 0.5,
    "credit/advantage/turn_1/mean": 0.0,
    "credit/advantage/turn_1/std": 0.5,
    "update/grad_norm": 0.1,
}
NOTHING = {
    "no action was whole and well-formed": {"train/well_formed_actions": 0.0},
    "no tool call succeeded": {"train/tool_failures": 1.0},
    "no turn was given credit": {"credit/advantage/turn_1/std": 0.0},
    "every gradient was 0": {"update/grad_norm": 0.0},
}


@pytest.mark.parametrize("reason", NOTHING)
def test_each_reason_is_told_by_the_metrics_and_none_where_all_succeed(reason):
    assert nothing_learned(LEARNED | NOTHING[reason]) == reason
    assert nothing_learned(LEARNED | NOTHING[reason] | {"train/success": 1.0}) == ""


@pytest.mark.parametrize(
    "learned", [{}, {"update/grad_norm": math.nan}, {"train/calls": 0.0, "train/tool_failures": 0.0}]
)
def test_an_iteration_that_taught_something_is_left_alone(learned):
    assert nothing_learned(LEARNED | learned) == ""


def test_an_environment_without_tools_needs_no_counts_of_them():
    assert nothing_learned({k: v for k, v in LEARNED.items() if k not in ("train/calls", "train/tool_failures")}) == ""


def test_no_patience_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^callbacks\.nothing_learned\.patience=0: expected an integer >= 1"):
        NothingLearned(0)


def test_only_iterations_in_a_row_count(composed, policy_dir):
    watch = NothingLearned(2)
    config = composed("experiment=a2tgpo", *SMALL, f"paths.policy_dir={policy_dir}", "trainer.max_epochs=1")
    data, learner = (instantiate(part.module, _convert_="all") for part in (config.data, config.model))
    trainer = instantiate(config.trainer, callbacks=[watch], logger=False, enable_checkpointing=False)
    trainer.fit(learner, data)
    assert watch.in_a_row == 1
    learner.metrics = LEARNED
    watch.on_train_epoch_end(trainer, learner)
    assert watch.in_a_row == 0


def test_a_policy_that_speaks_no_dialect_is_named_at_once_and_ended_after_a_while(composed, policy_dir, capsys):
    patience = ("callbacks.nothing_learned.patience=3", "trainer.max_epochs=9", "trainer.check_val_every_n_epoch=1")
    config = composed("experiment=a2tgpo", *SMALL, f"paths.policy_dir={policy_dir}", *patience)
    with pytest.raises(SystemExit) as stopped:
        train.train(config)
    said = capsys.readouterr()
    reason = "no action was whole and well-formed"
    lines = [line for line in said.out.splitlines() if line.endswith(f"  nothing learned: {reason}")]
    assert stopped.value.code == 1 and [line.split()[0] for line in lines] == ["1/9", "2/9", "3/9"]
    (error,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: callbacks.nothing_learned.patience=3: nothing was learned") and reason in error
    run_dir = Path(config.paths.output_dir)
    assert checkpoint(run_dir)["global_step"] == 4  # two iterations of two steps
    assert json.loads((run_dir / "summary.json").read_text())["interrupted"] == "ValueError"
    assert len(table(run_dir)) == 4


class Ruinous(torch.optim.SGD):
    """Takes one step too far."""

    def step(self, closure=None):
        super().step(closure)
        self.param_groups[0]["params"][0].data.fill_(math.inf)


def test_a_step_that_ruins_the_weights_ends_the_run_and_no_checkpoint_holds_them(composed, tmp_path, capsys):
    paths = (f"paths.policy_dir={SHIPPED}", f"paths.output_dir={tmp_path / 'run'}")
    config = composed("experiment=a2tgpo", *SMALL, "data.module.group_size=8", *paths)
    config.model.optimizer = {"_target_": f"{__name__}.Ruinous", "_partial_": True, "lr": 1.0}
    with pytest.raises(SystemExit):
        train.train(config)
    assert "error: an optimizer step left weights that are not finite; expected smaller" in capsys.readouterr().err
    kept = checkpoint(tmp_path / "run")
    assert kept["global_step"] == 0 and all(torch.isfinite(w).all() for w in kept["state_dict"].values())
