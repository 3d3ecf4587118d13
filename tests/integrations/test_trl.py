"""The method inside TRL: the shipped policy searches with TRL's own tool loop, and the loss is the module's."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from hydra.utils import instantiate
from trl import GRPOConfig
from trl.trainer.utils import split_tensor_dict

from a2tgpo.embedded.questions import QuestionMix
from a2tgpo.embedded.tasks import EmbeddedTasks, WorldPassages
from a2tgpo.environments.matching import exact_match
from a2tgpo.integrations.trl import CREDIT, A2TGPOTrainer
from a2tgpo.method.aggregations.seq_mean_token_mean import SeqMeanTokenMean
from a2tgpo.method.aggregations.token_mean import TokenMean
from a2tgpo.method.aggregations.token_sum_norm import TokenSumNorm
from a2tgpo.method.clippers.adaptive_turn import AdaptiveTurn
from a2tgpo.method.method import PAPER
from a2tgpo.retrievers.bm25 import BM25Retriever
from a2tgpo.rollouts.trajectory import Split
from tests.helpers.architectures import tiny_model
from tests.helpers.shipped import pretrained_policy, world_size
from tests.helpers.tiny_runs import SHIPPED, finish

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:You are using 'environment_factory'")

SOURCE = Path(__file__).parents[2] / "src"
WRAPPER = ("<think> done</think><answer> ", "</answer>")
SIZE = world_size()
CHAT = """{%- for message in messages -%}
{%- if message.role == 'user' -%}Question: {{ message.content }}
{%- elif message.role == 'tool' -%}<result> {{ message.content }}</result>
{%- else -%}{{ message.content }}
{%- for call in message.tool_calls or [] -%}<search> {{ call.function }}</search>{%- endfor -%}
{%- endif -%}{%- endfor -%}"""
SEARCH = {"type": "function", "function": {"name": "search", "arguments": {"query": "{content}"}}}
CALLS = {"open": "<search>", "close_pattern": "</search>", "repeats": True, "content": "text", "transform": SEARCH}
RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor_pattern": r"\?|</result>",
    "fields": {"tool_calls": CALLS, "content": {"close_pattern": "<eos>", "content": "text"}},
}
"""How the shipped policy writes its searches and answers, in the words of a chat model."""


class SearchTool:
    """TRL's form of an environment: one a completion, its public methods are the tools."""

    calls = 0

    def reset(self, corpus: str, **row: object) -> None:
        """Search the world of this row's question."""
        self._corpus = corpus

    def search(self, query: str) -> str:
        """Search for passages.

        Args:
            query: what to look for
        """
        SearchTool.calls += 1
        return " ".join(BM25Retriever(WorldPassages(SIZE)).search(query, 2, self._corpus))


def reward(completions, answers, **columns):
    """Exact match of what stands between the answer tags."""
    texts = [completion[-1].get("content", "") for completion in completions]
    said = [text.partition("<answer>")[2].partition("</answer>")[0] for text in texts]
    return [exact_match(text, accepted) for text, accepted in zip(said, answers, strict=True)]


def make_trainer(folder, model=None, **options):
    """TRL over the shipped policy and its world: it searches, reads what was found and answers."""
    policy = pretrained_policy(str(SHIPPED))
    with torch.no_grad():
        policy.model.model.norm.weight.mul_(0.8)  # less sure of itself, so that the searches of a group differ
    policy.tokenizer.chat_template, policy.tokenizer.response_template = CHAT, RESPONSE
    ends = ("<eos>", "</search>", "</answer>")
    policy.model.generation_config.eos_token_id = policy.tokenizer.convert_tokens_to_ids(ends)
    mix = QuestionMix(hop1=0.0, hop2=0.5, hop3=0.5, hop4=0.0, comparison=0.0, narrowing=0.0)
    tasks = EmbeddedTasks(SIZE, mix, 4, 100, 4, 4, None).split(Split.TRAIN)
    rows = [
        {"prompt": [{"role": "user", "content": t.question}], "answers": list(t.answers), "corpus": t.corpus}
        for t in (tasks[i] for i in range(8))
    ]
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 16,
        "num_generations": 8,
        "num_iterations": 2,
        "max_completion_length": 160,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
    }
    return A2TGPOTrainer(
        model or policy.model,
        reward,
        GRPOConfig(**(settings | options)),
        Dataset.from_list(rows),
        processing_class=policy.tokenizer,
        environment_factory=SearchTool,
        answer_wrapper=WRAPPER,
        method=replace(PAPER, clipper=AdaptiveTurn(0.3, 0.01, 0.0133)),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two steps over one generation: the trainer, what it made for the loss, and the weights before."""
    trainer = make_trainer(tmp_path_factory.mktemp("trl"))
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    SearchTool.calls = 0
    trainer.train()
    return trainer, trainer._buffered_inputs[0], before


def test_two_steps_of_trl_call_the_tool_and_move_the_weights(run):
    trainer, batch, before = run
    assert trainer.state.global_step == 2
    assert SearchTool.calls >= 16
    assert batch["turn_ids"].max() >= 1
    assert any(not torch.equal(weight, before[name]) for name, weight in trainer.model.named_parameters())


def test_turns_of_one_trajectory_differ_in_advantage_and_in_bounds(run):
    _, batch, _ = run
    n_turns = batch["turn_ids"].amax(1) + 1
    for name in ("advantage", "clip_low", "clip_high"):
        values = batch[f"{CREDIT}{name}"]
        assert any(len(row[:n].unique()) > 1 for row, n in zip(values, n_turns.tolist(), strict=True))
    turns = torch.arange(batch[f"{CREDIT}advantage"].shape[1])
    assert (batch[f"{CREDIT}advantage"][turns >= n_turns[:, None]] == 0).all()


def rows_of(trainer, *numbers):
    """What TRL hands over: each prompt as often as it has completions."""
    return [dict(trainer.train_dataset[n]) for n in numbers for _ in range(trainer.num_generations)]


def nudge(model):
    """Move the policy away from the one that made the rollouts."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))


@pytest.fixture
def learner(composed):
    """`learner(kl_coef)`: the module of the paper's configuration over the shipped policy."""

    def build(kl_coef):
        widths = ("model.clipper.eps_low=0.01", "model.clipper.eps_high=0.0133", f"model.module.kl_coef={kl_coef}")
        config = composed(*widths, f"paths.policy_dir={SHIPPED}")
        return instantiate(config.model.module, _convert_="all")

    return build


def accumulated_loss(trainer, output, steps):
    """The loss of one optimizer step over the rows of `output`, in so many micro-batches."""
    trainer.args.gradient_accumulation_steps = trainer.args.steps_per_generation = steps
    trainer.current_gradient_accumulation_steps = steps
    trainer._buffered_inputs = split_tensor_dict(output, steps)
    total = 0.0
    for trainer._step in range(steps, 2 * steps):  # the second time round, so that nothing is generated
        total += trainer._compute_loss(trainer.model, trainer._prepare_inputs(None)).item()
    return total


@pytest.mark.parametrize("kl_coef", [0.0, 0.5])
def test_the_loss_is_the_one_of_the_module(tmp_path, learner, kl_coef):
    trainer, learner = make_trainer(tmp_path, beta=kl_coef), learner(kl_coef)
    trainer.model.train()
    rows = rows_of(trainer, 0, 1)
    output = trainer._generate_and_score_completions(rows)
    learner.model.load_state_dict(trainer.model.state_dict())
    trajectories = trainer.trajectories(rows, output, output["turn_ids"])
    batch = learner.prepare(trajectories, [], 0)
    weight = learner.method.weigh(batch.turn_ids, batch.old_logprobs, batch.rollout_logprobs)
    batch = replace(batch, loss_weight=weight)
    assert np.isfinite(accumulated_loss(trainer, output, 1))
    assert trainer._metrics["train"]["clip_ratio/region_mean"][-1] == 0  # every ratio starts at 1
    nudge(trainer.model)
    nudge(learner.model)
    expected, moved = learner.loss(batch)
    assert moved.max_log_ratio > 0.01
    assert 0 < moved.clipped[0].sum() < moved.clipped[1].sum()
    assert accumulated_loss(trainer, output, 1) == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize(
    "aggregation", [TokenMean(), SeqMeanTokenMean(), TokenSumNorm(160)], ids=lambda a: type(a).__name__
)
def test_the_loss_does_not_depend_on_gradient_accumulation(run, aggregation, monkeypatch):
    trainer, batch, _ = run
    monkeypatch.setattr(trainer, "method", replace(trainer.method, aggregation=aggregation))
    whole, *parts = (accumulated_loss(trainer, batch, steps) for steps in (1, 2, 4, 16))
    assert abs(whole) > 1e-3
    assert parts == pytest.approx([whole] * len(parts), abs=1e-5)


def test_an_optimizer_step_over_rows_of_two_generations_is_refused(tmp_path):
    with pytest.raises(ValueError, match="steps_per_generation=1: expected a multiple of gradient_acc"):
        make_trainer(tmp_path, gradient_accumulation_steps=2, steps_per_generation=1)


def test_evaluation_takes_the_same_way(tmp_path):
    trainer = make_trainer(tmp_path, per_device_eval_batch_size=8)
    found = trainer.evaluate(trainer.train_dataset.select(range(2)))
    assert np.isfinite(found["eval_loss"])
    assert found["eval_clip_ratio/region_mean"] == 0


def test_two_prompts_are_credited_apart(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.model.train()
    rows = rows_of(trainer, 0, 1)
    output = trainer._generate_and_score_completions(rows)
    trajectories = trainer.trajectories(rows, output, output["turn_ids"])
    assert [t.group for t in trajectories] == [0] * 8 + [1] * 8
    together, alone = trainer.credit(trajectories), trainer.credit(trajectories[8:])
    turns = alone.advantage.shape[1]
    torch.testing.assert_close(together.advantage[8:, :turns], alone.advantage, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [("epsilon", 0.1, "clipper"), ("loss_type", "grpo", "aggregation"), ("scale_rewards", "none", "credit")],
)
def test_an_option_that_the_method_replaces_is_refused(tmp_path, option, value, part):
    with pytest.raises(ValueError, match=rf"{option}={value}: expected .*; method\.{part} stands in its place"):
        make_trainer(tmp_path, **{option: value})


def test_a_row_without_accepted_answers_is_named(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.model.train()
    rows = rows_of(trainer, 0, 1)
    output = trainer._generate_and_score_completions(rows)
    nothing = [row | {"answers": []} for row in rows]
    with pytest.raises(ValueError, match="row 0 of the batch: it has no accepted answer"):
        trainer.credit(trainer.trajectories(nothing, output, output["turn_ids"]))


@pytest.mark.parametrize("value", [[12], 12, None, ["x", None], {"a": 1}])
def test_answers_that_are_no_texts_are_refused_by_row_and_column(run, value):
    trainer, batch, _ = run
    rows = rows_of(trainer, 0, 1)
    rows[3]["answers"] = value
    message = rf"row 3 of the batch, column answers: got {re.escape(repr(value))}; expected a text or a list of them"
    with pytest.raises(ValueError, match=message):
        trainer.trajectories(rows, batch, batch["turn_ids"])


def test_a_model_whose_beliefs_cannot_be_scored_is_refused(tmp_path):
    with pytest.raises(ValueError, match="model: a rwkv model predicts otherwise from a cache"):
        make_trainer(tmp_path, model=tiny_model("rwkv"))


def test_a_model_with_a_memory_of_its_own_is_scored_in_it(tmp_path):
    policy = pretrained_policy(str(SHIPPED))
    trainer = make_trainer(tmp_path, model=tiny_model("lfm2", vocab_size=len(policy.tokenizer)))
    assert trainer._policy().reads == "segments"


TWO_PROCESSES = """
import os
import torch
from tests.integrations.test_trl import CREDIT, make_trainer
from tests.helpers.shipped import pretrained_policy
trainer = make_trainer("unused", per_device_train_batch_size=4, ddp_backend="gloo")
trainer.train()
batch, weights = trainer._buffered_inputs[0], sum(p.double().sum() for p in trainer.model.parameters())
found = (trainer._outcome.tolist(), float(weights), batch[f"{CREDIT}advantage"].abs().max().item())
os.write(1, " ".join(["RANK", *map(str, found)]).encode() + b"\\n")  # in one piece: two ranks share the pipe
"""


@pytest.mark.slow
def test_a_group_that_two_processes_share_is_credited_as_one(tmp_path):
    (tmp_path / "run.py").write_text(TWO_PROCESSES)
    environment = os.environ | {"PYTHONPATH": f"{SOURCE}:{SOURCE.parent}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "run.py"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, **pipes)
    output, errors = finish(process, timeout=200)
    assert process.returncode == 0, errors
    ranks = [line.rpartition(" ") for line in output.splitlines() if line.startswith("RANK")]
    assert len(ranks) == 2 and ranks[0][0] == ranks[1][0]  # the same eight outcomes and the same weights
    assert all(float(largest) > 0 for _, _, largest in ranks)
