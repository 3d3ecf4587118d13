"""Demonstrations are played as a policy would have played them, and what is left can be trained."""

import json

import pytest
import torch
from lightning import Callback
from transformers import AutoModelForCausalLM

import train
import warm_up
from a2tgpo.environments.dialects.examples import Example, ExampleTurn
from a2tgpo.environments.protocols import Action, ToolCall
from a2tgpo.retrievers.bm25 import BM25Retriever
from a2tgpo.rollouts.chat_template import closing_id
from a2tgpo.rollouts.demonstrated import DemonstratedEngine
from a2tgpo.rollouts.trajectory import StopReason, Task
from a2tgpo.tasks.demonstrations import read_conversations
from tests.helpers.episodes import search_qa
from tests.helpers.loops import loop
from tests.helpers.model_zoo import build
from tests.helpers.shipped import pretrained_policy, tool_calls
from tests.helpers.tiny_runs import SHIPPED, SMALL, checkpoint, same, table
from tests.training.test_training import accident

ONE_HOP = [f"data.tasks.mix.{kind}={int(kind == 'hop1')}" for kind in ("hop1", "hop2", "hop3", "hop4", "comparison")]
FEW = ("data.module.prompts_per_iteration=4", "data.module.mini_batch_prompts=2", "data.module.val_tasks=2")
NOBODY = ("data/retriever=http", "data.retriever.url=http://127.0.0.1:9/retrieve", "data.retriever.retries=0")
LIVELY = ("model.optimizer.lr=0.003", "model.scheduler.num_warmup_steps=0", "trainer.check_val_every_n_epoch=1")


@pytest.fixture
def run(composed, tmp_path):
    """`run(name, …)`: a finished warm-up of the shipped policy in the directory `name`."""

    def execute(name, *overrides):
        paths = (f"paths.policy_dir={SHIPPED}", f"paths.output_dir={tmp_path / name}")
        warm_up.warm_up(composed(*FEW, *paths, *overrides, config_name="warm_up"))
        return tmp_path / name

    return execute


def error_of(run, capsys, *overrides):
    with pytest.raises(SystemExit):
        run("refused", *overrides)
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture
def newborn(random_policy, tmp_path):
    """The folder of a policy that has learned nothing, with weights of ordinary size."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(random_policy.model.config)
    model.save_pretrained(tmp_path / "newborn")
    random_policy.tokenizer.save_pretrained(tmp_path / "newborn")
    return tmp_path / "newborn"


@pytest.mark.slow
def test_a_policy_that_knows_nothing_learns_the_format_and_can_then_be_trained(run, composed, newborn, tmp_path):
    sizes = ("data.module.prompts_per_iteration=64", "data.module.mini_batch_prompts=4", "data.module.val_tasks=16")
    steps = ("trainer.max_epochs=6", "trainer.check_val_every_n_epoch=6", "model.optimizer.lr=0.01")
    rows = table(run("warm", f"paths.policy_dir={newborn}", *ONE_HOP, *sizes, *steps))
    assert float(rows[0]["val/format"]) == 0 and float(rows[-1]["val/format"]) >= 0.9
    assert float(rows[-1]["update/loss"]) < 0.5 * float(rows[1]["update/loss"])
    folder = tmp_path / "warm" / "policy"
    paths = (f"model.policy.path={folder}", f"paths.output_dir={tmp_path / 'trained'}")
    train.train(composed("experiment=a2tgpo", *SMALL, *ONE_HOP, *paths, "trainer.max_epochs=1"))
    assert float(table(tmp_path / "trained")[0]["val/format"]) >= 0.75


@pytest.mark.slow
def test_a_resumed_warm_up_goes_on_bit_for_bit(run, capsys):
    whole = run("whole", *LIVELY, "trainer.max_epochs=3", *accident(9))
    with pytest.raises(SystemExit):
        run("parts", *LIVELY, "trainer.max_epochs=3", *accident(2))
    parts = whole.parent / "parts"
    assert "an accident" in capsys.readouterr().err and not (parts / "policy").exists()
    run("parts", *LIVELY, "trainer.max_epochs=3", *accident(9), f"ckpt_path={parts}/checkpoints/last.ckpt")
    assert table(parts) == table(whole)
    assert same(checkpoint(parts)["state_dict"], checkpoint(whole)["state_dict"])
    written = [AutoModelForCausalLM.from_pretrained(run / "policy").state_dict() for run in (parts, whole)]
    assert same(dict(written[0]), dict(written[1]))


def test_the_next_command_keeps_what_holds_for_training(run, capsys):
    kept = ("model/policy=tiny_lora", "model.policy.lora.r=4", "data.dialect.layout.separator=x", "trainer=default")
    made = run("said", *LIVELY, "trainer.max_epochs=1", *kept, "threads=1")
    (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")]
    assert said == f"next: python src/train.py {' '.join(kept)} threads=1 model.policy.path={made / 'policy'}"


def test_an_adapter_is_merged_into_the_folder(run):
    made = run("lora", *LIVELY, "trainer.max_epochs=1", "model/policy=tiny_lora")
    assert "adapter_config.json" not in {path.name for path in (made / "policy").iterdir()}
    before, after = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (SHIPPED, made / "policy"))
    assert before.keys() == after.keys() and not same(dict(before), dict(after))


class Keep(Callback):
    """Keeps the first iteration's trajectories and the policy before it."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            Keep.trajectories = pl_module.trajectories
            Keep.model = AutoModelForCausalLM.from_pretrained(SHIPPED)

    def on_train_epoch_end(self, trainer, pl_module):
        Keep.loss = pl_module.metrics["update/loss"]


@pytest.mark.parametrize("budget", [4096, 150])
def test_the_loss_is_the_mean_over_the_action_tokens_alone(run, budget):
    whole = ("data.module.mini_batch_prompts=4", "trainer.max_epochs=1", f"model.module.micro_batch_tokens={budget}")
    run("once", *whole, "+callbacks.keep._target_=tests.training.test_warm_up.Keep")
    nlls = []
    for trajectory in Keep.trajectories:
        ids = torch.tensor([trajectory.token_ids])
        logprobs = Keep.model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        nlls += [-logprob for logprob, turn in zip(logprobs, trajectory.token_turns[1:], strict=True) if turn >= 0]
        assert all(turn.observation_ids for turn in trajectory.turns[:-1])
    assert Keep.loss == pytest.approx(float(torch.stack(nlls).mean().detach()), abs=1e-5)


# ---- What is demonstrated ------------------------------------------------------------------------------------------


def calling(name, **arguments):
    return {"id": f"id-{arguments}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def said(role, content, **more):
    return {"role": role, "content": content, **more}


CONVERSATION = [
    said("system", "You search."),
    said("user", "Where was the author of Salt born?"),
    said("assistant", "I need the author.", tool_calls=[calling("search", query="Salt")]),
    said("tool", "Salt is by Teo Varnel.", tool_call_id="id-{'query': 'Salt'}"),
    said("assistant", None, tool_calls=[calling("search", query="Teo Varnel"), calling("search", query="Kestrup")]),
    said("tool", "Kestrup is a town.", tool_call_id="id-{'query': 'Kestrup'}"),
    said("tool", [{"type": "text", "text": "Born in Kestrup."}], tool_call_id="id-{'query': 'Teo Varnel'}"),
    said("assistant", "<think> done</think><answer> Kestrup</answer>"),
]


def written(tmp_path, *conversations):
    (tmp_path / "written").mkdir(exist_ok=True)
    path = tmp_path / "written" / "conversations.jsonl"
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations))
    return path


def test_a_conversation_is_a_worked_episode(tmp_path):
    (example,) = read_conversations(written(tmp_path, CONVERSATION))
    calls = [ToolCall("search", {"query": query}) for query in ("Salt", "Teo Varnel", "Kestrup")]
    assert example == Example(
        "conversations/1",
        "Where was the author of Salt born?",
        (
            ExampleTurn("I need the author.", (calls[0],), ("Salt is by Teo Varnel.",)),
            ExampleTurn("", (calls[1], calls[2]), ("Born in Kestrup.", "Kestrup is a town.")),
        ),
        "<think> done</think><answer> Kestrup</answer>",
    )


def test_a_trajectory_in_the_form_of_atif_is_the_same_worked_episode(tmp_path):
    steps = [{"source": "system", "message": "You search."}, {"source": "user", "message": CONVERSATION[1]["content"]}]
    for asked, heard in (
        (CONVERSATION[2], [CONVERSATION[3]]),
        (CONVERSATION[4], CONVERSATION[5:7]),
        (CONVERSATION[7], ()),
    ):
        calls = [
            {"tool_call_id": c["id"], "function_name": "search", "arguments": json.loads(c["function"]["arguments"])}
            for c in asked.get("tool_calls", ())
        ]
        results = [{"source_call_id": one["tool_call_id"], "content": one["content"]} for one in heard]
        step = {"source": "agent", "message": asked["content"] or "", "tool_calls": calls}
        steps.append(step | ({"observation": {"results": results}} if results else {}))
    path = tmp_path / "conversations.jsonl"
    path.write_text(json.dumps({"schema_version": "ATIF-v1.4", "agent": {"name": "a"}, "steps": steps}))
    assert read_conversations(path) == read_conversations(written(tmp_path, CONVERSATION))


class Texts(Callback):
    """Keeps what the demonstrations said and heard."""

    def on_train_epoch_start(self, trainer, pl_module):
        Texts.turns = [[(t.action_text, t.observation_text) for t in one.turns] for one in pl_module.trajectories]


def test_a_recorded_conversation_is_imitated_in_the_dialect_with_the_results_of_the_record(run, tmp_path):
    path = written(tmp_path, CONVERSATION)
    keep = "+callbacks.keep._target_=tests.training.test_warm_up.Texts"
    room = ("data.module.max_action_tokens=200", "data.module.max_response_tokens=900")
    run("recorded", f"data.module.demonstrations={path}", *room, "trainer.max_epochs=1", keep)
    assert Texts.turns[0] == [
        ("<think> I need the author.</think><search> Salt</search>", "<result> Salt is by Teo Varnel.</result>"),
        ("<search> Teo Varnel</search>", "<result> Born in Kestrup.</result>"),
        ("<search> Kestrup</search>", "<result> Kestrup is a town.</result>"),
        ("<think> done</think><answer> Kestrup</answer>", ""),
    ]


def test_reference_calls_are_played_and_bring_what_the_tools_find(run):
    keep = "+callbacks.keep._target_=tests.training.test_warm_up.Texts"
    run("played", *ONE_HOP, "trainer.max_epochs=1", keep)
    for (action, result), (answer, _) in Texts.turns:
        assert action.startswith("<think> I need ") and action.endswith("</search>")
        assert answer.startswith("<think> done</think><answer> ")
        assert answer.removeprefix("<think> done</think><answer>").removesuffix("</answer>") in result


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gemma"])
@pytest.mark.parametrize("opened", [False, True])
def test_a_demonstrated_message_ends_as_the_template_ends_one_and_goes_on_with_an_opened_thought(
    tmp_path, kind, opened
):
    policy = pretrained_policy(build(kind, tmp_path))
    policy.model.config.max_position_embeddings = 4096
    wrapper = ("<think>\nI know.\n</think>\n\n<answer>", "</answer>")
    prefix = "<think>\n" if opened else ""
    dialect = tool_calls("{question}", wrapper, system="", template={"enable_thinking": True}, assistant_prefix=prefix)
    texts = [
        *dialect.write(Action((ToolCall("search", {"query": "x"}),)), "I need x."),
        *dialect.write(Action(answer="y")),
    ]
    room = {"max_prompt_tokens": 2000, "max_response_tokens": 2000, "max_action_tokens": 400}
    environment = search_qa(dialect, BM25Retriever(lambda corpus: ("x is y",)))
    rollout = loop(DemonstratedEngine(lambda key: texts), environment, **room)
    (played,) = rollout.run(policy, [(0, Task("t", "What?", ("y",)))], 1, (0,), greedy=True)
    assert (played.stop, played.outcome) == (StopReason.ANSWERED, 1.0)
    end = {"qwen3": "<|im_end|>", "llama": "<|eot_id|>", "gemma": "<end_of_turn>"}[kind]
    assert policy.tokenizer.decode([closing_id(policy)]) == end
    assert [turn.action_ids[-1] for turn in played.turns] == [closing_id(policy)] * 2
    assert [turn.action_text for turn in played.turns] == [text.removeprefix(prefix) for text in texts]


# ---- What cannot be imitated ----------------------------------------------------------------------------------------


BROKEN = {
    "no messages": {"texts": []},
    "no list": {"messages": 3},
    "two questions": {"messages": [*CONVERSATION[:2], *CONVERSATION[1:]]},
    "a call without result": {"messages": [*CONVERSATION[:3], *CONVERSATION[4:]]},
    "arguments that are no object": {
        "messages": [
            CONVERSATION[1],
            said("assistant", "", tool_calls=[{"function": {"name": "search", "arguments": "[]"}}]),
            *CONVERSATION[3:],
        ]
    },
    "results of other calls": {"messages": [*CONVERSATION[:3], CONVERSATION[5], CONVERSATION[7]]},
    "no answer": {"messages": CONVERSATION[:-1]},
    "an empty answer": {"messages": [*CONVERSATION[:-1], said("assistant", "")]},
}


@pytest.mark.parametrize("conversation", BROKEN.values(), ids=BROKEN)
def test_a_line_that_is_no_conversation_is_refused_by_file_and_line(tmp_path, conversation):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"messages": CONVERSATION}) + "\n" + json.dumps(conversation) + "\n")
    with pytest.raises(ValueError, match=r"^data\.module\.demonstrations=.*a\.jsonl: line 2: .*; expected \{messages"):
        read_conversations(path)


@pytest.mark.parametrize("content", [None, ""])
def test_a_file_without_conversations_is_refused_by_name(tmp_path, content):
    if content is not None:
        (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"^data\.module\.demonstrations=.*a\.jsonl: no (such file|lines); expected"):
        read_conversations(tmp_path / "a.jsonl")


def test_questions_without_reference_calls_are_refused_before_anything_is_played(run, capsys, tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"question": "What?", "golden_answers": ["x"]}) + "\n")
    files = [f"data.tasks.{split}={path}" for split in ("train", "val")]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"id": "1", "contents": "Kestrup is a town."}) + "\n")
    parts = ("data/tasks=question_files", "data/retriever=bm25", f"data.retriever.corpus_path={corpus}")
    said = error_of(run, capsys, *parts, f"data.retriever.cache_dir={tmp_path}", *files)
    assert said.startswith("error: data.tasks: task ") and "has no reference calls; expected" in said


def test_a_few_demonstrations_that_do_not_come_to_their_end_are_left_out_and_counted(run, tmp_path, caplog):
    endless = [CONVERSATION[1], *CONVERSATION[2:4] * 9]
    path = written(tmp_path, CONVERSATION, [*endless, CONVERSATION[-1]])
    room = ("data.module.max_action_tokens=200", "data.module.max_response_tokens=900", "data.environment.max_calls=6")
    most = ("data.module.max_failed_share=0.5", "trainer.max_epochs=1")
    (_, row) = table(run("few", f"data.module.demonstrations={path}", *room, *most))
    assert float(row["train/failed_episodes"]) == 0.5 and float(row["train/success"]) == 1
    assert any("2 of 4 demonstrations do not come to their end" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("overrides", "begins"),
    [
        (["data.module.max_action_tokens=5"], "data.module.max_action_tokens, data.module.max_response_tokens: 4 of 4"),
        (
            ["data.environment.max_calls=0"],
            "data.environment.max_calls: 4 of 4 demonstrations do not come to their end",
        ),
        (
            ["data.environment.max_tool_failures=1", *NOBODY],
            "data.environment.tools: 4 of 4",
        ),
    ],
)
def test_a_demonstration_that_does_not_come_to_its_end_is_refused_by_what_stops_it(run, capsys, overrides, begins):
    said = error_of(run, capsys, *overrides)
    assert said.startswith(f"error: {begins}") and "expected" in said
