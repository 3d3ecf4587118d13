"""The experiments for small models, with one."""

import json

import pytest
from hydra.utils import instantiate

from tests.helpers.tiny_runs import fit

pytestmark = pytest.mark.real
FEW = ("data.module.prompts_per_iteration=2", "data.module.mini_batch_prompts=2", "data.module.group_size=2")
FEW += ("data.module.max_action_tokens=12", "trainer.max_epochs=1", "threads=1")


@pytest.fixture
def own(smollm2, tmp_path):
    """A model, questions and a corpus of one's own."""
    capitals = {"France": "Paris", "Japan": "Tokyo", "Peru": "Lima", "Kenya": "Nairobi"}
    questions = [{"question": f"What is the capital of {a}?", "golden_answers": [b]} for a, b in capitals.items()]
    passages = [{"id": a, "contents": f'"{a}"\nIts capital is {b}.'} for a, b in capitals.items()]
    for name, rows in {"questions": questions, "corpus": passages}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [f"data.tasks.{split}={tmp_path}/questions.jsonl" for split in ("train", "val", "test")]
    corpus = f"data.retriever.corpus_path={tmp_path}/corpus.jsonl"
    return (
        f"model.policy.path={smollm2}",
        *files,
        "data/retriever=bm25",
        corpus,
        f"data.retriever.cache_dir={tmp_path}",
    )


@pytest.mark.parametrize("experiment", ["a2tgpo_small", "grpo_small"])
def test_a_warm_run_starts_at_ratio_one_and_close_to_its_engine(composed, own, experiment):
    config = composed(f"experiment={experiment}", *own, *FEW, "model.policy.temperature=0.7")
    learner = fit(config, []).lightning_module
    assert not learner.model.is_activation_checkpointing
    assert learner.metrics["update/first_step_max_log_ratio"] == 0.0
    assert 0.0 < learner.metrics["policy/rollout_gap_max"] < 1e-4


def test_the_dry_run_counts_the_model_that_the_command_names(composed, own):
    config = composed("experiment=a2tgpo_small", *own, "debug=shapes")
    report = instantiate(config.callbacks.sizing, _convert_="all")
    assert report.parameters - report.trained == 134_515_008 and not report.gradient_checkpointing
    assert instantiate(config.model.policy, _convert_="all").model.num_parameters() < 1_000_000
