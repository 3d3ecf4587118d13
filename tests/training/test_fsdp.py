"""Two processes that share the weights do what one does, and what they write is what one writes."""

import json
import shutil
import time

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM

import train
from a2tgpo.policies.checkpoint import weights_in
from export import export
from tests.helpers.completions_server import CompletionsServer
from tests.helpers.failing_rank import failing
from tests.helpers.shipped import pretrained_policy
from tests.helpers.tiny_runs import SHIPPED, SMALL, checkpoint, finish, start, table
from tests.training import test_ddp as ddp
from tests.training import test_own_memory as own_memory
from tests.training.test_ddp import SETTINGS, apart, by_place, moved, rollouts, torchrun, train_in_two

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

CASES = ddp.CASES | {
    "unequal": (  # ranks with unlike numbers of rows, each of which is a micro-batch
        *ddp.PLAIN_SGD,
        "model/aggregation=token_mean",
        "data.module.refill_rounds=1",
        "model.module.micro_batch_tokens=100",
    )
}
FINISHED = {}


@pytest.fixture(params=["full", "lora", "reference", "unequal"])
def runs(request, composed, tmp_path):
    """The directories of the same iteration in one process and in two that shard, made once a case."""
    if request.param not in FINISHED:
        settings = (*SETTINGS, *CASES[request.param], "trainer.max_epochs=1")
        train.train(composed(*settings, f"paths.output_dir={tmp_path}/one"))
        train_in_two(torchrun, *settings, f"paths.log_dir={tmp_path}/two", trainer="fsdp_cpu")
        (directory,) = (tmp_path / "two" / "train" / "runs").iterdir()
        FINISHED[request.param] = (tmp_path / "one", directory)
    return FINISHED[request.param]


def differences(one, two):
    """How far numbers and tensors of the same place are apart; all else must be equal."""
    if isinstance(one, torch.Tensor):
        assert one.shape == two.shape and one.dtype == two.dtype
        return [float((one - two).abs().max())] if one.numel() else []
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        return [far for key in one for far in differences(one[key], two[key])]
    if isinstance(one, list | tuple):
        assert len(one) == len(two)
        return [far for pair in zip(one, two, strict=True) for far in differences(*pair)]
    assert one == two
    return []


# ---- two processes do what one does ----------------------------------------------------------------------------------


def test_ranks_roll_out_what_one_process_would(runs):
    one, two = (by_place(rollouts(directory)) for directory in runs)
    assert one.keys() == two.keys()
    for place, line in one.items():
        assert [turn["action_ids"] for turn in line["turns"]] == [turn["action_ids"] for turn in two[place]["turns"]]


def test_weights_after_a_rollout_set_are_those_of_one_process(runs):
    one, two = map(checkpoint, runs)
    assert one["global_step"] == two["global_step"] == 2
    assert moved(one) > 3e-4 and apart(one, two) <= 1e-5


def test_figures_are_those_of_one_process(runs):
    one, two = (table(directory)[-1] for directory in runs)
    assert float(two["update/grad_norm"]) == pytest.approx(float(one["update/grad_norm"]), rel=1e-4)
    assert float(two["update/loss"]) == pytest.approx(float(one["update/loss"]), rel=1e-3, abs=1e-5)
    assert two["val/success"] == one["val/success"]
    assert float(two["update/first_step_max_log_ratio"]) <= 1e-5


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_checkpoint_is_the_file_that_one_process_writes(runs, name):
    one, two = (checkpoint(directory, name) for directory in runs)
    assert one.keys() == two.keys()
    for key in ("state_dict", "lr_schedulers", "loops", "credit_memory", "log_gain_noise"):
        if key in one:
            assert max(differences(one[key], two[key]), default=0.0) <= 1e-5, key
    if name == "last":
        assert one["optimizer_states"][0]["state"].keys() == two["optimizer_states"][0]["state"].keys()
        assert max(differences(one["optimizer_states"], two["optimizer_states"]), default=0.0) <= 1e-4


@pytest.mark.parametrize("runs", ["reference"], indirect=True)
def test_two_replicas_of_two_shards_that_compute_activations_again_do_the_same(runs, tmp_path):
    settings = (*SETTINGS, *CASES["reference"], "trainer.max_epochs=1", "model.policy.gradient_checkpointing=true")
    four = ("trainer.devices=4", "trainer.strategy.replicas=2", f"paths.log_dir={tmp_path}")
    train_in_two(start, *settings, *four, trainer="fsdp_cpu")
    (directory,) = (tmp_path / "train" / "runs").iterdir()
    assert len(rollouts(directory)) == 4
    assert apart(checkpoint(directory), checkpoint(runs[0])) <= 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_first_ratio_is_one_where_layers_are_gathered_in_bfloat16(dtype, tmp_path):
    settings = (*SETTINGS, *CASES["lora" if dtype == "bfloat16" else "full"], f"model.policy.dtype={dtype}")
    settings += ("trainer.max_epochs=1", "trainer.precision=bf16-mixed", f"paths.log_dir={tmp_path}")
    train_in_two(torchrun, *settings, trainer="fsdp_cpu")
    (directory,) = (tmp_path / "train" / "runs").iterdir()
    figures = {name: float(figure) for name, figure in table(directory)[-1].items() if figure}
    assert figures["update/first_step_max_log_ratio"] <= 1e-3 and figures["update/first_step_turns_outside"] == 0
    assert figures["policy/rollout_gap_max"] > 1e-3  # sampled in bf16 too
    assert 1e-4 < figures["credit/log_gain_noise"] < 0.1
    assert moved(checkpoint(directory)) > 3e-4


def test_a_policy_that_is_read_by_segments_is_scored_as_often_as_each_rank_needs(tmp_path):
    policy = own_memory.folder_of("qwen3_5_text", tmp_path / "policy")
    settings = ("experiment=a2tgpo", *SMALL, *own_memory.RUNS["qwen3_5_text"], f"model.policy.path={policy}")
    settings += (f"data.reward._target_={own_memory.__name__}.longest", "trainer.max_epochs=1")
    process = start("train.py", *settings, "trainer=fsdp_cpu", f"hydra.run.dir={tmp_path}/run")
    _, errors = finish(process, 300)
    assert process.returncode == 0, errors
    row = table(tmp_path / "run")[-1]
    assert float(row["policy/rollout_gap_max"]) < 1e-5 and float(row["update/grad_norm"]) > 0
    assert float(row["update/first_step_max_log_ratio"]) <= 1e-5


def test_a_warm_up_leaves_the_whole_policy(tmp_path):
    sizes = ("data.module.prompts_per_iteration=4", "data.module.mini_batch_prompts=2", "data.module.val_tasks=2")
    settings = (*sizes, "trainer.max_epochs=1", f"paths.policy_dir={SHIPPED}", f"hydra.run.dir={tmp_path}")
    process = start("warm_up.py", *settings, "trainer=fsdp_cpu")
    _, errors = finish(process, 300)
    assert process.returncode == 0, errors
    learned = AutoModelForCausalLM.from_pretrained(tmp_path / "policy").state_dict()
    weights = weights_in(checkpoint(tmp_path))
    assert all(torch.equal(learned[name], weight) for name, weight in weights.items())
    assert moved(checkpoint(tmp_path)) > 0


# ---- from one to two, and back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "runs"), [("full", "full"), ("lora", "lora")], indirect=["runs"])
def test_a_run_goes_on_in_as_many_processes_as_there_are(case, runs, composed, tmp_path):
    settings = (*SETTINGS, *CASES[case], "trainer.max_epochs=2")
    train.train(composed(*settings, f"paths.output_dir={tmp_path}/whole"))
    copies = {"one to two": runs[0], "two to one": runs[1], "two to two": runs[1]}
    directories = {way: shutil.copytree(run, tmp_path / way.replace(" ", "_")) for way, run in copies.items()}
    for way, directory in directories.items():
        last = f"ckpt_path={directory}/checkpoints/last.ckpt"
        if way.endswith("two"):
            train_in_two(torchrun, *settings, last, trainer="fsdp_cpu")
        else:
            train.train(composed(*settings, f"paths.output_dir={directory}", last))
        assert [row["iteration"] for row in table(directory)] == ["0", "1", "2"]
        assert checkpoint(directory)["global_step"] == 4
        assert apart(checkpoint(directory), checkpoint(tmp_path / "whole")) <= 1e-5, way


# ---- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("runs", "rank"), [("full", 0), ("full", 1)], indirect=["runs"])
def test_a_rank_that_fails_ends_all_in_a_line_each_and_the_run_goes_on_from_its_start(runs, rank, tmp_path):
    settings = (*SETTINGS, *failing(rank, tmp_path / "moment"), "trainer.max_epochs=1", "trainer=fsdp_cpu")
    process = start("train.py", *settings, f"paths.log_dir={tmp_path}")
    _, errors = finish(process, 300)
    assert time.time() - float((tmp_path / "moment").read_text()) < 30
    assert process.returncode != 0
    lines = errors.splitlines()
    assert f"error: rank {rank} fails; expected nothing else" in lines
    assert len(lines) <= 2 and all(line.startswith("error: ") for line in lines), errors
    (directory,) = (tmp_path / "train" / "runs").iterdir()
    assert checkpoint(directory)["optimizer_states"][0]["state"] == {}
    process = start("train.py", *settings, f"ckpt_path={directory}/checkpoints/last.ckpt")
    _, errors = finish(process, 300)
    assert process.returncode == 0, errors
    assert apart(checkpoint(directory), checkpoint(runs[0])) <= 1e-5


def test_its_best_checkpoint_is_tested_evaluated_and_exported(runs, tmp_path):
    one, two = (json.loads((directory / "summary.json").read_text()) for directory in runs)
    assert one["test/success"] == two["test/success"] and two["optimizer_steps"] == 2
    best = runs[1] / "checkpoints" / "best.ckpt"
    kept = [setting for setting in SETTINGS if setting.startswith(("experiment", "paths"))]
    policy = [setting for setting in OmegaConf.load(runs[1] / ".hydra/overrides.yaml") if "policy=" in setting]
    process = start("eval.py", *kept, *policy, f"ckpt_path={best}", "questions=2", f"hydra.run.dir={tmp_path}/eval")
    _, errors = finish(process, 120)
    assert process.returncode == 0, errors
    export(runs[1], tmp_path / "exported", adapter=False)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "exported").state_dict()
    assert all(weight.isfinite().all() for weight in exported.values())
    weights = weights_in(checkpoint(runs[1], "best"))
    same = [torch.equal(exported[name], weight) for name, weight in weights.items() if "lora" not in name]
    assert all(same) and (same or policy)


@pytest.mark.parametrize("weight_sync", ["lora", "reload"])
def test_a_server_samples_from_weights_that_were_gathered_one_at_a_time(weight_sync, tmp_path):
    server = CompletionsServer(SHIPPED, pretrained_policy(str(SHIPPED)).tokenizer)
    settings = ("experiment=a2tgpo", *SMALL, *(CASES["lora"] if weight_sync == "lora" else ()))
    settings += ("data/engine=vllm", f"data/engine/weight_sync={weight_sync}", f"data.engine.url={server.url}")
    settings += ("model.optimizer.lr=1e-2" if weight_sync == "lora" else "model.optimizer.lr=1e-3",)
    process = start("train.py", *settings, "trainer=fsdp_cpu", "trainer.max_epochs=2", f"hydra.run.dir={tmp_path}")
    _, errors = finish(process, 300)
    server.stop()
    assert process.returncode == 0, errors[-2000:]
    gaps = [float(gap) for row in table(tmp_path) if (gap := row["policy/rollout_gap_max"])]
    assert len(gaps) == 2 and max(gaps) < 1e-4
    pushed = server.asked("/v1/load_lora_adapter" if weight_sync == "lora" else "/collective_rpc")
    assert len(pushed) >= 3
