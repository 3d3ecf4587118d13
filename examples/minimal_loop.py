"""A²TGPO in one file, without Lightning and Hydra: questions → rollouts → scores → credit → loss → AdamW.

    pip install --editable . && python examples/minimal_loop.py --iterations 20

Left out, and found in `a2tgpo.training`: micro-batches, several optimizer steps over a rollout set (with one, every
ratio is 1 and nothing is clipped), a reference model, validation, checkpoints, several processes.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

import a2tgpo.policies
from a2tgpo.embedded.questions import QuestionMix
from a2tgpo.embedded.tasks import EmbeddedTasks, WorldPassages
from a2tgpo.embedded.world import WorldSize
from a2tgpo.engines.huggingface import HuggingFaceEngine
from a2tgpo.environments.dialects.text_tags import TextTags
from a2tgpo.environments.judges.answer_match import AnswerMatch
from a2tgpo.environments.passages import PassageLayout
from a2tgpo.environments.tool_use import ToolUse
from a2tgpo.environments.tools.search import Search
from a2tgpo.method.method import PAPER
from a2tgpo.policies.pretrained import load_policy
from a2tgpo.retrievers.bm25 import BM25Retriever
from a2tgpo.rollouts.loop import Rollout
from a2tgpo.rollouts.rewards.outcome import OutcomeReward
from a2tgpo.rollouts.trajectory import Split
from a2tgpo.scoring.score import score, token_stats

POLICY = Path(a2tgpo.policies.__path__[0]) / "tiny"
PROMPTS, GROUP_SIZE, SEED = 8, 8, 0

size = WorldSize(film=6, person=10, city=5, company=4, country=3, person_words=14, objects=None)
mix = QuestionMix(hop1=0.15, hop2=0.3, hop3=0.25, hop4=0.1, comparison=0.2, narrowing=0.0)
tasks = EmbeddedTasks(size, mix, 4, 8000, 400, 400, None).split(Split.TRAIN)
retriever = BM25Retriever(WorldPassages(size))
dialect = TextTags(
    "Question: {question}",
    answer_wrapper=("<think> done</think><answer> ", "</answer>"),
    answer_pattern="(.*)",
    call_tags={},
    answer_tag="answer",
    result_tag="result",
    result_template="<result> {result}</result>",
    layout=PassageLayout("{contents}", separator=" ", nothing="Nothing was found."),
    examples={},
    assistant_prefix="",
    chat=False,
    system="",
    template={},
)
environment = partial(
    ToolUse,
    tools={"search": Search(retriever, topk=2)},
    judge=AnswerMatch(),
    dialect=dialect,
    max_calls=6,
    tool_timeout=10.0,
    max_tool_failures=3,
    deterministic=True,
)
rollout = Rollout(
    HuggingFaceEngine(max_sessions=256, deterministic=True),
    environment,
    OutcomeReward(outcome="em", malformed=-1.0, unanswered=-1.0),
    max_prompt_tokens=64,
    max_response_tokens=384,
    max_action_tokens=32,
    max_sessions=256,
    episode_timeout=60.0,
    max_failed_share=0.1,
)
method = replace(PAPER, credit=replace(PAPER.credit, normalizer=replace(PAPER.credit.normalizer, resolution=1e-4)))


def train(iterations: int) -> list[float]:
    """Train the embedded policy; returns the mean reward of each rollout set."""
    torch.set_num_threads(1)
    policy = load_policy(
        str(POLICY), "float32", "sdpa", gradient_checkpointing=False, compile=False, temperature=1.0, top_p=1.0
    )
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=4e-4, betas=(0.9, 0.99))
    rewards = []
    for iteration in range(iterations):
        prompts = [(i, tasks[(iteration * PROMPTS + i) % len(tasks)]) for i in range(PROMPTS)]
        trajectories = rollout.run(policy, prompts, GROUP_SIZE, key=(SEED, 0, iteration), greedy=False)

        scored = score(policy, trajectories, method.signal.answers, dialect.answer_wrapper, token_budget=4096)
        batch, credit = scored.batch, method.assign(scored.observed)
        loss_weight = method.weigh(batch.turn_ids, batch.old_logprobs, batch.rollout_logprobs)

        logprobs = token_stats(policy, batch.input_ids, batch.turn_ids, with_entropy=False).logprobs
        loss, _ = method.loss(logprobs, batch.old_logprobs, batch.turn_ids, credit, loss_weight)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimizer.step()

        rewards.append(float(batch.outcome.mean()))
        print(f"iteration {iteration + 1}: reward {rewards[-1]:+.3f}", flush=True)
    return rewards


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=20)
    train(parser.parse_args().iterations)
