"""What the entry points keep of a run, and what a resume may change."""

import pytest
from omegaconf import OmegaConf

import launch
from tests.helpers.tiny_runs import SMALL, finish, start


@pytest.fixture
def started(composed, tmp_path):
    """A run of `experiment=a2tgpo` whose configuration is kept at `path`."""
    path = tmp_path / "run" / "config.yaml"
    launch.save_or_check_config(composed("experiment=a2tgpo"), path)
    return path


def test_the_resolved_configuration_is_kept(started):
    kept = OmegaConf.load(started)
    assert kept.model.credit.normalizer.resolution == kept.model.normalizer.resolution == 1e-4


def test_a_resume_may_train_longer_and_elsewhere(composed, started, tmp_path):
    before = started.read_text()
    changes = ["trainer.max_epochs=90", f"paths.policy_dir={tmp_path}", "ckpt_path=last.ckpt"]
    changes += ["model.module.micro_batch_tokens=2048", "data.module.max_sessions=8", "data.environment.tool_timeout=1"]
    launch.save_or_check_config(composed("experiment=a2tgpo", *changes), started)
    assert started.read_text() == before


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("experiment=grpo", "model.aggregation|model.accumulator|model.clipper"),
        ("seed=7", "data.module.seed=7"),
        ("model.clipper.beta=0.1", "model.clipper.beta=0.1"),
        ("data.module.group_size=4", "data.module.group_size=4"),
    ],
)
def test_a_resume_with_another_method_or_seed_is_refused(composed, started, override, key):
    overrides = [override] if override.startswith("experiment") else ["experiment=a2tgpo", override]
    with pytest.raises(ValueError, match=key) as error:
        launch.save_or_check_config(composed(*overrides, "ckpt_path=last.ckpt"), started)
    assert "the same experiment and overrides" in str(error.value)


@pytest.mark.slow
def test_one_bad_job_does_not_end_a_sweep(policy_dir, tmp_path):
    paths = (f"paths.policy_dir={policy_dir}", f"paths.log_dir={tmp_path}/logs")
    process = start("train.py", "-m", "experiment=a2tgpo", *SMALL, "model.clipper.beta=1.5,0.3", *paths)
    _, errors = finish(process, timeout=120)
    assert process.returncode == 1
    assert errors.strip().splitlines()[-1] == "error: model.clipper.beta=1.5: expected a number >= 0 and < 1"
    (summary,) = (tmp_path / "logs").glob("train/multiruns/*/1/summary.json")
    assert "test/success" in summary.read_text()
