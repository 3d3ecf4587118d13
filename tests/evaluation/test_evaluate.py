"""Evaluation by `src/eval.py`: greedy and sampled, the start and a checkpoint; pass@k by hand numbers."""

import itertools
import json
from dataclasses import replace
from itertools import combinations

import pytest
import torch

import eval as entry_point
from a2tgpo.engines.scripted import ScriptedEngine
from a2tgpo.evaluation.evaluate import evaluate as evaluate_sets
from a2tgpo.evaluation.evaluate import pass_at_k, sampled_metrics
from a2tgpo.policies.checkpoint import load_weights
from a2tgpo.rollouts.protocols import StepResult
from a2tgpo.rollouts.trajectory import StopReason, Task
from a2tgpo.system.process import precision_context
from a2tgpo.system.settings import require
from tests.helpers.build import build_trajectory
from tests.helpers.loops import loop
from tests.helpers.shipped import pretrained_policy
from tests.helpers.tiny_runs import SHIPPED

EPISODE = {"success", "em", "f1", "format", "calls", "tool_failures", "reward", "turns", "action_tokens", "tokens"}


@pytest.fixture
def evaluate(composed, tmp_path, capsys):
    """`evaluate(…)`: the summary and the transcripts of one evaluation."""
    numbers = itertools.count()

    def run(*overrides):
        directory = tmp_path / f"evaluation-{next(numbers)}"
        directory.mkdir()
        paths = (f"paths.policy_dir={SHIPPED}", f"paths.output_dir={directory}")
        entry_point.run(composed("experiment=a2tgpo", "questions=6", *paths, *overrides, config_name="eval"))
        summary = json.loads((directory / "summary.json").read_text())
        assert json.loads(capsys.readouterr().out) == summary
        return summary, [json.loads(line) for line in (directory / "transcripts.jsonl").open()]

    return run


def actions(transcripts):
    return [[turn["action_ids"] for turn in line["turns"]] for line in transcripts]


def save_checkpoint(path, change=0.0):
    """What training would have saved: the start's weights, each moved by `change` of its own spread."""
    torch.manual_seed(0)
    model = pretrained_policy(SHIPPED).model
    with torch.no_grad():
        for weight in model.parameters():
            weight += change * weight.std() * torch.randn_like(weight)
    saved = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    torch.save({"state_dict": saved}, path)
    return path, saved


# ---- pass@k ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "correct", "k", "expected"),
    [
        (4, 1, 1, 1 / 4),
        (4, 1, 2, 1 / 2),
        (4, 2, 2, 5 / 6),
        (4, 3, 2, 1.0),
        (4, 0, 4, 0.0),
        (4, 4, 1, 1.0),
        (1, 1, 1, 1),
    ],
)
def test_pass_at_k_by_hand(n, correct, k, expected):
    assert pass_at_k(n, correct, k) == pytest.approx(expected, rel=0, abs=1e-12)


def test_pass_at_k_is_the_share_of_draws_with_a_hit():
    for correct in range(6):
        draws = list(combinations([True] * correct + [False] * (5 - correct), 3))
        assert pass_at_k(5, correct, 3) == pytest.approx(sum(map(any, draws)) / len(draws), rel=0, abs=1e-12)


def samples_of(policy, hits):
    """One trajectory a sample; `hits[group]` says which were right."""
    trajectory = build_trajectory(policy, ["<answer> Varo</answer>"], [])
    return [
        replace(trajectory, group=group, sample=sample, metrics={"success": float(hit)})
        for group, row in enumerate(hits)
        for sample, hit in enumerate(row)
    ]


def test_sampled_figures_by_hand(random_policy):
    # 1 of 4 and 3 of 4: pass@1 = (1/4 + 3/4)/2, pass@2 = (1/2 + 1)/2, pass@4 = 1.
    metrics = sampled_metrics(samples_of(random_policy, [[0, 1, 0, 0], [1, 1, 0, 1]]), 4)
    assert metrics == pytest.approx({"mean@4": 0.5, "pass@1": 0.5, "pass@2": 0.75, "pass@4": 1.0}, rel=0, abs=1e-12)


def test_figures_of_three_samples_by_hand(random_policy):
    # 1 of 3 and 0 of 3: pass@2 = (2/3 + 0)/2.
    metrics = sampled_metrics(samples_of(random_policy, [[0, 1, 0], [0, 0, 0]]), 3)
    expected = {"mean@3": 1 / 6, "pass@1": 1 / 6, "pass@2": 1 / 3, "pass@3": 1 / 2}
    assert metrics == pytest.approx(expected, rel=0, abs=1e-12)


# ---- the entry point -------------------------------------------------------------------------------------------------


def test_greedy_evaluation_writes_summary_and_transcripts(evaluate):
    summary, transcripts = evaluate()
    assert summary["questions"] == 6 and summary["samples"] == 1
    assert set(summary) >= EPISODE | {"seconds/total"} and not any("@" in name for name in summary)
    assert len(transcripts) == 6 and [line["group"] for line in transcripts] == list(range(6))
    for name in ("success", "em"):
        assert summary[name] == sum(line["metrics"][name] for line in transcripts) / 6
    assert summary["turns"] == sum(len(line["turns"]) for line in transcripts) / 6
    for kind in {line["kind"] for line in transcripts}:
        own = [line["metrics"]["success"] for line in transcripts if line["kind"] == kind]
        assert summary[f"success/kind_{kind}"] == pytest.approx(sum(own) / len(own))
    assert all(isinstance(value, int | float) for value in summary.values())


def test_greedy_evaluation_repeats_exactly_and_ignores_the_seed(evaluate):
    first, again, other = (evaluate(f"seed={seed}")[1] for seed in (0, 0, 1))
    assert first == again and actions(first) == actions(other)


def test_sampled_evaluation_depends_on_the_seed(evaluate):
    (summary, first), (_, again), (_, other) = (evaluate("samples=4", f"seed={seed}") for seed in (0, 0, 1))
    assert first == again and actions(first) != actions(other)
    assert len(first) == 24 and [line["sample"] for line in first] == list(range(4)) * 6
    hits = [sum(line["metrics"]["success"] for line in first if line["group"] == group) for group in range(6)]
    assert summary["samples"] == 4 and summary["mean@4"] == pytest.approx(sum(hits) / 24)
    assert summary["pass@1"] == pytest.approx(summary["mean@4"]) == summary["success"]
    assert summary["pass@4"] == pytest.approx(sum(hit > 0 for hit in hits) / 6)


def test_checkpoint_takes_the_place_of_the_start(evaluate, tmp_path):
    start = evaluate()[1]
    same_weights, _ = save_checkpoint(tmp_path / "same.ckpt")
    other_weights, _ = save_checkpoint(tmp_path / "other.ckpt", change=1.0)
    assert evaluate(f"ckpt_path={same_weights}")[1] == start
    assert actions(evaluate(f"ckpt_path={other_weights}")[1]) != actions(start)


def test_checkpoint_is_loaded_exactly(tmp_path):
    path, saved = save_checkpoint(tmp_path / "a.ckpt", change=0.1)
    policy = pretrained_policy(SHIPPED)
    load_weights(policy, path)
    assert all(torch.equal(weight, saved[f"model.{name}"]) for name, weight in policy.model.state_dict().items())


def test_a_file_without_weights_is_no_checkpoint(tmp_path):
    torch.save({"epoch": 1}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=rf"^ckpt_path={tmp_path}/a\.ckpt: no weights in it; expected a checkpoint"):
        load_weights(pretrained_policy(SHIPPED), tmp_path / "a.ckpt")


def test_splits_hold_different_questions(evaluate):
    questions = [{line["question"] for line in evaluate(f"split={split}")[1]} for split in ("val", "test")]
    assert not questions[0] & questions[1]


def test_more_questions_than_there_are_means_all(evaluate):
    summary, transcripts = evaluate("data.tasks.test_questions=3")
    assert summary["questions"] == len(transcripts) == 3


class SearchesOnce:
    """The script of an episode that looks the film up and answers."""

    def __call__(self, key):
        return ["<search> Bemi</search>", "<answer> Varo</answer>"]


@pytest.mark.parametrize("known", [True, False])
def test_useful_calls_are_told_where_the_questions_say_what_they_rest_on(evaluate, tmp_path, known):
    row = {
        "question": "Who made Bemi?",
        "answer": "Varo",
        "context": [["Bemi", ["Varo made Bemi."]], ["Kelu", ["Kelu."]]],
    }
    rows = [{**row, "supporting_facts": facts} for facts in ([["Bemi", 0]], [["Kelu", 0]])] if known else [row, row]
    (tmp_path / "own.json").write_text(json.dumps(rows))
    documents = [{"id": 0, "contents": '"Bemi"\nVaro made Bemi.'}, {"id": 1, "contents": '"Kelu"\nKelu is a city.'}]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    summary, transcripts = evaluate(
        *("data=search_qa", "data/dialect=text_tags", "data/retriever=bm25", "data.environment.tools.search.topk=1"),
        *(f"data.tasks.test={tmp_path}/own.json", f"data.retriever.corpus_path={tmp_path}/corpus.jsonl"),
        *(f"data.retriever.cache_dir={tmp_path}/index", "data.engine._target_=a2tgpo.engines.scripted.ScriptedEngine"),
        *("~data.engine.max_sessions", "~data.engine.deterministic"),
        "+data.engine.script._target_=tests.evaluation.test_evaluate.SearchesOnce",
        *("data.module.max_prompt_tokens=64", "data.module.max_response_tokens=64"),
    )
    assert (summary["success"], summary["calls"]) == (1.0, 1.0)
    said = [line["turns"][0]["useful"] for line in transcripts]
    assert said == ([True, False] if known else [None, None])
    told = {name: value for name, value in summary.items() if "useful" in name}
    assert told == ({"useful_calls": 0.5} if known else {})


def test_evaluation_takes_the_precision_of_training():
    evaluations = {}
    for precision in ("32-true", "bf16-mixed"):
        with precision_context("cpu", precision):
            evaluations[precision] = torch.ones(2, 2) @ torch.ones(2, 2)
    assert [product.dtype for product in evaluations.values()] == [torch.float32, torch.bfloat16]
    with pytest.raises(ValueError, match=r"^precision='16': expected 32-true or bf16-mixed"):
        precision_context("cpu", "16")
    with pytest.raises(ValueError, match=r"^trainer\.precision='16': expected 32-true or bf16-mixed"):
        require("trainer.precision", "16")


def test_a_question_that_lost_a_sample_is_left_out_and_counted(tmp_path, random_policy):
    class Answers:
        stop_strings, deterministic, acted = ("</search>",), True, 0

        def __init__(self, task):
            self.task = task

        def prompt(self):
            return "Question: x"

        def step(self, action_text):
            return StepResult(stop=StopReason.ANSWERED)

        def state(self):
            return None

        def finish(self, stop):
            type(self).acted += 1
            if type(self).acted == 2:
                raise RuntimeError("lost")
            return {"success": float(self.task.task_id == "b")}

    rollout = loop(ScriptedEngine(lambda key: ["<search> a</search>"]), Answers, max_failed_share=0.5)
    tasks = [Task("a", "x", ("y",)), Task("b", "x", ("y",))]
    found = evaluate_sets(random_policy, rollout, {"set": tasks}, {}, None, 2, 0, tmp_path).summary
    assert found["failed_episodes"] == 1 and found["questions"] == 1
    assert found["success"] in (0.0, 1.0) and found["pass@2"] == found["success"]
