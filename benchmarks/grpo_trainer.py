"""TRL's GRPOTrainer as it is, with its own generation and tool loop, on episodes whose lengths are drawn.

Three things are forced from outside: a row's action ends at the token that was drawn for it, whatever the model says is
a tool call, and generation has the precision of the other ways. Of the train loop only `training_step` and the
optimizer are run: its logging and data loading are left out.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from datasets import Dataset
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast
from trl import GRPOConfig, GRPOTrainer

from a2tgpo.integrations.turns import split_turns, turn_ids
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.trajectory import StopReason, Trajectory
from benchmarks import models
from benchmarks.episodes import CALL, Episodes
from benchmarks.harness import Benchmark

CHAT = """{%- for message in messages -%}{{ message.content }}
{%- for call in message.tool_calls or [] -%}{{ call.function }}{%- endfor -%}{%- endfor -%}"""
CALLED = {"type": "function", "function": {"name": "talk", "arguments": {"text": "{content}"}}}
RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor_pattern": r"the(?= =)|\?(?= =)",
    "fields": {"tool_calls": {"open": CALL, "repeats": True, "content": "text", "transform": CALLED}},
}
"""Whatever follows CALL is the argument of a tool call."""
MAX_GRAD_NORM = 1.0


class Tool:
    """TRL's form of an environment; its public methods are the tools."""

    result = ""

    def reset(self, **row: object) -> None:
        """Nothing to prepare."""

    def talk(self, text: str) -> str:
        """Say something.

        Args:
            text: what is said
        """
        return self.result


def reward(completions: Sequence[object], **columns: object) -> list[float]:
    """An outcome that differs in a group."""
    return [float(i % 2) for i in range(len(completions))]


class Rival:
    """An iteration of GRPOTrainer over `policy`: rollout, log-probs and `steps` optimizer steps."""

    def __init__(
        self,
        bench: Benchmark,
        policy: Policy,
        episodes: Episodes,
        steps: int,
        optimizer: dict[str, object],
        folder: str,
    ) -> None:
        self.bench, self.policy, self.episodes, self.steps = bench, policy, episodes, steps
        self.trainer = self._trainer(folder)
        self.rows = [dict(self.trainer.train_dataset[group]) for group, _ in episodes.places()]
        self.optimizer = torch.optim.AdamW(self.trainer.model.parameters(), **optimizer)

    def _trainer(self, folder: str) -> GRPOTrainer:
        policy, episodes, gpu = self.policy, self.episodes, self.bench.device.type == "cuda"
        policy.tokenizer.chat_template, policy.tokenizer.response_template = CHAT, RESPONSE
        Tool.result = episodes.result_text()
        settings = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=episodes.count // self.steps,
            steps_per_generation=self.steps,
            gradient_accumulation_steps=1,
            num_generations=episodes.group_size,
            max_completion_length=episodes.most_response_tokens,
            max_tool_calling_iterations=episodes.turns - 1,
            generation_kwargs={"max_new_tokens": episodes.action, "top_k": 0},
            loss_type="grpo",
            beta=0.0,
            max_steps=1,
            report_to="none",
            save_strategy="no",
            gradient_checkpointing=False,
            use_cpu=not gpu,
            bf16=gpu,
            disable_tqdm=True,
        )
        prompts = [[{"role": "user", "content": episodes.prompt_text(task)}] for _, task in episodes.tasks()]
        tools = {"environment_factory": Tool} if episodes.turns > 1 else {}
        trainer = GRPOTrainer(
            policy.model,
            reward,
            settings,
            Dataset.from_dict({"prompt": prompts}),
            processing_class=policy.tokenizer,
            **tools,
        )
        trainer.current_gradient_accumulation_steps = 1  # what the train loop sets
        trainer.model.generate = self._with_drawn_lengths(trainer.model.generate)
        return trainer

    def _with_drawn_lengths(self, generate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        turns = itertools.cycle(range(self.episodes.turns))

        def limited(*args: object, **kwargs: object) -> Tensor:
            turn = next(turns)
            lengths = [self.episodes.length((0, *place, turn)) for place in self.episodes.places()]
            with self.bench.precision(), _ending_after(self.policy, lengths):
                return generate(*args, **kwargs)

        return limited

    def iterate(self) -> None:
        """The iteration."""
        trainer = self.trainer
        trainer.model.train()
        for _ in range(self.steps):
            trainer.training_step(trainer.model, self.rows, None)
            torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), MAX_GRAD_NORM)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def play(self) -> dict[str, Tensor]:
        """A rollout set in TRL's form, with old log-probs and advantages."""
        self.trainer.model.train()
        return self.trainer._generate_and_score_completions(self.rows)

    def backward(self, output: dict[str, Tensor]) -> None:
        """Gradient of the loss of a rollout set."""
        with self.trainer.compute_loss_context_manager():
            loss = self.trainer._compute_loss(self.trainer.model, output)
        loss.backward()

    def trajectories(self, output: dict[str, Tensor]) -> list[Trajectory]:
        """The same set as our trajectories, without outcomes."""
        turns = turn_ids((output["completion_mask"] * output.get("tool_mask", 1)).bool())
        tasks, made = self.episodes.tasks(), []
        for i, (group, sample) in enumerate(self.episodes.places()):
            prompt = output["prompt_ids"][i][output["prompt_mask"][i].bool()].tolist()
            real = output["completion_mask"][i].bool()
            before, split = split_turns(output["completion_ids"][i][real].tolist(), (turns[i][real] >= 0).tolist())
            task = tasks[group][1]
            made.append(Trajectory(task, group, sample, (*prompt, *before), split, 0.0, StopReason.ANSWERED))
        return made


@contextmanager
def _ending_after(policy: Policy, lengths: Sequence[int]) -> Iterator[None]:
    """Inside, the n-th token of row i is an end token just where n is `lengths[i]`."""
    limit, made = torch.tensor(lengths, device=policy.device), itertools.count(1)

    def force(module: object, args: object, out: CausalLMOutputWithPast) -> None:
        over = limit == next(made)
        out.logits[over] = -math.inf
        out.logits[over, ..., policy.tokenizer.eos_token_id] = 0.0

    with models.never_ending(policy), policy.model.register_forward_hook(force):
        yield
