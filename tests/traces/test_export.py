"""A run's trajectories as OpenAI chat messages: calls and results are told apart, nothing that was recorded is lost."""

import copy
import json
import math

import pytest
import yaml
from omegaconf import OmegaConf

from a2tgpo.traces.facts import CREDIT
from a2tgpo.traces.from_run import read_traces
from tests.helpers.traced_run import HOSTILE, export_traces, exported, leave_spoken_run, rows
from tests.helpers.viewed_run import GROUP, group, leave_viewed_run, turn


@pytest.fixture
def data(composed):
    """`data(override, …)`: the part of a configuration that says how a policy speaks."""

    def of(*overrides):
        config = OmegaConf.to_container(composed("experiment=a2tgpo", *overrides), resolve=True)
        return {name: config["data"][name] for name in ("dialect", "environment")}

    return of


def lines_of(path):
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def spoken(*turns):
    """The group with other turns in its second trajectory, as many as it has."""
    lines = group()
    lines[1]["turns"] = list(turns)
    return lines


TAGS = (
    turn("<think> need founder</think><search> founder of Kinu</search>", "<result> Nore founded it.</result>", True),
    turn("<search>king</search>", "<result> A king.</result>"),
    turn("<think> done</think><answer> Nore</answer>"),
)


def test_text_tags_become_calls_and_results(tmp_path, data):
    run = leave_spoken_run(tmp_path / "run", spoken(*TAGS), data())
    line = lines_of(exported(run, "openai", tmp_path / "out.jsonl"))[1]
    assert line["messages"] == [
        {"role": "user", "content": "Question: Who rules Kinu?"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "need founder",
            "tool_calls": [
                {
                    "id": "call_0_0",
                    "type": "function",
                    "function": {"name": "search", "arguments": '{"query": "founder of Kinu"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_0_0", "content": "Nore founded it."},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "call_1_0", "type": "function", "function": {"name": "search", "arguments": '{"query": "king"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1_0", "content": "A king."},
        {"role": "assistant", "content": "<answer> Nore</answer>", "reasoning_content": "done"},
    ]
    assert [tool["function"]["name"] for tool in line["tools"]] == ["search"]
    assert list(line["tools"][0]["function"]["parameters"]["properties"]) == ["query"]


def test_native_calls_keep_their_results_apart(tmp_path, data):
    call = '<tool_call>\n{"name": "search", "arguments": {"query": "%s"}}\n</tool_call>'
    asked = turn(
        "I need two.</think>Look:\n" + call % "Kinu" + "\n" + call % "Sivo",  # the template had opened the thought
        "<|im_end|>\n<|im_start|>user\n<tool_response>\nA king.\n</tool_response>\n"
        "<tool_response>\nNo king.\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
    )
    broken = turn('<tool_call>{"name": "nobody"}</tool_call>')
    lines = spoken(asked, TAGS[1], broken)
    run = leave_spoken_run(tmp_path / "run", lines, data("data/dialect=tool_calls"))
    messages = lines_of(exported(run, "openai", tmp_path / "out.jsonl"))[1]["messages"]
    assert [m["role"] for m in messages[:2]] == ["system", "user"]
    said, *heard = messages[2:5]
    assert said["content"] == "Look:" and said["reasoning_content"] == "I need two."
    assert [json.loads(c["function"]["arguments"])["query"] for c in said["tool_calls"]] == ["Kinu", "Sivo"]
    assert [m["content"] for m in heard] == ["A king.", "No king."]
    assert "tool_calls" not in messages[-1] and messages[-1]["content"] == broken["action"]


def test_credit_tokens_and_exact_texts_stand_in_the_metadata(tmp_path, data):
    run = leave_spoken_run(tmp_path / "run", spoken(*TAGS), data())
    written = rows(run)["000001-rank0.jsonl"]
    for line, row in zip(lines_of(exported(run, "openai", tmp_path / "out.jsonl")), written, strict=True):
        told = line["metadata"]
        for name in ("task_id", "question", "answers", "kind", "outcome", "stop", "metrics", "belief", "prompt_ids"):
            assert told[name] == row[name]
        for t, one in enumerate(told["turns"]):
            assert [one[name] for name in CREDIT] == [row[name][t] for name in CREDIT]
            for name in ("action", "observation", "action_ids", "action_logprobs", "observation_ids"):
                assert one[name] == row["turns"][t][name]
        assert told["origin"]["normalizer"] == "TurnGroup" and told["origin"]["alpha"] == 0.5


def test_older_lines_get_the_credit_that_is_worked_out_again(tmp_path):
    lines = group()
    for one in lines:
        del one["turn_credit"], one["version"]
    run = leave_viewed_run(tmp_path / "run", {"000001-rank0": lines})
    found = lines_of(exported(run, "openai", tmp_path / "out.jsonl"))
    for line, row in zip(found, GROUP, strict=True):
        assert [t["turn_credit"] for t in line["metadata"]["turns"]] == pytest.approx(row["turn_credit"], abs=1e-6)


def test_numbers_that_json_has_not_are_texts(tmp_path):
    lines = group(clip_high=[math.inf, math.inf, math.inf])
    run = leave_viewed_run(tmp_path / "run", {"000001-rank0": lines})
    text = exported(run, "openai", tmp_path / "out.jsonl").read_text()
    assert (
        json.loads(text.splitlines()[0], parse_constant=pytest.fail)["metadata"]["turns"][0]["clip_high"] == "Infinity"
    )


def test_a_run_that_names_no_dialect_stays_text(tmp_path):
    run = leave_viewed_run(tmp_path / "run", {"000001-rank0": GROUP})
    messages = lines_of(exported(run, "openai", tmp_path / "out.jsonl"))[0]["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "user", "assistant"]
    assert [m["content"] for m in messages] == ["Who rules Kinu?", "ask for Sivo", "nothing of use", "answer Sivo"]


def test_hostile_texts_stay_what_they_are(tmp_path, data):
    asked = turn(
        f"<think>{HOSTILE.replace('</think>', '')}</think><search>{HOSTILE[:9]}x</search>",
        f"<result>{HOSTILE}</result>",
    )
    lines = spoken(asked, turn(HOSTILE, HOSTILE), turn(HOSTILE))
    run = leave_spoken_run(tmp_path / "run", lines, data())
    path = exported(run, "openai", tmp_path / "out.jsonl")
    (_, line) = lines_of(path)
    assert [one["action"] for one in line["metadata"]["turns"]] == [one["action"] for one in lines[1]["turns"]]
    assert [one["observation"] for one in line["metadata"]["turns"]] == [
        one["observation"] for one in lines[1]["turns"]
    ]


def test_the_default_file_stands_in_the_run(tmp_path, capsys):
    run = leave_viewed_run(tmp_path / "run", {"000001-rank0": GROUP})
    export_traces.export(run, "openai", None)
    assert capsys.readouterr().out == f"2 trajectories: {run / 'traces' / 'openai.jsonl'}\n"
    assert len(lines_of(run / "traces" / "openai.jsonl")) == 2


def test_what_is_no_run_is_one_error(tmp_path, data):
    with pytest.raises(ValueError, match=r"config\.yaml: no such file; expected the directory of a run"):
        export_traces.export(tmp_path, "openai", None)
    run = leave_viewed_run(tmp_path / "run", {})
    with pytest.raises(ValueError, match=r"rollouts: no trajectory in it"):
        export_traces.export(run, "openai", None)
    (run / "rollouts" / "000001-rank0.jsonl").write_text('{"task_id": 1}\n')
    with pytest.raises(ValueError, match=r"000001-rank0\.jsonl, line 1: KeyError"):
        export_traces.export(run, "openai", None)
    speaks = copy.deepcopy(data())
    speaks["environment"]["tools"] = {"mine": {"_target_": "nowhere.to.be.found"}}
    run = leave_spoken_run(tmp_path / "other", GROUP, speaks)
    with pytest.raises(ValueError, match=r"config\.yaml: .*nowhere.*; expected parts that can be imported"):
        export_traces.export(run, "openai", None)


def test_tools_are_told_as_the_policy_was_told_of_them_without_being_built(tmp_path, data):
    speaks = data("data=calculator")
    run = leave_spoken_run(tmp_path / "run", GROUP, speaks)
    (tool,) = export_traces.speech(run).tools
    assert (tool.name, list(tool.parameters)) == ("calculator", ["expression"])
    speaks = data()
    speaks["environment"]["tools"]["search"]["retriever"] = {"_target_": "nowhere.to.be.found"}
    (trace, _) = read_traces(run := leave_spoken_run(tmp_path / "other", GROUP, speaks), export_traces.speech(run))
    assert trace.tools[0]["function"]["description"].startswith("Searches a collection of texts")
    assert yaml.safe_load((run / "config.yaml").read_text())["data"] == speaks
