"""`src/export.py` writes folders that transformers and peft load, with the log-probs of the trained policy."""

import copy
import shutil
import subprocess
import sys

import pytest
import torch
from hydra.utils import instantiate
from lightning import Callback
from omegaconf import OmegaConf
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import train
from a2tgpo.policies.checkpoint import weights_in
from a2tgpo.policies.policy import Policy
from a2tgpo.scoring.score import read
from export import export
from tests.helpers.shipped import pretrained_policy
from tests.helpers.tiny_runs import ROOT, SHIPPED, SMALL

LORA = ("model/policy=tiny_lora", "model/reference=disabled_adapter")
TIED = (*LORA, "model.policy.lora.target_modules=[q_proj,lm_head]")
KINDS = {"full": (), "lora": LORA, "lora_on_tied_weights": TIED, "lora_bf16": (*LORA, "model.policy.dtype=bfloat16")}
LIVELY = ("model.optimizer.lr=0.003", "model.scheduler.num_warmup_steps=0", "trainer.max_epochs=2")
TRAINED = {}
"""By kind: the run directory, its last rollout set, and that set's log-probs under the trained weights, in float32."""


def logprobs(policy, batch):
    return read(policy, batch, [], 4096).tokens.logprobs


class Keep(Callback):
    """Scores the last rollout set with the weights in memory, before those of the best checkpoint take their place."""

    scored: tuple | None = None

    def on_train_end(self, trainer, pl_module):
        policy = Policy(copy.deepcopy(pl_module.model).float(), pl_module.policy.tokenizer)
        Keep.scored = (pl_module.rollout_batch, logprobs(policy, pl_module.rollout_batch))


@pytest.fixture
def trained(composed, tmp_path_factory):
    """`trained("lora")`: a run of a few steps, made once a kind."""

    def make(kind):
        if kind not in TRAINED:
            directory = tmp_path_factory.mktemp(kind)
            paths = (f"paths.policy_dir={SHIPPED}", f"paths.output_dir={directory}")
            keep = "+callbacks.keep._target_=tests.test_export.Keep"
            train.train(composed("experiment=a2tgpo", *SMALL, *LIVELY, *paths, *KINDS[kind], keep))
            TRAINED[kind] = (directory, *Keep.scored)
        return TRAINED[kind]

    return make


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def files(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["full", "lora", pytest.param("lora_on_tied_weights", marks=pytest.mark.slow)])
def test_exported_folder_gives_the_logprobs_of_the_trained_policy(trained, tmp_path, kind):
    directory, batch, expected = trained(kind)
    export(directory / "checkpoints" / "last.ckpt", tmp_path / "out", adapter=False)
    start, policy = (Policy(load(f), AutoTokenizer.from_pretrained(f)) for f in (SHIPPED, tmp_path / "out"))
    assert not any("lora" in name for name in policy.model.state_dict())
    assert policy.tokenizer.get_vocab() == start.tokenizer.get_vocab()
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (logprobs(start, batch) - expected).abs().max() > 1e-2
    torch.testing.assert_close(logprobs(policy, batch), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_adapter_trained_on_rounded_weights_is_merged_into_those_of_its_source(trained, tmp_path, share):
    directory, batch, rounded = trained("lora_bf16")
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    shutil.copytree(directory, tmp_path / "run")
    saved = torch.load(path, weights_only=True)
    for name, weight in saved["state_dict"].items():
        weight.mul_(share if "lora_B" in name else 1.0)
    torch.save(saved, path)
    export(path, tmp_path / "out", adapter=False)
    if share == 0.0:
        source, found = load(SHIPPED).state_dict(), load(tmp_path / "out").state_dict()
        assert source.keys() == found.keys() and all(torch.equal(source[name], found[name]) for name in source)
        return
    lora = instantiate(OmegaConf.load(directory / "config.yaml").model.policy.lora)
    policy = pretrained_policy(SHIPPED, lora=lora)
    policy.model.load_state_dict(weights_in(saved), strict=False)
    expected = logprobs(policy, batch)
    found = Policy(load(tmp_path / "out"), policy.tokenizer)
    torch.testing.assert_close(logprobs(found, batch), expected, rtol=0, atol=1e-5)
    assert (expected - rounded).abs().max() > 1e-3


def test_exported_adapter_on_the_base_model_gives_the_logprobs_of_the_trained_policy(trained, tmp_path):
    directory, batch, expected = trained("lora")
    export(directory / "checkpoints" / "last.ckpt", tmp_path / "out", adapter=True)
    assert "adapter_model.safetensors" in files(tmp_path / "out") and "model.safetensors" not in files(tmp_path / "out")
    adapted = PeftModel.from_pretrained(load(SHIPPED), tmp_path / "out").eval()
    assert any("lora_B" in name and weight.any() for name, weight in adapted.named_parameters())
    policy = Policy(adapted, AutoTokenizer.from_pretrained(tmp_path / "out"))
    torch.testing.assert_close(logprobs(policy, batch), expected, rtol=0, atol=1e-5)


def test_run_directory_stands_for_its_best_checkpoint(trained, tmp_path, capsys):
    directory, *_ = trained("full")
    export(directory, tmp_path / "out", adapter=False)
    assert "best.ckpt" in capsys.readouterr().out
    best = torch.load(directory / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    for name, weight in load(tmp_path / "out").state_dict().items():
        assert torch.equal(weight, best[f"model.{name}"]), name


def test_what_cannot_be_exported_is_refused_by_name(trained, tmp_path):
    directory, *_ = trained("full")
    lonely = tmp_path / "a" / "b" / "last.ckpt"
    lonely.parent.mkdir(parents=True)
    lonely.write_bytes((directory / "checkpoints" / "last.ckpt").read_bytes())
    cases = (
        (directory, directory, False, f"{directory}: not empty; expected a new folder"),
        (directory, lonely, False, f"{lonely}: not empty; expected a new folder"),
        (directory, tmp_path / "out", True, "--adapter: expected a run with model.policy.lora"),
        (tmp_path, tmp_path / "out", False, f"{tmp_path}: no checkpoint; expected"),
        (lonely, tmp_path / "out", False, f"{tmp_path / 'a' / 'config.yaml'}: no such file; expected"),
    )
    for source, output, adapter, message in cases:
        with pytest.raises(ValueError, match="expected") as error:
            export(source, output, adapter)
        assert str(error.value).startswith(message)
    assert not (tmp_path / "out").exists()


def test_command_says_what_is_wrong_in_one_line(tmp_path):
    command = [sys.executable, str(ROOT / "src" / "export.py"), str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1 and line.startswith(f"error: {tmp_path}: no checkpoint; expected")
