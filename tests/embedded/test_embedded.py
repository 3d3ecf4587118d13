"""The embedded task: worlds without leaks, questions that search can answer, and a start that reads well."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig

from a2tgpo.embedded.demonstrations import Habits, demonstrate
from a2tgpo.embedded.names import WORDS
from a2tgpo.embedded.probes import closed_book_em, forced_search_em
from a2tgpo.embedded.questions import make_question
from a2tgpo.embedded.tasks import EmbeddedTasks, WorldPassages, world_of
from a2tgpo.embedded.tokenizer import build_tokenizer
from a2tgpo.embedded.world import make_world
from a2tgpo.evaluation.evaluate import evaluate
from a2tgpo.policies.policy import Policy
from a2tgpo.retrievers.bm25 import BM25Retriever
from a2tgpo.rollouts.trajectory import Split
from tests.helpers.episodes import search_qa
from tests.helpers.shipped import pretrained_policy, question_mix, text_tags, world_size

SHIPPED = Path(__file__).resolve().parents[2] / "src/a2tgpo/policies/tiny"
SIZE = world_size()
TASKS = EmbeddedTasks(SIZE, question_mix(), 4, 400, 400, 400, None)
TOKENIZER = build_tokenizer()
HELD_OUT = (Split.VALIDATION, Split.TEST)
FLAWLESS = Habits(hasty=(0.0,) * 4, hasty_comparison=(0.0,) * 3, wrong_relation=0.0, repeat=0.0)
DIALECT = text_tags("Question: {question}", ("<think> done</think><answer> ", "</answer>"))
environment = search_qa(DIALECT, BM25Retriever(WorldPassages(SIZE)), topk=2, max_calls=6, max_tool_failures=3)


def test_no_word_of_a_name_is_shared_between_splits() -> None:
    assert not set(WORDS[Split.TRAIN]) & (set(WORDS[Split.VALIDATION]) | set(WORDS[Split.TEST]))
    assert not set(WORDS[Split.VALIDATION]) & set(WORDS[Split.TEST])


def test_training_and_evaluation_worlds_share_no_entity() -> None:
    entities = {
        split: {name for i in range(100) for names in make_world(split, i, SIZE).entities.values() for name in names}
        for split in Split
    }
    assert not entities[Split.TRAIN] & (entities[Split.VALIDATION] | entities[Split.TEST])
    assert not entities[Split.VALIDATION] & entities[Split.TEST]


@pytest.mark.parametrize("split", HELD_OUT)
def test_no_answer_can_be_read_from_the_prompt(split: Split) -> None:
    for task in TASKS.split(split):
        prompt = environment(task).prompt().lower()
        assert not any(word.lower() in prompt.replace("?", " ").split() for a in task.answers for word in a.split())


@pytest.mark.parametrize("split", HELD_OUT)
def test_no_answer_makes_up_more_than_three_percent(split: Split) -> None:
    answers = Counter(task.answers[0] for task in TASKS.split(split))
    assert answers.most_common(1)[0][1] <= 0.03 * len(TASKS.split(split))


@pytest.mark.parametrize("split", HELD_OUT)
def test_the_right_searches_find_their_evidence_and_fit_the_limit(split: Split) -> None:
    retriever = BM25Retriever(WorldPassages(SIZE))
    for task in TASKS.split(split):
        assert len(task.reference_calls) <= 6
        for search, passage in zip(task.reference_calls, task.evidence, strict=True):
            assert passage in retriever.search(search, 2, task.corpus)


def test_every_kind_of_question_and_an_alias_occur() -> None:
    tasks = list(TASKS.split(Split.VALIDATION))
    assert {task.kind for task in tasks} == {"1", "2", "3", "4", "comparison"}
    assert any(len(task.answers) > 1 for task in tasks)


def test_a_world_is_a_function_of_split_and_number() -> None:
    assert make_world(Split.TEST, 7, SIZE) == make_world(Split.TEST, 7, SIZE)
    assert make_world(Split.TEST, 7, SIZE).facts != make_world(Split.TEST, 8, SIZE).facts


def test_worlds_and_questions_are_those_that_the_shipped_policy_was_made_for() -> None:
    digest = hashlib.sha256()
    for split in Split:
        world = make_world(split, 7, SIZE)
        digest.update(repr((world, [make_question(world, k, question_mix()) for k in range(8)])).encode())
    assert digest.hexdigest() == "0753472930b4be660a8614ee46137f86d55721a045f13d865e1c170ba34e2a82"


def test_the_shipped_tokenizer_is_the_one_that_is_built() -> None:
    assert json.loads((SHIPPED / "tokenizer.json").read_text()) == json.loads(TOKENIZER.backend_tokenizer.to_str())


def test_a_demonstrator_without_bad_habits_answers_every_question() -> None:
    rng = np.random.default_rng(0)
    for task in TASKS.split(Split.TRAIN):
        turns = demonstrate(task, world_of(task.corpus, SIZE), environment, FLAWLESS, rng)
        assert len(turns) == len(task.reference_calls) + 1
        assert any(f"<answer> {answer}</answer>" in turns[-1][0] for answer in task.answers)


def test_the_usual_demonstrator_answers_about_half_of_them() -> None:
    rng = np.random.default_rng(0)
    right = 0
    for task in TASKS.split(Split.TRAIN):
        turns = demonstrate(task, world_of(task.corpus, SIZE), environment, Habits(), rng)
        right += any(f"<answer> {answer}</answer>" in turns[-1][0] for answer in task.answers)
    assert 0.4 < right / 400 < 0.6


@given(st.text(max_size=60))
def test_every_text_survives_the_tokenizer(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER(text, add_special_tokens=False).input_ids) == text


@pytest.mark.parametrize("split", list(Split))
def test_a_name_is_two_tokens_in_every_split(split: Split) -> None:
    assert {len(TOKENIZER(f" {word}").input_ids) for word in WORDS[split]} == {2}


@pytest.fixture(scope="module")
def shipped() -> Policy:
    return pretrained_policy(str(SHIPPED))


def test_the_shipped_weights_are_those_of_their_record() -> None:
    weights = (SHIPPED / "model.safetensors").read_bytes()
    assert len(weights) <= 4 * 2**20
    assert hashlib.sha256(weights).hexdigest() == json.loads((SHIPPED / "pretraining.json").read_text())["sha256"]


def test_the_shipped_policy_has_skill_but_no_knowledge(shipped: Policy) -> None:
    tasks = [TASKS.split(Split.VALIDATION)[i] for i in range(200)]
    assert forced_search_em(shipped, tasks, environment) >= 0.95
    assert closed_book_em(shipped, tasks, environment) <= 0.05


def test_the_shipped_policy_decides_poorly(
    shipped: Policy, composed: Callable[..., DictConfig], tmp_path: Path
) -> None:
    data = instantiate(composed("experiment=a2tgpo").data.module, _convert_="all")
    validation = TASKS.split(Split.VALIDATION)
    greedy = evaluate(shipped, data.rollout, {"val": validation}, {}, 200, 1, 0, tmp_path).summary
    sampled = evaluate(shipped, data.rollout, {"val": validation}, {}, 50, 4, 0, tmp_path).summary
    assert 0.3 <= greedy["em"] <= 0.65
    assert sampled["em"] >= 0.3
