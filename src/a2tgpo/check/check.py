"""A few episodes of a run, played, scored and stepped through before it begins."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch

from a2tgpo.check.actions import Ways, actions
from a2tgpo.check.beliefs import beliefs, score_wrappers, wrappers
from a2tgpo.check.borders import borders
from a2tgpo.check.cost import Timed, checkpointing, cost, one_thread
from a2tgpo.check.credit import first_ratio, gain_of, resolution_of, rounding, spread
from a2tgpo.check.findings import Finding, Report, Verdict
from a2tgpo.check.forced import force
from a2tgpo.environments.tool_use import ToolUse
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.start import TRAINING_NOISE
from a2tgpo.rollouts.trajectory import Split, Task, Trajectory
from a2tgpo.scoring.batch import RolloutBatch, micro_batches, token_positions
from a2tgpo.training.datamodule import RolloutDataModule
from a2tgpo.training.metrics import Movement
from a2tgpo.training.module import A2TGPOModule

SHOWN = 2
"""Episodes that are printed."""


@dataclass(frozen=True)
class Check:
    """`samples` episodes of each of the first `questions` training questions, as `learner` and `data` would have them
    in a run of `iterations`, in `precision`."""

    learner: A2TGPOModule
    data: RolloutDataModule
    ways: Ways
    precision: AbstractContextManager
    questions: int
    samples: int
    iterations: int

    def run(self) -> Report:
        """Play, score and step once, without moving the policy. Raises what a run would raise."""
        policy = self.learner.policy
        tasks = self._tasks()
        with self.precision:
            self.data.rollout.require_prompts_fit(policy, tasks)
            self.learner.require_context_length(tasks, self.data.rollout.max_sequence_tokens)
            began = time.perf_counter()
            key = (self.data.seed, TRAINING_NOISE)
            played = self.data.rollout.run(policy, list(enumerate(tasks)), self.samples, key, greedy=False)
            rollout = time.perf_counter() - began
            findings = [*actions(played, self.ways), *self._borders(tasks[0]), *self._credit(tasks, played, rollout)]
        shown = sorted(played, key=lambda trajectory: -len(trajectory.turns))[:SHOWN]
        return Report(_text(policy, played[0].prompt_ids), [_episode(policy, t) for t in shown], findings)

    def _tasks(self) -> list[Task]:
        tasks = self.data.tasks.split(Split.TRAIN)
        return [tasks[n] for n in range(min(self.questions, len(tasks)))]

    def _borders(self, task: Task) -> Iterator[Finding]:
        episode = self.data.rollout.environment(task)
        if isinstance(episode, ToolUse):
            result = episode.dialect.observe([""], episode.schemas)
            if isinstance(result, str):
                yield from borders(self.learner.policy.tokenizer, result, self.learner.answer_wrapper[0])

    def _credit(self, tasks: Sequence[Task], played: Sequence[Trajectory], rollout: float) -> Iterator[Finding]:
        learner = self.learner
        batch = learner.prepare(played, [range(len(played))], 0)
        scoring, measuring = (learner.phases.seconds[phase] for phase in ("scoring", "rounding"))
        yield from spread(played, batch)
        noise = learner.log_gain_noise or 0.0
        yield from rounding(batch, noise, learner.method)
        yield from self._beliefs(tasks, noise)
        moved, update, tokens = self._step(batch)
        yield first_ratio(moved, learner.metrics["policy/rollout_gap_max"])
        parameters = sum(p.numel() for p in learner.model.parameters())
        trained = sum(p.numel() for p in learner.model.parameters() if p.requires_grad)
        yield from checkpointing(learner.model.is_activation_checkpointing, parameters)
        if learner.policy.device.type == "cpu":
            yield from one_thread(torch.get_num_threads(), os.cpu_count(), parameters)
        timed = Timed(rollout, len(played), scoring, int(batch.lengths.sum()), update, tokens, measuring)
        whole = self.data.prompts_per_iteration * self.data.group_size
        yield from cost(timed, whole, self.iterations, parameters, trained, learner.policy.device)

    def _beliefs(self, tasks: Sequence[Task], noise: float) -> Iterator[Finding]:
        learner = self.learner
        if not learner.method.signal.answers(tasks[0]):
            return
        pairs = force(self.data.rollout, learner.policy, tasks)
        if pairs is None:
            says = "fewer than two questions have calls that can be forced: whether the gain ranks calls is not known"
            yield Finding("ranking", Verdict.DOUBTFUL, says, "a question file that says what its answers rest on")
            return
        made = wrappers(learner.answer_wrapper)
        found = score_wrappers(learner.policy, pairs, made, learner.micro_batch_tokens, noise)
        resolution = resolution_of(learner.method, noise, float(found[0].before.exp().median()))
        yield from beliefs(found, gain_of(learner.method), resolution)

    def _step(self, batch: RolloutBatch) -> tuple[Movement, float, int]:
        """Loss and gradient of the largest micro-batch of an optimizer step; seconds and tokens of it."""
        learner = self.learner
        weight = learner.method.weigh(batch.turn_ids, batch.old_logprobs, batch.rollout_logprobs)
        lengths = batch.lengths.tolist()
        cut = micro_batches(lengths, learner.micro_batch_tokens)
        rows = max(cut, key=lambda rows: token_positions(lengths, [rows])["forwarded"])
        part = replace(batch, loss_weight=weight).rows(rows).to(learner.policy.device)
        began = time.perf_counter()
        learner.model.train()
        loss, moved = learner.loss(part)
        loss.backward()
        if learner.policy.device.type == "cuda":
            torch.cuda.synchronize(learner.policy.device)
        seconds = time.perf_counter() - began
        learner.model.zero_grad(set_to_none=True)
        return moved, seconds, sum(lengths[row] for row in rows)


def _text(policy: Policy, ids: Sequence[int]) -> str:
    return policy.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _episode(policy: Policy, trajectory: Trajectory) -> str:
    """All behind the prompt, and how it ended."""
    text = _text(policy, trajectory.token_ids[len(trajectory.prompt_ids) :])
    return f"{text}\n({trajectory.stop}, reward {trajectory.outcome:g})"
