"""Twice the text takes twice the time: no parser goes back over what it has read, up to 50,000 characters."""

import json
import time
from pathlib import Path
from random import Random
from statistics import median

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from a2tgpo.environments.judges.answer_match import AnswerMatch
from a2tgpo.environments.judges.numeric import Numeric
from a2tgpo.environments.safe_arithmetic import ExpressionError, read_number
from a2tgpo.environments.tools.calculator import calculate
from a2tgpo.rollouts.thinking import only_quoted, without_thoughts
from a2tgpo.rollouts.trajectory import Task
from a2tgpo.system.jsonl import read_json
from a2tgpo.tasks.question_rows import Layout
from tests.helpers.episodes import SEARCH
from tests.helpers.grammar import PIECES, SUMS, text

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
DIALECTS = sorted(path.stem for path in (Path(__file__).parents[2] / "configs" / "data" / "dialect").glob("*.yaml"))
LONGEST = 50_000
ENOUGH = 0.01
"""Seconds below which a growth is not told from noise; what grows with the square takes seconds at this length."""


def hostile():
    """Each piece over and over, pairs of openings, and mixtures."""
    pieces = [piece for kind in (*PIECES, SUMS) for piece in kind if piece]
    random = Random(0)
    pieces += [f"<answer>{piece}" for piece in pieces] + [text(random, 6) or "a" for _ in range(60)]
    return pieces


def seconds(call, written):
    """CPU seconds, the median of three."""
    taken = []
    for _ in range(3):
        began = time.process_time()
        call(written)
        taken.append(time.process_time() - began)
    return median(taken)


def require_linear(call):
    """Raises where twice the text takes more than three times as long: four times would be a square."""
    for piece in hostile():
        for before, after in (
            ("", ""),
            ("<answer>", "</answer>"),
            ("<think>", "</think>"),
            ("<tool_call>", "</tool_call>"),
        ):
            half, whole = (before + (piece * n)[:n] + after for n in (LONGEST // 2, LONGEST))
            taken = seconds(call, whole)
            assert taken < ENOUGH or taken < 3 * seconds(call, half), (piece, before, taken)


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("part", ["parse", "observe", "prompt", "layout"])
def test_a_dialect_is_linear(composed, name, part):
    config = OmegaConf.to_container(composed(f"data/dialect={name}").data.dialect, resolve=True)
    dialect = instantiate(config, _convert_="all")
    calls = {
        "parse": lambda written: dialect.parse(written, [SEARCH]),
        "observe": lambda written: dialect.observe([written], [SEARCH]),
        "prompt": lambda written: dialect.prompt(written, [SEARCH]),
        "layout": lambda written: dialect.layout([written, f'"{written}"\n{written}']),
    }
    require_linear(calls[part])


def judged(written):
    for judge in (AnswerMatch(), Numeric()):
        judge(written, Task("t", "q", (written, "Paris")))


def computed(written):
    read_number(written)
    try:
        calculate(written)
    except ExpressionError:
        return


def read(written):
    try:
        read_json(written.encode("utf-8", "surrogatepass"))
    except ValueError:
        return


def tasked(written):
    row = {"prompt": [{"role": "user", "content": written}], "answer": [written, written], "answer_aliases": written}
    try:
        Layout.detect(row, "f", "f", "Question:").task(row, 0)
    except ValueError:
        return


OTHERS = {
    "thoughts": lambda written: (without_thoughts(written), only_quoted(["</search>"], f"{written}</search>")),
    "judges": judged,
    "sums": computed,
    "json": read,
    "json in json": lambda written: read(json.dumps([written])),
    "rows": tasked,
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_parser_is_linear(name):
    require_linear(OTHERS[name])
