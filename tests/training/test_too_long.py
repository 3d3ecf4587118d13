"""A question or accepted answer that is too long is refused before the first episode, wherever it stands."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

import train
from a2tgpo.engines.scripted import ScriptedEngine
from a2tgpo.environments.judges.answer_match import AnswerMatch
from a2tgpo.environments.tool_use import ToolUse
from a2tgpo.environments.tools.search import Search
from a2tgpo.rollouts.chat_template import encode_prompt
from a2tgpo.rollouts.trajectory import Task
from a2tgpo.system.errors import SettingError
from tests.helpers.loops import loop
from tests.helpers.tiny_runs import SHIPPED, SMALL

DIALECTS = sorted(path.stem for path in (Path(__file__).parents[2] / "configs" / "data" / "dialect").glob("*.yaml"))
LONG = {"question": "What is the mayor of Bemi? " * 40, "golden_answers": ["Varo"]}
CHATML = (
    "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}{% for message in messages %}"
    "{{ message.role }}: {{ message.content }}<eos>{% endfor %}assistant: "
)


def rows(*places):
    """Six questions, with a long one at `places`."""
    short = [{"question": f"What is the mayor of Bemi {i}?", "golden_answers": ["Varo"]} for i in range(6)]
    return [LONG | {"id": f"long{i}"} if i in places else row for i, row in enumerate(short)]


@pytest.fixture
def run(composed, tmp_path, capsys):
    """`run(…)`: one iteration of four questions on files of one's own; what it said where it was refused."""

    def execute(*overrides, **files):
        for split in ("train", "val", "test"):
            text = "".join(json.dumps(row) + "\n" for row in files.get(split, rows()))
            (tmp_path / f"{split}.jsonl").write_text(text)
        (tmp_path / "corpus.jsonl").write_text('{"id": "0", "contents": "The mayor of Bemi is Varo."}\n')
        config = composed(
            *("experiment=a2tgpo", *SMALL, "data=search_qa", "data/dialect=text_tags", "data/retriever=bm25"),
            *("trainer.max_epochs=1", "data.module.prompts_per_iteration=4", "data.module.mini_batch_prompts=4"),
            *("data.module.max_prompt_tokens=64", "data.module.max_response_tokens=96"),
            *("data.module.max_action_tokens=16", f"paths.policy_dir={SHIPPED}", f"paths.output_dir={tmp_path}/run"),
            *(f"data.tasks.{split}={tmp_path}/{split}.jsonl" for split in ("train", "val", "test")),
            *(f"data.retriever.corpus_path={tmp_path}/corpus.jsonl", f"data.retriever.cache_dir={tmp_path}"),
            *overrides,
        )
        try:
            train.train(config)
        except SystemExit:
            return capsys.readouterr().err
        return ""

    return execute


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_long_question_is_refused_before_the_first_episode(run, tmp_path, split):
    files = {split: rows(1, 2), "train": rows(*range(6)) if split == "train" else rows()}
    said = run(**files)
    n = 4 if split == "train" else 2
    assert said.startswith(f"error: data.module.max_prompt_tokens=64: tasks with a longer prompt: {n}; the longest, ")
    assert f"the longest, {split}/long" in said
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_a_long_answer_is_refused_before_the_first_episode(run, tmp_path):
    long = [{"question": "q", "golden_answers": ["Varo " * 3000]}] * 6
    said = run(train=long)
    assert said.startswith("error: data.module.max_prompt_tokens, data.module.max_response_tokens: tasks with an ")
    assert "too long: 4; a trajectory at both limits and the answer of the longest, train/" in said
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_a_split_without_questions_is_refused_before_the_training(run, tmp_path):
    assert run("data.tasks.test=null").startswith("error: data.tasks.test: no value; expected data.tasks.test=…")
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_a_longer_run_that_meets_a_long_question_says_so_at_once_and_goes_on_with_a_higher_limit(run, tmp_path):
    order = np.random.default_rng([0, 0]).permutation(6).tolist()  # of lap 0 under seed 0
    files = {"train": rows(order[5])}
    assert run(**files) == ""  # it draws the first four of the order
    resume = (f"ckpt_path={tmp_path}/run/checkpoints/last.ckpt", "trainer.max_epochs=2")
    before = (tmp_path / "run" / "metrics.csv").read_text()
    assert f"the longest, train/long{order[5]}, has " in run(*resume, **files)
    assert (tmp_path / "run" / "metrics.csv").read_text() == before
    assert run(*resume, "data.module.max_prompt_tokens=600", **files) == ""
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 1 + 3


@pytest.mark.parametrize("name", DIALECTS)
def test_the_limit_is_that_of_the_prompt_alone_in_every_dialect(composed, random_policy, name):
    random_policy.tokenizer.chat_template = CHATML
    dialect = instantiate(
        OmegaConf.to_container(composed(f"data/dialect={name}").data.dialect, resolve=True), _convert_="all"
    )
    settings = {"max_calls": 2, "tool_timeout": 10.0, "max_tool_failures": 2, "deterministic": True}
    environment = partial(ToolUse, tools={"search": Search(None, 1)}, judge=AnswerMatch(), dialect=dialect, **settings)
    tasks = [Task(f"t/{i}", "What is the mayor of Bemi? " * i, ("Varo",)) for i in (1, 9, 5)]
    needed = max(len(encode_prompt(random_policy, environment(task).prompt(), task.question)) for task in tasks)
    loop(ScriptedEngine([]), environment, max_prompt_tokens=needed).require_prompts_fit(random_policy, tasks)
    with pytest.raises(SettingError, match=rf"a longer prompt: 1; the longest, t/9, has {needed} tokens"):
        loop(ScriptedEngine([]), environment, max_prompt_tokens=needed - 1).require_prompts_fit(random_policy, tasks)


def test_what_an_environment_raises_is_left_to_its_episode(random_policy):
    def broken(task):
        raise RuntimeError("no sandbox")

    loop(ScriptedEngine([]), broken).require_prompts_fit(random_policy, [Task("t", "q", ("a",))])
