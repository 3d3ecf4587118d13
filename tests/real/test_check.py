"""`python src/check.py` says of SmolLM2 what its runs would show."""

import json

import pytest
from hydra.utils import instantiate
from transformers import AutoTokenizer

from a2tgpo.check.borders import borders
from tests.helpers.tiny_runs import ROOT, finish, start

FACTS = ROOT / ".cache" / "facts"


def check(directory, smollm2, *overrides):
    assert FACTS.is_dir(), f"no folder {FACTS}; make test-real makes it"
    own = ("experiment=a2tgpo_small", "data=facts", "data/dialect=search_r1", f"model.policy.path={smollm2}")
    process = start("check.py", *own, *overrides, f"hydra.run.dir={directory}", "questions=4", "threads=2")
    _, err = finish(process, timeout=900)
    assert process.returncode == 0, err
    return {f["topic"]: f for f in json.loads((directory / "check.json").read_text())["findings"]}


def test_a_model_that_does_not_speak_the_protocol_is_found_and_examples_are_named(smollm2, tmp_path):
    silent = check(tmp_path / "silent", smollm2)
    assert silent["form"]["verdict"] == silent["calls and answers"]["verdict"] == silent["spread"]["verdict"] == "bad"
    shown = check(tmp_path / "shown", smollm2, silent["form"]["mend"])
    assert shown["form"]["figures"]["well_formed"] > silent["form"]["figures"]["well_formed"]
    assert shown["calls and answers"]["figures"]["calling"] > 0 == silent["calls and answers"]["figures"]["calling"]
    assert shown["ranking"]["verdict"] == "good"


def test_rounding_and_first_ratio_of_a_bf16_adapter_are_told(smollm2, tmp_path):
    settings = ("data/dialect/examples=search_qa", "model.policy.dtype=bfloat16", "model.normalizer.resolution=1e-6")
    found = check(tmp_path / "bf16", smollm2, *settings)
    assert found["rounding"]["verdict"] == "bad" and found["rounding"]["mend"] == "model.normalizer.resolution=auto"
    assert found["first ratio"]["verdict"] == "good" and found["first ratio"]["figures"]["outside"] == 0


@pytest.mark.parametrize(
    ("dialect", "expected"), [("search_r1", []), ("a_tgpo", []), ("chat_tags", []), ("text_tags", ["><"])]
)
def test_results_of_the_chat_dialects_end_between_tokens(composed, smollm2, gemma3, dialect, expected):
    made = instantiate(composed(f"data/dialect={dialect}").data.dialect, _convert_="all")
    for model in (smollm2, gemma3):
        found = borders(AutoTokenizer.from_pretrained(model), made.observe([""], ()), made.answer_wrapper[0])
        assert [finding.figures["joined"] for finding in found] == expected
