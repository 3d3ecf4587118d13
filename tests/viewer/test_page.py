"""The page holds the numbers of the run, needs nothing else, and no text can break out of its data."""

import json
import re

import pytest

from a2tgpo.viewer.groups import CREDIT
from a2tgpo.viewer.page import CODE, inline_json, page, page_data
from a2tgpo.viewer.run_data import read_run
from tests.helpers.viewed_run import GROUP, group, leave_viewed_run

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)> {{code}} \u202e\u2028 <!-- & \ud83d\ude00"


def embedded(text):
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(data)


def test_embedded_numbers_are_those_of_the_file(tmp_path):
    data = embedded(page(read_run(leave_viewed_run(tmp_path / "run", {"000001-rank0": GROUP}))))
    for shown, written in zip(data["groups"][0]["trajectories"], GROUP, strict=True):
        assert shown["belief"] == written["belief"]
        assert [[turn[name] for turn in shown["turns"]] for name in CREDIT] == [written[name] for name in CREDIT]
    assert data["figures"] == {"start": 0.25, "test": 0.75}
    assert data["curves"]["train/success"] == [[1, 0.5], [2, 0.625]]
    assert data["curves"]["val/success"] == [[0, 0.25], [2, 0.5]]


def test_hostile_texts_stay_texts(tmp_path):
    lines = group(question=HOSTILE, task_id=HOSTILE, stop=HOSTILE, answers=[HOSTILE])
    for one in lines:
        one["turns"][0] |= {"action": HOSTILE, "observation": HOSTILE}
    harmless = page(read_run(leave_viewed_run(tmp_path / "plain", {"000001-rank0": GROUP})))
    text = page(read_run(leave_viewed_run(tmp_path / "run", {"000001-rank0": lines})))
    tags = re.compile(r"<[!/a-z]", re.IGNORECASE)
    assert len(tags.findall(text)) == len(tags.findall(harmless))
    shown = embedded(text)["groups"][0]
    assert shown["question"] == HOSTILE.encode("utf-16", "surrogatepass").decode("utf-16")
    assert shown["trajectories"][0]["turns"][0]["action"] == shown["question"]


def test_the_name_of_a_run_is_text(tmp_path):
    text = page(read_run(leave_viewed_run(tmp_path / "<b>run", {"000001-rank0": GROUP})))
    assert "<title>&lt;b&gt;run" in text and "<b>run" not in text


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_numbers_that_json_has_not_are_texts_for_number(value):
    assert json.loads(inline_json({"clip_high": [value]})) == {
        "clip_high": [{"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}[str(value)]]
    }


def test_the_page_asks_for_nothing_and_its_code_is_small(tmp_path):
    run = read_run(leave_viewed_run(tmp_path / "run", {"000001-rank0": GROUP}))
    text = page(run)
    assert "default-src 'none'" in text
    assert not re.findall(r"""(?:src|href)=["']?(?!data:)[\w/.]|url\(|@import|fetch\(|XMLHttpRequest""", text)
    assert len(text) - len(inline_json(page_data(run))) < 300_000
    assert "innerHTML" not in text and len(CODE) == len(set(CODE))
