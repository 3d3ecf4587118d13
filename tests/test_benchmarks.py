"""Benchmarks run at a tiny size, and do not time a rival that comes to other results."""

import json
from dataclasses import asdict, replace
from importlib import import_module
from statistics import stdev

import pytest
import torch

from a2tgpo.method.aggregations.token_mean import TokenMean
from benchmarks import __main__ as command
from benchmarks import credit, floors, models, rollouts, scoring, update, vocabulary
from benchmarks.episodes import Episodes, rollout
from benchmarks.harness import Benchmark, Disagreement

TINY = Episodes(groups=2, group_size=2, turns=3, prompt=4, action=6, result=5)
WORKS = {
    "credit": credit.Work(prompts=3, group_size=4, turns=4),
    "floors": floors.Work("0.66 M", TINY, 256),
    "rollouts": rollouts.Work("0.66 M", TINY, sessions=3, tool_seconds=0.001),
    "scoring": scoring.Work("0.66 M", TINY, 128),
    "update": update.Work("0.66 M", TINY, 128, steps=2),
    "vocabulary": vocabulary.Work(600, 32, TINY),
}


def run(name, work=None):
    """The benchmark at its tiny size, one round."""
    bench = Benchmark(name, torch.device("cpu"), 1, {})
    import_module(f"benchmarks.{name}").measure(bench, (work or WORKS[name],))
    return bench


@pytest.mark.parametrize("name", WORKS)
def test_a_benchmark_agrees_with_its_rivals_and_times_all_ways(name):
    bench = run(name)
    assert bench.checks or name == "floors"
    assert all(row["seconds"] > 0 for table in bench.tables for row in table["rows"] if "way" in row)
    ways = [[row["way"] for row in table["rows"] if "way" in row] for table in bench.tables]
    assert name == "floors" or all(any("ours" in way or "tools" in way for way in table) for table in ways)


@pytest.mark.parametrize("rival", [*scoring.FROM_THE_START, *scoring.BEHIND_A_CACHE])
def test_beliefs_in_other_contexts_are_not_timed(monkeypatch, rival):
    ways = scoring.FROM_THE_START if rival in scoring.FROM_THE_START else scoring.BEHIND_A_CACHE
    right = ways[rival]

    def a_token_early(policy, trajectories, queries, budget):
        return right(policy, trajectories, [replace(q, context=q.context - 1) for q in queries], budget)

    monkeypatch.setitem(ways, rival, a_token_early)
    with pytest.raises(Disagreement, match=rival):
        run("scoring")


def test_answers_of_a_tree_that_see_too_much_are_not_timed(monkeypatch):
    right = scoring.build_answer_block

    def all_seen(queries, rows, height, seen, device):
        block = right(queries, rows, height, seen, device)
        mask = block.mask.clone()
        mask[..., :seen] = True
        return replace(block, mask=mask)

    monkeypatch.setattr(scoring, "build_answer_block", all_seen)
    monkeypatch.setattr(scoring, "BEHIND_A_CACHE", {})
    with pytest.raises(Disagreement, match="tree mask"):
        run("scoring")


def test_a_cut_that_loses_a_row_is_not_timed(monkeypatch):
    right = update.as_they_come
    monkeypatch.setattr(update, "as_they_come", lambda *args: right(*args)[1:])
    with pytest.raises(Disagreement, match="gradient, rows as they come"):
        run("update")


def test_whole_logits_that_are_not_shifted_are_not_timed(monkeypatch):
    def unshifted(policy, input_ids, turn_ids):
        logprobs = policy.model(input_ids).logits.log_softmax(-1)
        return logprobs.gather(-1, input_ids[..., None])[..., 0] * (turn_ids >= 0)

    monkeypatch.setattr(vocabulary, "whole_logits", unshifted)
    with pytest.raises(Disagreement, match="whole logits"):
        run("vocabulary")


def test_a_loop_with_the_deviation_of_a_sample_is_not_timed(monkeypatch):
    monkeypatch.setattr(credit, "pstdev", stdev)
    with pytest.raises(Disagreement, match="clip bounds"):
        run("credit")


def test_an_engine_that_forgets_what_the_tool_said_is_not_timed(monkeypatch):
    class Forgetful(rollouts.Generate):
        async def extend(self, session, new_ids, sampling):
            return await super().extend(session, new_ids[:1], sampling)

    monkeypatch.setattr(rollouts, "Generate", Forgetful)
    with pytest.raises(Disagreement, match="generate"):
        run("rollouts")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:You are using 'environment_factory'")
def test_an_iteration_of_trl_is_timed_where_it_is_the_same_work(monkeypatch):
    trl_iteration = import_module("benchmarks.trl_iteration")
    work = trl_iteration.Work("0.66 M", TINY, 256)
    bench = run("trl_iteration", work)
    assert [row["way"] for row in bench.tables[0]["rows"]] == [
        trl_iteration.OURS,
        trl_iteration.WITHOUT,
        trl_iteration.TRL,
    ]
    monkeypatch.setattr(trl_iteration, "GRPO", replace(trl_iteration.GRPO, aggregation=TokenMean()))
    with pytest.raises(Disagreement, match="gradient of the loss"):
        run("trl_iteration", work)


def test_nothing_that_is_no_number_agrees():
    with pytest.raises(Disagreement, match="expected at most"):
        Benchmark("name", torch.device("cpu"), 1, {}).agree("what", float("nan"), 1.0)


def test_a_ratio_is_to_the_first_way_in_the_same_round(capsys):
    bench = Benchmark("name", torch.device("cpu"), 3, {})
    spent = iter([5.0, 5.0, 1.0, 2.0, 2.0, 8.0, 3.0, 9.0])  # the first round does not count
    bench._timed = lambda way, wall: (None, next(spent))
    assert bench.compare("title", {"ours": int, "other": int}) == {"ours": 1.0, "other": 3.0}
    assert "| other | 8.00 (2.00–9.00) | 3.00 (2.00–4.00) |" in capsys.readouterr().out


def test_figures_say_what_they_were_measured_on(tmp_path):
    command.run("credit", "cpu", 1, tmp_path)
    kept = json.loads((tmp_path / "credit.json").read_text())
    assert kept["device"] and kept["threads"] >= 1 and kept["sizes"] == {"works": [asdict(credit.SIZES["cpu"][0])]}
    assert set(kept["versions"]) == {"python", "torch", "transformers", "trl", "a2tgpo"}
    assert {"ratio", "ratio_least", "ratio_most"} <= kept["tables"][0]["rows"][1].keys()
    assert kept["goals"][0]["met"] in (True, False)


@pytest.mark.parametrize("path", sorted(command.RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_the_figures_that_are_kept_are_of_the_present_sizes(path):
    name, _, device = path.stem.partition(".")
    works = [asdict(work) for work in import_module(f"benchmarks.{name}").SIZES[device or "cpu"]]
    assert json.loads(path.read_text())["sizes"]["works"] == json.loads(json.dumps(works))


def test_figures_of_every_benchmark_are_kept():
    kept = {path.name for path in command.RESULTS.iterdir()}
    assert kept >= {f"{name}.json" for name in command.NAMES if import_module(f"benchmarks.{name}").SIZES["cpu"]}


def test_without_a_gpu_its_sizes_are_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["benchmarks", "--device", "cuda"])
    with pytest.raises(SystemExit, match=r"^--device cuda: no GPU is visible; expected one, or --device cpu$"):
        command.main()


def test_sizes_of_a_gpu_are_of_models_that_exist_and_have_room_for_them():
    for name in command.NAMES:
        for work in import_module(f"benchmarks.{name}").SIZES["cuda"]:
            assert getattr(work, "model", models.NAMES[0]) in models.NAMES
            episodes = getattr(work, "episodes", None)
            if name != "credit" and episodes:
                room = rollout(None, episodes)
                assert room.max_prompt_tokens + room.max_response_tokens <= models.POSITIONS
            assert 4 * getattr(work, "tokens", 0) < models.POSITIONS
