"""The benchmark table: averages by hand, intervals against an independent computation, the whole evaluation."""

import csv
import json
import re
from dataclasses import replace
from math import sqrt

import datasets
import numpy as np
import pytest
from rich.console import Console

import eval as entry_point
from a2tgpo.embedded.questions import make_question
from a2tgpo.embedded.world import make_world
from a2tgpo.environments.judges.answer_match import AnswerMatch
from a2tgpo.evaluation.bootstrap import SetScores, averages, bootstrap, score
from a2tgpo.evaluation.table import columns, print_table, write_table
from a2tgpo.rollouts.trajectory import Split
from a2tgpo.system.errors import SettingError
from a2tgpo.tasks.benchmarks import Benchmarks
from tests.helpers.build import build_trajectory
from tests.helpers.shipped import question_mix, world_size
from tests.helpers.tiny_runs import SHIPPED

GROUPS = {"multi_hop": ["hotpotqa", "two_wiki", "musique", "bamboogle"], "single_hop": ["nq", "triviaqa", "popqa"]}
SETS = [name for names in GROUPS.values() for name in names]


def scores_of(values, seed=0):
    values = np.array(values, dtype=float).reshape(len(values), -1)
    return SetScores(("em", "f1")[: values.shape[1]], values, bootstrap(values, np.random.default_rng(seed)))


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_averages_by_hand():
    # hotpotqa 1/4 on four questions, musique 1/1 on one, nq 1/2 on two.
    scores = {"hotpotqa": scores_of([1, 0, 0, 0]), "musique": scores_of([1]), "nq": scores_of([0, 1])}
    values = {
        f"{group}/{kind}": estimates["em"].value
        for group, kinds in averages(scores, GROUPS).items()
        for kind, estimates in kinds.items()
    }
    expected = {
        "multi_hop/weighted": 2 / 5,
        "multi_hop/macro": 5 / 8,
        "single_hop/weighted": 1 / 2,
        "single_hop/macro": 1 / 2,
        "overall/weighted": 3 / 7,
        "overall/macro": 7 / 12,
    }
    assert values == pytest.approx(expected, rel=0, abs=1e-12)


def test_bootstrap_of_two_questions_is_binomial():
    # The mean of two draws from {0, 1} is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4. 20 000 draws, seed 0: five standard
    # errors are 0.018, so a right bootstrap fails with a chance of 2e-6.
    means = bootstrap(np.array([[0.0], [1.0]]), np.random.default_rng(0), resamples=20_000)[:, 0]
    shares = [(means == value).mean() for value in (0.0, 0.5, 1.0)]
    assert sum(shares) == 1 and shares == pytest.approx([0.25, 0.5, 0.25], rel=0, abs=0.018)


def test_interval_is_that_of_a_plain_loop():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(60, 1))
    plain = [np.mean([values[i, 0] for i in rng.integers(60, size=60)]) for _ in range(4000)]
    estimate = scores_of(values).estimates()["em"]
    # Each end of 2000 and of 4000 resamples wanders by about 0.03 standard errors of the mean; six of these together.
    tolerance = 6 * 0.04 * values.std() / sqrt(60)
    low, high = np.quantile(plain, [0.025, 0.975])
    assert (estimate.low, estimate.high) == pytest.approx((low, high), rel=0, abs=tolerance)


def test_intervals_cover_the_truth_as_often_as_they_say():
    # 400 data sets of 100 questions, each right with chance 0.4, seed 2. The percentiles of the binomial cover the
    # truth in 95.8 % of them, with a standard error of 1 %: 4 of these are missed by chance once in 10 000 seeds.
    rng = np.random.default_rng(2)
    estimates = [scores_of(rng.random(100) < 0.4, seed).estimates()["em"] for seed in range(400)]
    covered = np.mean([estimate.low <= 0.4 <= estimate.high for estimate in estimates])
    assert covered == pytest.approx(0.958, rel=0, abs=0.04)


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize(("n", "bound"), [(4, 0.6024), (20, 0.1684), (300, 0.0122)])  # 1 − 0.025^(1/n)
def test_none_or_all_of_few_is_no_certainty(random_policy, share, n, bound):
    metrics = dict.fromkeys(("success", "em", "f1", "format"), share) | {"calls": 1.0}
    rows = [
        replace(build_trajectory(random_policy, ["<answer> b</answer>"], [], group=i), metrics=metrics)
        for i in range(n)
    ]
    scores = score("nq", rows, samples=1, seed=0)
    for name in ("success", "em", "f1", "format"):
        found = scores.estimates()[name]
        ends = (found.low, found.high) if share == 0 else (1 - found.high, 1 - found.low)
        assert found.value == share and ends[0] == 0.0
        assert ends[1] == pytest.approx(bound, rel=5e-3)  # between two of 2000 levels
    assert scores.estimates()["calls"].low == scores.estimates()["calls"].high == 1.0  # no share
    average = averages({"nq": scores, "hotpotqa": scores}, GROUPS)["overall"]["macro"]["em"]
    assert average.value == share and 0 < average.high - average.low < bound


def test_interval_of_an_average_is_that_of_independent_sets():
    # Var of the macro mean of two sets is the sum of their variances over 4; 2000 resamples know it to 3 %, so 15 % is
    # five of these.
    rng = np.random.default_rng(3)
    first, second = rng.random((200, 1)), 3 * rng.random((50, 1))
    scores = {"hotpotqa": scores_of(first, 0), "musique": scores_of(second, 1)}
    estimate = averages(scores, GROUPS)["multi_hop"]["macro"]["em"]
    spread = sqrt(first.var() / 200 + second.var() / 50) / 2
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * spread, rel=0.15)


def test_large_sets_are_resampled_in_pieces_without_repeating_draws():
    values = np.arange(3_000_000, dtype=float)[:, None]
    means = bootstrap(values, np.random.default_rng(0), resamples=3)
    assert len(set(means[:, 0])) == 3 and means == pytest.approx(values.mean(), rel=5e-3)


def test_scores_of_a_question_are_the_mean_of_its_samples(random_policy):
    trajectory = build_trajectory(
        random_policy, ["<search> a</search>", "<answer> b</answer>"], ["<result> c</result>"]
    )
    rows = [
        replace(
            trajectory,
            metrics={
                "em": em,
                "success": em,
                "f1": 0.5,
                "format": 1.0,
                "calls": 1.0,
                "tool_failures": 2.0,
                "mine": 7.0,
            },
        )
        for em in (1.0, 0.0, 1.0, 1.0)
    ]
    scores = score("nq", rows, samples=2, seed=0)
    assert scores.metrics == ("success", "em", "f1", "format", "calls", "tool_failures", "action_tokens", "tokens")
    sampled, seen = sum(len(turn.action_ids) for turn in trajectory.turns), len(trajectory.token_ids)
    assert scores.values.tolist() == [[em, em, 0.5, 1.0, 1.0, 2.0, sampled, seen] for em in (0.5, 1.0)]


def test_intervals_depend_on_the_seed_and_the_set_alone(random_policy):
    trajectory = build_trajectory(random_policy, ["<answer> b</answer>"], [])
    rows = [replace(trajectory, metrics={"em": i % 2, "f1": i / 40}) for i in range(40)]
    first, again, other_seed, other_set = (score(n, rows, 1, s) for n, s in (("nq", 0), ("nq", 0), ("nq", 1), ("a", 0)))
    assert (first.replicates == again.replicates).all()
    assert (first.replicates != other_seed.replicates).any() and (first.replicates != other_set.replicates).any()


def test_an_environment_without_em_or_f1_is_tabled_by_success(random_policy):
    trajectory = replace(build_trajectory(random_policy, ["<answer> b</answer>"], []), metrics={"success": 1.0})
    assert score("mine", [trajectory], samples=1, seed=0).metrics == ("success", "action_tokens", "tokens")


# ---- the table -------------------------------------------------------------------------------------------------------


def some_columns():
    """The widest of cells: intervals of two-digit percentages and four-digit token counts."""
    scores = {}
    for k, name in enumerate(SETS):
        values = np.array([[i % 2, 1000.0 + 4000 * (i % 2)] for i in range(20 + 2 * k)])
        scores[name] = SetScores(("em", "tokens"), values, bootstrap(values, np.random.default_rng(k)))
    return columns(scores, GROUPS)


def test_columns_stand_as_in_a_paper():
    averages_of = {group: [f"{group}/weighted", f"{group}/macro"] for group in (*GROUPS, "overall")}
    expected = [*SETS[:4], *averages_of["multi_hop"], *SETS[4:], *averages_of["single_hop"], *averages_of["overall"]]
    assert [column.key for column in some_columns()] == expected


@pytest.mark.parametrize("terminal", [True, False])
def test_printed_table_loses_nothing_on_a_narrow_screen(terminal):
    console = Console(width=80, force_terminal=terminal, color_system=None)
    with console.capture() as capture:
        print_table(some_columns(), console)
    printed = capture.get()
    assert "…" not in printed
    for word in (
        "multi-hop",
        "single-hop",
        "overall",
        "HotpotQA",
        "2Wiki",
        "PopQA",
        "n=20",
        "4 sets",
        "EM %",
        "all tokens",
    ):
        assert word in printed
    assert printed.count("EM %") == (3 if terminal else 1)
    assert max(map(len, printed.splitlines())) <= (80 if terminal else 200)


def test_written_tables_hold_the_same_numbers(tmp_path):
    table = some_columns()
    write_table(tmp_path, table, {"complete": True, "seed": 0})
    content = json.loads((tmp_path / "benchmarks.json").read_text())
    rows = list(csv.DictReader((tmp_path / "benchmarks.csv").open()))
    assert content["complete"] and list(content["columns"]) == [column.key for column in table]
    assert len(rows) == 2 * len(table)
    for row in rows:
        metric = content["columns"][row["column"]]["metrics"][row["metric"]]
        assert [float(row[name]) for name in ("value", "low", "high")] == list(metric.values())
        assert metric["low"] <= metric["value"] <= metric["high"]
    lines = (tmp_path / "benchmarks.md").read_text().splitlines()
    assert len({line.count("|") for line in lines[:4]}) == 1 and re.match(
        r"\| EM % \| 50\.0 \[\d\d\.\d–\d\d\.\d\] \|", lines[2]
    )


# ---- the entry point -------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with the seven sets, each four questions about one invented world, and a corpus that knows it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "arrow"))
    world = make_world(Split.TEST, 0, world_size())
    for k, name in enumerate(SETS):
        tasks = [make_question(world, 4 * k + i, question_mix()) for i in range(4)]
        rows = [{"id": t.task_id, "question": t.question, "golden_answers": t.answers} for t in tasks]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    passages = [{"id": str(i), "contents": text} for i, text in enumerate(world.passages.values())]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(passage) + "\n" for passage in passages))
    return tmp_path


@pytest.fixture
def evaluate(composed, files, capsys):
    """`evaluate(…)`: what one evaluation of the shipped policy on the seven sets printed."""

    def run(*overrides):
        sizes = {"max_prompt_tokens": 64, "max_response_tokens": 384, "max_action_tokens": 32}
        settings = [
            "data=search_qa_benchmarks",
            "data/dialect=text_tags",
            "data/retriever=bm25",
            f"data.retriever.corpus_path={files}/corpus.jsonl",
            f"data.retriever.cache_dir={files}/indexes",
            "data.environment.tools.search.topk=2",
            f"data.tasks.benchmarks_dir={files}",
            f"paths.policy_dir={SHIPPED}",
            f"paths.output_dir={files}/run",
            *(f"data.module.{name}={value}" for name, value in sizes.items()),
        ]
        entry_point.run(composed(*settings, *overrides, config_name="eval"))
        return capsys.readouterr().out

    return run


def test_seven_sets_are_played_and_tabled(evaluate, files):
    printed = evaluate()
    content = json.loads((files / "run" / "benchmarks.json").read_text())
    assert content["complete"] and [name for name in content["columns"] if "/" not in name] == SETS
    successes = []
    for name in SETS:
        lines = [json.loads(line) for line in (files / "run" / "transcripts" / f"{name}.jsonl").open()]
        metrics = content["columns"][name]["metrics"]
        for metric in ("success", "em", "f1", "format", "calls", "tool_failures"):
            assert metrics[metric]["value"] == pytest.approx(np.mean([line["metrics"][metric] for line in lines]))
        tokens = [sum(len(turn["action_ids"]) for turn in line["turns"]) for line in lines]
        assert metrics["action_tokens"]["value"] == np.mean(tokens)
        assert [line["task_id"].split("/")[0] for line in lines] == [name] * 4
        successes += [line["metrics"]["success"] for line in lines]
        assert f"{name}: success {np.mean(successes[-4:]):.3f} on 4 questions after " in printed
    summary = json.loads((files / "run" / "summary.json").read_text())
    assert summary["success/overall/weighted"] == pytest.approx(np.mean(successes)) and 0 < np.mean(successes) < 1
    assert summary["questions/overall/weighted"] == 28
    assert all(isinstance(value, int | float) for value in summary.values())
    assert "HotpotQA" in printed and f"run directory: {files}/run" in printed


def test_questions_limits_each_set_and_null_leaves_one_out(evaluate, files):
    evaluate("questions=1", "data.tasks.benchmarks.musique=null", f"data.tasks.benchmarks.nq={files}/popqa.jsonl")
    content = json.loads((files / "run" / "benchmarks.json").read_text())["columns"]
    assert "musique" not in content and content["multi_hop/macro"]["sets"] == 3
    assert content["overall/weighted"]["questions"] == 6
    assert content["nq"]["metrics"]["tokens"]["value"] == content["popqa"]["metrics"]["tokens"]["value"]


def test_samples_give_pass_at_k_of_each_set(evaluate, files):
    evaluate("samples=2", "questions=2")
    summary = json.loads((files / "run" / "summary.json").read_text())
    for name in SETS:
        assert summary[f"pass@1/{name}"] == pytest.approx(summary[f"success/{name}"])
        assert summary[f"pass@1/{name}"] <= summary[f"pass@2/{name}"]


class RefusesNQ(AnswerMatch):
    def __call__(self, answer, task):
        if task.task_id.startswith("nq/"):
            raise SettingError("mine: expected no question of nq")
        return super().__call__(answer, task)


def test_a_long_question_of_the_last_set_is_named_before_anything_is_played(evaluate, files, capsys):
    long = {"question": "What is the mayor of Bemi? " * 40, "golden_answers": ["Varo"]}
    (files / "popqa.jsonl").write_text(json.dumps(long) + "\n")
    with pytest.raises(SystemExit):
        evaluate("questions=2")
    assert "tasks with a longer prompt: 1; the longest, popqa/0, has " in capsys.readouterr().err
    assert not (files / "run").exists()


def test_what_was_computed_survives_a_set_that_fails(evaluate, files, capsys):
    with pytest.raises(SystemExit):
        evaluate("questions=2", f"data.environment.judge._target_={__name__}.RefusesNQ")
    assert capsys.readouterr().err == "error: mine: expected no question of nq\n"
    content = json.loads((files / "run" / "benchmarks.json").read_text())
    assert not content["complete"]
    assert [name for name in content["columns"] if "/" not in name] == SETS[:4]
    assert sorted(path.stem for path in (files / "run" / "transcripts").iterdir()) == sorted(SETS[:4])


def test_bad_row_is_named_before_anything_is_played(evaluate, files, capsys):
    (files / "popqa.jsonl").write_text('{"question": "Who?", "golden_answers": []}\n')
    with pytest.raises(SystemExit):
        evaluate()
    assert capsys.readouterr().err.startswith(f"error: {files}/popqa.jsonl, row 0, column golden_answers: got []; ")
    assert not (files / "run").exists()


def test_missing_file_is_named_before_anything_is_played(evaluate, files, capsys):
    (files / "popqa.jsonl").unlink()
    with pytest.raises(SystemExit):
        evaluate()
    said = capsys.readouterr().err
    assert said.startswith(f"error: data.tasks.benchmarks.popqa={files}/popqa.*: no such file; ")
    assert not (files / "run").exists()


@pytest.mark.parametrize(
    ("benchmarks", "groups", "message"),
    [
        ({"nq": "x.jsonl"}, {}, "data.tasks.groups={}: expected nq in exactly one group"),
        ({"nq": "x.jsonl"}, {"a": ["nq", "mine"]}, "data.tasks.groups: mine not in data.tasks.benchmarks"),
        ({"nq": "x.jsonl"}, {"overall": ["nq"]}, "data.tasks: a group or set is called overall, as an average is; "),
        ({"nq": None}, {"a": ["nq"]}, "data.tasks.benchmarks: every set is null; expected at least one file"),
    ],
)
def test_sets_that_make_no_table_are_refused(benchmarks, groups, message):
    with pytest.raises(ValueError) as raised:
        Benchmarks("folder", benchmarks, groups, question_marker=None, limit=None)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("name", ["none.jsonl", "none.parquet"])
def test_an_empty_set_is_refused_by_name(files, name):
    (files / "none.jsonl").touch()
    datasets.Dataset.from_dict({"question": [], "answer": []}).to_parquet(files / "none.parquet")
    with pytest.raises(ValueError, match=r"^data\.tasks\.benchmarks\.nq=\S*none\S*: .*no (rows|data)"):
        Benchmarks(str(files), {"nq": name}, {"a": ["nq"]}, None, None).sets()


def test_all_sets_together_are_the_test_split(files):
    tasks = Benchmarks(str(files), {"nq": "nq.*", "popqa": "popqa.*"}, {"a": ["nq", "popqa"]}, None, None)
    assert [len(tasks.split(split)) for split in Split] == [0, 0, 8]
