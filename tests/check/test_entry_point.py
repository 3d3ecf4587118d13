"""`python src/check.py`, as a user calls it."""

import json

import pytest

from tests.helpers.tiny_runs import finish, start


def test_the_embedded_run_is_good_in_every_finding(tmp_path):
    process = start("check.py", f"hydra.run.dir={tmp_path}")
    out, err = finish(process, timeout=200)
    assert process.returncode == 0, err
    report = json.loads((tmp_path / "check.json").read_text())
    assert report["verdict"] == "good" and {finding["verdict"] for finding in report["findings"]} == {"good"}
    topics = ["form", "calls and answers", "length", "results", "spread", "rounding", "ranking", "first ratio"]
    assert [finding["topic"] for finding in report["findings"]] == [*topics, "time", "memory"]
    assert report["prompt"].startswith("Question: What is the ") and report["prompt"] in out
    assert len(report["episodes"]) == 2 and out.rstrip().endswith(f"good: {tmp_path / 'check.json'}")


@pytest.mark.slow
def test_a_policy_that_knows_nothing_is_bad_and_told_what_to_do(tmp_path, policy_dir):
    process = start(
        "check.py", f"hydra.run.dir={tmp_path}", f"paths.policy_dir={policy_dir}", "questions=2", "samples=2"
    )
    out, err = finish(process, timeout=200)
    assert process.returncode == 0, err
    findings = {finding["topic"]: finding for finding in json.loads((tmp_path / "check.json").read_text())["findings"]}
    assert (
        findings["form"]["verdict"]
        == findings["calls and answers"]["verdict"]
        == findings["spread"]["verdict"]
        == "bad"
    )
    assert findings["form"]["mend"] == "data/dialect/examples=search_qa"
    assert "bad  form: 0 of" in out


@pytest.mark.slow
def test_what_a_run_would_refuse_a_check_refuses_in_one_line(tmp_path):
    for override, message in {
        "data.module.max_prompt_tokens=3": "error: data.module.max_prompt_tokens=3: ",
        "questions=0": "error: questions=0: expected ",
        "trainer=gpu": "error: trainer.accelerator=gpu: no GPU is visible",
    }.items():
        process = start("check.py", f"hydra.run.dir={tmp_path}", override)
        _, err = finish(process, timeout=200)
        assert process.returncode == 1 and err.startswith(message) and err.count("\n") == 1, err
