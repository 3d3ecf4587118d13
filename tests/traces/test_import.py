"""Trajectories of others as run directories: what was recorded comes back, what is missing is said, beliefs are of
the model."""

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from a2tgpo.callbacks.rollout_files import RolloutFiles
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.trajectory import StopReason
from a2tgpo.traces.encoding import encoded, spelt, trajectory
from a2tgpo.traces.openai_messages import read
from a2tgpo.traces.to_run import placed
from a2tgpo.viewer.page import page
from a2tgpo.viewer.run_data import read_run
from a2tgpo.viewer.text import choose, tell
from tests.helpers.tiny_runs import ROOT, SHIPPED, SMALL, fit
from tests.helpers.traced_run import (
    CHAT_TEMPLATE,
    HOSTILE,
    exported,
    foreign,
    imported,
    leave_lines,
    rows,
)
from tests.helpers.viewed_run import GROUP, NEWER, leave_viewed_run, older


def told(run):
    read = read_run(run)
    return tell(choose(read, None, None), read)


# ---- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
def test_what_was_exported_comes_back(tmp_path, version):
    lines = [*older(version), *(one | {"group": 1, "n_shared": 1} for one in older(version))]
    lines[1]["turns"][0] |= {"action": HOSTILE, "observation": HOSTILE}
    lines[2]["clip_high"] = [float("inf"), float("inf")]
    run = leave_viewed_run(tmp_path / "run", {"000002-rank1": lines, "000010-rank0": older(2)})
    back = imported(exported(run, "openai", tmp_path / "out.jsonl"), tmp_path / "back")
    assert rows(back).keys() == rows(run).keys()
    for name, ours in rows(run).items():
        for own, theirs in zip(ours, rows(back)[name], strict=True):
            assert {key: theirs[key] for key in own} == own
    assert told(back) == told(run)


def test_what_was_exported_is_read_in_other_words_too(tmp_path):
    run = leave_viewed_run(tmp_path / "run", {"000001-rank0": older(2)})
    lines = exported(run, "openai", tmp_path / "out.jsonl").read_text().splitlines()
    (tmp_path / "all.json").write_text(f"[{','.join(lines)}]")
    assert rows(imported(tmp_path / "all.json", tmp_path / "back")) == rows(run)


def test_the_composition_comes_back_as_names_that_cannot_be_run(tmp_path):
    run = leave_viewed_run(tmp_path / "run", {"000001-rank0": GROUP})
    file = exported(run, "openai", tmp_path / "out.jsonl")
    model = yaml.safe_load((imported(file, tmp_path / "back") / "config.yaml").read_text())["model"]
    assert model["clipper"] == {"_target_": "AdaptiveTurn", "beta": 0.3, "eps_low": 0.01, "eps_high": 0.02}
    assert model["credit"]["normalizer"] == {"_target_": "TurnGroup"}
    line = json.loads(file.read_text().splitlines()[0])
    line["metadata"]["origin"]["normalizer"] = "os.system"
    with pytest.raises(ValueError, match=r"line 1: metadata\.origin\.normalizer: expected a name"):
        imported(leave_lines(tmp_path / "bad.jsonl", line), tmp_path / "bad")


# ---- trajectories of others ------------------------------------------------------------------------------------------


def test_a_foreign_trajectory_has_its_turns_calls_and_results(tmp_path):
    file = leave_lines(tmp_path / "in.jsonl", foreign(), foreign(0.0, "Sivo"), foreign(task_id="other"))
    run = imported(file, tmp_path / "run")
    first, second, third = rows(run)["000001-rank0.jsonl"]
    assert [(r["group"], r["sample"], r["task_id"]) for r in (first, second, third)] == [
        (0, 0, "0"),
        (0, 1, "0"),
        (1, 0, "other"),
    ]
    assert first["question"] == "Who is the king of Kinu?" and first["answers"] == ["Nore"]
    assert [t["observation"] for t in first["turns"]] == ["Kinu has a king.\nA king rules.", "It is Nore.", ""]
    assert first["turns"][1]["action"] == (
        'Go on.\n<tool_call>\n{"name": "search", "arguments": {"query": "king of Kinu"}}\n</tool_call>'
    )
    assert first["turns"][2]["action"] == "<think>\nThat is it.\n</think>\n\nNore"
    assert first["stop"] == "answered" and first["prompt_ids"] == [] and first["turns"][0]["action_ids"] == []


def test_without_a_model_there_are_no_gains_and_it_is_said(tmp_path, capsys):
    file = leave_lines(tmp_path / "in.jsonl", foreign(1.0), foreign(0.0), foreign(0.0), foreign(0.0))
    run = imported(file, tmp_path / "run")
    assert "outcome alone, no gains: nobody knows the beliefs (--model)" in capsys.readouterr().out
    won, *lost = rows(run)["000001-rank0.jsonl"]
    assert won["has_gain"] == [False] * 3 and won["belief"] == []
    z = 0.75 / (3 / 16) ** 0.5  # (R − mean) / σ over 1, 0, 0, 0
    assert won["advantage"] == pytest.approx([z] * 3, abs=1e-6)
    for one in lost:
        assert one["advantage"] == pytest.approx([-z / 3] * 3, abs=1e-6)
    assert "no gain" in told(run) and "belief " not in told(run)
    assert "Who is the king of Kinu?" in page(read_run(run))


def test_beliefs_that_were_recorded_serve_another_composition(tmp_path, capsys):
    run = leave_viewed_run(tmp_path / "run", {"000001-rank0": GROUP})
    file = exported(run, "openai", tmp_path / "out.jsonl")
    back = imported(file, tmp_path / "back", "model.combiner.alpha=0.5", "model/normalizer=turn_group")
    assert "from the beliefs that were recorded" in capsys.readouterr().out
    for own, theirs in zip(GROUP, rows(back)["000001-rank0.jsonl"], strict=True):
        for name in ("gain", "normalized_gain", "advantage", "turn_credit"):
            assert theirs[name] == pytest.approx(own[name], abs=1e-5), name
        assert theirs["has_gain"] == own["has_gain"]


def without(line, names):
    return {name: value for name, value in line.items() if name not in names}


def test_the_policys_own_tokens_and_gains_come_back(tmp_path, composed):
    """Of a real run: scored again by the model that made them, all that was recorded is found again."""
    run = tmp_path / "run"
    config = composed("experiment=a2tgpo", *SMALL, "trainer.max_epochs=1", f"paths.policy_dir={SHIPPED}")
    fit(config, [RolloutFiles(str(run / "rollouts"), every=1, max_files=1, transcripts=1)])
    OmegaConf.save(config, run / "config.yaml", resolve=True)
    file = exported(run, "openai", tmp_path / "out.jsonl")
    assert any("tool_calls" in message for message in json.loads(file.read_text().splitlines()[0])["messages"])
    kept = {name: [without(line, NEWER) | {"version": 2} for line in lines] for name, lines in rows(run).items()}
    assert rows(imported(file, tmp_path / "recorded")) == kept
    back = imported(file, tmp_path / "scored", model=str(SHIPPED))
    for own, theirs in zip(rows(run)["000001-rank0.jsonl"], rows(back)["000001-rank0.jsonl"], strict=True):
        assert theirs["turns"] == own["turns"] and theirs["prompt_ids"] == own["prompt_ids"]
        for name in ("belief", "gain", "normalized_gain", "advantage", "clip_low", "clip_high"):
            assert theirs[name] == pytest.approx(own[name], abs=1e-5), name
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:  # texts alone: the tokens are found again
        del line["metadata"]["prompt_ids"]
    anew = imported(leave_lines(tmp_path / "texts.jsonl", *lines), tmp_path / "anew", model=str(SHIPPED))
    for own, theirs in zip(rows(run)["000001-rank0.jsonl"], rows(anew)["000001-rank0.jsonl"], strict=True):
        assert theirs["prompt_ids"] == own["prompt_ids"]
        assert theirs["belief"] == pytest.approx(own["belief"], abs=1e-5)


def test_a_model_scores_foreign_trajectories(tmp_path, policy_dir):
    file = leave_lines(tmp_path / "in.jsonl", foreign(), foreign(0.0, "Sivo"), foreign(0.0))
    run = imported(file, tmp_path / "run", "model/normalizer=turn_group", model=str(policy_dir))
    for row in rows(run)["000001-rank0.jsonl"]:
        assert row["has_gain"] == [True, True, False]
        assert all(0 < belief < 1 for belief in row["belief"]) and len(row["belief"]) == 3
        steps = [after - before for before, after in zip(row["belief"], row["belief"][1:], strict=False)]
        assert row["gain"][:2] == pytest.approx(steps, abs=1e-6)
        assert [len(t["action_ids"]) > 0 for t in row["turns"]] == [True] * 3
    composition = yaml.safe_load((run / "config.yaml").read_text())
    assert composition["imported"] == {"file": str(file), "format": "openai", "model": str(policy_dir)}
    assert composition["callbacks"]["summary"]["experiment"] == "a2tgpo"


def test_a_chat_model_reads_the_messages_through_its_template(random_policy, tmp_path):
    tokenizer = random_policy.tokenizer
    tokenizer.chat_template = CHAT_TEMPLATE
    policy = Policy(random_policy.model, tokenizer)
    line = foreign() | {"tools": [{"type": "function", "function": {"name": "search", "parameters": {}}}]}
    (trace,) = placed(read(leave_lines(tmp_path / "in.jsonl", line)))
    made = encoded(policy, trace, trajectory(trace))

    def text(ids):
        return tokenizer.decode(ids, skip_special_tokens=False)

    def same(ids, said):
        assert list(ids) == tokenizer(said, add_special_tokens=False).input_ids

    same(made.prompt_ids, "[tool search]<system>Answer with the help of the search.</system>"
                          "<user>Who is the king of Kinu?</user><assistant>")  # fmt: skip
    assert "tool" in text(made.turns[0].observation_ids)
    assert made.turns[0].action_ids[-1] in policy.end_ids and made.turns[2].observation_ids == ()
    assert [turn.is_process for turn in made.turns] == [True, True, False]
    assert made.stop is StopReason.ANSWERED


def test_a_trajectory_that_is_too_long_for_the_model_is_named(tmp_path, policy_dir):
    line = foreign()
    line["messages"][3]["content"] = "king " * 2000
    with pytest.raises(
        ValueError, match=r"trajectory 1-0-0-0: with its answer it has \d+ tokens; expected at most the 1024"
    ):
        imported(leave_lines(tmp_path / "in.jsonl", line), tmp_path / "run", model=str(policy_dir))


# ---- bad input -------------------------------------------------------------------------------------------------------


def changed(*path, to):
    """The foreign trajectory with one value changed; None takes it away."""
    line = foreign()
    place = line
    for step in path[:-1]:
        place = place[step]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return line


BAD = {
    "no JSON": ("{", r"line 2: .*"),
    "no object": ("[1]", r"line 2: list; expected a JSON object"),
    "no messages": (changed("messages", to=None), r"messages: expected a list of messages"),
    "no metadata": (changed("metadata", to=None), r"metadata\.answers: missing; expected a list of accepted answers"),
    "no answers": (changed("metadata", "answers", to=None), r"metadata\.answers: missing"),
    "an empty list of answers": (changed("metadata", "answers", to=[]), r"metadata\.answers: expected a list of acc"),
    "a blank answer": (
        changed("metadata", "answers", to=["Nore", " "]),
        r"metadata\.answers: expected .* none of them blank",
    ),
    "no outcome": (changed("metadata", "outcome", to=None), r"metadata\.outcome: missing; expected a finite number"),
    "an outcome that is no number": (
        changed("metadata", "outcome", to="Infinity"),
        r"metadata\.outcome: expected a fin",
    ),
    "an outcome that is a truth": (
        changed("metadata", "outcome", to=True),
        r"metadata\.outcome: expected a finite number",
    ),
    "no question": (changed("messages", 1, "role", to="system"), r"metadata\.question: missing"),
    "a blank question": (
        changed("metadata", "question", to="  "),
        r"metadata\.question: expected a text that is not blank",
    ),
    "an unknown role": (
        changed("messages", 3, "role", to="wizard"),
        r"messages\[3\]\.role: expected system, developer",
    ),
    "a message that is none": (changed("messages", 0, to="hello"), r"messages\[0\]\.role: expected"),
    "a result without a call": (
        changed("messages", 3, "tool_call_id", to="z"),
        r"messages\[3\]\.tool_call_id: expected that",
    ),
    "a result twice": (
        changed("messages", 4, "tool_call_id", to="b"),
        r"messages\[4\]\.tool_call_id: expected that of a",
    ),
    "a result in front": (
        changed("messages", 1, to={"role": "tool", "content": ""}),
        r"messages\[1\]: a result in front",
    ),
    "a call without a result": (changed("messages", 4, to=None), r"messages\[2\]: a result is missing"),
    "two calls of one name": (
        changed("messages", 2, "tool_calls", 1, "id", to="a"),
        r"messages\[2\]\.tool_calls: two have",
    ),
    "more shared turns than there are": (
        changed("metadata", "n_shared", to=4),
        r"metadata\.n_shared: expected at most 3",
    ),
    "metadata that are none": (changed("metadata", to="hello"), r"metadata: expected an object"),
    "arguments that are no JSON": (
        changed("messages", 5, "tool_calls", 0, "function", "arguments", to="{"),
        r"messages\[5\]\.tool_calls\[0\]\.function\.arguments: .*; expected a JSON object",
    ),
    "a picture": (
        changed("messages", 1, "content", to=[{"type": "image_url"}]),
        r"messages\[1\]\.content: expected a text",
    ),
    "too few turns": (changed("metadata", "turns", to=[{}]), r"metadata\.turns: expected a list of 3, one for each"),
    "a gain that is none": (
        changed("metadata", "turns", to=[{}, {"gain": "x"}, {}]),
        r"metadata\.turns\[1\]\.gain: exp",
    ),
    "a stop that is none": (changed("metadata", "stop", to="bored"), r"metadata\.stop: expected answered, max_turns"),
}


@pytest.mark.parametrize(("line", "message"), BAD.values(), ids=BAD)
def test_bad_input_names_file_line_and_field(tmp_path, line, message):
    file = leave_lines(tmp_path / "in.jsonl", foreign(), line)
    with pytest.raises(ValueError, match=rf"^{file}, line 2: {message.removeprefix('line 2: ')}"):
        imported(file, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_files_that_hold_nothing_are_one_error(tmp_path):
    with pytest.raises(ValueError, match=r"in\.jsonl: it is empty; expected a trajectory a line"):
        imported(leave_lines(tmp_path / "in.jsonl", " "), tmp_path / "run")
    with pytest.raises(FileNotFoundError):
        imported(tmp_path / "nowhere.jsonl", tmp_path / "run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("import_traces.py", "nowhere.jsonl", "--format=openai", "--output=out"),
            "nowhere.jsonl: No such file or dir",
        ),
        (
            ("import_traces.py", "in.jsonl", "--format=openai", "--output=out"),
            "in.jsonl, line 1: metadata.answers: missing",
        ),
        (("export_traces.py", ".", "--format=openai"), "config.yaml: no such file; expected the directory of a run"),
    ],
)
def test_on_the_command_line_an_error_is_one_line(tmp_path, arguments, message):
    leave_lines(tmp_path / "in.jsonl", changed("metadata", "answers", to=None))
    script, *rest = arguments
    command = [sys.executable, str(ROOT / "scripts" / script), *rest]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1 and done.stderr.startswith(f"error: {message}"), done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


def test_credit_of_some_turns_and_two_of_one_place_are_refused(tmp_path):
    run = leave_viewed_run(tmp_path / "run", {"000001-rank0": GROUP})
    own = exported(run, "openai", tmp_path / "out.jsonl").read_text().splitlines()
    with pytest.raises(ValueError, match=r"iteration-rank-group-sample 1-0-0-0: twice"):
        imported(leave_lines(tmp_path / "twice.jsonl", *own, own[0]), tmp_path / "back")
    with pytest.raises(ValueError, match=r"5 of 8 turns have recorded credit; expected all or none, or a model"):
        imported(leave_lines(tmp_path / "mixed.jsonl", *own, foreign()), tmp_path / "back")


def test_credit_that_another_trainer_recorded_is_shown(tmp_path):
    credit = {
        "gain": 0.5,
        "has_gain": True,
        "normalized_gain": 1.0,
        "advantage": 2.0,
        "clip_low": 0.2,
        "clip_high": 0.2,
    }
    run = imported(leave_lines(tmp_path / "in.jsonl", foreign(turns=[credit] * 3)), tmp_path / "run")
    (row,) = rows(run)["000001-rank0.jsonl"]
    assert row["advantage"] == [2.0] * 3 and row["has_gain"] == [True] * 3 and "version" not in row
    assert "credit   Â = 2\n" in told(run)


def test_hostile_texts_of_others_stay_texts(tmp_path, policy_dir):
    line = foreign(answer=HOSTILE)
    line["messages"][1]["content"] = line["messages"][3]["content"] = HOSTILE
    half = json.dumps(foreign(0.0)).replace("A king rules.", "\\ud800")  # of a surrogate pair: no tokenizer takes it
    run = imported(leave_lines(tmp_path / "in.jsonl", line, half), tmp_path / "run", model=str(policy_dir))
    first, second = rows(run)["000001-rank0.jsonl"]
    assert first["question"] == HOSTILE and first["turns"][0]["observation"] == f"Kinu has a king.\n{HOSTILE}"
    assert first["turns"][2]["action"].endswith(HOSTILE) and first["has_gain"] == [True, True, False]
    assert second["turns"][0]["observation"] == "Kinu has a king.\n?"
    assert "</result></think>" not in page(read_run(run)) and "\u202e" not in told(run)


def test_a_result_that_is_empty_is_a_result(tmp_path, policy_dir):
    line = foreign()
    line["messages"][6]["content"] = ""
    file = leave_lines(tmp_path / "in.jsonl", line, foreign(0.0))
    first, _ = map(trajectory, placed(read(file)))
    assert [turn.is_process for turn in spelt(first).turns] == [True, True, False]
    scored, _ = rows(imported(file, tmp_path / "run", model=str(policy_dir)))["000001-rank0.jsonl"]
    assert scored["has_gain"] == [True, True, False] and len(scored["belief"]) == 3


def test_a_directory_that_is_taken_stays_as_it_is(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("kept")
    with pytest.raises(ValueError, match=r"run: not empty; expected a new folder"):
        imported(leave_lines(tmp_path / "in.jsonl", foreign()), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine"]


def test_what_traces_cannot_give_is_said(tmp_path):
    file = leave_lines(tmp_path / "in.jsonl", foreign())
    with pytest.raises(ValueError, match=r"model/credit: it asks for forks, and traces have no environment"):
        imported(file, tmp_path / "run", "experiment=fork_credit")
    with pytest.raises(ValueError, match=r"model/signal: its beliefs are a reference's"):
        imported(file, tmp_path / "run", "experiment=trace")


def test_log_beliefs_are_those_of_torch(tmp_path, policy_dir):
    """A belief of the file is a probability: its logarithm is what the answer's tokens have in the mean."""
    file = leave_lines(tmp_path / "in.jsonl", foreign(), foreign(0.0))
    runs = [
        imported(file, tmp_path / gain, f"model.signal.gain={gain}", model=str(policy_dir))
        for gain in ("prob", "log_prob")
    ]
    for a, b in zip(*(rows(run)["000001-rank0.jsonl"] for run in runs), strict=True):
        assert a["belief"] == b["belief"]
        logs = torch.tensor(a["belief"], dtype=torch.float64).log().diff()
        assert b["gain"][:2] == pytest.approx(logs.tolist(), abs=1e-4)
