"""Whole runs in a few seconds: what is trained on, what a run leaves behind, that it can be repeated and resumed."""

import json
import re
import shutil
import signal
import time
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from lightning import Callback
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from a2tgpo.evaluation.runs import read_rows
from a2tgpo.policies.checkpoint import load_weights
from a2tgpo.viewer.arithmetic import explain
from a2tgpo.viewer.page import page
from a2tgpo.viewer.run_data import read_run
from tests.helpers.experiments import EXPERIMENTS, RIVALS, lanes
from tests.helpers.shipped import pretrained_policy
from tests.helpers.tiny_runs import SHIPPED, SMALL, checkpoint, finish, same, start, table

PLAYABLE = [name for name in EXPERIMENTS if not re.search("qwen|pretrained|small", name)]
"""The others need a model that must be fetched; dry_run/test_dry_run.py runs them at small width."""
FAST = ("igpo_joint",)
"""Rivals whose run is in the fast lane; test_refill.py trains dapo, test_own_parts.py gigpo and prm."""
KEEP_ALL = ("callbacks.rollout_files.every=1", "callbacks.histograms.every=1")
LIVELY = ("model.optimizer.lr=0.003", "model.scheduler.num_warmup_steps=0", "data.module.group_size=4")
"""Settings under which the shipped policy visibly moves within one step."""


@pytest.fixture
def run(composed, tmp_path):
    """`run(name, …)`: a finished run in the directory `name`."""

    def execute(name, *overrides):
        paths = (f"paths.policy_dir={SHIPPED}", f"paths.output_dir={tmp_path / name}")
        train.train(composed("experiment=a2tgpo", *SMALL, *paths, *overrides))
        return tmp_path / name

    return execute


def rollouts(run_dir):
    return [[json.loads(line) for line in path.open()] for path in sorted((run_dir / "rollouts").glob("*.jsonl"))]


# ---- what is trained on ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", lanes(PLAYABLE, fast=FAST))
def test_experiment_runs_end_to_end(composed, policy_dir, tmp_path, name):
    train.train(composed(f"experiment={name}", *SMALL, "trainer.max_epochs=1", f"paths.policy_dir={policy_dir}"))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["experiment"] == name and summary["iterations"] == 1 and summary["optimizer_steps"] == 2
    assert {"val/success/start", "val/success/final", "test/success"} <= set(summary) and "interrupted" not in summary


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in RIVALS])
def test_experiment_takes_several_steps_a_rollout_set(composed, name):
    data = composed(f"experiment={name}").data.module  # with one step every ratio is 1 and clipping never binds
    assert data.prompts_per_iteration >= 2 * data.mini_batch_prompts


def test_rollouts_are_made_anew_every_iteration(run, policy_dir):
    sets = rollouts(run("a", f"paths.policy_dir={policy_dir}", *KEEP_ALL))
    prompts = [{trajectory["task_id"] for trajectory in made} for made in sets]
    assert len(sets) == 3 and all(len(made) == 4 * 2 and len(ids) == 4 for made, ids in zip(sets, prompts, strict=True))
    assert not prompts[0] & prompts[1] and not prompts[1] & prompts[2]


@pytest.mark.parametrize("every", [0, 2])
def test_stale_rollouts_are_refused(run, policy_dir, capsys, every):
    with pytest.raises(SystemExit) as stopped:
        run("a", f"paths.policy_dir={policy_dir}", f"trainer.reload_dataloaders_every_n_epochs={every}")
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 1
    assert error.startswith(f"error: trainer.reload_dataloaders_every_n_epochs={every}: expected 1")


# ---- again and onwards -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_same_seed_same_numbers_other_seed_other_numbers(run):
    settings = (*LIVELY, "trainer.max_epochs=2")
    first, again, other = (table(run(f"{i}", *settings, f"seed={seed}")) for i, seed in enumerate((0, 0, 1)))
    assert first == again
    assert len(first) == len(other) == 3
    assert all(a["train/tokens"] != b["train/tokens"] for a, b in zip(first[1:], other[1:], strict=True))


class Accident(Callback):
    """Draws random numbers, and ends the run in the middle of iteration `iteration`."""

    def __init__(self, iteration):
        self.iteration = iteration

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        torch.rand(3)
        if trainer.current_epoch + 1 == self.iteration and batch_idx == 0:
            raise ValueError("an accident in the middle of a rollout set")


def accident(iteration):
    return (
        "+callbacks.accident._target_=tests.training.test_training.Accident",
        f"+callbacks.accident.iteration={iteration}",
    )


@pytest.mark.parametrize("experiment", [pytest.param("a2tgpo", marks=pytest.mark.slow), "belief_baseline"])
def test_resumed_run_goes_on_bit_for_bit(run, capsys, experiment):
    lively = (f"experiment={experiment}", *LIVELY)
    whole = run("whole", *lively, *accident(9))
    with pytest.raises(SystemExit):
        run("parts", *lively, *accident(2))
    assert "an accident" in capsys.readouterr().err
    parts = whole.parent / "parts"
    assert json.loads((parts / "summary.json").read_text())["interrupted"] == "ValueError"
    assert len(table(parts)) == 2 and checkpoint(parts)["global_step"] == 2
    spent = sum(
        float(row["seconds/rollout"]) for row in read_rows(parts / "metrics.csv").values() if "seconds/rollout" in row
    )
    (parts / "summary.json").write_text("{")  # as an interruption might have left it
    run("parts", *lively, *accident(9), f"ckpt_path={parts}/checkpoints/last.ckpt")
    assert table(parts) == table(whole)
    left, right = checkpoint(parts), checkpoint(whole)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch", "credit_memory"):
        assert same(left[key], right[key]), key
    assert same(left["callbacks"]["RngState"], right["callbacks"]["RngState"])
    assert left["global_step"] == 6
    assert figures(parts) == figures(whole)
    assert json.loads((parts / "summary.json").read_text())["seconds/rollout"] > spent > 0


def test_resuming_a_finished_run_only_tests_it_again(run):
    done = run("done", *SMALL)
    before, rows = checkpoint(done), table(done)
    run("done", *SMALL, f"ckpt_path={done}/checkpoints/last.ckpt")
    assert same(checkpoint(done)["state_dict"], before["state_dict"]) and table(done) == rows
    assert json.loads((done / "summary.json").read_text())["iterations"] == len(rows) - 1


def figures(run_dir):
    """The summary without the timings."""
    summary = json.loads((run_dir / "summary.json").read_text())
    return {name: value for name, value in summary.items() if not name.startswith(("seconds/", "tokens/per_second"))}


class KeepStart(Callback):
    """Keeps the checkpoint of the start."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 0:
            last = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
            shutil.copy(last, last.with_name("start.ckpt"))


@pytest.fixture
def from_start_to_end(run):
    """A finished run that has kept its start."""
    return run("a", *LIVELY, "+callbacks.keep._target_=tests.training.test_training.KeepStart")


def test_an_earlier_checkpoint_is_gone_on_from_without_counting_twice(run, from_start_to_end):
    directory = from_start_to_end
    before, last, counted = table(directory), checkpoint(directory), figures(directory)
    run("a", *LIVELY, f"ckpt_path={directory}/checkpoints/start.ckpt")
    assert table(directory) == before and figures(directory) == counted
    assert same(checkpoint(directory)["state_dict"], last["state_dict"])
    assert same(checkpoint(directory)["callbacks"]["RngState"], last["callbacks"]["RngState"])


@pytest.mark.parametrize("how", [shutil.copytree, pytest.param(shutil.move, marks=pytest.mark.slow)])
def test_moved_run_keeps_its_best_until_there_is_a_better_one(run, how):
    settings = ("model.optimizer.lr=0.03", "data.module.val_tasks=8")
    here = run("here", *settings, "trainer.max_epochs=1")
    kept, best = checkpoint(here, "best"), json.loads((here / "summary.json").read_text())["val/success/best"]
    there = here.parent / "there"
    how(here, there)
    if here.exists():
        (here / "checkpoints" / "best.ckpt").write_bytes(b"nobody reads this")
    run("there", *settings, "trainer.max_epochs=3", f"ckpt_path={there}/checkpoints/last.ckpt")
    later = [float(row["val/success"]) for row in table(there)[2:]]
    assert best > max(later)  # nothing better came
    assert same(checkpoint(there, "best")["state_dict"], kept["state_dict"])
    assert json.loads((there / "summary.json").read_text())["val/success/best"] == best


def test_the_best_checkpoint_holds_the_weights_alone_and_no_run_goes_on_from_it(run, capsys):
    directory = run("a", "trainer.max_epochs=1")
    best, last = checkpoint(directory, "best"), checkpoint(directory)
    assert same(best["state_dict"], last["state_dict"]) and last["optimizer_states"][0]["state"]
    assert not best.keys() & {"optimizer_states", "lr_schedulers", "callbacks", "summary"}
    with pytest.raises(SystemExit):
        run("a", "trainer.max_epochs=2", f"ckpt_path={directory}/checkpoints/best.ckpt")
    said = f"error: ckpt_path={directory}/checkpoints/best.ckpt: no optimizer state in it; expected the last.ckpt"
    assert said in capsys.readouterr().err


def test_a_best_checkpoint_that_is_gone_is_named(run, capsys):
    directory = run("a", "trainer.max_epochs=1")
    (directory / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(SystemExit):
        run("a", "trainer.max_epochs=2", f"ckpt_path={directory}/checkpoints/last.ckpt")
    assert f"error: {directory}/checkpoints/best.ckpt: no such file; expected the best" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "iteration,val/success\n0\n", "a,b\n1,2\n", "iteration\nx\n"])
def test_a_broken_table_is_named(tmp_path, content):
    path = tmp_path / "metrics.csv"
    path.write_text(content)
    if content:
        with pytest.raises(ValueError, match=r"expected the table of a run, a row an iteration") as error:
            read_rows(path)
        assert str(error.value).startswith(f"{path}: ")
    else:
        assert read_rows(path) == {}


@pytest.mark.slow
def test_a_longer_resume_has_the_learning_rate_of_the_longer_schedule_at_once(run):
    settings = ("model/scheduler=linear", "model.scheduler.num_warmup_steps=0")
    whole = run("whole", *settings, "trainer.max_epochs=3")
    parts = run("parts", *settings, "trainer.max_epochs=1")
    run("parts", *settings, "trainer.max_epochs=3", f"ckpt_path={parts}/checkpoints/last.ckpt")
    rates, expected = ([float(row["update/lr"]) for row in table(directory)[2:]] for directory in (parts, whole))
    assert rates == expected and len(rates) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_process_leaves_checkpoint_and_summary(policy_dir, tmp_path, signum, code):
    paths = (f"paths.policy_dir={policy_dir}", f"paths.log_dir={tmp_path}/logs")
    process = start("train.py", "experiment=a2tgpo", *SMALL, "trainer.max_epochs=100000", *paths)
    deadline = time.monotonic() + 120
    while not (tables := list(tmp_path.glob("logs/train/runs/*/metrics.csv"))) or len(table(tables[0].parent)) < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    process.send_signal(signum)
    output, _ = finish(process, 60)
    directory = tables[0].parent
    summary = json.loads((directory / "summary.json").read_text())
    assert process.returncode == code, output
    assert summary["interrupted"] == signum.name and summary["iterations"] >= 2 and "val/success/final" in summary
    complete = checkpoint(directory)["global_step"] / 2  # the signal may come just before the newest is saved
    assert complete in (summary["iterations"], summary["iterations"] - 1)


# ---- checkpoints -----------------------------------------------------------------------------------------------------


class Watch(Callback):
    """What last.ckpt holds at every batch, as (steps taken, steps in the file)."""

    seen: ClassVar = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        steps = checkpoint(Path(trainer.default_root_dir))["global_step"]
        self.seen.append((trainer.global_step, steps))


def test_checkpoints_are_made_between_iterations_only(run, policy_dir):
    Watch.seen.clear()
    watch = "+callbacks.watch._target_=tests.training.test_training.Watch"
    directory = run("a", f"paths.policy_dir={policy_dir}", watch)
    assert Watch.seen == [(0, 0), (1, 0), (2, 2), (3, 2), (4, 4), (5, 4)]
    assert sorted(path.name for path in (directory / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert checkpoint(directory)["global_step"] == 6


def test_best_keeps_the_earlier_of_equals(run, policy_dir):
    directory = run("a", f"paths.policy_dir={policy_dir}")  # the random policy never answers: 0 three times
    assert [row["val/success"] for row in table(directory)] == ["0.0"] * 4
    assert checkpoint(directory, "best")["global_step"] == 2


def test_run_that_never_validates_still_ends_well(run, policy_dir):
    directory = run("a", f"paths.policy_dir={policy_dir}", "trainer.check_val_every_n_epoch=10")
    summary = json.loads((directory / "summary.json").read_text())
    assert "test/success" in summary and "val/success/final" not in summary
    assert checkpoint(directory)["global_step"] == 6


# ---- what a run leaves behind ----------------------------------------------------------------------------------------

FINISHED = {}


@pytest.fixture
def finished(run):
    """One run of the shipped policy with everything written at every iteration, made once."""
    if not FINISHED:
        FINISHED["directory"] = run("a", *LIVELY, *KEEP_ALL, "callbacks.rollout_files.max_files=2")
    return FINISHED["directory"]


def test_configuration_is_kept_resolved(finished):
    assert "${" not in (finished / "config.yaml").read_text()
    config = OmegaConf.load(finished / "config.yaml")
    assert config.model.module.optimizer.lr == 0.003 and config.paths.output_dir == str(finished)


def test_summary_is_flat_and_complete(finished):
    summary = json.loads((finished / "summary.json").read_text())
    texts = {"experiment", "overrides", "config_hash"}
    assert {key for key, value in summary.items() if not isinstance(value, int | float)} == texts
    assert "data.module.group_size=4" in summary["overrides"] and "paths." not in summary["overrides"]
    assert summary["experiment"] == "a2tgpo" and summary["seed"] == 0
    assert summary["iterations"] == 3 and summary["optimizer_steps"] == 6
    wanted = [f"val/success/{which}" for which in ("start", "best", "final")] + ["test/success"]
    wanted += [f"seconds/{phase}" for phase in ("total", "rollout", "scoring", "update")]
    assert set(wanted) <= set(summary)
    assert summary["val/success/best"] == max(float(row["val/success"]) for row in table(finished)[1:])
    assert summary["tokens/forwarded"] == sum(float(row["tokens/forwarded"]) for row in table(finished)[1:])
    assert summary["tokens/forwarded"] > summary["tokens/useful"] > 0
    learning = summary["seconds/scoring"] + summary["seconds/update"]
    assert summary["tokens/per_second"] == pytest.approx(summary["tokens/useful"] / learning)


def test_table_has_a_row_for_the_start_and_every_iteration(finished):
    rows = table(finished)
    assert [row["iteration"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[0]["val/success"] != "" and rows[0]["update/loss"] == ""
    assert all(float(row["update/first_step_max_log_ratio"]) <= 1e-5 for row in rows[1:])
    assert float(rows[1]["policy/rollout_gap_max"]) <= 1e-5
    # training sharpens the logits: by a processor's rounding single improbable tokens move more, their mean does not
    assert all(float(row["policy/rollout_gap_mean"]) <= 1e-6 for row in rows[1:])
    assert any(float(row["update/max_log_ratio"]) > 1e-3 for row in rows[1:])


def test_rollout_files_hold_turns_with_their_credit_and_old_ones_go(finished):
    names = sorted(path.name for path in (finished / "rollouts").iterdir())
    assert names == ["000002-rank0.jsonl", "000003-rank0.jsonl"]
    for made in rollouts(finished):
        assert len(made) == 16
        for line in made:
            turns = len(line["turns"])
            credit = ("gain", "normalized_gain", "advantage", "turn_credit", "clip_low", "clip_high")
            assert line["version"] == 4 and all(len(line[key]) == turns for key in credit)
            process = sum(bool(turn["observation_ids"]) for turn in line["turns"])
            assert sum(line["has_gain"]) == process and len(line["belief"]) == process + 1
            assert all(len(turn["action_ids"]) == len(turn["action_logprobs"]) for turn in line["turns"])
            assert {"task_id", "question", "answers", "prompt_ids", "outcome", "stop", "metrics"} <= set(line)


def test_rollout_files_hold_the_ratios_of_the_policy_behind_the_last_step(finished):
    policy = pretrained_policy(SHIPPED)
    load_weights(policy, finished / "checkpoints" / "last.ckpt")
    moved = 0
    for line in rollouts(finished)[-1]:
        ids = list(line["prompt_ids"])
        for t, turn in enumerate(line["turns"]):
            action = torch.tensor(turn["action_ids"])
            with torch.no_grad():
                logits = policy.model(torch.tensor([ids + turn["action_ids"]])).logits[0, len(ids) - 1 : -1]
            change = logits.log_softmax(-1).gather(1, action[:, None])[:, 0] - torch.tensor(turn["action_logprobs"])
            assert line["ratio"][t] == pytest.approx(change.mean().exp().item(), abs=2e-5)
            assert line["logprob_change"][t] == pytest.approx(change.tolist(), rel=6e-3, abs=2e-5)
            assert sum(line["token_lengths"][t]) == len(turn["action"])
            ratio, up = line["ratio"][t], line["advantage"][t] > 0
            over = ratio > 1 + line["clip_high"][t] if up else ratio < 1 - line["clip_low"][t]
            assert line["clipped"][t] == float(over and line["advantage"][t] != 0)
            moved += abs(ratio - 1) > 1e-3
            ids += turn["action_ids"] + turn["observation_ids"]
    assert moved > 10


def test_the_page_holds_the_credit_of_every_turn_as_the_method_made_it(finished):
    run = read_run(finished)
    text = (finished / "view.html").read_text()
    assert text == page(run) and len(run.groups) == 8
    for group in run.groups:
        for member in group.trajectories:
            without = {**member, "turns": [{k: v for k, v in t.items() if k != "turn_credit"} for t in member["turns"]]}
            worked_out = explain([without], run.composition)[0][0]
            for turn, again in zip(member["turns"], worked_out["turns"], strict=True):
                assert again["turn_credit"] == pytest.approx(turn["turn_credit"], abs=1e-6)


def test_tensorboard_has_scalars_histograms_and_transcripts(finished):
    events = EventAccumulator(str(finished / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    tags = events.Tags()
    scalars = {"update/loss", "credit/gain/turn_1/mean", "val/success", "seconds/rollout", "tokens/per_second"}
    assert scalars <= set(tags["scalars"])
    assert {f"credit/{name}" for name in ("gain", "normalized_gain", "advantage", "clip_scale")} == set(
        tags["histograms"]
    )
    assert "transcripts/text_summary" in tags["tensors"]
    configuration = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "lr: 0.003" in configuration and "${" not in configuration
    text = events.Tensors("transcripts/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "policy: " in text and "reward " in text and "accepted: " in text
