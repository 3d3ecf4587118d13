"""SmolLM2-135M-Instruct, which was made for none of the dialects: what it is shown, and what it then does."""

import pytest
from hydra.utils import instantiate

from a2tgpo.check.forced import force
from a2tgpo.engines.huggingface import HuggingFaceEngine
from a2tgpo.engines.scripted import ScriptedEngine
from a2tgpo.retrievers.bm25 import BM25Retriever
from a2tgpo.rollouts.trajectory import Split, StopReason, Task
from tests.helpers.episodes import search_qa
from tests.helpers.loops import loop
from tests.helpers.shipped import pretrained_policy, text_tags

pytestmark = pytest.mark.real
PASSAGES = (
    '"Canberra"\nCanberra is the capital of Australia.',
    '"The Scream"\nThe Scream is a painting by Edvard Munch.',
    '"Tungsten"\nTungsten is an element with the symbol W.',
    '"Danube"\nThe Danube flows into the Black Sea.',
)
TASKS = (
    Task("0", "What is the capital of Australia?", ("Canberra",)),
    Task("1", "Who painted The Scream?", ("Edvard Munch",)),
    Task("2", "Which element has the symbol W?", ("Tungsten",)),
    Task("3", "Into which sea does the Danube flow?", ("Black Sea",)),
)
ROOM = {"max_prompt_tokens": 1000, "max_response_tokens": 400, "max_action_tokens": 48}


@pytest.fixture(scope="module")
def policy(smollm2):
    return pretrained_policy(smollm2)


def test_a_token_that_wrote_the_first_character_of_the_result_leaves_a_context_that_reads_well(policy):
    dialect = text_tags("Question: {question}", ("<answer> ", "</answer>"))
    environment = search_qa(dialect, BM25Retriever(lambda corpus: PASSAGES))
    engine = ScriptedEngine(lambda key: ["<search> Danube</search><", "<answer> Black Sea</answer>"])
    (trajectory,) = loop(engine, environment, **ROOM).run(policy, [(0, TASKS[3])], 1, (0,), greedy=True)
    turn = trajectory.turns[0]
    assert policy.decode(turn.action_ids[-1:]) == "><"
    assert f"</search><result> {PASSAGES[3]}</result>" in policy.decode(trajectory.token_ids)


@pytest.mark.parametrize("dialect", ["search_r1", "a_tgpo"])
def test_worked_episodes_make_it_search_and_answer(policy, composed, dialect):
    formats = []
    for shown in ("none", "search_qa"):
        config = composed(f"data/dialect={dialect}", f"data/dialect/examples={shown}")
        parts = instantiate(config.data.dialect, _convert_="all"), BM25Retriever(lambda corpus: PASSAGES)
        environment = search_qa(*parts, max_calls=4)
        played = loop(HuggingFaceEngine(max_sessions=64, deterministic=True), environment, **ROOM).run(
            policy, [*enumerate(TASKS)], 1, (0,), greedy=True
        )
        formats.append(sum(trajectory.metrics["format"] for trajectory in played) / len(played))
    assert formats[0] == 0 and formats[1] >= 0.75
    assert all(trajectory.metrics["calls"] for trajectory in played)


@pytest.mark.parametrize("dialect", ["a_tgpo", "search_r1", "tool_calls", "igpo"])
def test_demonstrations_of_word_problems_come_to_their_end(policy, composed, dialect):
    data = instantiate(composed("data=calculator", f"data/dialect={dialect}").data.module, _convert_="all")
    tasks = data.tasks.split(Split.TRAIN)
    pairs = force(data.rollout, policy, [tasks[n] for n in range(100)])
    assert {trajectory.stop for trajectory in pairs.own} == {StopReason.ANSWERED}
